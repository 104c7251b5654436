//! The history of jobs over REST: rows of the list, and how a pool has been doing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    lane::Priority,
    names::{AgentId, JobId, JobType, PoolName},
    result::ErrorInfo,
    signature::Mark,
    time::Timestamp,
};

use super::JobState;

/// A job in the list of jobs. Its output and data are in its result: look the job up by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// Its pool.
    pub pool: PoolName,
    /// What it runs; absent when it could not be read.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub job_type: Option<JobType>,
    /// Its priority.
    pub priority: Priority,
    /// Where it is.
    pub state: JobState,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The attempt that runs or ran last; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// Who runs it or ran it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// The one agent that it is for; absent for a job of a lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_agent: Option<AgentId>,
    /// When the broker stored it.
    pub queued_at: Timestamp,
    /// When the attempt started that runs or ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The exit status of a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What went wrong, the message cut to 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// What the last state change said, such as why an attempt failed; absent once the job has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it will be given out, if it is put off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// The job that this one runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// What is known of its result's signature; absent until it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Mark>,
}

/// How a pool has been doing, from the history of jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PoolStats {
    /// Its name.
    pub pool: PoolName,
    /// Jobs in the history by where they are; states that no job is in are left out.
    pub counts: BTreeMap<String, u64>,
    /// Since when the oldest job waits that could start now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_pending_at: Option<Timestamp>,
    /// Seconds that it has waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_pending_s: Option<f64>,
    /// Jobs that ended within the last hour.
    pub finished_last_hour: u64,
    /// Seconds from when they could start to the start of the last attempt, of those that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_s: Option<Percentiles>,
    /// Seconds that the last attempt took, of those that ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_s: Option<Percentiles>,
}

/// Percentiles of a set of durations, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Percentiles {
    /// Half were at most this.
    pub p50: f64,
    /// Nine of ten were at most this.
    pub p90: f64,
    /// 99 of a hundred were at most this.
    pub p99: f64,
}
