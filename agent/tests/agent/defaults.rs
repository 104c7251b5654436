//! What a pool gives to jobs that say nothing themselves, told by the agent's standing.

use muster_schemas::{code::Code, records::PoolDefaults, result::Outcome, topology};
use serde_json::json;

use crate::bench::{Agent, Bench, eventually};

/// Tells an agent its pool's defaults, and waits until it has heard: it then takes no more jobs until it is told to again.
async fn tell(bench: &Bench, agent: &Agent, defaults: serde_json::Value) {
    let defaults = Some(serde_json::from_value::<PoolDefaults>(defaults).unwrap());
    let before = agent.figure("muster_agent_pulls_total").await;
    bench.standing_with(&agent.id, false, 0, defaults.clone()).await;
    bench.standing_with(&agent.id, true, 1, defaults).await;
    eventually("it pulls with the new standing", async || agent.figure("muster_agent_pulls_total").await > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_says_nothing_gets_the_pools_time_out_and_retries_and_one_that_does_keeps_its_own() {
    let bench = Bench::start().await;
    let agent = bench.agent(4).await;
    // Without a standing: the built-in ones, by which a failure is final.
    let result = bench.result(&bench.submit(json!({"type": "probe.fail"})).await).await;
    assert_eq!((result.outcome, result.attempt), (Outcome::Failed, 1));
    tell(&bench, &agent, json!({"timeout_s": 1, "retry": {"max_attempts": 3, "initial_ms": 10}})).await;
    let fails = bench.submit(json!({"type": "probe.fail"})).await;
    let once = bench.submit(json!({"type": "probe.fail", "retry": {"max_attempts": 1}})).await;
    let hangs = bench.submit(json!({"type": "probe.sleep", "params": {"ms": 60_000}, "retry": {"max_attempts": 1}})).await;
    let sleeps = bench.submit(json!({"type": "probe.sleep", "params": {"ms": 1500}, "timeout_s": 20})).await;
    let result = bench.result(&fails).await;
    assert_eq!((result.outcome, result.attempt, result.history.len()), (Outcome::Failed, 3, 2));
    let letter = muster_schemas::subjects::About::Dead.job(&bench.pool, &fails);
    assert!(bench.last(topology::DEAD, &letter).await.is_some(), "it had retries, so it is a dead letter");
    assert_eq!(bench.result(&once).await.attempt, 1);
    let result = bench.result(&hangs).await;
    assert_eq!((result.outcome, result.error.unwrap().code), (Outcome::TimedOut, Code::TimedOut));
    assert_eq!(bench.result(&sleeps).await.outcome, Outcome::Succeeded);
    tell(&bench, &agent, json!({})).await;
    let result = bench.result(&bench.submit(json!({"type": "probe.fail"})).await).await;
    assert_eq!(result.attempt, 1, "nothing is given any more");
}
