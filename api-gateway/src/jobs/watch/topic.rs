//! What the watchers of one job share: its newest messages, and whether it has ended. It holds no connection; [`super::follow`] feeds it.
//!
//! Nobody has a queue here: a watcher asks for what is behind its own position, as fast as its caller reads. One that is behind what is
//! kept is told so, and reads stored messages by itself until it has caught up.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    position::Position,
    show::{Item, Watched},
};

/// What is kept in memory of one job, in bytes: some 16 full chunks, which is more than watchers lag behind one another.
const KEPT_BYTES: usize = 256 * 1024;
/// The most messages that are handed to a watcher at once.
const AT_ONCE: usize = 64;

/// How a watched job has ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// With a result; the job as JSON.
    Done(Bytes),
    /// It can't be followed any further.
    Lost(&'static str),
}

/// A watched job.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) job: Arc<Watched>,
    state: Mutex<State>,
    /// Counts changes, to wake watchers.
    changes: watch::Sender<u64>,
    /// Set when the last watcher has gone.
    pub(super) unwatched: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// The newest messages, oldest first.
    items: VecDeque<Item>,
    /// How many messages were dropped before the first one here.
    dropped: u64,
    bytes: usize,
    /// Behind the last message that was dropped.
    base: Position,
    /// Behind the last message.
    position: Position,
    /// Attempt and number of the last chunk of output.
    chunk: Option<(u32, u64)>,
    end: Option<End>,
}

/// What a watcher has to do next.
pub(super) enum Next {
    /// Tell these.
    Tell(Vec<Item>),
    /// Read stored messages, at least up to here.
    CatchUp(Position),
    /// Wait for a change.
    Wait,
    /// Tell the end.
    End(End),
}

impl Topic {
    pub(super) fn new(job: Arc<Watched>) -> Self {
        Self { job, state: Mutex::default(), changes: watch::Sender::new(0), unwatched: CancellationToken::new() }
    }

    /// Wakes at each change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How far it was read.
    pub(super) fn position(&self) -> Position {
        self.lock().position
    }

    /// Attempt and number of the last chunk of output.
    pub(super) fn last_chunk(&self) -> Option<(u32, u64)> {
        self.lock().chunk
    }

    /// Takes messages that were read behind [`Topic::position`].
    pub(super) fn push(&self, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let mut state = self.lock();
        for item in items {
            state.position = state.position.with(item.place);
            state.chunk = item.chunk.or(state.chunk);
            state.bytes += item.size();
            state.items.push_back(item);
        }
        while state.bytes > KEPT_BYTES
            && let Some(old) = state.items.pop_front()
        {
            state.bytes = state.bytes.saturating_sub(old.size());
            state.base = state.base.with(old.place);
            state.dropped += 1;
        }
        drop(state);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// It has ended; what was pushed is all.
    pub(super) fn finish(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// What a watcher at `position` does next. `seen` is how many messages it need not look at again; 0 is always right.
    pub(super) fn next(&self, position: Position, seen: &mut u64) -> Next {
        let state = self.lock();
        if !position.reaches(state.base) {
            return Next::CatchUp(state.base);
        }
        let skip = usize::try_from(seen.saturating_sub(state.dropped)).unwrap_or(usize::MAX);
        let mut looked = state.dropped.max(*seen);
        let mut items = Vec::new();
        for item in state.items.iter().skip(skip) {
            if items.len() == AT_ONCE {
                break;
            }
            looked += 1;
            if !position.covers(item.place) {
                items.push(item.clone());
            }
        }
        *seen = looked;
        match &state.end {
            _ if !items.is_empty() => Next::Tell(items),
            Some(end) => Next::End(end.clone()),
            None => Next::Wait,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is held could only come from running out of memory; the state is whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use muster_schemas::{
        code::Code,
        result::{ErrorInfo, JobResult, Outcome},
        signature::Mark,
        time::Timestamp,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::jobs::{
        lookup::Found,
        outcome::Marked,
        watch::{position::Place, show::sample},
    };

    fn topic() -> Topic {
        let at = Timestamp::from_secs(0);
        let result = JobResult::never_ran(Outcome::Expired, ErrorInfo::new(Code::Expired, ""), at, at);
        let result = Box::new(Marked { result, signature: Some(Mark::Valid) });
        Topic::new(Watched::new(&"j".parse().unwrap(), &Found::Finished { pool: "p".parse().unwrap(), result }))
    }

    /// What a watcher is told that reads stored messages where it must.
    fn told(topic: &Topic, stored: &[Place], mut position: Position) -> Vec<Place> {
        let (mut told, mut seen) = (Vec::new(), 0);
        loop {
            let places: Vec<Place> = match topic.next(position, &mut seen) {
                Next::Tell(items) => items.iter().map(|item| item.place).collect(),
                Next::CatchUp(_) => stored.iter().copied().filter(|place| !position.covers(*place)).take(3).collect(),
                Next::Wait | Next::End(_) => return told,
            };
            assert!(!places.is_empty());
            for place in places {
                if !position.covers(place) {
                    position = position.with(place);
                    told.push(place);
                }
            }
        }
    }

    #[test]
    fn the_end_is_told_after_everything_else() {
        let topic = topic();
        let mut seen = 0;
        assert!(matches!(topic.next(Position::default(), &mut seen), Next::Wait));
        topic.push(vec![sample(Place::Event(4), 1)]);
        topic.finish(End::Lost("x"));
        topic.finish(End::Done(Bytes::new()));
        assert!(matches!(topic.next(Position::default(), &mut seen), Next::Tell(items) if items.len() == 1));
        assert!(matches!(topic.next(Position { events: 4, logs: 0 }, &mut seen), Next::End(End::Lost("x"))));
    }

    #[test]
    fn memory_is_bounded_and_who_is_behind_it_reads_for_itself() {
        let topic = topic();
        for sequence in 1..=1_000 {
            topic.push(vec![sample(Place::Log(sequence), 16 * 1024)]);
        }
        assert!(topic.lock().bytes <= KEPT_BYTES);
        let base = topic.lock().base;
        assert!(base.logs > 980, "{base}");
        assert!(matches!(topic.next(Position { events: 0, logs: base.logs - 1 }, &mut 0), Next::CatchUp(to) if to == base));
        assert!(matches!(topic.next(base, &mut 0), Next::Tell(_)));
    }

    proptest! {
        #[test]
        fn from_wherever_a_watcher_goes_on_it_is_told_the_rest_once_and_in_order(
            logs in prop::collection::vec(any::<bool>(), 0..60),
            from in 0_usize..60,
            size in 1_usize..20_000,
        ) {
            let topic = topic();
            let (mut position, mut resume, mut stored) = (Position::default(), Position::default(), Vec::new());
            for (number, is_log) in logs.iter().enumerate() {
                let place = if *is_log { Place::Log(position.logs + 2) } else { Place::Event(position.events + 3) };
                position = position.with(place);
                stored.push(place);
                topic.push(vec![sample(place, size)]);
                if number < from {
                    resume = position;
                }
            }
            let rest: Vec<Place> = stored.iter().copied().skip(from.min(stored.len())).collect();
            prop_assert_eq!(told(&topic, &stored, resume), rest);
        }
    }
}
