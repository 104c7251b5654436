//! Stored messages as events: pure functions of the message and of what is always true of its job, so that every gateway tells the same.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use muster_schemas::{
    api::{Change, JobState, JobView, LogView, ProgressView, StateView},
    event::{self, Event, EventKind},
    headers,
    job::Job,
    log::LogChunk,
    names::JobId,
    subjects::About,
    time::Timestamp,
    wire,
};
use serde::Serialize;

use super::position::{Place, Position};
use crate::{
    jobs::{lookup::Found, outcome::Marked, view},
    stored::Stored,
};

/// A watched job: what does not change while it lives.
#[derive(Debug)]
pub(super) struct Watched {
    /// Where its state changes are.
    pub(super) events: String,
    /// Where its output is.
    pub(super) logs: String,
    /// Nothing older is about it: an id of a caller's own may have been used before.
    since: Timestamp,
    /// The job before anything was told of it.
    new: JobView,
}

/// One message, ready to be told.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) place: Place,
    /// When the broker stored it.
    pub(super) at: Timestamp,
    /// Attempt and number of a chunk of output.
    pub(super) chunk: Option<(u32, u64)>,
    /// The event's name and data; absent when there is nothing to tell.
    told: Option<(&'static str, Bytes)>,
}

impl Item {
    /// The event as it is sent to a watcher that is at `position` with it.
    pub(super) fn frame(&self, position: Position) -> Option<Bytes> {
        self.told.as_ref().map(|(name, data)| frame(&position.to_string(), name, data))
    }

    /// What it takes in memory, about.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.told.as_ref().map_or(0, |(_, data)| data.len())
    }
}

/// An event in the form of the protocol. `data` is JSON, which has no line breaks.
pub(super) fn frame(id: &str, name: &str, data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(data.len() + id.len() + name.len() + 32);
    for part in [b"id: ", id.as_bytes(), b"\nevent: ", name.as_bytes(), b"\ndata: ", data, b"\n\n"] {
        frame.extend_from_slice(part);
    }
    frame.freeze()
}

/// JSON of a value of ours, which always has one.
pub(super) fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

impl Watched {
    /// The job that was found.
    pub(super) fn new(id: &JobId, found: &Found) -> Arc<Self> {
        let mut new = match found {
            Found::Finished { pool, result } => view::finished(pool.clone(), id.clone(), (**result).clone()),
            Found::Queued(queued) => view::queued(queued, queued.at),
        };
        let since = match found {
            Found::Finished { result, .. } => result.queued_at,
            Found::Queued(queued) => queued.at,
        };
        (new.state, new.attempt, new.agent_id, new.reason, new.next_at, new.result) = (JobState::Pending, 0, None, None, None, None);
        new.signature = None;
        let (events, logs) = (About::Event.job(found.pool(), id), About::Log.job(found.pool(), id));
        Arc::new(Self { events, logs, since, new })
    }

    /// The job when it has ended with this result.
    pub(super) fn end(&self, result: Marked) -> Bytes {
        json(&view::finished(self.new.pool.clone(), self.new.id.clone(), result))
    }

    /// A message about its state.
    pub(super) fn event(&self, stored: &Stored) -> Item {
        let told = (stored.at >= self.since).then(|| self.state(stored)).flatten().map(|state| ("state", json(&state)));
        Item { place: Place::Event(stored.sequence), at: stored.at, chunk: None, told }
    }

    fn state(&self, stored: &Stored) -> Option<StateView> {
        if event::is_queued(stored.headers.get_all(headers::REPUBLISHED_SUBJECT).map(|subject| subject.as_str())) {
            return Some(StateView { change: Change::Queued, at: stored.at, job: self.queued(stored) });
        }
        // What an agent stored that is no event is left out.
        let event = wire::decode::<Event>(&stored.payload).ok()?;
        Some(StateView { change: Change::Told(event.kind), at: event.at, job: self.after(&event) })
    }

    /// The job as it was queued. Its message is copied into the events whole, so its time is known from there.
    fn queued(&self, stored: &Stored) -> JobView {
        let mut view = self.new.clone();
        view.next_at = Job::decode(&stored.payload).ok().and_then(|job| job.not_before).filter(|at| *at > stored.at);
        if view.next_at.is_some() {
            view.state = JobState::Scheduled;
        }
        view
    }

    /// The job as it was just after an event. The same as a look-up then would have said.
    fn after(&self, event: &Event) -> JobView {
        let mut view = self.new.clone();
        (view.attempt, view.reason) = (event.attempt, event.reason.clone());
        let next_at = event.next_at.filter(|at| *at > event.at);
        match event.kind {
            EventKind::Started => (view.state, view.agent_id) = (JobState::Running, Some(event.agent_id.clone())),
            EventKind::Retrying => {
                (view.state, view.agent_id, view.next_at) = (JobState::Retrying, Some(event.agent_id.clone()), next_at);
            }
            EventKind::Released if next_at.is_some() => (view.state, view.next_at) = (JobState::Scheduled, next_at),
            EventKind::Released => {}
            EventKind::Superseded | EventKind::Dead => view.state = JobState::Running,
        }
        view
    }

    /// A message of its output.
    pub(super) fn log(&self, stored: &Stored) -> Item {
        // What an agent stored that is no chunk is left out.
        let chunk = wire::decode::<LogChunk>(&stored.payload).ok().filter(|_| stored.at >= self.since);
        let number = chunk.as_ref().map(|chunk| (chunk.attempt, chunk.seq));
        let told = chunk.map(|chunk| match chunk.progress() {
            Some(progress) => ("progress", json(&ProgressView { seq: stored.sequence, attempt: chunk.attempt, at: chunk.at, progress })),
            None => {
                let LogChunk { attempt, stream, at, data, .. } = chunk;
                ("log", json(&LogView { seq: stored.sequence, attempt, stream, at, data }))
            }
        });
        Item { place: Place::Log(stored.sequence), at: stored.at, chunk: number, told }
    }
}

#[cfg(test)]
pub(super) fn sample(place: Place, bytes: usize) -> Item {
    Item { place, at: Timestamp::from_secs(0), chunk: None, told: Some(("log", Bytes::from(vec![b'x'; bytes]))) }
}
