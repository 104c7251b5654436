//! The end of an agent: contract row A9.

use std::time::{Duration, Instant};

use muster_schemas::{event::EventKind, result::Outcome};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bench::{Bench, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_job_may_end_and_nothing_new_is_taken() {
    let bench = Bench::start().await;
    let agent = bench.agent(2).await;
    let id = bench.submit(json!({"type": "probe.sleep", "params": {"ms": 500}})).await;
    eventually("it runs", async || !bench.events(&id).await.is_empty()).await;
    let agent_id = agent.id.clone();
    let ended = tokio::join!(agent.stop(), async {
        bench.heartbeat_of(&agent_id, |beat| beat.draining).await;
        bench.submit(json!({"type": "probe.ping"})).await
    });
    ended.0.unwrap();
    assert_eq!(bench.result(&id).await.outcome, Outcome::Succeeded);
    assert!(bench.heartbeat_of(&agent_id, |beat| beat.goodbye).await.draining);
    assert_eq!(bench.queued().await, 1, "the one that came too late waits for another agent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_grace_a_running_job_is_given_back_at_once_and_does_not_count_as_an_attempt() {
    let bench = Bench::start().await;
    let first = bench.agent_with(1, &[("shutdown_grace", "0")]).await;
    let marker = bench.dir.path().join("ran");
    let command = format!("if [ -e {0} ]; then echo again; else touch {0}; sleep 600; fi", marker.display());
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": command}, "retry": {"max_attempts": 1}})).await;
    eventually("it runs", async || marker.exists()).await;
    let second = bench.agent(1).await;
    let start = Instant::now();
    first.stop().await.unwrap();
    let result = bench.result(&id).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!((result.outcome, result.attempt, result.agent_id.as_ref()), (Outcome::Succeeded, 1, Some(&second.id)));
    assert!(bench.events(&id).await.iter().any(|event| event.kind == EventKind::Released && event.attempt == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_process_at_once() {
    let bench = Bench::start().await;
    let mut agent = bench.process(1).await;
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": "exec sleep 600"}})).await;
    eventually("it runs", async || !bench.events(&id).await.is_empty()).await;
    agent.signal(Signal::SIGTERM);
    bench.heartbeat_of(&agent.id, |beat| beat.draining).await;
    agent.signal(Signal::SIGTERM);
    let status = tokio::time::timeout(Duration::from_secs(5), agent.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(143));
}
