//! What the dispatcher says of an agent. The agent reads its own and pulls accordingly.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    heartbeat::VaultMark,
    names::ExecutorName,
    records::PoolDefaults,
    time::Timestamp,
    wire::{Body, V},
};

/// The pull priority of an agent that has no standing yet: behind the fit, before the unfit.
pub const PULL_PRIORITY_UNKNOWN: u8 = 5;
/// Accepting agents are counted up to here: an agent only needs to know whether there are more than have failed a job, and in a large pool
/// the standings need not all be written anew when one comes or goes.
pub const ACCEPTING_MAX: u32 = 8;

/// The longest that an ack may wait, in milliseconds: short against a lease, and a figure of running jobs that is behind by so much fools nobody.
pub const ACK_DELAY_MAX_MS: u32 = 1000;

/// Whether an agent is there and well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Heartbeats come, and jobs succeed.
    Online,
    /// Heartbeats come, but jobs fail or the agent reports a fault.
    Degraded,
    /// Three intervals without a heartbeat, or a goodbye.
    Offline,
}

/// An agent's standing in its pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Standing {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// 0 to 100: heartbeat part and success part.
    pub score: f64,
    /// 0 to 50, from the age of the last heartbeat.
    pub heartbeat_part: f64,
    /// 0 to 50, from the share of jobs that succeeded in the last hour.
    pub success_part: f64,
    /// Whether it is there and well.
    pub status: Status,
    /// Place among the accepting agents of the pool, from 0; equal scores share one.
    pub rank: u32,
    /// Priority of its pull requests, 0 to 9; 0 is served first.
    pub pull_priority: u8,
    /// How many agents of the pool may pull, itself included, counted up to [`ACCEPTING_MAX`]; 0 when that is not known.
    #[serde(default)]
    pub accepting_agents: u32,
    /// Whether it may pull.
    pub accepting: bool,
    /// Why it may not, or why it is degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Executors that it may run jobs of; absent is all that it has. An operator's word, see `PATCH /agents/{id}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executors: Option<BTreeSet<ExecutorName>>,
    /// Executors whose lanes it does not pull unless it is called up ([`crate::control::What::CallUp`]): enough fitter agents do.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub standby: BTreeSet<ExecutorName>,
    /// For how many milliseconds the ack of a job may wait whose result is stored, at most [`ACK_DELAY_MAX_MS`]. Until then the job stays in its queue, where
    /// the dispatcher may remove it together with others. 0 is at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ack_delay_ms: u32,
    /// Whether two processes run with its identity.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub twin: bool,
    /// What jobs of its pool get that say nothing themselves. Absent is nothing; agents cannot read the pool's record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<PoolDefaults>,
    /// The highest state of its vault that the dispatcher has heard of: an agent whose vault is behind it has been given an older file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultMark>,
    /// The digest of what its executors take, as its last heartbeat had it ([`crate::describe`]). Gateways ask for what they do not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// When the dispatcher said so.
    pub at: Timestamp,
}

impl Standing {
    /// The standing of an agent that is well and first in its pool.
    pub fn first(at: Timestamp) -> Self {
        Self {
            v: V,
            score: 100.0,
            heartbeat_part: 50.0,
            success_part: 50.0,
            status: Status::Online,
            rank: 0,
            pull_priority: 0,
            accepting_agents: 1,
            accepting: true,
            reason: None,
            executors: None,
            standby: BTreeSet::new(),
            ack_delay_ms: 0,
            twin: false,
            defaults: None,
            vault: None,
            description: None,
            at,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Body for Standing {
    const LIMIT: usize = 16 * 1024;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::wire;

    #[test]
    fn a_standing_round_trips_and_is_pinned_by_a_golden_file() {
        let standing = Standing {
            score: 97.5,
            success_part: 47.5,
            rank: 1,
            pull_priority: 1,
            accepting_agents: 3,
            ..Standing::first(Timestamp::from_secs(1_800_000_000))
        };
        assert_eq!(wire::decode::<Standing>(&wire::encode(&standing)).unwrap(), standing);
        crate::json::golden("standing.json", &(serde_json::to_string_pretty(&standing).unwrap() + "\n"));
    }
}
