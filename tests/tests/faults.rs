//! What holds when parts are killed, stopped or cut off. Every part is a real process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use muster_schemas::wire;
use muster_tests::{Stack, StackOptions, eventually, process::living, proxy::Proxy, stack::POOL};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// The lease, and the time that a busy machine may take beside it.
const LEASE: Duration = Duration::from_secs(30);
const SLACK: Duration = Duration::from_secs(15);

/// A job that notes each start in `starts`, and ends once `go` exists.
fn gated(stack: &Stack) -> (Value, impl Fn() -> usize + use<>, impl Fn() + use<>) {
    let (starts, go) = (stack.folder().join("starts"), stack.folder().join("go"));
    let command = format!("echo $MUSTER_ATTEMPT >> {}; while [ ! -e {} ]; do sleep 0.05; done; echo done", starts.display(), go.display());
    let begun = move || std::fs::read_to_string(&starts).unwrap_or_default().lines().count();
    (json!({"command": command}), begun, move || std::fs::write(&go, "").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_killed_agent_run_elsewhere_after_its_lease() {
    let mut stack = Stack::usual().await;
    let (params, begun, go) = gated(&stack);
    let id = stack.rest.submit("shell.run", params).await;
    let runner = stack.runner_of(&id).await;
    let killed = Instant::now();
    stack.kill_agent(runner);
    eventually("a second attempt after the lease", LEASE + SLACK, || async { (begun() == 2).then_some(()) }).await;
    assert!(killed.elapsed() > Duration::from_secs(15), "the lease was not kept");
    go();
    let job = stack.rest.finished(&id, 30).await;
    assert_eq!((job["state"].as_str(), job["result"]["attempt"].as_u64()), (Some("succeeded"), Some(2)), "{job}");
    assert_eq!(job["result"]["history"].as_array().map(Vec::len), Some(1), "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_dispatcher_killed_queued_jobs_run_and_another_dispatcher_takes_over() {
    let mut stack = Stack::start(StackOptions { dispatchers: 2, ..Default::default() }).await;
    // Whichever of the two is active: with both gone nothing is delayed.
    stack.dispatchers[0].kill9();
    let unfit = stack.rest.submit("probe.fail", json!({})).await;
    let unfit = stack.rest.finished(&unfit, 20).await["result"]["agent_id"].as_str().unwrap().to_string();
    eventually("a standing written by the dispatcher that is left", Duration::from_secs(10), || async {
        let health = stack.rest.get(&format!("/agents/{unfit}/health")).await;
        (health.data()["standing"]["success_part"].as_f64()? < 50.0).then_some(())
    })
    .await;
    stack.dispatchers[1].kill9();
    for _ in 0..20 {
        let start = Instant::now();
        let id = stack.rest.submit("probe.ping", json!({})).await;
        stack.rest.finished(&id, 20).await;
        assert!(start.elapsed() < Duration::from_secs(5), "a job was delayed by {:?}", start.elapsed());
    }
    stack.dispatchers[0] = stack.dispatcher(0);
    let failed = stack.rest.submit("probe.fail", json!({})).await;
    let failed = stack.rest.finished(&failed, 20).await["result"]["agent_id"].as_str().unwrap().to_string();
    eventually("a standing written after the restart", Duration::from_secs(10), || async {
        let health = stack.rest.get(&format!("/agents/{failed}/health")).await;
        (health.data()["standing"]["success_part"].as_f64()? < 50.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_under_a_waiter_costs_only_the_wait() {
    let mut stack = Stack::usual().await;
    let (params, begun, go) = gated(&stack);
    let id = stack.rest.submit("shell.run", params).await;
    eventually("the job's start", SOON, || async { (begun() == 1).then_some(()) }).await;
    let rest = stack.rest.clone();
    let path = format!("/jobs/{id}?wait=60s");
    let (waiter, ()) = tokio::join!(rest.try_send(rest.request(reqwest::Method::GET, &path)), async {
        // The waiter is attached once the gateway has its connection; a look of our own goes after it.
        stack.rest.get(&format!("/jobs/{id}")).await;
        stack.gateways[0].kill9();
    });
    assert!(waiter.is_none_or(|answer| answer.data()["result"].is_null()), "the job had not ended");
    go();
    stack.gateways[0] = stack.gateway(0);
    stack.gateway_ready(0).await;
    let job = stack.rest.finished(&id, 30).await;
    assert_eq!((job["state"].as_str(), begun()), (Some("succeeded"), 1), "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_forgets_no_job_and_the_result_comes_from_the_spool() {
    let mut stack = Stack::start(StackOptions { agents: 1, slots: 1, ..Default::default() }).await;
    let (params, begun, go) = gated(&stack);
    let running = stack.rest.submit("shell.run", params).await;
    eventually("the job's start", SOON, || async { (begun() == 1).then_some(()) }).await;
    let mut queued = Vec::new();
    for _ in 0..5 {
        queued.push(stack.rest.submit("probe.ping", json!({})).await);
    }
    stack.broker.kill().await.unwrap();
    go();
    eventually("the result in the spool", SOON, || async { stack.agents[0].log().contains("spool").then_some(()) }).await;
    stack.broker.restart().await.unwrap();
    let job = stack.rest.finished(&running, 60).await;
    assert_eq!((job["state"].as_str(), job["result"]["attempt"].as_u64(), begun()), (Some("succeeded"), Some(1), 1), "{job}");
    for id in queued {
        assert_eq!(stack.rest.finished(&id, 60).await["state"], "succeeded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_in_the_spool_survives_the_death_of_its_agent() {
    let mut stack = Stack::start(StackOptions { agents: 1, ..Default::default() }).await;
    let (params, begun, go) = gated(&stack);
    let id = stack.rest.submit("shell.run", params).await;
    eventually("the job's start", SOON, || async { (begun() == 1).then_some(()) }).await;
    stack.broker.kill().await.unwrap();
    go();
    eventually("the result in the spool", SOON, || async { stack.agents[0].log().contains("spool").then_some(()) }).await;
    stack.kill_agent(0);
    stack.broker.restart().await.unwrap();
    stack.revive_agent(0);
    let job = stack.rest.finished(&id, 60).await;
    assert_eq!((job["state"].as_str(), job["result"]["attempt"].as_u64(), begun()), (Some("succeeded"), Some(1), 1), "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_stopped_past_its_lease_comes_second() {
    let stack = Stack::usual().await;
    let (params, begun, go) = gated(&stack);
    let id = stack.rest.submit("shell.run", params).await;
    let runner = stack.runner_of(&id).await;
    stack.agents[runner].freeze();
    eventually("a second attempt after the lease", LEASE + SLACK, || async { (begun() == 2).then_some(()) }).await;
    go();
    let first = stack.rest.finished(&id, 30).await;
    assert_eq!(first["result"]["attempt"], 2, "{first}");
    stack.agents[runner].thaw();
    let context = async_nats::jetstream::new(stack.core().await);
    let events = context.get_stream("EVENTS").await.unwrap();
    eventually("a note that the late result was superseded", SOON, || async {
        let last = events.direct_get_last_for_subject(format!("events.{POOL}.{id}")).await.ok()?;
        let event: muster_schemas::event::Event = wire::decode(&last.payload).ok()?;
        (event.kind == muster_schemas::event::EventKind::Superseded).then_some(())
    })
    .await;
    assert_eq!(stack.rest.finished(&id, 5).await, first, "the first stored result stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_told_to_stop_gives_its_long_job_back_after_the_grace() {
    let mut stack = Stack::start(StackOptions { agent_env: vec![("SHUTDOWN_GRACE", "3s".into())], ..Default::default() }).await;
    let (params, begun, go) = gated(&stack);
    let id = stack.rest.submit("shell.run", params).await;
    let runner = stack.runner_of(&id).await;
    let start = Instant::now();
    let status = stack.agents[runner].terminate(SOON).await;
    assert!(status.success() && start.elapsed() > Duration::from_secs(3), "{status} after {:?}", start.elapsed());
    eventually("a start elsewhere, without waiting for the lease", Duration::from_secs(10), || async { (begun() == 2).then_some(()) })
        .await;
    go();
    let job = stack.rest.finished(&id, 30).await;
    assert_eq!((job["state"].as_str(), job["result"]["attempt"].as_u64()), (Some("succeeded"), Some(1)), "a release is no attempt: {job}");
    let gone = stack.agent_id(&format!("agent-{runner}")).await;
    eventually("the goodbye in the agent's status", SOON, || async {
        (stack.rest.get(&format!("/agents/{gone}")).await.text("/data/status") == "offline").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_out_of_reach_for_twenty_seconds_costs_no_second_attempt() {
    let mut stack = Stack::start(StackOptions { agents: 0, ..Default::default() }).await;
    let proxy = Proxy::start(format!("127.0.0.1:{}", stack.broker.port()).parse().unwrap()).await;
    let agent = stack.agent(0, &format!("nats://{}", proxy.address()), &[]);
    stack.agents.push(agent);
    stack.accepting(POOL, 1).await;
    let (params, begun, go) = gated(&stack);
    let id = stack.rest.submit("shell.run", params).await;
    eventually("the job's start", SOON, || async { (begun() == 1).then_some(()) }).await;
    proxy.cut();
    let cut = Instant::now();
    go();
    eventually("twenty seconds", SOON, || async { (cut.elapsed() > Duration::from_secs(20)).then_some(()) }).await;
    let queued = stack.rest.submit("probe.ping", json!({})).await;
    proxy.mend();
    let job = stack.rest.finished(&id, 60).await;
    assert_eq!((job["state"].as_str(), job["result"]["attempt"].as_u64(), begun()), (Some("succeeded"), Some(1), 1), "{job}");
    assert_eq!(stack.rest.finished(&queued, 60).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_for_a_pool_without_agents_waits_and_then_runs() {
    let mut stack = Stack::start(StackOptions { agents: 0, ..Default::default() }).await;
    stack.rest.put("/pools/later", &json!({})).await;
    let id = stack.rest.post("/jobs", &json!({"pool": "later", "type": "probe.ping"})).await.text("/data/id").to_string();
    let waiting = stack.rest.get(&format!("/jobs/{id}?wait=1s")).await;
    assert_eq!(waiting.text("/data/state"), "pending", "{waiting:?}");
    assert_eq!(stack.rest.get("/pools/later/health").await.text("/data/status"), "stalled");
    stack.pool("later", 1).await;
    assert_eq!(stack.rest.finished(&id, 30).await["state"], "succeeded");
}

/// An agent of its own with a job whose command, and a child that left its session, have noted their numbers in the file.
async fn with_a_tree() -> (Stack, PathBuf, String) {
    let stack = Stack::start(StackOptions { agents: 1, ..Default::default() }).await;
    let pids = stack.folder().join("pids");
    let command = format!("echo $$ >> {0}; (setsid sh -c 'echo $$ >> {0}; sleep 300') & sleep 300", pids.display());
    let id = stack.rest.submit("shell.run", json!({"command": command})).await;
    eventually("both processes of the job", SOON, || async { (living(&pids) == 2).then_some(()) }).await;
    (stack, pids, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_an_agent_at_once_and_its_commands_with_it() {
    let (mut stack, pids, id) = with_a_tree().await;
    stack.agents[0].signal(Signal::SIGTERM);
    eventually("the first signal's effect", SOON, || async { stack.agents[0].log().contains("shut").then_some(()) }).await;
    stack.agents[0].signal(Signal::SIGTERM);
    eventually("the end at once", Duration::from_secs(5), || std::future::ready(stack.agents[0].ended())).await;
    assert_eq!(living(&pids), 0);
    // How the commands ended says nothing of the job: it has no result, and runs again.
    std::fs::remove_file(&pids).unwrap();
    stack.revive_agent(0);
    eventually("a second attempt after the lease", LEASE + SLACK, || async { (living(&pids) == 2).then_some(()) }).await;
    assert_eq!(stack.rest.get(&format!("/jobs/{id}")).await.text("/data/state"), "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_running_ends_at_its_next_start() {
    let (mut stack, pids, _) = with_a_tree().await;
    stack.kill_agent(0);
    assert_eq!(living(&pids), 2, "nobody was left who could have ended them");
    // What the second attempt starts must not be taken for what the first one left.
    std::fs::rename(&pids, stack.folder().join("left")).unwrap();
    stack.revive_agent(0);
    eventually("the end of both", SOON, || async { (living(&stack.folder().join("left")) == 0).then_some(()) }).await;
}
