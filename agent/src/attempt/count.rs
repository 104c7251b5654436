//! Which attempt a delivery is: DESIGN §4, as a pure function of what the broker counts and of the job's last event.
//!
//! `attempt = deliveries − releases`. Two things bound it from above, because the broker may count a delivery that no agent ever saw (it
//! was under way when its agent went away): the last event tells the newest attempt that began, and an attempt on a redelivery begins
//! only once its `started` event is stored. So one more than that is all it can be; and without any event, at most the first
//! delivery can have begun unseen.

use muster_schemas::{
    event::{Event, EventKind, HISTORY_MAX},
    result::AttemptRecord,
};

/// Characters of an error message in a record of an earlier attempt: 20 records must fit into an event of 64 KiB.
const MESSAGE_CHARS: usize = 300;

/// Bytes of output that all records of a job keep together; the newest attempts come first. Beside messages of 20 records (24 KiB) they fit
/// into an event of 64 KiB.
const TAILS_BYTES: usize = 16 * 1024;

/// What has happened to a job before this delivery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Past {
    /// Attempts that have begun.
    pub(crate) attempts: u32,
    /// How often it was given back without an attempt.
    pub(crate) releases: u64,
    /// The attempts, the newest [`HISTORY_MAX`].
    pub(crate) history: Vec<AttemptRecord>,
}

impl Past {
    /// The past of the delivery with this count, given the job's last event. `announced` says that even the first attempt of this job
    /// begins only once its event is stored.
    pub(crate) fn of(delivered: u64, last: Option<&Event>, announced: bool) -> Self {
        let earlier = u32::try_from(delivered.saturating_sub(1)).unwrap_or(u32::MAX);
        let Some(last) = last.filter(|_| earlier > 0) else {
            let unseen = u32::from(earlier > 0 && !announced);
            let history = (0..unseen).map(|_| lost(1, None)).collect();
            return Self { attempts: unseen, releases: 0, history };
        };
        let by_count = u32::try_from(u64::from(earlier).saturating_sub(last.releases)).unwrap_or(u32::MAX);
        let mut history = last.history.clone();
        if last.kind == EventKind::Started && last.attempt > 0 && history.iter().all(|record| record.attempt < last.attempt) {
            history.push(lost(last.attempt, Some(last)));
        }
        // A short first attempt, released or retried by nobody, leaves no event of its own; the count knows of it, the events don't.
        Self { attempts: by_count.min(last.attempt), releases: last.releases, history: newest(history) }
    }

    /// The number of the attempt that this delivery begins.
    pub(crate) fn next(&self) -> u32 {
        self.attempts.saturating_add(1)
    }

    /// The history after one more attempt has ended.
    pub(crate) fn with(&self, record: AttemptRecord) -> Vec<AttemptRecord> {
        let mut history = self.history.clone();
        history.push(short(record));
        newest(history)
    }
}

/// An attempt whose agent was never heard of again.
fn lost(attempt: u32, started: Option<&Event>) -> AttemptRecord {
    AttemptRecord {
        attempt,
        agent_id: started.map(|event| event.agent_id.clone()),
        started_at: started.map(|event| event.at),
        finished_at: None,
        outcome: None,
        exit_code: None,
        error: None,
        tail: None,
    }
}

fn newest(mut history: Vec<AttemptRecord>) -> Vec<AttemptRecord> {
    let surplus = history.len().saturating_sub(HISTORY_MAX);
    history.drain(..surplus);
    let mut left = TAILS_BYTES;
    for record in history.iter_mut().rev() {
        let size = record.tail.as_ref().map_or(0, |tail| tail.as_bytes().len());
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => record.tail = None,
        }
    }
    history
}

fn short(mut record: AttemptRecord) -> AttemptRecord {
    if let Some(error) = &mut record.error
        && let Some((end, _)) = error.message.char_indices().nth(MESSAGE_CHARS)
    {
        error.message.truncate(end);
        error.message.push('…');
    }
    record
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{
        code::Code,
        names::AgentId,
        result::{ATTEMPT_TAIL_LIMIT, ErrorInfo, Outcome, Output},
        time::Timestamp,
        wire::{self, Body, V},
    };
    use proptest::prelude::*;

    use super::*;

    fn event(kind: EventKind, attempt: u32, releases: u64, history: Vec<AttemptRecord>) -> Event {
        let at = Timestamp::from_secs(1_800_000_000);
        let agent_id: AgentId = "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        Event { v: V, kind, at, agent_id, job_type: None, attempt, releases, reason: None, next_at: None, history }
    }

    fn record(attempt: u32) -> AttemptRecord {
        AttemptRecord { outcome: Some(Outcome::Failed), ..lost(attempt, None) }
    }

    #[test]
    fn a_first_delivery_is_the_first_attempt_whatever_events_say() {
        let stale = event(EventKind::Retrying, 4, 2, vec![]);
        assert_eq!(Past::of(1, Some(&stale), false), Past::default());
        assert_eq!(Past::of(1, None, false).next(), 1);
    }

    #[test]
    fn an_attempt_whose_agent_died_counts_and_is_remembered() {
        let past = Past::of(2, Some(&event(EventKind::Started, 1, 0, vec![])), false);
        assert_eq!((past.next(), past.history.len()), (2, 1));
        let lost = past.history.first().unwrap();
        assert!(lost.outcome.is_none() && lost.agent_id.is_some() && lost.started_at.is_some());
    }

    #[test]
    fn an_attempt_too_short_for_an_event_may_have_begun() {
        let past = Past::of(2, None, false);
        assert_eq!((past.next(), past.history.len()), (2, 1));
        // Not so when its event would have been stored first.
        assert_eq!(Past::of(2, None, true), Past::default());
    }

    #[test]
    fn releases_are_no_attempts() {
        let past = Past::of(4, Some(&event(EventKind::Released, 0, 3, vec![])), false);
        assert_eq!((past.next(), past.releases), (1, 3));
        let past = Past::of(6, Some(&event(EventKind::Released, 2, 3, vec![record(1), record(2)])), false);
        assert_eq!((past.next(), past.history.len()), (3, 2));
    }

    #[test]
    fn a_failed_attempt_is_counted_once() {
        let past = Past::of(3, Some(&event(EventKind::Retrying, 2, 0, vec![record(1), record(2)])), false);
        assert_eq!((past.next(), past.history.len()), (3, 2));
    }

    #[test]
    fn deliveries_that_no_agent_saw_are_no_attempts() {
        assert_eq!(Past::of(9, None, false).next(), 2);
        assert_eq!(Past::of(9, Some(&event(EventKind::Started, 1, 0, vec![])), false).next(), 2);
        assert_eq!(Past::of(9, Some(&event(EventKind::Released, 0, 1, vec![])), false).next(), 1);
    }

    #[test]
    fn the_history_is_the_newest_and_fits_an_event_whatever_the_messages() {
        let tail = Some(Output::from(vec![0xff; ATTEMPT_TAIL_LIMIT]));
        let error = Some(ErrorInfo::new(Code::Internal, "𝄞".repeat(1000)));
        let long = |attempt| AttemptRecord { error: error.clone(), tail: tail.clone(), ..record(attempt) };
        let mut past = Past::default();
        for attempt in 1..=40 {
            past.history = past.with(long(attempt));
        }
        assert_eq!((past.history.len(), past.history.last().unwrap().attempt), (HISTORY_MAX, 40));
        assert_eq!(past.history.iter().map(|record| record.tail.is_some()).collect::<Vec<_>>(), [vec![false; 16], vec![true; 4]].concat());
        let bytes = wire::encode(&event(EventKind::Retrying, 40, 0, past.history));
        assert!(bytes.len() < Event::LIMIT, "{}", bytes.len());
    }

    proptest! {
        #[test]
        fn an_attempt_is_never_more_than_deliveries_less_releases(delivered in 1..1000_u64, attempt in 0..1000_u32, releases in 0..1000_u64) {
            let past = Past::of(delivered, Some(&event(EventKind::Started, attempt, releases, vec![])), false);
            prop_assert!(u64::from(past.next()) <= delivered.saturating_sub(past.releases).max(1));
            prop_assert!(past.attempts <= attempt);
        }
    }
}
