//! An agent whose clock is minutes off judges the times of jobs by the clock of the others.

use std::time::Duration;

use muster_schemas::{
    code::Code,
    event::EventKind,
    names::JobId,
    records::keys,
    result::Outcome,
    standing::Standing,
    subjects::{broker, js},
    time::Timestamp,
    topology, wire,
};
use serde_json::json;

use crate::bench::{Agent, Bench, connect, eventually};

/// Has the dispatcher say what time it is, so that the agent's clock is ahead of it by so many seconds. It has heard it afterwards.
pub(crate) async fn tell_time(bench: &Bench, agent: &Agent, ahead: i64) {
    let text = std::fs::read_to_string(bench.deployment.layout.dispatcher_creds()).unwrap();
    let dispatcher = connect(&bench.server.url(), &text, &broker::dispatcher_inbox("d1")).await;
    for twin in [true, false] {
        let at = Timestamp::from_micros(Timestamp::now().micros() - ahead * 1_000_000);
        let standing = Standing { twin, ..Standing::first(at) };
        let subject = js::key(topology::STANDINGS, &keys::standing(&bench.pool, &agent.id));
        dispatcher.request(subject, wire::encode(&standing).into()).await.unwrap();
        eventually("it has heard", async || agent.get("/readyz").await.contains("another process") == twin).await;
    }
}

fn in_ms(ms: u64) -> Timestamp {
    Timestamp::now() + Duration::from_millis(ms)
}

/// A job that waits behind another one until its `field` lies in the past by this machine's clock.
async fn overdue(bench: &Bench, field: &str) -> (JobId, Timestamp) {
    bench.submit(json!({"type": "probe.sleep", "params": {"ms": 1500}})).await;
    let time = in_ms(500);
    (bench.submit(json!({"type": "probe.ping", field: time})).await, time)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_clock_is_five_minutes_fast_ends_no_job_and_starts_none_too_early() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    tell_time(&bench, &agent, 300).await;
    let (job, _) = overdue(&bench, "expires_at").await;
    let result = bench.result(&job).await;
    assert_eq!((result.outcome, result.attempt), (Outcome::Succeeded, 1), "{:?}", result.error);
    let (job, start) = overdue(&bench, "not_before").await;
    eventually("it is given back", async || !bench.events(&job).await.is_empty()).await;
    let event = &bench.events(&job).await[0];
    assert_eq!((event.kind, event.next_at), (EventKind::Released, Some(start)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_clock_is_five_minutes_slow_starts_no_job_that_is_over_and_waits_for_none_in_vain() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    tell_time(&bench, &agent, -300).await;
    let over = bench.submit(json!({"type": "probe.ping", "expires_at": in_ms(60_000)})).await;
    let result = bench.result(&over).await;
    assert_eq!((result.outcome, result.error.unwrap().code, result.attempt), (Outcome::Expired, Code::Expired, 0));
    let begun = bench.submit(json!({"type": "probe.ping", "not_before": in_ms(60_000)})).await;
    assert_eq!(bench.result(&begun).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_nobody_has_told_the_time_finds_out_before_it_ends_a_job() {
    let bench = Bench::start().await;
    let _agent = bench.agent(1).await;
    let (job, _) = overdue(&bench, "expires_at").await;
    let result = bench.result(&job).await;
    assert_eq!((result.outcome, result.attempt), (Outcome::Expired, 0));
    let released: Vec<_> = bench.events(&job).await.into_iter().filter(|event| event.kind == EventKind::Released).collect();
    assert!((1..=2).contains(&released.len()), "{released:?}");
    assert!(released.iter().all(|event| event.reason.as_ref().is_some_and(|reason| reason.contains("clock"))), "{released:?}");
    // It knows now.
    let (job, _) = overdue(&bench, "expires_at").await;
    assert_eq!(bench.result(&job).await.outcome, Outcome::Expired);
    assert!(bench.events(&job).await.iter().all(|event| event.kind != EventKind::Released));
}
