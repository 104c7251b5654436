//! What a pool's record holds beside its limits: who paused it, and what its jobs get that say nothing themselves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PoolLimits;
use crate::{
    job::{Draft, DraftRetry, Job, JobError, Retry},
    time::Timestamp,
    topology::RUNNING_DEFAULT,
};

/// That a pool is paused: it gives out no job, takes submits all the same, and what runs ends normally.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Paused {
    /// The name of the API key that paused it.
    pub by: String,
    /// That key's id.
    pub key_id: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Since when.
    pub at: Timestamp,
}

impl std::fmt::Display for Paused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "paused by {} since {}", self.by, self.at)?;
        match &self.note {
            Some(note) => write!(f, ": {note}"),
            None => Ok(()),
        }
    }
}

/// What jobs of a pool get that do not say it themselves, as anybody may write it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolDefaults {
    /// Seconds that an attempt may run, 1 to 604 800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<i64>,
    /// What happens after a failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<DraftRetry>,
}

impl PoolDefaults {
    /// Whether they say nothing.
    pub fn is_empty(&self) -> bool {
        self.timeout_s.is_none() && self.retry.is_none()
    }
}

/// The checked form of [`PoolDefaults`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct JobDefaults {
    /// How long an attempt may run.
    pub timeout: Option<Duration>,
    /// What happens after a failed attempt.
    pub retry: Option<Retry>,
}

impl JobDefaults {
    /// Gives a job what it does not say itself.
    pub fn fill(&self, job: &mut Job) {
        job.timeout = job.timeout.or(self.timeout);
        job.retry = job.retry.or(self.retry);
    }
}

impl TryFrom<PoolDefaults> for JobDefaults {
    type Error = JobError;

    /// By the rules of a job: they are those of a job that says nothing else.
    fn try_from(defaults: PoolDefaults) -> Result<Self, JobError> {
        let PoolDefaults { timeout_s, retry } = defaults;
        let job = Job::try_from(Draft { job_type: "any.thing".into(), timeout_s, retry, ..Draft::default() })?;
        Ok(Self { timeout: job.timeout, retry: job.retry })
    }
}

impl PoolLimits {
    /// Whether the limit on running jobs is divided over the lanes, so that it holds for the pool. From [`RUNNING_DEFAULT`] on there is none,
    /// and lanes may have [`crate::topology::OUT_MAX`] jobs out.
    pub fn is_divided(&self) -> bool {
        self.max_running < RUNNING_DEFAULT
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;
    use crate::code::Code;

    fn checked(defaults: serde_json::Value) -> Result<JobDefaults, Code> {
        JobDefaults::try_from(serde_json::from_value::<PoolDefaults>(defaults).unwrap()).map_err(|error| error.code())
    }

    #[test]
    fn defaults_are_checked_by_the_rules_of_a_job() {
        assert_eq!(checked(json!({"timeout_s": 0})), Err(Code::TimeoutInvalid));
        assert_eq!(checked(json!({"timeout_s": 604_801})), Err(Code::TimeoutInvalid));
        assert_eq!(checked(json!({"retry": {"max_attempts": 0}})), Err(Code::RetryInvalid));
        assert_eq!(checked(json!({"retry": {"max_attempts": 2, "jitter": 7}})), Err(Code::RetryInvalid));
        assert_eq!(checked(json!({})), Ok(JobDefaults::default()));
    }

    #[test]
    fn a_job_keeps_what_it_says_itself() {
        let defaults = checked(json!({"timeout_s": 7, "retry": {"max_attempts": 3}})).unwrap();
        let filled = |body: &str| {
            let mut job = Job::decode(body.as_bytes()).unwrap();
            defaults.fill(&mut job);
            (job.timeout().as_secs(), job.retry.map(|retry| retry.max_attempts))
        };
        assert_eq!(filled(r#"{"type":"probe.ping"}"#), (7, Some(3)));
        assert_eq!(filled(r#"{"type":"probe.ping","timeout_s":9,"retry":{"max_attempts":1}}"#), (9, Some(1)));
    }

    #[test]
    fn a_pause_says_who_since_when_and_why() {
        let mut paused = Paused { by: "ci".into(), key_id: "key_1".into(), note: None, at: Timestamp::from_secs(1_800_000_000) };
        assert_eq!(paused.to_string(), "paused by ci since 2027-01-15T08:00:00Z");
        paused.note = Some("the disk is full".into());
        assert_eq!(paused.to_string(), "paused by ci since 2027-01-15T08:00:00Z: the disk is full");
    }
}
