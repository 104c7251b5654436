//! Dead letters over REST: jobs that nobody could finish, and what is done about them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    job::Draft,
    lane::Priority,
    names::{AgentId, JobId, JobType, PoolName},
    result::{AttemptRecord, ErrorInfo},
    time::Timestamp,
};

use super::Problem;

/// The most dead letters that one request replays or deletes.
pub const DEAD_BULK_MAX: usize = 1000;

/// A dead letter in the list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetterView {
    /// The job's id.
    pub id: JobId,
    /// Its pool.
    pub pool: PoolName,
    /// What it runs; absent when its body is no job.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub job_type: Option<JobType>,
    /// Its priority.
    pub priority: Priority,
    /// The one agent that it was for; absent for a job of a lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_agent: Option<AgentId>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When the broker stored the job.
    pub queued_at: Timestamp,
    /// When its agent gave it up, by the agent's clock.
    pub died_at: Timestamp,
    /// When the broker stored the letter: the list is in this order, and `since` and `until` go by it.
    pub stored_at: Timestamp,
    /// Why.
    pub error: ErrorInfo,
    /// How many attempts were begun.
    pub attempt: u32,
    /// The first job, which this one ran again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
}

/// A dead letter in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetterDetail {
    /// What the list says of it.
    #[serde(flatten)]
    pub letter: DeadLetterView,
    /// The job as it was submitted; absent when its body is no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Draft>,
    /// Its attempts, the newest 20: who ran each, from when to when, and how it ended, with the end of its output. An attempt whose agent was
    /// lost has no end and no outcome, and its output is in it for as long as the job's log is kept.
    pub attempts: Vec<AttemptRecord>,
}

/// Where a dead letter's job is queued again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayTo {
    /// The pool whose queue it goes to; absent means where it was: a command goes to its agent again, any other job to its own pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// Which dead letters to replay or delete. All that are given have to match; at least one has to be given, or `all`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterFilter {
    /// Of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Of this type.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub job_type: Option<String>,
    /// Of these jobs, at most 1 000. An empty list is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// Stored before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Whatever they are: takes the place of a filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// The cursor of the answer before, to go on behind what that request looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Only for a replay: the pool whose queue they go to; absent means where each one was, commands to their agents again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What became of many dead letters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLettersDone {
    /// How many were replayed or deleted.
    pub done: u64,
    /// Those that could not be, and why. They stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<DeadLetterFailure>,
    /// How many letters may still match: those behind the last one that was looked at, in the pool if one is named. 0 says that this was all.
    pub left: u64,
    /// What to send as `cursor` to go on; absent when nothing is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A dead letter that could not be replayed or deleted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetterFailure {
    /// The job's id.
    pub id: JobId,
    /// Its pool, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// Why.
    pub problem: Problem,
}
