//! Pools over REST.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    names::{ExecutorName, PoolName},
    records::{Paused, PoolDefaults, PoolLimits},
    time::Timestamp,
};

/// What a pool is to be. What is left out keeps its value, or gets its default when the pool is made.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutPool {
    /// For people, at most 1 000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Executors whose lanes to declare, beside those that are. Default `probe`, `shell`, `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executors: Option<BTreeSet<String>>,
    /// Its limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<PutLimits>,
    /// What its jobs get that say nothing themselves; it replaces what was there as a whole, so `{}` clears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<PoolDefaults>,
}

/// Why a pool is paused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PausePool {
    /// For people, at most 1 000 characters, without control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Limits to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutLimits {
    /// Jobs that may wait, 1 to 1 000 000 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queued: Option<i64>,
    /// Jobs that may run at once, 1 to 1 000 000. From 10 000 on, the default, there is no limit but agents' slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<i64>,
}

/// A pool as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PoolView {
    /// Its name.
    pub name: PoolName,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Executors whose lanes are declared.
    pub executors: BTreeSet<ExecutorName>,
    /// Its limits.
    pub limits: PoolLimits,
    /// What its jobs get that say nothing themselves.
    #[serde(default, skip_serializing_if = "PoolDefaults::is_empty")]
    pub defaults: PoolDefaults,
    /// Who paused it, and why; absent while it gives out jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// When it was made.
    pub created_at: Timestamp,
    /// What is in it now.
    pub queue: QueueView,
}

/// What is in a pool's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct QueueView {
    /// Jobs that wait.
    pub pending: u64,
    /// Jobs that agents have. One that has ended counts for up to a second more, until its agent's acknowledgement has come.
    pub running: u64,
    /// Since when the oldest job is in the queue, waiting or running; it may have ended within the last second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_at: Option<Timestamp>,
}

/// A pool's health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PoolHealth {
    /// Its name.
    pub pool: PoolName,
    /// `healthy`: an agent is online and accepts. `degraded`: agents accept, but none of them is online and well. `stalled`: none accepts.
    /// `paused`: it gives out no jobs, whatever its agents do.
    pub status: PoolStatus,
    /// What that means for a job, in one sentence.
    pub detail: String,
    /// What is in it now.
    pub queue: QueueView,
    /// Its agents, counted by status.
    pub agents: AgentCounts,
}

/// Whether jobs of a pool run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolStatus {
    /// An agent is online and accepts jobs.
    Healthy,
    /// Agents accept jobs, but none of them is well.
    Degraded,
    /// No agent accepts jobs.
    Stalled,
    /// Somebody paused it.
    Paused,
}

/// Agents of a pool, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AgentCounts {
    /// There and well.
    pub online: u32,
    /// There, but jobs fail or it reports a fault.
    pub degraded: u32,
    /// Not there.
    pub offline: u32,
    /// May pull jobs.
    pub accepting: u32,
}
