//! Results when the broker is away.

use muster_schemas::result::Outcome;
use serde_json::json;

use crate::bench::{Bench, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_waits_in_the_spool_while_the_broker_is_down() {
    let mut bench = Bench::start().await;
    let agent = bench.agent(2).await;
    let marker = bench.dir.path().join("go");
    let wait = format!("while [ ! -e {} ]; do sleep 0.02; done; echo done", marker.display());
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": wait}})).await;
    eventually("it runs", async || !bench.events(&id).await.is_empty()).await;
    bench.server.kill().await.unwrap();
    std::fs::write(&marker, "").unwrap();
    eventually("the result is in the spool", async || agent.figure("muster_agent_results_spooled").await == 1.0).await;
    bench.server.restart().await.unwrap();
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.attempt, result.stdout.as_bytes()), (Outcome::Succeeded, 1, &b"done\n"[..]));
    eventually("the job is acked", async || bench.queued().await == 0).await;
    eventually("the spool is empty", async || agent.figure("muster_agent_results_spooled").await == 0.0).await;
    // And the agent goes on.
    let next = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&next).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spooled_result_survives_the_end_of_its_agent() {
    let mut bench = Bench::start().await;
    let agent = bench.agent_with(1, &[("shutdown_grace", "0")]).await;
    let (go, ran) = (bench.dir.path().join("go"), bench.dir.path().join("ran"));
    let wait = format!("echo x >> {}; while [ ! -e {} ]; do sleep 0.02; done", ran.display(), go.display());
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": wait}})).await;
    eventually("it runs", async || !bench.events(&id).await.is_empty()).await;
    bench.server.kill().await.unwrap();
    std::fs::write(&go, "").unwrap();
    eventually("the result is in the spool", async || agent.figure("muster_agent_results_spooled").await == 1.0).await;
    let (agent_id, state_dir) = (agent.id.clone(), agent.state_dir.clone());
    agent.stop().await.unwrap();
    bench.server.restart().await.unwrap();
    let agent = bench.agent_in(agent_id, state_dir, 1, &[]).await;
    assert_eq!(bench.result(&id).await.outcome, Outcome::Succeeded);
    eventually("the job is acked", async || bench.queued().await == 0).await;
    agent.ready().await;
    assert_eq!(std::fs::read_to_string(ran).unwrap(), "x\n", "it did not run again");
}
