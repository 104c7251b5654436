//! A job's result: how it ended, with the end of its output. The first one stored under a job's subject is the one that counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    code::Code,
    event::{Event, EventKind},
    job::Job,
    names::{AgentId, JobType},
    queue::Queue,
    time::Timestamp,
    wire::{Body, V},
};

mod output;
pub use output::Output;

/// The most bytes of a result's body.
pub const LIMIT: usize = 256 * 1024;
/// The most bytes of each output stream that a result keeps: its end.
pub const TAIL_LIMIT: usize = 64 * 1024;
/// The most bytes of output that the record of an earlier attempt keeps: its end.
pub const ATTEMPT_TAIL_LIMIT: usize = 4 * 1024;

/// How a job, or one attempt of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what it should.
    Succeeded,
    /// It ran and did not.
    Failed,
    /// It was stopped at its time-out.
    TimedOut,
    /// Somebody stopped it.
    Cancelled,
    /// Its expiry passed before it could start; it never ran.
    Expired,
    /// It could not be understood or is not allowed; it never ran.
    Rejected,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 6] = [Self::Succeeded, Self::Failed, Self::TimedOut, Self::Cancelled, Self::Expired, Self::Rejected];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }

    /// Whether another attempt may help.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut)
    }

    /// Whether it says something of the agent that ran the job, so that it counts in the agent's score. Cancelled, expired and rejected
    /// jobs do not.
    pub fn counts_for_score(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::TimedOut)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong, for a program and for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ErrorInfo {
    /// The stable code.
    pub code: Code,
    /// What was wrong, where, and what to do.
    pub message: String,
}

impl ErrorInfo {
    /// An error with its message, cut to 1 000 characters so that a result always fits its cap.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self { code, message: message.chars().take(1000).collect() }
    }
}

/// One attempt that ended without the job ending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AttemptRecord {
    /// Its number, from 1.
    pub attempt: u32,
    /// Who ran it, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// When it started, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended; absent when its agent was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// How it ended; absent when its agent was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The exit status, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// The end of its output, at most 4 KiB. Only events and dead letters have it, and only where the agent lived to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<Output>,
}

/// A job's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JobResult {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// How the job ended.
    pub outcome: Outcome,
    /// What was run; absent when the job could not be read.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub job_type: Option<JobType>,
    /// The exit status of a command; 128 and the signal's number when a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The end of standard output, at most 64 KiB.
    #[serde(default, skip_serializing_if = "Output::is_empty")]
    pub stdout: Output,
    /// The end of standard error, at most 64 KiB.
    #[serde(default, skip_serializing_if = "Output::is_empty")]
    pub stderr: Output,
    /// Whether either output was longer than what is kept here. All of it is in the job's log, within the log's limits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// What the executor gives back beside output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// What went wrong, unless it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// Who ran the last attempt; absent when none ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// The agent that ended it without running it once more, and signs for that; absent where the one that ran the last attempt did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<AgentId>,
    /// How many attempts were begun; 0 when none was.
    pub attempt: u32,
    /// When the broker stored the job.
    pub queued_at: Timestamp,
    /// When the last attempt started; absent when none ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the job ended.
    pub finished_at: Timestamp,
    /// The attempts before the last one, the newest 20 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<AttemptRecord>,
    /// The job's priority.
    #[serde(default)]
    pub priority: crate::lane::Priority,
    /// The job's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How many chunks the last attempt wrote to the job's log: whoever has so many has all of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_chunks: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Body for JobResult {
    const LIMIT: usize = LIMIT;
}

impl JobResult {
    /// A result of a job that never ran: rejected, expired or cancelled.
    pub fn never_ran(outcome: Outcome, error: ErrorInfo, queued_at: Timestamp, now: Timestamp) -> Self {
        Self {
            v: V,
            outcome,
            job_type: None,
            exit_code: None,
            stdout: Output::default(),
            stderr: Output::default(),
            truncated: false,
            data: None,
            error: Some(error),
            agent_id: None,
            ended_by: None,
            attempt: 0,
            queued_at,
            started_at: None,
            finished_at: now,
            history: Vec::new(),
            priority: crate::lane::Priority::default(),
            labels: BTreeMap::new(),
            log_chunks: 0,
        }
    }

    /// The agent whose signature it has to bear, unless the control plane ended the job.
    pub fn signing_agent(&self) -> Option<&AgentId> {
        self.ended_by.as_ref().or(self.agent_id.as_ref())
    }

    /// A result of a job that somebody else than its agent ends in its queue, by what is known of it: its body and the last event that an agent
    /// told, where they can be read. One that is cancelled keeps the start of the attempt that ran; one that expired did not run to its end.
    pub fn ended_in(
        queue: &Queue,
        job: Option<&Job>,
        told: Option<&Event>,
        outcome: Outcome,
        error: ErrorInfo,
        (queued_at, now): (Timestamp, Timestamp),
    ) -> Self {
        let mut result = Self::never_ran(outcome, error, queued_at, now);
        result.priority = queue.priority();
        if let Some(job) = job {
            (result.job_type, result.labels) = (Some(job.job_type.clone()), job.labels.clone());
        }
        if let Some(event) = told {
            result.attempt = event.attempt;
            result.history.clone_from(&event.history);
            // A result has no room for the output of earlier attempts.
            result.history.iter_mut().for_each(|record| record.tail = None);
            result.agent_id = (event.attempt > 0).then(|| event.agent_id.clone());
            result.started_at = (event.kind == EventKind::Started && outcome == Outcome::Cancelled).then_some(event.at);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::wire;
    use proptest::prelude::*;

    fn sample(stdout: Vec<u8>) -> JobResult {
        let at = Timestamp::from_secs(1_800_000_000);
        let mut result = JobResult::never_ran(Outcome::Failed, ErrorInfo::new(Code::ExitNonzero, "exit status 3"), at, at);
        result.stdout = Output::from(stdout);
        result.exit_code = Some(3);
        result.data = Some(serde_json::json!({"a": [1, 2.5, null]}));
        result
    }

    #[test]
    fn a_result_is_pinned_by_a_golden_file_in_both_encodings() {
        let result = sample(b"out".to_vec());
        crate::json::golden("result.json", &(serde_json::to_string_pretty(&result).unwrap() + "\n"));
        crate::json::golden("result.msgpack.hex", &crate::json::hex(&wire::encode(&result)));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        assert_eq!(ErrorInfo::new(Code::Internal, "é".repeat(5000)).message.chars().count(), 1000);
    }

    proptest! {
        #[test]
        fn every_result_round_trips_with_any_bytes_of_output(stdout in prop::collection::vec(any::<u8>(), 0..200)) {
            let result = sample(stdout);
            prop_assert_eq!(&wire::decode::<JobResult>(&wire::encode(&result)).unwrap(), &result);
            prop_assert_eq!(&wire::decode::<JobResult>(&serde_json::to_vec(&result).unwrap()).unwrap(), &result);
        }
    }
}
