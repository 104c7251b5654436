//! Records in key-value buckets: what gateway and dispatcher remember. Kept as MessagePack maps, like every body.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    names::{AgentId, ExecutorName, PoolName},
    time::Timestamp,
    topology::{QUEUED_DEFAULT, RUNNING_DEFAULT},
    wire::{Body, V},
};

mod agent;
mod pool;
pub mod secret;

pub use agent::{AgentRecord, AgentState, PAST_KEYS_MAX, PastKey, Revoked, SigningKeys};
pub use pool::{JobDefaults, Paused, PoolDefaults};

/// Limits of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolLimits {
    /// Jobs that may wait, 1 to 1 000 000 000. More are refused.
    pub max_queued: u64,
    /// Jobs that may run at once, 1 to 1 000 000. More wait. From 10 000 on there is no limit but agents' slots.
    pub max_running: u64,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { max_queued: QUEUED_DEFAULT, max_running: RUNNING_DEFAULT }
    }
}

/// A pool, under its name in the bucket [`crate::topology::POOLS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Its name.
    pub name: PoolName,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// Executors whose lanes are declared.
    pub executors: BTreeSet<ExecutorName>,
    /// Its limits.
    #[serde(default)]
    pub limits: PoolLimits,
    /// What its jobs get that say nothing themselves.
    #[serde(default, skip_serializing_if = "PoolDefaults::is_empty")]
    pub defaults: PoolDefaults,
    /// Who paused it; absent while it gives out jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Body for PoolRecord {
    const LIMIT: usize = 64 * 1024;
}

/// What a key may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read.
    Viewer,
    /// Submit, cancel and retry jobs; pause pools.
    Operator,
    /// Everything.
    Admin,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// Whose key it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyOwner {
    /// A person or service, with a role.
    Role(Role),
    /// An agent, which may use it to register and to renew, and for nothing else.
    Agent(AgentId),
}

/// An API key, under its prefix in the bucket [`crate::topology::API_KEYS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiKeyRecord {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Its id, `key_` and a ULID.
    pub id: String,
    /// What finds it: the part of the key before the secret.
    pub prefix: String,
    /// bcrypt of the secret part.
    pub hash: String,
    /// For people.
    pub name: String,
    /// Whose it is.
    pub owner: KeyOwner,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
}

impl Body for ApiKeyRecord {
    const LIMIT: usize = 16 * 1024;
}

/// A join token, under its prefix in the bucket [`crate::topology::JOIN_TOKENS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinTokenRecord {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// What finds it: the part of the token before the secret.
    pub prefix: String,
    /// SHA-256 of the secret part, in hex. The secret has 160 random bits, so a slow hash would add nothing.
    pub hash: String,
    /// The pool that agents join with it.
    pub pool: PoolName,
    /// How often it can still be used; absent is without limit.
    #[serde(default)]
    pub uses_left: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// The agent that it was made for.
    #[serde(default)]
    pub agent_id: Option<AgentId>,
    /// What names of agents that join with it look like: `*` stands for any characters. Absent is any name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_pattern: Option<String>,
    /// Whether agents that join with it are ephemeral, whatever they say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

impl Body for JoinTokenRecord {
    const LIMIT: usize = 16 * 1024;
}

/// A public key of an agent that the broker refuses, under that key in the bucket [`crate::topology::REVOCATIONS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationRecord {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Whose it was.
    pub agent_id: AgentId,
    /// JWTs for it that were issued up to this second are refused: beyond any that was, or ever will be.
    pub until_s: i64,
    /// When it was revoked.
    pub at: Timestamp,
}

impl Body for RevocationRecord {
    const LIMIT: usize = 4096;
}

/// When an API key was last used, under its prefix in the bucket [`crate::topology::KEY_USES`]. Written at most once a minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUseRecord {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// When.
    pub at: Timestamp,
    /// From which address.
    #[serde(default)]
    pub address: Option<String>,
}

impl Body for KeyUseRecord {
    const LIMIT: usize = 4096;
}

/// Who is the active dispatcher, in the bucket [`crate::topology::LEASES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The run of the dispatcher that holds it.
    pub holder: String,
    /// When it was last renewed, by the holder's clock; for people only.
    pub renewed_at: Timestamp,
}

impl Body for LeaseRecord {
    const LIMIT: usize = 4096;
}

/// Keys in the bucket of agents.
pub mod keys {
    use crate::names::{AgentId, AgentName};

    /// Where an agent's record is.
    pub fn agent(id: &AgentId) -> String {
        format!("id.{id}")
    }

    /// All agents' records, as a key filter.
    pub const AGENTS: &str = "id.*";

    /// Where the id of the agent with a name is.
    pub fn agent_name(name: &AgentName) -> String {
        format!("name.{name}")
    }

    /// Where it is said that the consumer of an agent's commands is being removed, beside the dispatcher's lease.
    pub fn retiring(id: &AgentId) -> String {
        format!("retiring.{id}")
    }

    /// Where an agent's standing is.
    pub fn standing(pool: &crate::names::PoolName, id: &AgentId) -> String {
        format!("{pool}.{id}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::wire;

    #[test]
    fn records_round_trip_and_are_pinned_by_golden_files() {
        let at = Timestamp::from_secs(1_800_000_000);
        let key = ApiKeyRecord {
            v: V,
            id: "key_1".into(),
            prefix: "abc".into(),
            hash: "$2b$".into(),
            name: "ci".into(),
            owner: KeyOwner::Role(Role::Operator),
            created_at: at,
            expires_at: None,
            revoked_at: None,
        };
        assert_eq!(wire::decode::<ApiKeyRecord>(&wire::encode(&key)).unwrap(), key);
        crate::json::golden("api_key.msgpack.hex", &crate::json::hex(&wire::encode(&key)));
        let pool = PoolRecord {
            v: V,
            name: "p".parse().unwrap(),
            description: None,
            executors: ["shell".parse().unwrap()].into(),
            limits: PoolLimits::default(),
            defaults: PoolDefaults::default(),
            paused: None,
            created_at: at,
        };
        assert_eq!(wire::decode::<PoolRecord>(&wire::encode(&pool)).unwrap(), pool);
        crate::json::golden("pool.msgpack.hex", &crate::json::hex(&wire::encode(&pool)));
    }

    #[test]
    fn a_larger_role_may_do_what_a_smaller_one_may() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
