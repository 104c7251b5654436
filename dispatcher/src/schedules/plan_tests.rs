//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use muster_schemas::{
    job::Draft,
    lane::Priority,
    schedule::{Missed, Overlap, When},
    wire::V,
};

use super::*;

fn now() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

fn record(name: &str, when: When) -> ScheduleRecord {
    ScheduleRecord {
        v: V,
        name: name.parse().unwrap(),
        timing: when.try_into().unwrap(),
        overlap: Overlap::default(),
        missed: Missed::default(),
        grace_s: 60,
        paused: false,
        pool: "p".parse().unwrap(),
        priority: Priority::default(),
        job: Draft { job_type: "shell.run".into(), ..Draft::default() },
        description: None,
        created_at: now(),
        changed_at: now(),
        since: now(),
    }
}

fn cron(name: &str) -> ScheduleRecord {
    record(name, When { cron: Some("* * * * *".into()), time_zone: Some("Europe/Berlin".into()), ..When::default() })
}

fn at(secs: i64) -> ScheduleRecord {
    record("at", When { at: Some(Timestamp::from_secs(secs).to_string()), ..When::default() })
}

fn planned(records: &[ScheduleRecord], held: &[(&str, Timer)]) -> Vec<Command> {
    let records = records.iter().map(|record| (record.name.clone(), record.clone())).collect();
    let held = held.iter().map(|(name, timer)| (name.parse().unwrap(), timer.clone())).collect();
    plan(&records, &held, now())
}

#[test]
fn a_timer_is_what_its_message_says() {
    let timer = Timer::of(&cron("a"));
    let (headers, body) = timer.message();
    assert_eq!(Timer::read(&headers, body.as_bytes()), timer);
    let text = |name: &str| headers.get(name).unwrap().as_str().to_owned();
    assert_eq!(text(SCHEDULE), "0 * * * * *");
    assert_eq!((text(SCHEDULE_TARGET), text(SCHEDULE_TTL)), ("due.a".into(), "120s".into()));
    assert_eq!(text(SCHEDULE_TIME_ZONE), "Europe/Berlin");
}

#[test]
fn only_what_differs_is_touched() {
    let (same, new, mut resumed, mut paused) = (cron("same"), cron("new"), cron("resumed"), cron("paused"));
    let held =
        [("same", Timer::of(&same)), ("resumed", Timer::of(&resumed)), ("paused", Timer::of(&paused)), ("gone", Timer::of(&cron("gone")))];
    resumed.since = Timestamp::from_secs(1_800_000_001);
    paused.paused = true;
    let commands = planned(&[same, new.clone(), resumed.clone(), paused], &held);
    assert_eq!(
        commands,
        [
            Command::Arm("new".parse().unwrap(), Timer::of(&new)),
            Command::Arm("resumed".parse().unwrap(), Timer::of(&resumed)),
            Command::Disarm("gone".parse().unwrap()),
            Command::Disarm("paused".parse().unwrap()),
        ]
    );
    assert_eq!(planned(std::slice::from_ref(&new), &[("new", Timer::of(&new))]), []);
}

#[test]
fn a_point_in_time_that_is_over_gets_no_timer_again() {
    let (past, soon) = (at(1_800_000_000), at(1_800_000_001));
    assert_eq!(planned(std::slice::from_ref(&past), &[]), []);
    assert_eq!(planned(std::slice::from_ref(&past), &[("at", Timer::of(&past))]), [], "the broker is about to fire it");
    assert_eq!(planned(&[past], &[("at", Timer::of(&soon))]), [Command::Disarm("at".parse().unwrap())]);
    assert_eq!(planned(std::slice::from_ref(&soon), &[]), [Command::Arm("at".parse().unwrap(), Timer::of(&soon))]);
}
