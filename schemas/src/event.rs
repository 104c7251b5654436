//! State changes of a job, as agents tell them. That a job was queued is told by the broker itself: a copy of the job's message, whose
//! header [`crate::headers::REPUBLISHED_SUBJECT`] is the job's subject. Only that header tells the two apart ([`is_queued`]): a job's body is
//! whatever its publisher wrote, and may well look like an event.

use serde::{Deserialize, Serialize};

use crate::{
    names::{AgentId, JobType},
    result::AttemptRecord,
    time::Timestamp,
    wire::{Body, V},
};

/// How many earlier attempts an event or a result carries: the newest.
pub const HISTORY_MAX: usize = 20;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An attempt is running. Told once it has run for 20 ms: a shorter one is told by its result alone.
    Started,
    /// The job was given back without an attempt: no slot came free, its time has not come, the agent shuts down, or
    /// it failed the job before and leaves it to another one.
    Released,
    /// An attempt failed and another one follows.
    Retrying,
    /// A result came after another one was stored, and does not count.
    Superseded,
    /// The job ended in the dead letters.
    Dead,
}

/// A state change of a job. Each one carries all that the next agent needs to know, so only the last one is ever looked up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Event {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// Who tells it.
    pub agent_id: AgentId,
    /// What is run, where it could be read.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub job_type: Option<JobType>,
    /// The attempt it is about; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// How often the job has been released so far. Deliveries less releases are attempts.
    #[serde(default)]
    pub releases: u64,
    /// Why, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the job will be given out again, for a release or a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Earlier attempts, at most the newest [`HISTORY_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<AttemptRecord>,
}

impl Body for Event {
    const LIMIT: usize = 64 * 1024;
}

/// Whether a message of the stream of events is the broker's own copy of a queued job, by all values of its header
/// [`crate::headers::REPUBLISHED_SUBJECT`]: the answer to a direct get adds one, and so may a publisher.
pub fn is_queued<'a>(republished_subjects: impl IntoIterator<Item = &'a str>) -> bool {
    republished_subjects.into_iter().any(|subject| crate::subjects::parse_job(subject).is_some())
}

/// A dead letter: the job as submitted, and why nobody could finish it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetter {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The subject it was queued under.
    pub subject: String,
    /// The job's body, byte for byte.
    #[serde(with = "serde_bytes")]
    #[schemars(with = "String")]
    pub body: Vec<u8>,
    /// When the broker stored the job.
    pub queued_at: Timestamp,
    /// When it was given up.
    pub died_at: Timestamp,
    /// Why.
    pub error: crate::result::ErrorInfo,
    /// All attempts that are known, the newest [`HISTORY_MAX`].
    pub attempts: Vec<AttemptRecord>,
}

impl Body for DeadLetter {
    const LIMIT: usize = crate::job::LIMIT + 64 * 1024;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::{code::Code, result::ErrorInfo, wire};

    #[test]
    fn a_queued_job_is_told_by_its_header_alone() {
        assert!(is_queued(["jobs.p.normal.shell.j"]) && is_queued(["x", "jobs.p.normal.shell.j", "events.p.j"]));
        assert!(!is_queued(["events.p.j", "jobs"]) && !is_queued([]));
    }

    #[test]
    fn events_and_dead_letters_are_pinned_by_golden_files() {
        let at = Timestamp::from_secs(1_800_000_000);
        let agent: AgentId = "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let lost = AttemptRecord {
            attempt: 1,
            agent_id: Some(agent.clone()),
            started_at: Some(at),
            finished_at: None,
            outcome: None,
            exit_code: None,
            error: None,
            tail: None,
        };
        let event = Event {
            v: V,
            kind: EventKind::Started,
            at,
            agent_id: agent,
            job_type: Some("shell.run".parse().unwrap()),
            attempt: 2,
            releases: 3,
            reason: None,
            next_at: None,
            history: vec![lost.clone()],
        };
        let dead = DeadLetter {
            v: V,
            subject: "jobs.p.normal.shell.j".into(),
            body: vec![0x80, 0xff],
            queued_at: at,
            died_at: at,
            error: ErrorInfo::new(Code::AgentLost, "lost"),
            attempts: vec![lost],
        };
        assert_eq!(wire::decode::<Event>(&wire::encode(&event)).unwrap(), event);
        assert_eq!(wire::decode::<DeadLetter>(&wire::encode(&dead)).unwrap(), dead);
        crate::json::golden("event.json", &(serde_json::to_string_pretty(&event).unwrap() + "\n"));
        crate::json::golden("event.msgpack.hex", &crate::json::hex(&wire::encode(&event)));
        crate::json::golden("dead_letter.msgpack.hex", &crate::json::hex(&wire::encode(&dead)));
    }
}
