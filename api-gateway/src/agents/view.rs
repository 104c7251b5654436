//! How an agent is shown: its record, its standing and its last heartbeat put together. Pure.

use muster_schemas::{
    api::{AgentHealth, AgentStatus, AgentView},
    heartbeat::{Heartbeat, Load, Slots},
    records::{AgentRecord, AgentState},
    standing::{Standing, Status},
};

/// Where an agent is: what an operator decided comes before what the dispatcher saw.
pub(super) fn status(state: AgentState, standing: Option<&Standing>) -> AgentStatus {
    match (state, standing.map(|standing| standing.status)) {
        (AgentState::Pending, _) => AgentStatus::Pending,
        (AgentState::Disabled, _) => AgentStatus::Disabled,
        (AgentState::Revoked | AgentState::Deleting, _) => AgentStatus::Revoked,
        (AgentState::Active | AgentState::Draining, Some(Status::Online)) => AgentStatus::Online,
        (AgentState::Active | AgentState::Draining, Some(Status::Degraded)) => AgentStatus::Degraded,
        (AgentState::Active | AgentState::Draining, Some(Status::Offline) | None) => AgentStatus::Offline,
    }
}

pub(super) fn agent(record: AgentRecord, standing: Option<Standing>) -> AgentView {
    AgentView {
        status: status(record.state, standing.as_ref()),
        // What was last seen of one that is cut off says nothing of what it is.
        standing: standing.filter(|_| !matches!(record.state, AgentState::Revoked | AgentState::Deleting)),
        labels: record.all_labels(),
        capabilities: record.executors(),
        id: record.id,
        name: record.name,
        pool: record.pool,
        description: record.description,
        tags: record.tags,
        draining: record.state == AgentState::Draining,
        metadata: record.metadata,
        platform: record.platform,
        ephemeral: record.ephemeral,
        revoked: record.revoked,
        key_rotated_at: record.key_rotated_at,
        version: record.version,
        os: record.os,
        arch: record.arch,
        hostname: record.hostname,
        created_at: record.created_at,
        registered_at: record.registered_at,
        remote_ip: record.remote_ip,
        public_key: record.public_key,
    }
}

pub(super) fn health(agent: AgentView, beat: Option<Heartbeat>) -> AgentHealth {
    let beat = beat.as_ref();
    AgentHealth {
        agent_id: agent.id,
        status: agent.status,
        standing: agent.standing,
        heartbeat_at: beat.map(|beat| beat.at),
        started_at: beat.map(|beat| beat.started_at),
        load: beat.map_or_else(Load::default, |beat| beat.load),
        slots: beat.map_or_else(Slots::default, |beat| beat.slots),
        spooled: beat.map_or(0, |beat| beat.spooled),
        last_error: beat.and_then(|beat| beat.fault.clone().or_else(|| beat.last_error.clone())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{names::AgentId, time::Timestamp};

    use super::*;

    fn standing(status: Status) -> Standing {
        Standing { score: 0.0, heartbeat_part: 0.0, success_part: 0.0, status, ..Standing::first(Timestamp::from_secs(0)) }
    }

    #[test]
    fn one_that_is_cut_off_is_shown_without_what_was_last_seen_of_it() {
        let shown = |state| {
            let (name, pool) = ("a".parse().unwrap(), "p".parse().unwrap());
            let record = AgentRecord::new(AgentId::generate(), name, pool, Timestamp::from_secs(0));
            agent(AgentRecord { state, ..record }, Some(standing(Status::Online))).standing.is_some()
        };
        assert!(shown(AgentState::Active) && shown(AgentState::Disabled));
        assert!(!shown(AgentState::Revoked) && !shown(AgentState::Deleting));
    }

    #[test]
    fn what_an_operator_decided_comes_first_and_no_standing_is_offline() {
        let online = standing(Status::Online);
        assert_eq!(status(AgentState::Active, Some(&online)), AgentStatus::Online);
        assert_eq!(status(AgentState::Draining, Some(&online)), AgentStatus::Online);
        assert_eq!(status(AgentState::Active, Some(&standing(Status::Degraded))), AgentStatus::Degraded);
        assert_eq!(status(AgentState::Active, Some(&standing(Status::Offline))), AgentStatus::Offline);
        assert_eq!(status(AgentState::Active, None), AgentStatus::Offline);
        assert_eq!(status(AgentState::Disabled, Some(&online)), AgentStatus::Disabled);
        assert_eq!(status(AgentState::Revoked, Some(&online)), AgentStatus::Revoked);
        assert_eq!(status(AgentState::Pending, None), AgentStatus::Pending);
    }
}
