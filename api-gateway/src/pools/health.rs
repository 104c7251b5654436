//! Whether jobs of a pool run, from its agents' standings.

use muster_schemas::{
    api::{AgentCounts, PoolHealth, PoolStatus, QueueView},
    names::PoolName,
    records::{AgentRecord, AgentState, Paused},
    standing::{Standing, Status},
};

/// A pool's agents, counted, and whether any of them is well and accepts. Agents that never registered or were revoked do not count.
pub(crate) fn count<'a>(agents: impl IntoIterator<Item = (&'a AgentRecord, Option<&'a Standing>)>) -> (AgentCounts, bool) {
    let (mut counts, mut fit) = (AgentCounts::default(), false);
    for (agent, standing) in agents {
        if matches!(agent.state, AgentState::Pending | AgentState::Revoked) {
            continue;
        }
        let status = standing.map_or(Status::Offline, |standing| standing.status);
        match status {
            Status::Online => counts.online += 1,
            Status::Degraded => counts.degraded += 1,
            Status::Offline => counts.offline += 1,
        }
        let accepts = status != Status::Offline && agent.state == AgentState::Active && standing.is_some_and(|standing| standing.accepting);
        counts.accepting += u32::from(accepts);
        fit |= accepts && status == Status::Online;
    }
    (counts, fit)
}

/// A pool's health.
pub(crate) fn judge(pool: PoolName, paused: Option<&Paused>, agents: AgentCounts, fit: bool, queue: QueueView) -> PoolHealth {
    let there = agents.online + agents.degraded;
    let (status, detail) = if let Some(paused) = paused {
        // What was accepted is kept, and says so here: the question that follows is whether anything is lost.
        (PoolStatus::Paused, format!("it is {paused}; a job waits until the pool is resumed, and those that run end normally"))
    } else if fit {
        (PoolStatus::Healthy, format!("{} of its agents accept jobs", agents.accepting))
    } else if agents.accepting > 0 {
        (PoolStatus::Degraded, "jobs run, but on agents that are not well".to_owned())
    } else if there > 0 {
        (PoolStatus::Stalled, "its agents are there, but none accepts jobs: a job waits until one does".to_owned())
    } else if agents.offline > 0 {
        (PoolStatus::Stalled, "all its agents are offline: a job waits until one comes back".to_owned())
    } else {
        (PoolStatus::Stalled, "it has no agents: a job waits until one joins".to_owned())
    };
    PoolHealth { pool, status, detail, queue, agents }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{names::AgentId, time::Timestamp};

    use super::*;

    fn agent(state: AgentState) -> AgentRecord {
        let record = AgentRecord::new(AgentId::generate(), "a".parse().unwrap(), "p".parse().unwrap(), Timestamp::from_secs(0));
        AgentRecord { state, ..record }
    }

    fn standing(status: Status, accepting: bool) -> Option<Standing> {
        let at = Timestamp::from_secs(0);
        Some(Standing { score: 0.0, heartbeat_part: 0.0, success_part: 0.0, status, accepting, ..Standing::first(at) })
    }

    #[test]
    fn a_pool_is_as_healthy_as_the_fittest_agent_that_accepts() {
        use AgentState::{Active, Disabled, Pending, Revoked};
        use PoolStatus::{Degraded, Healthy, Stalled};
        let cases = [
            (vec![], Stalled, 0),
            (vec![(Active, None)], Stalled, 0),
            (vec![(Active, standing(Status::Online, true))], Healthy, 1),
            (vec![(Active, standing(Status::Online, true)), (Active, standing(Status::Offline, false))], Healthy, 1),
            (vec![(Active, standing(Status::Degraded, true))], Degraded, 1),
            (vec![(Active, standing(Status::Degraded, true)), (Active, standing(Status::Online, false))], Degraded, 1),
            (vec![(Active, standing(Status::Online, false))], Stalled, 0),
            (vec![(Disabled, standing(Status::Online, true))], Stalled, 0),
            (vec![(Revoked, standing(Status::Online, true)), (Pending, None)], Stalled, 0),
            (vec![(Active, standing(Status::Offline, true))], Stalled, 0),
        ];
        for (agents, status, accepting) in cases {
            let agents: Vec<_> = agents.into_iter().map(|(state, standing)| (agent(state), standing)).collect();
            let (counts, fit) = count(agents.iter().map(|(agent, standing)| (agent, standing.as_ref())));
            let health = judge("p".parse().unwrap(), None, counts, fit, QueueView::default());
            assert_eq!((health.status, counts.accepting), (status, accepting), "{health:?}");
        }
    }
}
