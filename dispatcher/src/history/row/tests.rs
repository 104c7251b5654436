//! Rows: what is shown, and that neither order nor repetition matters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use muster_schemas::code::Code;
use proptest::prelude::*;

use super::*;

const QUEUED: i64 = 1_000_000_000;

fn new() -> Row {
    Row::new("p".parse().unwrap(), "j".parse().unwrap())
}

fn agent() -> AgentId {
    "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap()
}

fn queued(stored: i64, sequence: u64, not_before: Option<i64>) -> Change {
    Change::Queued(Queued {
        place: Place(stored, sequence),
        at: stored,
        priority: Priority::High,
        job_type: Some("shell.run".parse().unwrap()),
        labels: [("team".into(), "a".into())].into(),
        parent: None,
        not_before,
        expires_at: None,
        to: None,
        ttl_s: 60,
    })
}

fn told(stored: i64, sequence: u64, kind: EventKind, next_at: Option<i64>) -> Change {
    Change::Told(Told {
        place: Place(stored, sequence),
        kind,
        at: stored,
        agent: agent(),
        job_type: None,
        attempt: 2,
        reason: Some("because".into()),
        next_at,
    })
}

fn ended(stored: i64, sequence: u64, outcome: Outcome) -> Change {
    Change::Ended(Ended {
        signature: Mark::Valid,
        place: Place(stored, sequence),
        outcome,
        agent: Some(agent()),
        attempt: 3,
        queued_at: stored - 50,
        started_at: Some(stored - 20),
        finished_at: stored - 1,
        exit_code: Some(3),
        error: Some(ErrorInfo::new(Code::ExitNonzero, "exit status 3")),
        priority: Priority::Low,
        job_type: Some("probe.sleep".parse().unwrap()),
        labels: [("other".into(), "b".into())].into(),
    })
}

fn after(changes: impl IntoIterator<Item = Change>) -> Row {
    let mut row = new();
    changes.into_iter().for_each(|change| {
        row.apply(change);
    });
    row
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

#[test]
fn the_state_follows_what_was_told() {
    let now = at(QUEUED + 100);
    let cases = [
        (None, JobState::Pending, None, 0),
        (Some(told(QUEUED + 1, 2, EventKind::Started, None)), JobState::Running, Some(agent()), 2),
        (Some(told(QUEUED + 1, 2, EventKind::Retrying, Some(QUEUED + 200))), JobState::Retrying, Some(agent()), 2),
        (Some(told(QUEUED + 1, 2, EventKind::Released, None)), JobState::Pending, None, 2),
        (Some(ended(QUEUED + 50, 1, Outcome::TimedOut)), JobState::TimedOut, Some(agent()), 3),
    ];
    for (change, state, agent, attempt) in cases {
        let row = after([queued(QUEUED, 1, None)].into_iter().chain(change)).view(now);
        assert_eq!((row.state, row.agent_id, row.attempt), (state, agent, attempt));
        assert_eq!((row.queued_at, row.priority, row.labels.len()), (at(QUEUED), Priority::High, 1));
        assert_eq!(row.job_type.unwrap().as_str(), "shell.run");
    }
}

#[test]
fn a_job_that_is_put_off_is_scheduled_until_its_time_comes() {
    let row = after([queued(QUEUED, 1, Some(QUEUED + 100))]);
    let before = row.view(at(QUEUED + 99));
    assert_eq!((before.state, before.next_at), (JobState::Scheduled, Some(at(QUEUED + 100))));
    let then = row.view(at(QUEUED + 100));
    assert_eq!((then.state, then.next_at), (JobState::Pending, None));
}

#[test]
fn a_result_alone_is_a_row_with_what_the_result_says() {
    let row = after([ended(QUEUED + 50, 1, Outcome::Failed)]).view(at(QUEUED + 60));
    assert_eq!((row.queued_at, row.state, row.exit_code), (at(QUEUED), JobState::Failed, Some(3)));
    assert_eq!((row.job_type.unwrap().as_str(), row.labels.len(), row.priority), ("probe.sleep", 1, Priority::Low));
}

#[test]
fn an_id_that_is_used_again_is_a_new_job() {
    let first = [queued(QUEUED, 1, None), ended(QUEUED + 50, 1, Outcome::Failed)];
    let again = after(first.clone().into_iter().chain([queued(QUEUED + 100, 2, None)])).view(at(QUEUED + 101));
    assert_eq!((again.state, again.queued_at, again.error), (JobState::Pending, at(QUEUED + 100), None));
    // The old result, read once more or late, changes nothing.
    let late = after([queued(QUEUED + 100, 2, None), ended(QUEUED + 50, 1, Outcome::Failed), queued(QUEUED, 1, None)]);
    assert_eq!(late.view(at(QUEUED + 101)).state, JobState::Pending);
}

#[test]
fn a_job_that_is_nowhere_says_so_until_something_is_heard_of_it() {
    let mut row = after([queued(QUEUED, 1, None), Change::Missing(Missing::Lost)]);
    assert!(row.is_missing());
    assert_eq!(row.view(at(QUEUED + 1)).reason.unwrap(), Missing::Lost.reason());
    assert!(row.apply(ended(QUEUED + 50, 1, Outcome::Succeeded)));
    assert!(!row.is_missing() && !row.apply(Change::Missing(Missing::Lost)));
    assert_eq!(row.view(at(QUEUED + 60)).reason, None);
}

/// One or two jobs under one id, each with what is told of it, in the order of the two streams.
fn streams() -> impl Strategy<Value = (Vec<Change>, Vec<Change>)> {
    let kinds = prop::collection::vec(
        prop_oneof![Just(EventKind::Started), Just(EventKind::Released), Just(EventKind::Retrying), Just(EventKind::Superseded)],
        0..4,
    );
    prop::collection::vec((kinds, prop::option::weighted(0.8, prop::sample::select(Outcome::ALL.to_vec()))), 1..3).prop_map(|jobs| {
        let (mut events, mut results) = (Vec::new(), Vec::new());
        for (number, (kinds, outcome)) in (0_i64..).zip(jobs) {
            let start = QUEUED + number * 1000;
            let mut sequence = number.unsigned_abs() * 100;
            events.push(queued(start, sequence, None));
            for (step, kind) in (1..).zip(kinds) {
                sequence += 1;
                events.push(told(start + step, sequence, kind, None));
            }
            results.extend(outcome.map(|outcome| ended(start + 500, number.unsigned_abs(), outcome)));
        }
        (events, results)
    })
}

proptest! {
    #[test]
    fn neither_the_order_of_the_streams_nor_repetition_matters(
        (events, results) in streams(),
        picks in prop::collection::vec(any::<bool>(), 16),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let wanted = after(events.iter().cloned().chain(results.iter().cloned()));
        let (mut left, mut right, mut mixed) = (events.iter(), results.iter(), Vec::new());
        for pick in picks {
            mixed.extend(if pick { left.next() } else { right.next() }.cloned());
        }
        mixed.extend(left.chain(right).cloned());
        // What was taken in before comes once more, as after a position that was lost with a crash.
        let mut row = new();
        for (number, change) in mixed.iter().enumerate() {
            row.apply(change.clone());
            for index in &again {
                if index.index(mixed.len()) == number {
                    mixed[..=number].iter().for_each(|change| { row.apply(change.clone()); });
                }
            }
        }
        prop_assert_eq!(row, wanted);
    }
}
