//! Jobs over REST.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    job::{Draft, DraftRetry},
    lane::Priority,
    log::OutputStream,
    names::{AgentId, JobId, PoolName},
    result::{JobResult, Outcome, Output},
    signature::Mark,
    time::Timestamp,
    wire::V,
};

use super::{Problem, Target};

/// The most jobs in one batch.
pub const BATCH_MAX: usize = 1000;

/// A job to submit. Names are texts here, so that a wrong one is refused by its own code.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// Version of the body: 1, also when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<u64>,
    /// The pool that runs it; empty or absent with a `target`, or with a `connection`, whose pool it then is.
    #[serde(default)]
    pub pool: String,
    /// Whom it is for; absent is whichever agent of the pool is next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// What to run, `<executor>.<verb>`.
    #[serde(rename = "type")]
    pub job_type: String,
    /// What the type takes.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
    /// `high`, `normal` (default) or `low`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// Seconds that an attempt may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<i64>,
    /// What happens after a failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<DraftRetry>,
    /// The connection whose secrets the job needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// Labels to find the job by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The job does not start before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The job does not start after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Seconds that the result is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_ttl_s: Option<i64>,
    /// The caller's own id: a second submit with it answers the first job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Submit {
    /// The body of the job's message, not yet checked.
    pub fn draft(&self) -> Draft {
        Draft {
            v: V,
            job_type: self.job_type.clone(),
            params: self.params.clone(),
            timeout_s: self.timeout_s,
            retry: self.retry.clone(),
            connection: self.connection.clone(),
            labels: self.labels.clone(),
            not_before: self.not_before,
            expires_at: self.expires_at,
            result_ttl_s: self.result_ttl_s,
            parent: None,
        }
    }
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Its time has not come.
    Scheduled,
    /// It waits for an agent.
    Pending,
    /// An agent runs it.
    Running,
    /// An attempt failed, and the next one waits for its backoff.
    Retrying,
    /// It did what it should.
    Succeeded,
    /// It ran and did not.
    Failed,
    /// It was stopped at its time-out.
    TimedOut,
    /// Somebody stopped it.
    Cancelled,
    /// Its expiry passed before it could start.
    Expired,
    /// It could not be understood or is not allowed.
    Rejected,
}

impl From<Outcome> for JobState {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Failed => Self::Failed,
            Outcome::TimedOut => Self::TimedOut,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Expired => Self::Expired,
            Outcome::Rejected => Self::Rejected,
        }
    }
}

impl JobState {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Scheduled | Self::Pending | Self::Running | Self::Retrying)
    }
}

/// A job as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Its pool.
    pub pool: PoolName,
    /// What it runs; absent when it could not be read.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub job_type: Option<String>,
    /// Its priority.
    pub priority: Priority,
    /// Where it is.
    pub state: JobState,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When the broker stored it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_at: Option<Timestamp>,
    /// The attempt that runs or ran last; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// Who runs it or ran it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// The one agent that it is for; absent for a job of a lane, and once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_agent: Option<AgentId>,
    /// The job that it runs again: the first one of them all. Absent once it has ended, and for one that runs for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// What the last state change said, such as why an attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it will be given out, if it is put off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// What is known of the result's signature; absent until it has ended, and while that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Mark>,
}

/// One entry of a batch's answer: exactly one of the two is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BatchEntry {
    /// The job as accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobView>,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// Several jobs to submit, each accepted or refused on its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// 1 to 1 000 jobs. Each is checked on its own, so a bad one does not refuse the others.
    pub jobs: Vec<Value>,
}

/// A piece of a job's output as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LogView {
    /// Its place in the stored log: send the last one as `?after=` to go on.
    pub seq: u64,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// Where it was written to.
    pub stream: OutputStream,
    /// When it was read.
    pub at: Timestamp,
    /// What was written.
    pub data: Output,
}
