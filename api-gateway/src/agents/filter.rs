//! Filters and order of the lists of agents. Pure.

use muster_schemas::{
    api::{AgentStatus, AgentView, Many},
    code::Code,
    names::{ExecutorName, PoolName},
};
use serde::Deserialize;

use crate::{
    page::{self, Cursor},
    problem::ApiError,
};

/// The longest text to search for, in bytes.
const TEXT_MAX: usize = 255;

/// Filters of the list of agents.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Only those with this status.
    status: Option<AgentStatus>,
    /// Only those of this pool.
    pool: Option<String>,
    /// Only those on which this executor is on.
    capability: Option<String>,
    /// Only those with this tag.
    tag: Option<String>,
    /// Only those with a label that, written `key=value`, contains this text.
    label: Option<String>,
    /// Only those with this text in id, name, host name, description or a tag, in any case.
    q: Option<String>,
    /// The order. Default `newest`.
    sort: Option<Sort>,
    /// Entries on the page, 1 to 500. Default 50.
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
}

/// The order of a list of agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sort {
    /// Those created last come first.
    #[default]
    Newest,
    /// By name.
    Name,
}

/// Filters of the list of agents that are there.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectedQuery {
    /// Only those of this pool.
    pool: Option<String>,
    /// Entries on the page, 1 to 500. Default 50.
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
}

/// Which agents, in which order, from where on.
#[derive(Debug)]
pub(super) struct Filter {
    /// Any of these; empty means any at all, and no query can ask for none.
    statuses: Vec<AgentStatus>,
    pool: Option<PoolName>,
    capability: Option<ExecutorName>,
    tag: Option<String>,
    label: Option<String>,
    q: Option<String>,
    sort: Sort,
    limit: u32,
    after: Option<String>,
}

impl TryFrom<ListQuery> for Filter {
    type Error = ApiError;
    fn try_from(query: ListQuery) -> Result<Self, ApiError> {
        Ok(Self {
            statuses: query.status.into_iter().collect(),
            pool: query.pool.map(|pool| pool.parse()).transpose()?,
            capability: query.capability.map(|capability| capability.parse()).transpose()?,
            tag: text("tag", query.tag)?,
            label: text("label", query.label)?.map(|label| label.to_lowercase()),
            q: text("q", query.q)?.map(|q| q.to_lowercase()),
            sort: query.sort.unwrap_or_default(),
            limit: page::limit(query.limit)?,
            after: query.cursor.as_deref().map(Cursor::decode).transpose()?,
        })
    }
}

impl TryFrom<ConnectedQuery> for Filter {
    type Error = ApiError;
    fn try_from(query: ConnectedQuery) -> Result<Self, ApiError> {
        let list = ListQuery { pool: query.pool, limit: query.limit, cursor: query.cursor, ..ListQuery::default() };
        Ok(Self { statuses: vec![AgentStatus::Online, AgentStatus::Degraded], ..Self::try_from(list)? })
    }
}

/// A text to look for. An empty one must not mean all.
fn text(name: &str, given: Option<String>) -> Result<Option<String>, ApiError> {
    match given {
        Some(text) if text.is_empty() || text.len() > TEXT_MAX => {
            Err(ApiError::new(Code::QueryInvalid, format!("{name} takes 1 to {TEXT_MAX} bytes; leave it out to have all")))
        }
        given => Ok(given),
    }
}

impl Filter {
    /// One page of `agents`, which come in the order of their ids.
    pub(super) fn page(&self, agents: impl DoubleEndedIterator<Item = AgentView>) -> Many<AgentView> {
        let matching = agents.rev().filter(|agent| self.matches(agent) && self.behind(agent));
        match self.sort {
            Sort::Newest => page::cut(matching, self.limit, |agent| agent.id.to_string()),
            Sort::Name => {
                let mut matching: Vec<AgentView> = matching.collect();
                matching.sort_by(|a, b| a.name.cmp(&b.name));
                page::cut(matching, self.limit, |agent| agent.name.to_string())
            }
        }
    }

    /// Whether it comes behind the entry in the cursor. Ids and names are unique.
    fn behind(&self, agent: &AgentView) -> bool {
        match (&self.after, self.sort) {
            (None, _) => true,
            (Some(after), Sort::Newest) => agent.id.as_str() < after.as_str(),
            (Some(after), Sort::Name) => agent.name.as_str() > after.as_str(),
        }
    }

    fn matches(&self, agent: &AgentView) -> bool {
        let has = |text: &str, part: &String| text.to_lowercase().contains(part.as_str());
        (self.statuses.is_empty() || self.statuses.contains(&agent.status))
            && self.pool.as_ref().is_none_or(|pool| agent.pool == *pool)
            && self.capability.as_ref().is_none_or(|capability| agent.capabilities.contains(capability))
            && self.tag.as_ref().is_none_or(|tag| agent.tags.contains(tag))
            && self.label.as_ref().is_none_or(|part| agent.labels.iter().any(|(key, value)| has(&format!("{key}={value}"), part)))
            && self.q.as_ref().is_none_or(|part| {
                let fixed = [agent.id.as_str(), agent.name.as_str(), &agent.hostname];
                fixed
                    .into_iter()
                    .chain(agent.description.as_deref())
                    .chain(agent.tags.iter().map(String::as_str))
                    .any(|text| has(text, part))
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{names::AgentId, time::Timestamp};

    use super::*;

    fn agent(n: u32, name: &str, status: AgentStatus) -> AgentView {
        let id: AgentId = format!("agt_{n:026}").parse().unwrap();
        AgentView {
            id,
            name: name.parse().unwrap(),
            pool: if n.is_multiple_of(2) { "even" } else { "odd" }.parse().unwrap(),
            status,
            description: Some("In the Cellar".into()),
            tags: ["blue".to_owned()].into(),
            labels: [("zone".to_owned(), "North".to_owned())].into(),
            capabilities: ["shell".parse().unwrap()].into(),
            version: String::new(),
            os: String::new(),
            arch: String::new(),
            hostname: "host".into(),
            created_at: Timestamp::from_secs(0),
            registered_at: None,
            remote_ip: None,
            public_key: None,
            metadata: [].into(),
            platform: None,
            draining: false,
            ephemeral: false,
            revoked: None,
            key_rotated_at: None,
            standing: None,
        }
    }

    fn fleet() -> Vec<AgentView> {
        use AgentStatus::{Degraded, Offline, Online};
        ["d", "b", "a", "c"]
            .into_iter()
            .zip([Online, Offline, Degraded, Online])
            .zip(1..)
            .map(|((name, status), n)| agent(n, name, status))
            .collect()
    }

    fn names(query: ListQuery) -> Vec<String> {
        let filter = Filter::try_from(query).unwrap();
        filter.page(fleet().into_iter()).data.iter().map(|agent| agent.name.to_string()).collect()
    }

    #[test]
    fn the_order_is_newest_first_or_by_name() {
        assert_eq!(names(ListQuery::default()), ["c", "a", "b", "d"]);
        assert_eq!(names(ListQuery { sort: Some(Sort::Name), ..ListQuery::default() }), ["a", "b", "c", "d"]);
    }

    #[test]
    fn pages_together_are_the_list_in_either_order() {
        for sort in [Sort::Newest, Sort::Name] {
            let (mut seen, mut cursor) = (Vec::new(), None);
            loop {
                let query = ListQuery { limit: Some(1), sort: Some(sort), cursor, ..ListQuery::default() };
                let page = Filter::try_from(query).unwrap().page(fleet().into_iter());
                seen.extend(page.data.iter().map(|agent| agent.name.to_string()));
                cursor = page.meta.page.cursor;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(seen, names(ListQuery { sort: Some(sort), ..ListQuery::default() }));
        }
    }

    #[test]
    fn each_filter_narrows_the_list_down() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(names(ListQuery { status: Some(AgentStatus::Online), ..ListQuery::default() }), ["c", "d"]);
        assert_eq!(names(ListQuery { pool: some("even"), ..ListQuery::default() }), ["c", "b"]);
        assert_eq!(names(ListQuery { label: some("e=no"), ..ListQuery::default() }).len(), 4);
        assert_eq!(names(ListQuery { q: some("cellar"), ..ListQuery::default() }).len(), 4);
        let nothing = [
            ListQuery { capability: some("http"), ..ListQuery::default() },
            ListQuery { tag: some("blu"), ..ListQuery::default() },
            ListQuery { label: some("south"), ..ListQuery::default() },
            ListQuery { q: some("attic"), ..ListQuery::default() },
            ListQuery { pool: some("none"), ..ListQuery::default() },
        ];
        for query in nothing {
            assert_eq!(names(query), [""; 0]);
        }
    }

    #[test]
    fn every_status_can_be_asked_for() {
        use AgentStatus::{Degraded, Disabled, Offline, Online, Pending, Revoked};
        let all = [Online, Offline, Degraded, Pending, Disabled, Revoked];
        let agents = || ["a", "b", "c", "d", "e", "f"].into_iter().zip(all).zip(1..).map(|((name, status), n)| agent(n, name, status));
        for (status, name) in all.into_iter().zip(["a", "b", "c", "d", "e", "f"]) {
            let filter = Filter::try_from(ListQuery { status: Some(status), ..ListQuery::default() }).unwrap();
            let found: Vec<_> =
                filter.page(agents().collect::<Vec<_>>().into_iter()).data.into_iter().map(|agent| agent.name.to_string()).collect();
            assert_eq!(found, [name], "{status:?}");
        }
    }

    #[test]
    fn an_empty_filter_is_refused_and_never_means_all() {
        let empty = || Some(String::new());
        for query in [
            ListQuery { tag: empty(), ..ListQuery::default() },
            ListQuery { label: empty(), ..ListQuery::default() },
            ListQuery { q: empty(), ..ListQuery::default() },
            ListQuery { pool: empty(), ..ListQuery::default() },
            ListQuery { capability: empty(), ..ListQuery::default() },
            ListQuery { cursor: empty(), ..ListQuery::default() },
        ] {
            assert!(Filter::try_from(query).is_err());
        }
    }

    #[test]
    fn those_that_are_there_are_online_or_degraded() {
        let page = Filter::try_from(ConnectedQuery::default()).unwrap().page(fleet().into_iter());
        let names: Vec<_> = page.data.iter().map(|agent| agent.name.to_string()).collect();
        assert_eq!(names, ["c", "a", "d"]);
    }
}
