//! What is known of one queue, and how far from its front all jobs are finished. No IO, no clock.
//!
//! The rule: every message of the queue below the sequence that a walk ends at is one whose job is finished. A walk begins at the first
//! message there is, and goes on over places that are known, and over sequences of which the broker says that nothing is there any more;
//! it ends at the first message that is not known to be finished. Whatever contradicts what is known makes all of it be forgotten: most
//! likely the stream has been made anew, or has lost its end and used its sequences again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use muster_schemas::{queue::Place, time::Timestamp};

/// Fewer finished jobs are left to their acks: a purge costs the broker a flush, and one for each lane, of which a pool has nine at first.
pub(crate) const FEWEST: usize = 32;
/// Places that are kept: some seconds' worth.
const MOST: usize = 32_768;
/// How long a place is kept. Its ack comes within a second, and then there is nothing at that place any more.
const KEEP: Duration = Duration::from_secs(10);
/// How often a walk asks for the next message that is there. Each gap costs one question, whatever its size.
const GAPS: u32 = 32;

/// What the broker says of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// When its stream was made.
    pub(crate) created: Timestamp,
    /// The broker's clock when it said so.
    pub(crate) now: Timestamp,
    /// The first message, if there is any.
    pub(crate) first: Option<Place>,
    /// The sequence of the last message that ever was.
    pub(crate) last: u64,
}

/// What to do next on a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask for the first message from this sequence on.
    Ask(u64),
    /// All below this sequence are finished: so many of which it is known.
    End { below: u64, finished: usize },
    /// What the broker says contradicts what is known, which was forgotten.
    Doubt,
}

/// A walk from the front of a queue towards its first job that is not finished.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk {
    first: u64,
    /// All below it are finished.
    at: u64,
    last: u64,
    gaps: u32,
}

/// What is known of a queue.
#[derive(Debug, Default)]
pub(crate) struct Known {
    created: Option<Timestamp>,
    last: u64,
    finished: BTreeMap<u64, Heard>,
}

/// A finished job.
#[derive(Debug, Clone, Copy)]
struct Heard {
    stored_at: Timestamp,
    heard: Instant,
}

impl Known {
    /// A job is finished that was there.
    pub(crate) fn finished(&mut self, place: Place, now: Instant) {
        let heard = Heard { stored_at: place.stored_at, heard: now };
        match self.finished.get(&place.sequence) {
            Some(before) if before.stored_at != place.stored_at => self.finished.clear(),
            None if self.finished.len() < MOST => drop(self.finished.insert(place.sequence, heard)),
            _ => {}
        }
    }

    /// Whether there may be enough to do.
    pub(crate) fn is_many(&self) -> bool {
        self.finished.len() >= FEWEST
    }

    /// Whether there still is enough to do, without what must have been acked by now.
    pub(crate) fn is_ripe(&mut self, now: Instant) -> bool {
        self.finished.retain(|_, finished| now.saturating_duration_since(finished.heard) < KEEP);
        self.is_many()
    }

    /// Begins to walk through the queue as the broker described it, asked at `asked`. `None` when there is no way to go.
    pub(crate) fn begin(&mut self, facts: &Facts, asked: Instant) -> Option<Walk> {
        let anew = self.created.replace(facts.created).is_some_and(|created| created != facts.created);
        let told_before = |finished: &Heard| finished.heard < asked;
        let beyond = self.finished.range(facts.last.saturating_add(1)..).any(|(_, finished)| told_before(finished));
        let went_back = facts.last < std::mem::replace(&mut self.last, facts.last);
        if anew || beyond || went_back {
            self.finished.clear();
            return None;
        }
        self.finished.retain(|sequence, finished| {
            let there = facts.first.map_or_else(|| !told_before(finished), |first| *sequence >= first.sequence);
            let in_time = finished.stored_at >= facts.created && (finished.stored_at <= facts.now || !told_before(finished));
            there && in_time
        });
        let first = facts.first?;
        if self.is_another(first) {
            self.finished.clear();
            return None;
        }
        Some(Walk { first: first.sequence, at: first.sequence, last: facts.last, gaps: 0 })
    }

    /// Goes on as far as is known.
    pub(crate) fn walk(&self, walk: &mut Walk) -> Step {
        while walk.at <= walk.last && self.finished.contains_key(&walk.at) {
            walk.at += 1;
        }
        let end = self.end(walk);
        // The first message is there: the broker said so. And where there is enough to remove, the next walk begins behind the gap.
        let enough = matches!(end, Step::End { finished, .. } if finished >= FEWEST);
        if enough || walk.at == walk.first || walk.at > walk.last || walk.gaps >= GAPS || self.finished.range(walk.at..).next().is_none() {
            return end;
        }
        walk.gaps += 1;
        Step::Ask(walk.at)
    }

    /// Goes on with the answer to [`Step::Ask`]: the first message from there on, if there is any.
    pub(crate) fn go_on(&mut self, walk: &mut Walk, next: Option<Place>) -> Step {
        let Some(next) = next.filter(|next| next.sequence >= walk.at) else { return self.end(walk) };
        if self.is_another(next) {
            self.finished.clear();
            return Step::Doubt;
        }
        walk.at = next.sequence.min(walk.last.saturating_add(1));
        // That it is finished may have been heard meanwhile.
        if self.finished.contains_key(&walk.at) { self.walk(walk) } else { self.end(walk) }
    }

    /// All below this are gone.
    pub(crate) fn gone(&mut self, below: u64) {
        self.finished = self.finished.split_off(&below);
    }

    fn end(&self, walk: &Walk) -> Step {
        Step::End { below: walk.at, finished: self.finished.range(walk.first..walk.at).count() }
    }

    /// Whether a message that is there is another one than the finished one that is known under its sequence.
    fn is_another(&self, there: Place) -> bool {
        self.finished.get(&there.sequence).is_some_and(|finished| finished.stored_at != there.stored_at)
    }
}
