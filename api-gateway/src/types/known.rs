//! What is known of types: descriptions by their digest, and which of them the agents of each pool have. Pure.

use std::{collections::BTreeMap, sync::Arc};

use muster_schemas::{
    describe::{Description, TYPES_MAX, TypeInfo},
    names::PoolName,
    standing::{Standing, Status},
    wire::{self, WireError},
};
use serde_json::Value;

use super::schema::{Budget, Schema, values};

/// The most values in one description: what is short as bytes may be long as values. One with all executors of this build has fewer than 3 000.
const VALUES_MAX: usize = 20_000;

/// Whether what a standing says of its agent is of an agent that is there.
pub(super) fn is_there(standing: &Standing) -> bool {
    standing.status != Status::Offline
}

/// Why a description is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Useless {
    #[error("it can't be read: {0}")]
    Unreadable(#[from] WireError),
    #[error("it has {0} types, and may have {TYPES_MAX}")]
    TooManyTypes(usize),
    #[error("it has {0} values, and may have {VALUES_MAX}")]
    TooLarge(usize),
}

/// A description, ready to check with.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) description: Description,
    /// By type; `None` where its schema is not one that can be checked with here.
    schemas: BTreeMap<String, Option<Schema>>,
    /// How large it is.
    pub(super) values: usize,
}

impl Described {
    /// Reads what an agent answered. Takes milliseconds for what is large.
    pub(super) fn read(body: &[u8]) -> Result<Self, Useless> {
        let description: Description = wire::decode(body)?;
        let types = description.types().count();
        if types > TYPES_MAX {
            return Err(Useless::TooManyTypes(types));
        }
        let values = description.types().map(|info| values(&info.params) + values(&info.example)).sum();
        if values > VALUES_MAX {
            return Err(Useless::TooLarge(values));
        }
        let compile = |params: &Value, kind: &str| match Schema::compile(params) {
            Ok(schema) => Some(schema),
            Err(why) => {
                tracing::debug!(kind, %why, "params of this type are not checked here");
                None
            }
        };
        let schemas = description.types().map(|info| (info.name.clone(), compile(&info.params, &info.name))).collect();
        Ok(Self { description, schemas, values })
    }

    /// What is wrong with these params.
    fn verdict(&self, kind: &str, params: &Value, budget: &mut Budget) -> Verdict {
        match self.schemas.get(kind) {
            None => Verdict::Absent,
            Some(schema) => match schema.as_ref().and_then(|schema| schema.complaint(params, budget)) {
                Some(complaint) => Verdict::Refused(complaint),
                None => Verdict::Fine,
            },
        }
    }
}

/// What one description says of params.
enum Verdict {
    /// It does not have the type.
    Absent,
    Fine,
    Refused(String),
}

/// What the agents of a pool that are there can do.
#[derive(Debug, Default)]
pub(super) struct PoolTypes {
    /// With how many of them each description is of; the largest number first.
    pub(super) described: Vec<(Arc<Described>, u32)>,
    /// How many have a description that is not known here, or none.
    undescribed: u32,
}

/// How many agents that are there are described as what, by pool.
pub(super) type There = BTreeMap<PoolName, BTreeMap<Option<String>, u32>>;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) pools: BTreeMap<PoolName, PoolTypes>,
    by_digest: BTreeMap<String, Arc<Described>>,
}

impl Known {
    /// Puts together who is there and what the descriptions say.
    pub(super) fn of(there: &There, by_digest: BTreeMap<String, Arc<Described>>) -> Self {
        let pool = |described: &BTreeMap<Option<String>, u32>| {
            let mut pool = PoolTypes::default();
            for (digest, agents) in described {
                match digest.as_ref().and_then(|digest| by_digest.get(digest)) {
                    Some(known) => pool.described.push((Arc::clone(known), *agents)),
                    None => pool.undescribed += agents,
                }
            }
            pool.described.sort_by_key(|(_, agents)| std::cmp::Reverse(*agents));
            pool
        };
        let pools = there.iter().map(|(name, described)| (name.clone(), pool(described))).collect();
        Self { pools, by_digest }
    }

    /// The descriptions.
    pub(super) fn by_digest(&self) -> &BTreeMap<String, Arc<Described>> {
        &self.by_digest
    }

    /// What is wrong with the params of a job for this pool: only when all its agents that are there are known, and each that has the type refuses
    /// them.
    pub(super) fn complaint(&self, pool: &PoolName, kind: &str, params: &Value) -> Option<String> {
        let pool = self.pools.get(pool).filter(|pool| pool.undescribed == 0)?;
        let (mut budget, mut first) = (Budget::of(params), None);
        for (described, _) in &pool.described {
            match described.verdict(kind, params, &mut budget) {
                Verdict::Absent => {}
                Verdict::Fine => return None,
                Verdict::Refused(complaint) => drop(first.get_or_insert(complaint)),
            }
        }
        first
    }

    /// What there is to say of a type in this pool: only when all its agents that are there are known. It takes the connections that any of those that
    /// have it takes, and needs one where all of them do.
    pub(super) fn of_type(&self, pool: &PoolName, kind: &str) -> Option<TypeInfo> {
        let pool = self.pools.get(pool).filter(|pool| pool.undescribed == 0)?;
        let mut said = pool.described.iter().filter_map(|(described, _)| described.description.types().find(|info| info.name == kind));
        let mut first = said.next()?.clone();
        for other in said {
            first.connections.extend(&other.connections);
            first.needs_connection &= other.needs_connection;
        }
        first.connections.sort_unstable();
        first.connections.dedup();
        Some(first)
    }

    /// What is wrong with the params of a job for an agent that is described so.
    pub(super) fn complaint_of(&self, digest: &str, kind: &str, params: &Value) -> Option<String> {
        match self.by_digest.get(digest)?.verdict(kind, params, &mut Budget::of(params)) {
            Verdict::Refused(complaint) => Some(complaint),
            Verdict::Absent | Verdict::Fine => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{connection::ConnectionKind, describe::ExecutorInfo, wire::V};
    use serde_json::json;

    use super::*;

    /// The body of a description with these schemas of types.
    fn body(types: &[(&str, Value)]) -> Vec<u8> {
        let info = |(name, params): &(&str, Value)| TypeInfo {
            name: (*name).to_owned(),
            about: String::new(),
            params: params.clone(),
            example: json!({}),
            connections: Vec::new(),
            needs_connection: false,
        };
        let types = types.iter().map(info).collect();
        wire::encode(&Description { v: V, executors: vec![ExecutorInfo { name: "a".parse().unwrap(), about: String::new(), types }] })
    }

    fn with_field(field: &str) -> Value {
        json!({"type": "object", "properties": {field: {"type": "string"}}, "required": [field], "additionalProperties": false})
    }

    /// A pool whose agents have these descriptions; those without a body are not known.
    fn known(agents: &[(&str, Option<Vec<u8>>)]) -> (Known, PoolName) {
        let pool: PoolName = "p".parse().unwrap();
        let mut there = There::new();
        let mut by_digest = BTreeMap::new();
        for (digest, body) in agents {
            *there.entry(pool.clone()).or_default().entry(Some((*digest).to_owned())).or_default() += 1;
            if let Some(body) = body {
                by_digest.insert((*digest).to_owned(), Arc::new(Described::read(body).unwrap()));
            }
        }
        (Known::of(&there, by_digest), pool)
    }

    #[test]
    fn params_are_refused_only_where_every_agent_that_has_the_type_refuses_them() {
        let (old, new, without) = (body(&[("a.run", with_field("old"))]), body(&[("a.run", with_field("new"))]), body(&[]));
        let (known, pool) = known(&[("1", Some(old)), ("2", Some(new)), ("3", Some(without))]);
        assert_eq!(known.complaint(&pool, "a.run", &json!({"old": "x"})), None);
        assert_eq!(known.complaint(&pool, "a.run", &json!({"new": "x"})), None);
        assert!(known.complaint(&pool, "a.run", &json!({"other": "x"})).is_some());
        assert_eq!(known.complaint(&pool, "a.walk", &json!({"other": "x"})), None, "a type that nobody has is another's matter");
        assert_eq!(known.complaint(&"q".parse().unwrap(), "a.run", &json!({"other": "x"})), None, "nobody is there");
        assert!(known.complaint_of("1", "a.run", &json!({"new": "x"})).is_some(), "one agent is asked alone");
        assert_eq!(known.complaint_of("9", "a.run", &json!({"new": "x"})), None);
    }

    #[test]
    fn what_connections_a_type_takes_is_known_where_all_agents_are() {
        let with = |connections: &[ConnectionKind], needs_connection| {
            let mut description: Description = wire::decode(&body(&[("a.run", json!({}))])).unwrap();
            for info in description.executors.iter_mut().flat_map(|executor| &mut executor.types) {
                (info.connections, info.needs_connection) = (connections.to_vec(), needs_connection);
            }
            Some(wire::encode(&description))
        };
        let (http, ssh) = (ConnectionKind::Http, ConnectionKind::Ssh);
        let (two, pool) = known(&[("1", with(&[ssh], true)), ("2", with(&[http, ssh], false)), ("3", Some(body(&[])))]);
        let said = two.of_type(&pool, "a.run").unwrap();
        assert_eq!((said.connections, said.needs_connection), (vec![http, ssh], false));
        assert!(two.of_type(&pool, "a.walk").is_none());
        let (some, pool) = known(&[("1", with(&[ssh], true)), ("2", None)]);
        assert!(some.of_type(&pool, "a.run").is_none());
    }

    #[test]
    fn nothing_is_refused_while_an_agent_is_there_that_is_not_known() {
        let wrong = json!({"other": "x"});
        let schema = || Some(body(&[("a.run", with_field("old"))]));
        let (all, pool) = known(&[("1", schema())]);
        assert!(all.complaint(&pool, "a.run", &wrong).is_some());
        let (some, pool) = known(&[("1", schema()), ("2", None)]);
        assert_eq!(some.complaint(&pool, "a.run", &wrong), None);
        let odd = body(&[("a.run", json!({"$ref": "https://example.com/schema.json"}))]);
        let (odd, pool) = known(&[("1", schema()), ("2", Some(odd))]);
        assert_eq!(odd.complaint(&pool, "a.run", &wrong), None, "nor where one's schema is none to check with");
    }

    #[test]
    fn a_description_that_is_too_large_is_of_no_use() {
        let many: Vec<(String, Value)> = (0..=TYPES_MAX).map(|n| (format!("a.v{n}"), json!({}))).collect();
        let many: Vec<(&str, Value)> = many.iter().map(|(name, schema)| (name.as_str(), schema.clone())).collect();
        assert!(matches!(Described::read(&body(&many)), Err(Useless::TooManyTypes(_))));
        let nulls = json!({"enum": vec![Value::Null; 500_000]});
        assert!(matches!(Described::read(&body(&[("a.run", nulls)])), Err(Useless::TooLarge(_))));
        let text = json!({"const": "x".repeat(600 * 1024)});
        assert!(matches!(Described::read(&body(&[("a.run", text)])), Err(Useless::Unreadable(WireError::TooLarge { .. }))));
        let mut deep = json!({});
        for _ in 0..40 {
            deep = json!({"items": deep});
        }
        assert!(matches!(Described::read(&body(&[("a.run", deep)])), Err(Useless::Unreadable(WireError::TooDeep))));
        assert!(Described::read(b"hello").is_err());
    }

    #[test]
    fn what_this_build_runs_can_all_be_checked_with() {
        let described = Described::read(&wire::encode(&muster_schemas::builtin::description())).unwrap();
        for info in described.description.types() {
            assert!(described.schemas.get(&info.name).unwrap().is_some(), "{}", info.name);
            assert!(matches!(described.verdict(&info.name, &info.example, &mut Budget::of(&info.example)), Verdict::Fine), "{}", info.name);
        }
        assert!(described.values < VALUES_MAX / 4, "{}", described.values);
    }
}
