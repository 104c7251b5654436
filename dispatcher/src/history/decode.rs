//! Messages of EVENTS and RESULTS as changes of rows. What does not decode changes nothing, and its position counts all the same.

use std::collections::BTreeMap;

use muster_schemas::{
    event::{self, Event},
    headers,
    job::{self, Job},
    lane::Priority,
    names::{AgentId, JobId, JobType, PoolName},
    result::{self, ErrorInfo, Outcome},
    subjects::{About, parse_job},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use serde::Deserialize;

use super::row::{Change, Ended, Place, Queued, Told};
use crate::{intake::follow::Message, keyring::Keyring};

/// Characters of a message or reason that are kept.
const TEXT_CHARS: usize = 200;

/// What a message says of a job.
pub(crate) type Decoded = Option<(PoolName, JobId, Change)>;

fn place(message: &Message) -> Place {
    Place(message.stored.micros(), message.sequence)
}

/// A message of EVENTS.
pub(crate) fn event(message: &Message) -> Decoded {
    let (pool, id) = About::Event.parse(&message.subject)?;
    let values = || message.headers.get_all(headers::REPUBLISHED_SUBJECT).map(|value| value.as_str());
    if !event::is_queued(values()) {
        let event: Event = wire::decode(&message.payload).ok()?;
        return Some((pool, id, Change::Told(told(place(message), event))));
    }
    // Of this very job: whoever may publish here could say anything.
    let address = values().filter_map(parse_job).find(|address| address.pool == pool && address.id == id.as_str())?;
    let job = if message.payload.len() <= job::LIMIT { Job::decode(&message.payload).ok() } else { None };
    let stored_at = message.headers.get(headers::STORED_AT).and_then(|at| at.as_str().parse::<Timestamp>().ok());
    // The time in its queue, which results name too. It cannot be after this copy of it was stored.
    let at = stored_at.map_or(message.stored, |at| at.min(message.stored));
    let not_before = job.as_ref().and_then(|job| job.not_before);
    let expires_at = address.queue.expires_at(job.as_ref().and_then(|job| job.expires_at), not_before, at);
    let queued = Queued {
        place: place(message),
        at: at.micros(),
        priority: address.queue.priority(),
        job_type: job.as_ref().map(|job| job.job_type.clone()),
        not_before: not_before.map(Timestamp::micros),
        expires_at: expires_at.map(Timestamp::micros),
        to: address.queue.agent().cloned(),
        ttl_s: job.as_ref().map_or(topology::RESULT_TTL, Job::result_ttl).as_secs(),
        parent: job.as_ref().and_then(|job| job.parent.clone()),
        labels: job.map(|job| job.labels).unwrap_or_default(),
    };
    Some((pool, id, Change::Queued(queued)))
}

fn told(place: Place, event: Event) -> Told {
    Told {
        place,
        kind: event.kind,
        at: event.at.micros(),
        agent: event.agent_id,
        job_type: event.job_type,
        attempt: event.attempt,
        reason: event.reason.map(|text| short(&text)),
        next_at: event.next_at.map(Timestamp::micros),
    }
}

/// What is needed of a result. Output and data, which are most of it, are skipped unread.
#[derive(Deserialize)]
struct Slim {
    #[serde(default, rename = "v")]
    _v: V,
    outcome: Outcome,
    #[serde(rename = "type", default)]
    job_type: Option<JobType>,
    #[serde(default)]
    exit_code: Option<i32>,
    #[serde(default)]
    error: Option<ErrorInfo>,
    #[serde(default)]
    agent_id: Option<AgentId>,
    #[serde(default)]
    ended_by: Option<AgentId>,
    #[serde(default)]
    attempt: u32,
    queued_at: Timestamp,
    #[serde(default)]
    started_at: Option<Timestamp>,
    finished_at: Timestamp,
    #[serde(default)]
    priority: Priority,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// A message of RESULTS.
pub(crate) async fn result(message: &Message, keyring: &Keyring) -> Decoded {
    let (pool, id) = About::Result.parse(&message.subject)?;
    let slim: Slim = wire::decode_within(&message.payload, result::LIMIT).ok()?;
    let ended = Ended {
        signature: keyring.mark(message, slim.ended_by.as_ref().or(slim.agent_id.as_ref())).await,
        place: place(message),
        outcome: slim.outcome,
        agent: slim.agent_id,
        attempt: slim.attempt,
        // Neither can be after the result was stored; else such a job would lead the list for ever.
        queued_at: slim.queued_at.min(message.stored).micros(),
        started_at: slim.started_at.map(Timestamp::micros),
        finished_at: slim.finished_at.min(message.stored).micros(),
        exit_code: slim.exit_code,
        error: slim.error.map(|error| ErrorInfo { message: short(&error.message), ..error }),
        priority: slim.priority,
        job_type: slim.job_type,
        // A result is what an agent says, and rows are to stay small.
        labels: if job::check_labels(&slim.labels).is_ok() { slim.labels } else { BTreeMap::new() },
    };
    Some((pool, id, Change::Ended(ended)))
}

fn short(text: &str) -> String {
    text.chars().take(TEXT_CHARS).collect()
}
