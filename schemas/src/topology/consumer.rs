//! Durable consumers: how lanes, agents' own queues and firings are given out.

use serde::Serialize;

use super::{ACK_WAIT, COMMANDS_PENDING_MAX, DUE_ACK_WAIT, MAX_BATCH, MAX_EXPIRES, MAX_WAITING, Nanos, PRIORITY_GROUP};
use crate::{
    lane::Lane,
    names::{AgentId, PoolName},
    subjects,
    time::Timestamp,
};

/// The consumer that turns firings into jobs; all dispatchers share it.
pub const DUE_CONSUMER: &str = "due";

/// A durable pull consumer, as in `CONSUMER.CREATE`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Consumer {
    /// Its name.
    pub durable_name: String,
    /// What it gives out.
    pub filter_subject: String,
    /// Always `explicit`.
    pub ack_policy: &'static str,
    /// After how long without an ack or a sign of life a message is given to somebody else: the lease.
    pub ack_wait: Nanos,
    /// Always -1: attempts are counted by agents, who can say what happened.
    pub max_deliver: i64,
    /// How many messages may be out at once.
    pub max_ack_pending: i64,
    /// How many pull requests may wait.
    pub max_waiting: i64,
    /// The most messages that one pull request may ask for.
    pub max_batch: i64,
    /// The longest that a pull request may wait.
    pub max_expires: Nanos,
    /// `prioritized`: waiting requests are served by their priority, 0 first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_policy: Option<&'static str>,
    /// The one group of a prioritized consumer, [`PRIORITY_GROUP`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priority_groups: Vec<&'static str>,
    /// Until when it gives out nothing; only heeded when it is made. See [`super::LanePause`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_until: Option<Timestamp>,
}

/// The consumer of a lane; all agents of the pool share it.
pub fn lane_consumer(pool: &PoolName, lane: &Lane, max_running: u64) -> Consumer {
    Consumer {
        durable_name: lane.consumer(),
        filter_subject: subjects::lane(pool, lane),
        ack_policy: "explicit",
        ack_wait: ACK_WAIT.into(),
        max_deliver: -1,
        max_ack_pending: i64::try_from(max_running).unwrap_or(i64::MAX),
        max_waiting: MAX_WAITING,
        max_batch: MAX_BATCH,
        max_expires: MAX_EXPIRES.into(),
        priority_policy: Some("prioritized"),
        priority_groups: vec![PRIORITY_GROUP],
        pause_until: None,
    }
}

/// The consumer of firings. One at a time, over all dispatchers: whether the job of the firing before is still there can only be told once
/// that firing has been dealt with. One takes some milliseconds.
pub fn due_consumer() -> Consumer {
    Consumer {
        durable_name: DUE_CONSUMER.into(),
        filter_subject: subjects::broker::DUE.into(),
        ack_policy: "explicit",
        ack_wait: DUE_ACK_WAIT.into(),
        max_deliver: -1,
        max_ack_pending: 1,
        max_waiting: 64,
        max_batch: 1,
        max_expires: MAX_EXPIRES.into(),
        priority_policy: None,
        priority_groups: Vec::new(),
        pause_until: None,
    }
}

/// The consumer of the commands to one agent, named like it, which is there only while some were sent lately. Without pull priorities: nobody
/// else asks.
pub fn command_consumer(pool: &PoolName, agent: &AgentId) -> Consumer {
    Consumer {
        durable_name: agent.as_str().into(),
        filter_subject: subjects::commands_to(pool, agent),
        ack_policy: "explicit",
        ack_wait: ACK_WAIT.into(),
        max_deliver: -1,
        // Commands that are put off or wait for their next attempt hold a place too, and must not keep others from the agent.
        max_ack_pending: COMMANDS_PENDING_MAX,
        max_waiting: 64,
        max_batch: MAX_BATCH,
        max_expires: MAX_EXPIRES.into(),
        priority_policy: None,
        priority_groups: Vec::new(),
        pause_until: None,
    }
}
