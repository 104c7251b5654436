//! Writing the audit trail: at once and awaited, or, where the broker does not take an entry, later from a bounded queue.
//!
//! What was done is done whether or not it could be written, so nobody who waits for an answer is refused one; the entry waits here, and
//! health and metrics say so. An entry that cannot even wait goes into the log as a whole. An id makes sure that none is stored twice. What
//! an entry says is in `muster_schemas::audit`; what is told is decided by each process.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{HeaderMap, Request};
use muster_schemas::{
    audit::{AuditEntry, Fold},
    headers::{CONTENT_TYPE, MSG_ID, MSGPACK},
    subjects,
    time::Timestamp,
    wire,
};
use serde::Deserialize;
use tokio::sync::Notify;

use crate::{
    metrics::{Counters, Gauge, Metrics, MetricsError},
    nats::Broker,
};

/// How long an answer waits for its entry. Storing one takes about a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);
/// Entries that wait to be stored; beyond it they go into the log.
const WAITING_MAX: usize = 1000;
/// How long to wait before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether folded entries are due.
const LOOK: Duration = Duration::from_secs(5);

/// The way into the audit trail.
pub struct Trail {
    broker: Broker,
    waiting: Mutex<Waiting>,
    more: Notify,
    fold: Mutex<Fold>,
    figures: Figures,
}

#[derive(Default)]
struct Waiting {
    /// The oldest first.
    entries: VecDeque<Entry>,
    /// Whether nobody stores them any more.
    ended: bool,
}

/// An entry with the id under which the broker knows it.
#[derive(Debug, Clone)]
struct Entry {
    id: String,
    body: AuditEntry,
}

/// The broker's acknowledgement, or its refusal.
#[derive(Deserialize)]
struct Ack {
    seq: Option<u64>,
    error: Option<serde_json::Value>,
}

struct Figures {
    /// By what became of them: stored, late (stored after the answer), folded, lost.
    entries: Counters<1>,
    waiting: Gauge,
}

impl Figures {
    fn tell(&self, waiting: usize) {
        self.waiting.set(u32::try_from(waiting).map_or(f64::MAX, f64::from));
    }
}

impl Entry {
    fn new(body: AuditEntry) -> Self {
        Self { id: format!("audit_{:032x}", rand::random::<u128>()), body }
    }
}

impl fmt::Debug for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trail({})", self.state())
    }
}

impl Trail {
    /// Nothing waits yet.
    ///
    /// # Errors
    /// When the metrics exist already.
    pub fn new(broker: Broker, metrics: &Metrics) -> Result<Self, MetricsError> {
        let figures = Figures {
            entries: metrics.counters("muster_audit_entries_total", "Entries of the audit trail.", ["outcome"])?,
            waiting: metrics.gauge("muster_audit_waiting", "Entries of the audit trail that could not be stored yet.")?,
        };
        Ok(Self { broker, waiting: Mutex::default(), more: Notify::new(), fold: Mutex::default(), figures })
    }

    /// Writes an entry, and returns when it is stored or waits to be.
    pub async fn write(&self, body: AuditEntry) {
        Open { trail: self, entry: Some(Entry::new(body)) }.close().await;
    }

    /// The same for one of which there may be many alike: see [`Fold`].
    pub async fn write_folded(&self, body: AuditEntry) {
        let first = self.fold().take(body, Timestamp::now());
        match first {
            Some(first) => self.write(first).await,
            None => self.figures.entries.with(["folded"]).inc(),
        }
    }

    /// Leaves an entry to be stored at once, and does not wait for it.
    pub fn leave(&self, body: AuditEntry) {
        self.wait(Entry::new(body));
    }

    /// The same for one of which there may be many alike: see [`Fold`].
    pub fn leave_folded(&self, body: AuditEntry) {
        let first = self.fold().take(body, Timestamp::now());
        match first {
            Some(first) => self.leave(first),
            None => self.figures.entries.with(["folded"]).inc(),
        }
    }

    /// What readiness tells of it. Never that requests cannot be served.
    pub fn state(&self) -> String {
        let (waiting, lost) = (self.waiting().entries.len(), self.figures.entries.with(["lost"]).get());
        match waiting {
            waiting if lost > 0.0 => format!("{waiting} entries wait to be stored; {lost} since the start are in the log only"),
            0 => "every entry is stored".to_owned(),
            waiting => format!("{waiting} entries wait to be stored"),
        }
    }

    /// Stores what waits, and tells of what was folded, for ever. Dropped and called again it goes on where it was.
    pub async fn run(&self) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = self.more.notified() => {}
                _ = look.tick() => {
                    let due = self.fold().due(Timestamp::now());
                    due.into_iter().for_each(|body| self.leave(body));
                }
            }
            loop {
                match self.store_next().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::debug!(error, "the audit trail cannot be written");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        }
    }

    /// Stores what waits and what was counted. What cannot be stored within `grace` goes into the log, and so does what would have to wait
    /// from then on.
    pub async fn end(&self, grace: Duration) {
        let folded = self.fold().end();
        folded.into_iter().for_each(|body| self.wait(Entry::new(body)));
        let all = async { while self.store_next().await.is_ok_and(|stored| stored) {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!("the last entries of the audit trail were not stored in time");
        }
        let mut waiting = self.waiting();
        waiting.ended = true;
        let left = std::mem::take(&mut waiting.entries);
        drop(waiting);
        left.iter().for_each(|entry| self.lose(entry));
        self.figures.waiting.set(0.0);
    }

    fn wait(&self, entry: Entry) {
        let mut waiting = self.waiting();
        // One without a place in the stream would never be stored, and hold up the others.
        if waiting.ended || waiting.entries.len() >= WAITING_MAX || subjects::audit(&entry.body.action).is_none() {
            drop(waiting);
            return self.lose(&entry);
        }
        waiting.entries.push_back(entry);
        self.figures.tell(waiting.entries.len());
        drop(waiting);
        self.more.notify_one();
    }

    /// The log is the last place: it holds no secret either.
    fn lose(&self, entry: &Entry) {
        self.figures.entries.with(["lost"]).inc();
        let entry = serde_json::to_string(&entry.body.clone().clean()).unwrap_or_default();
        tracing::error!(entry, "an entry of the audit trail could not be stored");
    }

    /// Stores the entry that waits longest, and says whether there was one.
    async fn store_next(&self) -> Result<bool, String> {
        let Some(entry) = self.waiting().entries.front().cloned() else { return Ok(false) };
        self.store(&entry).await?;
        let mut waiting = self.waiting();
        let before = waiting.entries.len();
        waiting.entries.retain(|other| other.id != entry.id);
        let after = waiting.entries.len();
        self.figures.tell(after);
        drop(waiting);
        // At the end two may have stored it; the broker keeps one.
        if after < before {
            self.figures.entries.with(["late"]).inc();
        }
        Ok(true)
    }

    async fn store(&self, entry: &Entry) -> Result<(), String> {
        // Otherwise the client would keep it, and send it whenever the broker is back.
        if !self.broker.status().connected {
            return Err("not connected to the broker".to_owned());
        }
        let body = entry.body.clone().clean();
        let subject = subjects::audit(&body.action).ok_or_else(|| format!("`{}` is no action", body.action))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, MSGPACK);
        headers.insert(MSG_ID, entry.id.as_str());
        let request = Request::new().payload(wire::encode(&body).into()).headers(headers).timeout(Some(PATIENCE));
        let answer = self.broker.client().send_request(subject, request).await.map_err(|error| error.to_string())?;
        // One that was stored before, and only the answer lost, is acknowledged as a duplicate.
        match serde_json::from_slice::<Ack>(&answer.payload) {
            Ok(Ack { seq: Some(_), error: None }) => Ok(()),
            _ => Err(format!("the broker answered: {}", String::from_utf8_lossy(&answer.payload))),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fold(&self) -> MutexGuard<'_, Fold> {
        self.fold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry that is not stored yet. Whoever waits for it may go away: dropped, it waits with the others.
struct Open<'a> {
    trail: &'a Trail,
    entry: Option<Entry>,
}

impl Open<'_> {
    /// Stores it, or leaves it to wait.
    async fn close(mut self) {
        let Some(entry) = &self.entry else { return };
        match self.trail.store(entry).await {
            Ok(()) => {
                self.trail.figures.entries.with(["stored"]).inc();
                self.entry = None;
            }
            Err(error) => tracing::warn!(error, action = entry.body.action, "an entry of the audit trail waits to be stored"),
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.trail.wait(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::audit::{Actor, AuditOutcome};

    use super::*;
    use crate::nats::{Connect, Login};

    #[tokio::test]
    async fn what_would_have_to_wait_after_the_end_goes_into_the_log() {
        // Nobody listens there.
        let connect = Connect { login: Login::Anonymous, retry_first: true, ..Connect::new(vec!["nats://127.0.0.1:1".to_owned()], "test") };
        let trail = Trail::new(connect.connect().await.unwrap(), &Metrics::new()).unwrap();
        let entry = || AuditEntry::new("agents.remove", Actor::nobody(), AuditOutcome::Done, Timestamp::now());
        trail.leave(entry());
        assert_eq!(trail.state(), "1 entries wait to be stored");
        trail.end(Duration::ZERO).await;
        for lost in 1..3 {
            assert_eq!(trail.state(), format!("0 entries wait to be stored; {lost} since the start are in the log only"));
            trail.leave(entry());
        }
        trail.write(entry()).await;
        assert_eq!(trail.state(), "0 entries wait to be stored; 4 since the start are in the log only");
    }
}
