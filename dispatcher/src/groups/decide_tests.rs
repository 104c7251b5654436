//! Waves, the end of them, and what another dispatcher left.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use muster_schemas::{
    names::{AgentId, GroupId},
    wire::V,
};
use proptest::prelude::*;

use super::*;
use Fate::{Ended, Open, Unknown};

fn now() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

fn group(waves: &[u32], stop_after: Option<u32>) -> GroupRecord {
    let members = waves.iter().sum::<u32>() as usize;
    GroupRecord {
        v: V,
        id: GroupId::generate(),
        pool: "p".parse().unwrap(),
        labels: [].into(),
        job: muster_schemas::job::Draft::default(),
        matched: 0,
        members: (0..members).map(|_| AgentId::generate()).collect(),
        waves: waves.to_vec(),
        stop_after,
        created_at: now(),
        created_by: "ci".into(),
    }
}

fn state(status: GroupStatus, sent: u32) -> GroupState {
    GroupState { status, sent, ..GroupState::default() }
}

fn running(sent: u32) -> GroupState {
    state(GroupStatus::Running, sent)
}

fn then(status: GroupStatus, sent: u32) -> GroupState {
    GroupState { changed_at: Some(now()), ..state(status, sent) }
}

#[test]
fn a_wave_follows_when_all_before_it_have_ended() {
    let record = group(&[1, 2], None);
    let next = |sent, fates: &[Fate]| decide(&record, &running(sent), fates, now());
    assert_eq!(next(0, &[Unknown; 3]), Step::Send(vec![0], then(GroupStatus::Running, 1)));
    assert_eq!(next(1, &[Open, Unknown, Unknown]), Step::Wait);
    assert_eq!(next(1, &[Ended(false), Unknown, Unknown]), Step::Send(vec![1, 2], then(GroupStatus::Running, 3)));
    assert_eq!(next(3, &[Ended(true), Open, Ended(true)]), Step::Wait);
    assert_eq!(next(3, &[Ended(true), Ended(false), Ended(true)]), Step::Record(then(GroupStatus::Finished, 3)));
}

#[test]
fn what_was_sent_and_is_not_known_is_looked_for_once_nothing_else_is_waited_for() {
    let record = group(&[3, 1], None);
    assert_eq!(decide(&record, &running(3), &[Unknown, Open, Unknown, Unknown], now()), Step::Wait);
    assert_eq!(decide(&record, &running(3), &[Unknown, Ended(true), Unknown, Unknown], now()), Step::Look(vec![0, 2]));
}

#[test]
fn of_a_wave_that_another_dispatcher_began_only_the_rest_is_sent() {
    let record = group(&[4], None);
    let step = decide(&record, &running(0), &[Open, Unknown, Ended(true), Unknown], now());
    assert_eq!(step, Step::Send(vec![1, 3], then(GroupStatus::Running, 4)));
    assert_eq!(decide(&record, &running(0), &[Open; 4], now()), Step::Send(vec![], then(GroupStatus::Running, 4)));
}

#[test]
fn after_so_many_failures_no_wave_follows_and_without_a_wave_left_nothing_is_stopped() {
    let record = group(&[2, 2], Some(2));
    let next = |sent, fates: &[Fate]| decide(&record, &running(sent), fates, now());
    assert!(matches!(next(2, &[Ended(false), Ended(true), Unknown, Unknown]), Step::Send(..)));
    // Also while others run, and whoever sent them.
    for fates in [[Ended(false), Ended(false), Unknown, Unknown], [Ended(false), Open, Ended(false), Unknown]] {
        let Step::Record(state) = next(2, &fates) else { panic!("{fates:?}") };
        assert_eq!((state.status, state.sent), (GroupStatus::Stopped, 2));
        assert_eq!(state.reason.as_deref(), Some("2 of the 2 jobs that have ended did not succeed"));
    }
    assert_eq!(next(4, &[Ended(false), Ended(false), Open, Open]), Step::Wait);
    assert_eq!(next(4, &[Ended(false); 4]), Step::Record(then(GroupStatus::Finished, 4)));
}

#[test]
fn a_cancel_reaches_what_was_sent_and_the_wave_that_may_have_been_begun_and_no_further() {
    let record = group(&[2, 2, 2], None);
    let cancelling = GroupState { reason: Some("cancelled by ci".into()), ..state(GroupStatus::Cancelling, 2) };
    let step = decide(&record, &cancelling, &[Ended(true), Open, Unknown, Open, Unknown, Unknown], now());
    let done = GroupState { reason: cancelling.reason.clone(), ..then(GroupStatus::Cancelled, 2) };
    assert_eq!(step, Step::Cancel(vec![1, 2, 3], Some(done.clone())));
    // For a while one that comes late is cancelled too.
    let late = [Ended(false), Ended(false), Unknown, Ended(false), Open, Unknown];
    assert_eq!(decide(&record, &done, &late, now() + Duration::from_secs(59)), Step::Cancel(vec![4], None));
    assert_eq!(decide(&record, &done, &[Ended(false); 6], now() + Duration::from_secs(59)), Step::Wait);
    assert_eq!(decide(&record, &done, &late, now() + LINGER), Step::Close);
}

#[test]
fn what_is_over_is_over() {
    let record = group(&[2, 2], Some(1));
    for status in [GroupStatus::Finished, GroupStatus::Stopped] {
        assert_eq!(decide(&record, &state(status, 2), &[Open; 4], now()), Step::Close);
    }
}

proptest! {
    /// Members are sent exactly once and in order, however many dispatchers die on the way, at whatever point.
    #[test]
    fn everybody_is_sent_once_in_waves(
        waves in prop::collection::vec(1_u32..5, 1..6),
        deaths in prop::collection::vec((any::<bool>(), 0_usize..5), 0..20),
    ) {
        let record = group(&waves, None);
        let members = record.members.len();
        let (mut fates, mut state, mut sends) = (vec![Unknown; members], running(0), vec![0; members]);
        let mut deaths = deaths.into_iter();
        for _ in 0..200 {
            match decide(&record, &state, &fates, now()) {
                Step::Send(places, then) => {
                    prop_assert!(fates[..state.sent as usize].iter().all(|fate| *fate == Ended(true)), "all before have ended");
                    let (dies, at) = deaths.next().unwrap_or((false, 0));
                    for place in places.iter().take(if dies { at } else { members }) {
                        sends[*place] += 1;
                        fates[*place] = Open;
                    }
                    if !dies {
                        state = then;
                    }
                }
                Step::Wait => fates.iter_mut().filter(|fate| **fate == Open).for_each(|fate| *fate = Ended(true)),
                Step::Record(then) => state = then,
                Step::Close => break,
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert_eq!(state.status, GroupStatus::Finished);
        prop_assert!(sends.iter().all(|sends| *sends == 1), "{:?}", sends);
    }
}
