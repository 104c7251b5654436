//! Which agent gets a job, in which order, and what happens to one that finds no slot.

use std::time::{Duration, Instant};

use muster_schemas::{
    event::EventKind,
    lane::Priority,
    result::{JobResult, Outcome},
    subjects, wire,
};
use serde_json::json;

use crate::bench::{Agent, Bench, eventually, next_message};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_finds_no_slot_is_released_and_runs_elsewhere_as_its_first_attempt() {
    let bench = Bench::start().await;
    let first = bench.agent(1).await;
    // Its own queue, and three priorities of three executors.
    eventually("it pulls every lane", async || first.figure("muster_agent_pulls_total").await >= 10.0).await;
    let long = bench.submit(json!({"type": "probe.sleep", "params": {"seconds": 600}})).await;
    // At once, before the agent has withdrawn the pulls of its other lanes.
    let short = bench.id();
    bench.submit_as(&short, Priority::High, json!({"type": "probe.ping"})).await;
    eventually("it is released", async || bench.events(&short).await.iter().any(|event| event.kind == EventKind::Released)).await;
    let release = &bench.events(&short).await[0];
    assert_eq!((release.attempt, release.releases, &release.agent_id), (0, 1, &first.id));
    let second = bench.agent(1).await;
    let result = bench.result(&short).await;
    assert_eq!((result.outcome, result.attempt, result.agent_id.as_ref()), (Outcome::Succeeded, 1, Some(&second.id)));
    assert!(result.history.is_empty());
    assert_eq!(first.figure("muster_agent_releases_total").await, 1.0);
    // The full agent holds no pulls any more, so it is not in the way of the next one.
    let start = Instant::now();
    let next = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&next).await.agent_id.as_ref(), Some(&second.id));
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(bench.events(&long).await.iter().all(|event| event.kind == EventKind::Started));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_backlog_the_more_urgent_jobs_run_first() {
    let bench = Bench::start().await;
    for _ in 0..30 {
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            bench.submit_as(&bench.id(), priority, json!({"type": "probe.sleep", "params": {"ms": 3}})).await;
        }
    }
    let mut done = bench.done().await;
    let _agent = bench.agent(1).await;
    let mut order = Vec::new();
    for _ in 0..90 {
        let result: JobResult = wire::decode(&next_message(&mut done).await.payload).unwrap();
        order.push(result.priority);
    }
    // Taken in turn, 20 of the first 30 would be less urgent. At the start each lane is asked for one job, so one of each runs early; and
    // each time the broker is silent for longer than the agent's patience, which a busy machine makes it, costs one or two more.
    let early = |priority: Priority, before: usize| order[..before].iter().filter(|p| **p > priority).count();
    assert!(early(Priority::High, 30) <= 8, "{order:?}");
    assert!(early(Priority::Normal, 60) <= 12, "{order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_with_the_better_standing_gets_the_jobs_and_a_change_moves_them() {
    let bench = Bench::start().await;
    let (one, two) = (bench.agent(4).await, bench.agent(4).await);
    // What a lane was owed before the change it may still get, so the change counts once ten jobs in a row went the new way.
    let ten_by = async |agent: &Agent| {
        for _ in 0..10 {
            let id = bench.submit(json!({"type": "probe.ping"})).await;
            if bench.result(&id).await.agent_id.as_ref() != Some(&agent.id) {
                return false;
            }
        }
        true
    };
    for (fit, unfit) in [(&one, &two), (&two, &one)] {
        bench.standing(&fit.id, true, 0).await;
        bench.standing(&unfit.id, true, 9).await;
        eventually("the change is felt", async || ten_by(fit).await).await;
        assert!(ten_by(fit).await);
    }
    bench.standing(&two.id, false, 0).await;
    eventually("an agent that may not accept gets nothing", async || ten_by(&one).await).await;
    assert!(ten_by(&one).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standings_that_change_all_the_time_lose_no_job_and_delay_none_by_a_lease() {
    let bench = Bench::start().await;
    let (one, two) = (bench.agent(5).await, bench.agent(5).await);
    let mut done = bench.done().await;
    let start = Instant::now();
    let jobs = 1500;
    let flap = async {
        for round in 0..60_u8 {
            bench.standing(&one.id, true, round % 3).await;
            bench.standing(&two.id, true, (round + 1) % 3).await;
        }
        bench.standing(&one.id, true, 0).await;
        bench.standing(&two.id, true, 0).await;
    };
    let submit = async {
        for _ in 0..jobs {
            bench.submit(json!({"type": "probe.ping"})).await;
        }
    };
    let count = async {
        let mut again = 0;
        for _ in 0..jobs {
            let result: JobResult = wire::decode(&next_message(&mut done).await.payload).unwrap();
            assert_eq!(result.outcome, Outcome::Succeeded);
            again += usize::from(result.attempt > 1);
        }
        again
    };
    let (again, ..) = tokio::join!(count, flap, submit);
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    assert_eq!(again, 0, "of {jobs} jobs so many were given out more than once, without any agent lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_may_not_accept_takes_nothing_from_its_very_start() {
    let bench = Bench::start().await;
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    bench.standing(&id, false, 0).await;
    let job = bench.submit(json!({"type": "probe.ping"})).await;
    let agent = bench.agent_in(id.clone(), state_dir, 1, &[]).await;
    bench.heartbeat_of(&id, |_| true).await;
    // A ping is answered by the same task that reads the standing.
    bench.gateway.request(subjects::rpc(&id, "ping"), "".into()).await.unwrap();
    assert_eq!(agent.figure("muster_agent_pulls_total").await, 0.0);
    bench.standing(&id, true, 0).await;
    assert_eq!(bench.result(&job).await.agent_id, Some(id));
}
