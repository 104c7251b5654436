//! Agents and brokers that misbehave.

use std::time::Duration;

use muster_agent::identity::Stored;
use muster_schemas::{event::EventKind, lane::Priority, result::Outcome, subjects::About, topology, wire};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bench::{Bench, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_frozen_past_its_lease_does_not_end_the_job_twice() {
    let bench = Bench::start().await;
    bench.lease(Priority::Normal, "shell", Duration::from_secs(2)).await;
    let frozen = bench.process(1).await;
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": "sleep 1; echo $PPID"}})).await;
    eventually("it runs", async || !bench.events(&id).await.is_empty()).await;
    frozen.signal(Signal::SIGSTOP);
    let other = bench.agent(1).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.attempt, result.agent_id.as_ref()), (Outcome::Succeeded, 2, Some(&other.id)));
    frozen.signal(Signal::SIGCONT);
    let superseded =
        async || bench.events(&id).await.iter().any(|event| event.kind == EventKind::Superseded && event.agent_id == frozen.id);
    eventually("the late result is noted", superseded).await;
    assert_eq!(bench.result(&id).await, result);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_refused_credentials_says_so_and_takes_nothing() {
    let bench = Bench::start().await;
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    let mut stored = Stored::load(&state_dir).unwrap().unwrap();
    // A JWT of another key: the broker finds that the signature does not fit.
    stored.seed = nkeys::KeyPair::new_user().seed().unwrap();
    stored.save(&state_dir).unwrap();
    let agent = bench.agent_in(id, state_dir, 1, &[]).await;
    eventually("it says so", async || {
        let ready = agent.get("/readyz").await;
        ready.starts_with("HTTP/1.1 503") && ready.contains("refused: ")
    })
    .await;
    assert!(agent.get("/healthz").await.starts_with("HTTP/1.1 200"));
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_before_its_broker_waits_for_it() {
    let mut bench = Bench::start().await;
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    let job = bench.submit(json!({"type": "probe.ping"})).await;
    bench.server.kill().await.unwrap();
    let agent = bench.agent_in(id, state_dir, 1, &[]).await;
    eventually("it says that it waits", async || agent.get("/readyz").await.contains("can't reach the broker")).await;
    bench.server.restart().await.unwrap();
    assert_eq!(bench.result(&job).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_ended_elsewhere_while_its_agent_was_cut_off_is_stopped() {
    let mut bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": "sleep 600"}})).await;
    eventually("it runs", async || !bench.events(&id).await.is_empty()).await;
    let other = json!({"outcome": "failed", "attempt": 2, "queued_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:00Z"});
    bench.publish(About::Result.job(&bench.pool, &id), None, other.to_string().into_bytes()).await;
    bench.server.kill().await.unwrap();
    bench.server.restart().await.unwrap();
    eventually("it is stopped", async || agent.figure("muster_agent_jobs_running").await == 0.0).await;
    eventually("nothing is left", async || bench.queued().await == 0).await;
    let stored = bench.last(topology::RESULTS, &About::Result.job(&bench.pool, &id)).await.unwrap();
    assert_eq!(wire::decode::<muster_schemas::result::JobResult>(&stored.payload).unwrap().attempt, 2);
}
