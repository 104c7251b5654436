//! Which agents of a pool get a job of a group, and in which order. Pure.

use std::{collections::BTreeMap, sync::Arc};

use muster_schemas::{
    group::Share,
    names::{AgentId, ExecutorName, PoolName},
    records::{AgentRecord, AgentState},
    standing::{Standing, Status},
};
use rand::{Rng, seq::SliceRandom as _};

/// Who is asked for.
pub(super) struct Wanted<'a> {
    pub(super) pool: &'a PoolName,
    pub(super) executor: &'a ExecutorName,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) limit: Option<Share>,
}

/// Who gets a job.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// The agents, in the order in which they are sent: those that are there first, each part in no order of its own.
    pub(super) members: Vec<AgentId>,
    /// How many could have got one.
    pub(super) matched: usize,
    pub(super) left_out: LeftOut,
}

/// How many agents of the pool do not match, each counted for the first reason that holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    inactive: usize,
    without_executor: usize,
    other_labels: usize,
}

impl LeftOut {
    /// As a clause, for whoever finds nobody chosen.
    pub(super) fn describe(&self, executor: &ExecutorName) -> String {
        let reasons = [
            (self.inactive, "disabled, draining, revoked or not registered".to_owned()),
            (self.without_executor, format!("without the executor `{executor}`")),
            (self.other_labels, "with other labels".to_owned()),
        ];
        let told: Vec<_> = reasons.into_iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}")).collect();
        if told.is_empty() { "it has no agents".into() } else { format!("left out: {}", told.join(", ")) }
    }
}

/// Chooses among all agents there are.
pub(super) fn choose(
    agents: &[(AgentId, Arc<AgentRecord>)],
    standing: impl Fn(&AgentId) -> Option<Arc<Standing>>,
    wanted: &Wanted<'_>,
    random: &mut impl Rng,
) -> Chosen {
    let mut left_out = LeftOut::default();
    let (mut there, mut away) = (Vec::new(), Vec::new());
    for (id, agent) in agents.iter().filter(|(_, agent)| agent.pool == *wanted.pool) {
        if agent.state != AgentState::Active {
            left_out.inactive += 1;
        } else if !agent.may_run(wanted.executor) {
            left_out.without_executor += 1;
        } else if !wanted.labels.iter().all(|(key, value)| agent.label(key) == Some(value.as_str())) {
            left_out.other_labels += 1;
        } else if standing(id).is_some_and(|standing| standing.accepting && standing.status != Status::Offline) {
            there.push(id.clone());
        } else {
            away.push(id.clone());
        }
    }
    // Without this a limit would always mean the oldest agents, and a bad command would meet them first each time.
    there.shuffle(random);
    away.shuffle(random);
    let matched = there.len() + away.len();
    there.append(&mut away);
    there.truncate(wanted.limit.map_or(matched, |limit| limit.of(matched)));
    Chosen { members: there, matched, left_out }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use std::collections::BTreeSet;

    use muster_schemas::time::Timestamp;

    use super::*;

    fn agent(name: &str, change: impl FnOnce(&mut AgentRecord)) -> (AgentId, Arc<AgentRecord>) {
        let id = AgentId::generate();
        let mut record = AgentRecord::new(id.clone(), name.parse().unwrap(), "p".parse().unwrap(), Timestamp::from_secs(0));
        record.capabilities = ["shell".parse().unwrap()].into();
        record.labels = [("site".to_owned(), "berlin".to_owned()), ("gpu".to_owned(), "no".to_owned())].into();
        change(&mut record);
        (id, Arc::new(record))
    }

    fn standing(status: Status, accepting: bool) -> Arc<Standing> {
        Arc::new(Standing {
            score: 0.0,
            heartbeat_part: 0.0,
            success_part: 0.0,
            status,
            accepting,
            ..Standing::first(Timestamp::from_secs(0))
        })
    }

    fn chosen(agents: &[(AgentId, Arc<AgentRecord>)], there: &[usize], limit: Option<&str>) -> Chosen {
        let labels = [("site".to_owned(), "berlin".to_owned())].into();
        let (pool, executor) = ("p".parse().unwrap(), "shell".parse().unwrap());
        let wanted = Wanted { pool: &pool, executor: &executor, labels: &labels, limit: limit.map(|limit| limit.parse().unwrap()) };
        let standings = |id: &AgentId| {
            let place = agents.iter().position(|(agent, _)| agent == id).unwrap();
            there.contains(&place).then(|| standing(if place % 2 == 0 { Status::Online } else { Status::Degraded }, true))
        };
        choose(agents, standings, &wanted, &mut rand::rng())
    }

    #[test]
    fn only_active_agents_of_the_pool_with_the_executor_and_all_labels_match() {
        let agents = [
            agent("fits", |_| {}),
            agent("elsewhere", |record| record.pool = "q".parse().unwrap()),
            agent("disabled", |record| record.state = AgentState::Disabled),
            agent("draining", |record| record.state = AgentState::Draining),
            agent("revoked", |record| record.state = AgentState::Revoked),
            agent("pending", |record| record.state = AgentState::Pending),
            agent("no-shell", |record| record.capabilities = BTreeSet::new()),
            agent("paris", |record| record.labels = [("site".to_owned(), "paris".to_owned())].into()),
            agent("nowhere", |record| record.labels.clear()),
        ];
        let found = chosen(&agents, &[], None);
        assert_eq!((found.members, found.matched), (vec![agents[0].0.clone()], 1));
        assert_eq!(found.left_out, LeftOut { inactive: 4, without_executor: 1, other_labels: 2 });
        let told = found.left_out.describe(&"shell".parse().unwrap());
        assert!(told.contains("4 disabled") && told.contains("1 without the executor `shell`") && told.contains("2 with other"), "{told}");
    }

    #[test]
    fn those_that_are_there_come_first_and_a_limit_cuts_those_that_are_not() {
        let agents: Vec<_> = (0..10).map(|n| agent(&format!("a-{n}"), |_| {})).collect();
        let there = [2, 5, 7];
        let all = chosen(&agents, &there, None);
        let first: BTreeSet<_> = all.members.iter().take(3).collect();
        assert_eq!(first, there.iter().map(|place| &agents[*place].0).collect());
        assert_eq!((all.members.len(), all.matched), (10, 10));
        for (limit, most) in [("3", 3), ("25%", 3), ("1%", 1), ("100%", 10), ("99", 10)] {
            let some = chosen(&agents, &there, Some(limit));
            assert_eq!((some.members.len(), some.matched), (most, 10), "{limit}");
            assert!(some.members.iter().take(3).all(|id| first.contains(id)), "{limit}");
        }
    }

    #[test]
    fn an_agent_that_may_not_pull_is_not_there() {
        let agents = [agent("waits", |_| {}), agent("works", |_| {})];
        let standings = |id: &AgentId| Some(standing(Status::Online, *id == agents[1].0));
        let (pool, executor) = ("p".parse().unwrap(), "shell".parse().unwrap());
        let wanted = Wanted { pool: &pool, executor: &executor, labels: &BTreeMap::new(), limit: None };
        let found = choose(&agents, standings, &wanted, &mut rand::rng());
        assert_eq!(found.members, [agents[1].0.clone(), agents[0].0.clone()]);
    }

    #[test]
    fn whoever_comes_first_changes_from_one_time_to_the_next() {
        let agents: Vec<_> = (0..10).map(|n| agent(&format!("a-{n}"), |_| {})).collect();
        let firsts: BTreeSet<_> = (0..200).map(|_| chosen(&agents, &[], Some("1")).members[0].clone()).collect();
        assert!(firsts.len() > 1);
    }
}
