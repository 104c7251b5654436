//! Commands over REST: jobs for one agent alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{job::DraftRetry, names::JobId, result::Output, time::Timestamp};

use super::{JobRow, JobView};

/// A command to one agent, to submit. Names are texts here, so that a wrong one is refused by its own code.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// What to run, `<executor>.<verb>`; without a verb it is `<executor>.run`.
    #[serde(rename = "type")]
    pub job_type: String,
    /// What the type takes. A number `timeout` beside a `command` is taken as `timeout_s`, where that is absent.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
    /// Seconds that an attempt may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<i64>,
    /// What happens after a failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<DraftRetry>,
    /// The connection whose secrets it needs; one of the agent's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// It does not start before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// It does not start after this; absent is 24 hours after it could first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Seconds that the result is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_ttl_s: Option<i64>,
    /// The caller's own id: a second command with it to the same agent answers the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// A command as it was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CommandAccepted {
    /// Its id: that of a job like any other.
    pub command_id: JobId,
    /// `queued`; or the job's state where the same one was submitted before.
    pub status: String,
    /// When it expires unless it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The job; only in the answer to a request that waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobView>,
}

/// A command in an agent's list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CommandView {
    /// The job.
    #[serde(flatten)]
    pub job: JobRow,
    /// The end of what it wrote, while its result is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
}
