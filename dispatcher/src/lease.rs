//! Which dispatcher is the active one: a lease on one key, as a pure state machine. Its shell is [`keeper`].
//!
//! The key lives in a bucket whose entries vanish [`LEASE_AGE`] after they were written. The holder writes it anew each second, naming the
//! revision that it replaces; the others look at it, and write it when it is free. A holder trusts its lease only for [`HOLD`] after it
//! *sent* the last write that was accepted, so it has stepped down before the key can vanish, whatever became of the answer. A write that
//! was accepted on an earlier connection says nothing either: the broker may have been restarted, and the bucket is in memory.

pub(crate) mod keeper;

use std::time::{Duration, Instant};

use muster_schemas::topology::LEASE_AGE;

/// How often the holder writes.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How often the others look. Together with [`LEASE_AGE`], and the quarter of a second within which the broker removes what is too old, it
/// makes a take-over within 5 s.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How soon a holder tries again when it got no answer.
pub const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How long a holder trusts a write. A second less than the broker keeps it.
pub const HOLD: Duration = LEASE_AGE.saturating_sub(Duration::from_secs(1));

/// When a request was sent, and on which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// When, by the monotonic clock.
    pub at: Instant,
    /// The number of the connection.
    pub connection: u64,
}

/// What the key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Me,
    /// Another one.
    Other,
    /// Nobody.
    Nobody,
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// A write was accepted, with the key's new revision.
    Stored(u64, Sent),
    /// A write was refused: the key is at another revision than it named.
    Refused,
    /// A look at the key: who holds it, and its revision.
    Seen(Holder, u64),
    /// No answer.
    Failed,
    /// There is no bucket.
    NoBucket,
}

/// Something to be done. Exactly one event answers each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Write the key if it is still at this revision.
    Write(u64),
    /// Look at the key.
    Look,
}

/// A lease as one dispatcher sees it.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    held: Option<Held>,
    next: Instant,
}

/// A lease that was written at least once.
#[derive(Debug, Clone, Copy)]
struct Held {
    revision: u64,
    sent: Sent,
}

impl Lease {
    /// Not held. It looks at once.
    pub fn new(now: Instant) -> Self {
        Self { held: None, next: now }
    }

    /// Takes in an event and says what is to be done.
    pub fn apply(&mut self, event: Event, now: Instant) -> Option<Command> {
        if self.held.is_some_and(|held| now >= held.sent.at + HOLD) {
            self.held = None;
        }
        match event {
            Event::Tick if now < self.next => None,
            Event::Tick => Some(self.held.map_or(Command::Look, |held| Command::Write(held.revision))),
            Event::Stored(revision, sent) if now < sent.at + HOLD => {
                self.held = Some(Held { revision, sent });
                self.later(RENEW_EVERY.saturating_sub(now.saturating_duration_since(sent.at)), now)
            }
            // The answer came too late to be trusted.
            Event::Stored(..) | Event::Refused => Some(Command::Look),
            // What was written without an answer is found like this.
            Event::Seen(Holder::Me, revision) => Some(Command::Write(revision)),
            Event::Seen(Holder::Nobody, revision) => {
                self.held = None;
                Some(Command::Write(revision))
            }
            Event::Seen(Holder::Other, _) => {
                self.held = None;
                self.later(LOOK_EVERY, now)
            }
            Event::NoBucket => {
                self.held = None;
                self.later(AGAIN_AFTER, now)
            }
            Event::Failed => self.later(if self.held.is_some() { AGAIN_AFTER } else { LOOK_EVERY }, now),
        }
    }

    /// Until when, and on which connection, this process is the active one.
    pub fn holds(&self) -> Option<(Instant, u64)> {
        self.held.map(|held| (held.sent.at + HOLD, held.sent.connection))
    }

    /// The revision to name when the lease is given back.
    pub fn revision(&self) -> Option<u64> {
        self.held.map(|held| held.revision)
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// The connection was lost and made again: what is held must be shown anew, and a follower need not wait.
    pub fn reconnected(&mut self, now: Instant) {
        self.next = now;
    }

    fn later(&mut self, wait: Duration, now: Instant) -> Option<Command> {
        self.next = now + wait;
        None
    }
}

#[cfg(test)]
mod tests;
