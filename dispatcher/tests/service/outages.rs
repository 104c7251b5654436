//! Schedules across outages: of the broker, and of every dispatcher.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use muster_schemas::{
    schedule::{Missed, When},
    subjects,
    time::Timestamp,
    topology::SCHEDULES,
};

use crate::{
    schedules::{WHILE, cron, no_second_is_missing, time},
    support::{Stack, eventually},
};

/// Waits until this machine's clock, which is also the broker's, has passed a time.
async fn passed(at: Timestamp) {
    eventually("time passes", WHILE, async || (Timestamp::now() > at).then_some(())).await;
}

/// Fires at these seconds of today, and then not before tomorrow.
fn today(times: &[Timestamp]) -> When {
    let second = |time: &Timestamp| time.secs() % 60;
    let first = times[0].secs() % 86_400;
    let list = times.iter().map(|time| second(time).to_string()).collect::<Vec<_>>().join(",");
    cron(&format!("{list} {} {} * * *", first % 3600 / 60, first / 3600))
}

/// Three times within one minute, that begin in some seconds.
async fn three_times() -> Vec<Timestamp> {
    let start = eventually("the minute has room", WHILE + WHILE, async || {
        let start = Timestamp::now().secs() + 5;
        (start % 60 < 52).then_some(start)
    })
    .await;
    (0..3).map(|step| Timestamp::from_secs(start + 2 * step)).collect()
}

enum Ends {
    InGoodOrder,
    Killed,
}

/// Stops the broker over three firings of two schedules, and checks what each of these policies makes of that.
async fn misses_three_firings(ends: Ends) {
    let mut stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let times = three_times().await;
    stack.schedule("once", today(&times), |record| record.grace_s = 1).await;
    stack.schedule("skip", today(&times), |record| (record.grace_s, record.missed) = (1, Missed::Skip)).await;
    stack.armed("once", true).await;
    stack.armed("skip", true).await;
    match ends {
        Ends::InGoodOrder => stack.server.stop().await.unwrap(),
        Ends::Killed => stack.server.kill().await.unwrap(),
    };
    assert!(Timestamp::now() < times[0], "this machine is too slow");
    passed(times[2] + Duration::from_secs(4)).await;
    stack.server.restart().await.unwrap();
    let jobs = stack.has_jobs("once", 1).await;
    assert_eq!(jobs.iter().map(|id| time(id)).collect::<Vec<_>>(), [times[2]], "one job for all three");
    // What fires now shows that nothing is to come of before.
    stack.schedule("now", cron("* * * * * *"), |_| {}).await;
    stack.has_jobs("now", 15).await;
    assert_eq!((stack.jobs("once").await.len(), stack.jobs("skip").await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn firings_that_a_killed_broker_missed_make_one_job_or_none() {
    misses_three_firings(Ends::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firings_that_a_stopped_broker_missed_make_one_job_or_none() {
    misses_three_firings(Ends::InGoodOrder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_becomes_its_job_although_the_broker_is_killed_in_between() {
    let mut stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    let at = Timestamp::from_secs(Timestamp::now().secs() + 4);
    let name = stack.schedule("a", crate::schedules::at(at), |_| {}).await.name;
    stack.armed("a", true).await;
    dispatcher.kill();
    let due = subjects::due(&name);
    eventually("it fires", WHILE, async || stack.subjects(SCHEDULES).await.contains_key(&due).then_some(())).await;
    assert_eq!(stack.jobs("a").await.len(), 0);
    stack.server.kill().await.unwrap();
    stack.server.restart().await.unwrap();
    let _next = stack.dispatcher().await;
    assert_eq!(stack.has_jobs("a", 1).await.iter().map(|id| time(id)).collect::<Vec<_>>(), [at]);
    eventually("the firing is acked", WHILE, async || (!stack.subjects(SCHEDULES).await.contains_key(&due)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firings_wait_for_a_dispatcher_and_a_restart_of_the_broker_stops_none_for_good() {
    let mut stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    stack.schedule("c", cron("* * * * * *"), |_| {}).await;
    stack.has_jobs("c", 2).await;
    dispatcher.stop().await;
    let waiting = stack.jobs("c").await.len();
    eventually("firings wait", WHILE, async || (stack.subjects(SCHEDULES).await.get("due.c") >= Some(&3)).then_some(())).await;
    let _next = stack.dispatcher().await;
    no_second_is_missing(&stack.has_jobs("c", waiting + 4).await);
    stack.server.kill().await.unwrap();
    stack.server.restart().await.unwrap();
    let seen = eventually("the broker is back", WHILE, async || Some(stack.jobs("c").await).filter(|jobs| !jobs.is_empty())).await;
    stack.has_jobs("c", seen.len() + 3).await;
}
