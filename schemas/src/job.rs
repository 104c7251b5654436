//! A job's body: what to do, within which limits. Pool, priority, executor and id are in the subject.
//!
//! A [`Job`] is only made by [`Job::decode`] or [`Job::try_from`] a [`Draft`], which check every field; so whoever holds one need not check again.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    code::Code,
    names::{ConnectionName, JobId, JobType, NameError},
    time::Timestamp,
    topology::{RESULT_AGE_MAX, RESULT_TTL},
    wire::{self, Body, V, WireError},
};

/// The most bytes of a job's body.
pub const LIMIT: usize = 256 * 1024;
/// The time-out of a job that names none.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// The longest time-out: 7 days.
pub const TIMEOUT_MAX_S: i64 = 7 * 24 * 3600;
/// The most attempts a retry policy may ask for.
pub const ATTEMPTS_MAX: i64 = 100;
/// The longest backoff: one day, in milliseconds.
pub const BACKOFF_MAX_MS: i64 = 24 * 3600 * 1000;
/// The most labels of a job.
pub const LABELS_MAX: usize = 32;
/// The longest that a job may be put off: 1 year.
pub const PUT_OFF_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A job as anybody may write it, not yet checked. Numbers are wide, so that a wrong one can be named instead of failing to parse.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Draft {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// What to run, `<executor>.<verb>`.
    #[serde(rename = "type")]
    pub job_type: String,
    /// What the type takes, an object.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
    /// Seconds that an attempt may run, 1 to 604 800. Default 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<i64>,
    /// What happens after a failed attempt. Without it a failure is final, and only lost agents are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<DraftRetry>,
    /// The connection whose secrets the job needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// Labels to find the job by, at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The job does not start before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The job does not start after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Seconds that the result is kept, 1 to 2 592 000. Default 86 400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_ttl_s: Option<i64>,
    /// The job that this one runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
}

/// A retry policy as anybody may write it, not yet checked.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DraftRetry {
    /// Attempts in all, 1 to 100.
    pub max_attempts: i64,
    /// Milliseconds before the second attempt, 0 to 86 400 000. Default 1 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_ms: Option<i64>,
    /// By what the backoff grows with each attempt, 1 to 10. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<f64>,
    /// The longest backoff in milliseconds, 0 to 86 400 000. Default 60 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<i64>,
    /// By which share a backoff varies, 0 to 1. Default 0.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
}

/// A checked job.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(into = "Draft")]
pub struct Job {
    /// What to run.
    pub job_type: JobType,
    /// What the type takes: always an object.
    pub params: Value,
    /// How long an attempt may run.
    pub timeout: Option<Duration>,
    /// What happens after a failed attempt.
    pub retry: Option<Retry>,
    /// The connection whose secrets the job needs.
    pub connection: Option<ConnectionName>,
    /// Labels to find the job by.
    pub labels: BTreeMap<String, String>,
    /// The job does not start before this.
    pub not_before: Option<Timestamp>,
    /// The job does not start after this.
    pub expires_at: Option<Timestamp>,
    /// How long the result is kept.
    pub result_ttl: Option<Duration>,
    /// The job that this one runs again.
    pub parent: Option<JobId>,
}

/// A checked retry policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// Attempts in all, 1 to [`ATTEMPTS_MAX`].
    pub max_attempts: u32,
    /// The backoff before the second attempt.
    pub initial: Duration,
    /// By what the backoff grows with each attempt.
    pub multiplier: f64,
    /// The longest backoff.
    pub max: Duration,
    /// By which share a backoff varies, 0 to 1.
    pub jitter: f64,
}

/// Why a body is not a job.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JobError {
    /// The bytes are no body.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The type is not `<executor>.<verb>`.
    #[error("field `type`: {0}")]
    Type(NameError),
    /// The connection is no name.
    #[error("field `connection`: {0}")]
    Connection(NameError),
    /// A field breaks its rule.
    #[error("field `{field}`: {rule}, and got {given}")]
    Field {
        /// The stable code.
        code: Code,
        /// The field's path.
        field: &'static str,
        /// The rule it broke.
        rule: &'static str,
        /// What was given.
        given: String,
    },
}

impl JobError {
    /// The stable code under which this reaches the submitter.
    pub fn code(&self) -> Code {
        match self {
            Self::Wire(error) => error.code(),
            Self::Type(_) => Code::TypeUnknown,
            Self::Connection(_) => Code::FieldInvalid,
            Self::Field { code, .. } => *code,
        }
    }
}

impl Body for Draft {
    const LIMIT: usize = LIMIT;
}

impl Job {
    /// Decodes and checks a job's body.
    ///
    /// # Errors
    /// [`JobError`], with the code that the submitter gets.
    pub fn decode(bytes: &[u8]) -> Result<Self, JobError> {
        Self::try_from(wire::decode::<Draft>(bytes)?)
    }

    /// The longest that an attempt may run.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT_DEFAULT)
    }

    /// How long the result is kept.
    pub fn result_ttl(&self) -> Duration {
        self.result_ttl.unwrap_or(RESULT_TTL)
    }
}

/// An integer within a range, or the error that names the field.
fn within(code: Code, field: &'static str, rule: &'static str, given: i64, range: std::ops::RangeInclusive<i64>) -> Result<u64, JobError> {
    if range.contains(&given) { Ok(given.unsigned_abs()) } else { Err(JobError::Field { code, field, rule, given: given.to_string() }) }
}

fn share(field: &'static str, rule: &'static str, given: f64, range: std::ops::RangeInclusive<f64>) -> Result<f64, JobError> {
    // NaN is in no range.
    if range.contains(&given) {
        Ok(given)
    } else {
        Err(JobError::Field { code: Code::RetryInvalid, field, rule, given: given.to_string() })
    }
}

impl TryFrom<Draft> for Job {
    type Error = JobError;

    fn try_from(draft: Draft) -> Result<Self, JobError> {
        let params = match draft.params {
            Value::Null => Value::Object(serde_json::Map::new()),
            Value::Object(map) => Value::Object(map),
            _ => {
                return Err(JobError::Field {
                    code: Code::ParamsInvalid,
                    field: "params",
                    rule: "it takes an object",
                    given: "something else".into(),
                });
            }
        };
        check_labels(&draft.labels)?;
        if let (Some(start), Some(end)) = (draft.not_before, draft.expires_at)
            && end <= start
        {
            return Err(JobError::Field {
                code: Code::TimeInvalid,
                field: "expires_at",
                rule: "it must be later than not_before",
                given: end.to_string(),
            });
        }
        let timeout =
            draft.timeout_s.map(|s| within(Code::TimeoutInvalid, "timeout_s", "it takes 1 to 604800 seconds", s, 1..=TIMEOUT_MAX_S));
        let ttl_max = i64::try_from(RESULT_AGE_MAX.as_secs()).unwrap_or(i64::MAX);
        let ttl = draft.result_ttl_s.map(|s| within(Code::FieldInvalid, "result_ttl_s", "it takes 1 to 2592000 seconds", s, 1..=ttl_max));
        Ok(Self {
            job_type: draft.job_type.parse().map_err(JobError::Type)?,
            params,
            timeout: timeout.transpose()?.map(Duration::from_secs),
            retry: draft.retry.map(Retry::try_from).transpose()?,
            connection: draft.connection.map(|name| name.parse().map_err(JobError::Connection)).transpose()?,
            labels: draft.labels,
            not_before: draft.not_before,
            expires_at: draft.expires_at,
            result_ttl: ttl.transpose()?.map(Duration::from_secs),
            parent: draft.parent,
        })
    }
}

/// Checks labels: of jobs, and of agents, which take the same.
///
/// # Errors
/// [`JobError::Field`] with [`Code::LabelsInvalid`].
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), JobError> {
    let bad = |rule, given: String| JobError::Field { code: Code::LabelsInvalid, field: "labels", rule, given };
    if labels.len() > LABELS_MAX {
        return Err(bad("it takes at most 32 labels", labels.len().to_string()));
    }
    for (key, value) in labels {
        let plain = |text: &str, most: usize| text.len() <= most && !text.contains(char::is_control);
        if key.is_empty() || !plain(key, 63) || !plain(value, 255) {
            let shown = key.chars().take(64).flat_map(char::escape_debug).collect();
            return Err(bad("a key takes 1 to 63 bytes, a value up to 255, neither with control characters", shown));
        }
    }
    Ok(())
}

impl TryFrom<DraftRetry> for Retry {
    type Error = JobError;

    fn try_from(draft: DraftRetry) -> Result<Self, JobError> {
        let ms = |field, given: Option<i64>, default| {
            within(Code::RetryInvalid, field, "it takes 0 to 86400000 milliseconds", given.unwrap_or(default), 0..=BACKOFF_MAX_MS)
                .map(Duration::from_millis)
        };
        let attempts = within(Code::RetryInvalid, "retry.max_attempts", "it takes 1 to 100", draft.max_attempts, 1..=ATTEMPTS_MAX)?;
        Ok(Self {
            max_attempts: u32::try_from(attempts).unwrap_or(1),
            initial: ms("retry.initial_ms", draft.initial_ms, 1000)?,
            multiplier: share("retry.multiplier", "it takes 1 to 10", draft.multiplier.unwrap_or(2.0), 1.0..=10.0)?,
            max: ms("retry.max_ms", draft.max_ms, 60_000)?,
            jitter: share("retry.jitter", "it takes 0 to 1", draft.jitter.unwrap_or(0.2), 0.0..=1.0)?,
        })
    }
}

impl Retry {
    /// The wait after `failed` attempts (1 or more): `initial × multiplier^(failed-1)`, at most `max`, varied by ± `jitter`.
    /// `random` is uniform in 0..1.
    pub fn backoff(&self, failed: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failed.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = (self.initial.as_secs_f64() * self.multiplier.powi(exponent)).min(self.max.as_secs_f64());
        let varied = grown * (1.0 + self.jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0));
        Duration::try_from_secs_f64(varied).unwrap_or(self.max)
    }
}

impl From<Retry> for DraftRetry {
    fn from(retry: Retry) -> Self {
        let ms = |d: Duration| Some(i64::try_from(d.as_millis()).unwrap_or(BACKOFF_MAX_MS));
        Self {
            max_attempts: retry.max_attempts.into(),
            initial_ms: ms(retry.initial),
            multiplier: Some(retry.multiplier),
            max_ms: ms(retry.max),
            jitter: Some(retry.jitter),
        }
    }
}

impl From<Job> for Draft {
    fn from(job: Job) -> Self {
        let secs = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
        Self {
            v: V,
            job_type: job.job_type.to_string(),
            params: job.params,
            timeout_s: job.timeout.map(secs),
            retry: job.retry.map(Into::into),
            connection: job.connection.map(|name| name.to_string()),
            labels: job.labels,
            not_before: job.not_before,
            expires_at: job.expires_at,
            result_ttl_s: job.result_ttl.map(secs),
            parent: job.parent,
        }
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
