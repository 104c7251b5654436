//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use muster_schemas::{
    job::Draft,
    lane::Priority,
    schedule::{Timing, When},
};

use super::*;

fn time(text: &str) -> Timestamp {
    format!("2027-01-01T{text}Z").parse().unwrap()
}

fn record(change: impl FnOnce(&mut ScheduleRecord)) -> ScheduleRecord {
    let made = time("00:00:00");
    let mut record = ScheduleRecord {
        v: V,
        name: "s".parse().unwrap(),
        timing: When { cron: Some("*/10 * * * *".into()), ..When::default() }.try_into().unwrap(),
        overlap: Overlap::Queue,
        missed: Missed::RunOnce,
        grace_s: 60,
        paused: false,
        pool: "p".parse().unwrap(),
        priority: Priority::default(),
        job: Draft { job_type: "shell.run".into(), ..Draft::default() },
        description: None,
        created_at: made,
        changed_at: made,
        since: made,
    };
    change(&mut record);
    record
}

fn firing(record: &ScheduleRecord, at: &str) -> Firing {
    Firing { at: time(at), token: record.token() }
}

/// What is remembered when a firing has made its job.
fn after(record: &ScheduleRecord, at: &str) -> ScheduleState {
    match decide(Some(record), None, &firing(record, at), None, time(at)) {
        Step::Record(state) => state,
        step => panic!("{step:?}"),
    }
}

#[test]
fn a_firing_makes_a_job_with_its_time_in_the_id() {
    let record = record(|_| {});
    let state = after(&record, "00:10:00");
    assert_eq!((state.became, state.fired_at), (Became::Job, time("00:10:00")));
    assert_eq!(state.job.unwrap().id.as_str(), "s-20270101T001000Z");
}

#[test]
fn the_same_firing_again_does_what_was_decided() {
    let record = record(|record| record.overlap = Overlap::Skip);
    let state = after(&record, "00:10:00");
    let again = decide(Some(&record), Some(&state), &firing(&record, "00:10:00"), None, time("03:00:00"));
    assert_eq!(again, Step::Finish(state.clone()), "however late it is");
    let earlier = decide(Some(&record), Some(&state), &firing(&record, "00:00:00"), None, time("00:10:00"));
    assert!(matches!(earlier, Step::Drop(_)), "{earlier:?}");
    // What is remembered of a schedule that was deleted says nothing of one that has its name.
    let other = self::record(|record| record.created_at = time("00:05:00"));
    assert!(matches!(decide(Some(&other), Some(&state), &firing(&other, "00:10:00"), None, time("00:10:00")), Step::Record(_)));
}

#[test]
fn a_schedule_that_is_gone_paused_or_changed_fires_no_more() {
    let record = record(|_| {});
    let fired = firing(&record, "00:10:00");
    for schedule in [None, Some(self::record(|record| record.paused = true)), Some(self::record(|record| record.since = time("00:09:59")))]
    {
        let step = decide(schedule.as_ref(), None, &fired, None, time("00:10:00"));
        assert!(matches!(step, Step::Drop(_)), "{step:?}");
    }
}

#[test]
fn overlapping_firings_skip_queue_or_replace() {
    for (overlap, alive, expected) in [
        (Overlap::Skip, true, Some(Became::Overlapped)),
        (Overlap::Skip, false, Some(Became::Job)),
        (Overlap::Replace, true, Some(Became::Job)),
        (Overlap::Replace, false, Some(Became::Job)),
        (Overlap::Queue, true, None),
    ] {
        let record = record(|record| record.overlap = overlap);
        let before = after(&record, "00:10:00");
        let (fired, now) = (firing(&record, "00:20:00"), time("00:20:00"));
        let first = decide(Some(&record), Some(&before), &fired, None, now);
        let Some(became) = expected else {
            assert!(matches!(first, Step::Record(_)), "nobody has to look: {first:?}");
            continue;
        };
        assert_eq!(first, Step::Look(before.job.clone().unwrap()));
        let Step::Record(state) = decide(Some(&record), Some(&before), &fired, Some(alive), now) else { panic!("{overlap:?}") };
        assert_eq!((state.became, state.fired_at), (became, time("00:20:00")));
        assert_eq!(state.replaced, before.job.clone().filter(|_| overlap == Overlap::Replace && alive));
        let kept = became == Became::Overlapped;
        assert_eq!(state.job == before.job, kept, "a firing that makes none leaves the last job");
    }
}

#[test]
fn a_late_firing_is_dropped_or_stands_for_all_missed_ones() {
    let late = |record: &ScheduleRecord, at: &str, now: &str| decide(Some(record), None, &firing(record, at), None, time(now));
    let skip = record(|record| record.missed = Missed::Skip);
    assert!(matches!(late(&skip, "00:10:00", "00:11:00"), Step::Record(_)), "within its grace");
    assert!(matches!(late(&skip, "00:10:00", "00:11:01"), Step::Drop(_)));
    let once = record(|_| {});
    assert!(matches!(late(&once, "00:10:00", "00:19:59"), Step::Record(_)));
    assert!(matches!(late(&once, "00:10:00", "00:20:00"), Step::Drop(_)), "the next one is due");
    let at = record(|record| record.timing = Timing::At(time("00:10:00")));
    assert!(matches!(late(&at, "00:10:00", "23:00:00"), Step::Record(_)));
}

#[test]
fn of_firings_that_never_came_the_last_one_is_made_up_for() {
    let once = record(|_| {});
    let at = |now: &str, state: Option<&ScheduleState>| missed(&once, state, time(now)).map(|firing| firing.at);
    assert_eq!(at("00:10:30", None), None, "it may be on its way");
    assert_eq!(at("00:11:03", None), Some(time("00:10:00")));
    assert_eq!(at("00:40:01", None), Some(time("00:40:00")), "one for all");
    let state = after(&once, "00:10:00");
    assert_eq!(at("00:19:59", Some(&state)), None);
    assert_eq!(at("00:21:03", Some(&state)), Some(time("00:20:00")));
    let retimed = record(|record| record.since = time("00:25:00"));
    assert_eq!(missed(&retimed, Some(&state), time("00:29:00")), None, "what was before counts for nothing");
    for not in [record(|record| record.missed = Missed::Skip), record(|record| record.paused = true)] {
        assert_eq!(missed(&not, None, time("12:00:00")), None);
    }
    let every = record(|record| record.timing = Timing::Every(600));
    assert_eq!(missed(&every, None, time("00:35:00")).map(|firing| firing.at), Some(time("00:30:00")));
    let once = record(|record| record.timing = Timing::At(time("00:10:00")));
    assert_eq!(missed(&once, None, time("00:35:00")).map(|firing| firing.at), Some(time("00:10:00")));
    assert_eq!(missed(&once, Some(&after(&once, "00:10:00")), time("00:35:00")), None);
}
