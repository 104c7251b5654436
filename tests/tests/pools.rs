//! What an operator decides about a pool holds for real jobs on real agents: a limit on what runs at once, a pause, and what jobs get that
//! say nothing themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{path::Path, time::Duration};

use muster_tests::{
    Stack, StackOptions, eventually,
    stack::{POOL, signed, signer_of},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SOON: Duration = Duration::from_secs(30);
/// How long each of the jobs that count themselves runs.
const RUNS: Duration = Duration::from_millis(300);

/// Serves requests that count themselves as the jobs do: by a file in `running` for as long as they last.
async fn serve(listener: tokio::net::TcpListener, running: std::path::PathBuf) {
    let mut number = 0;
    let mut requests = tokio::task::JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let (running, file) = (running.clone(), format!("http-{number}"));
        number += 1;
        requests.spawn(async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            std::fs::write(running.join(&file), "").unwrap();
            let count = std::fs::read_dir(&running).unwrap().count();
            tokio::time::sleep(RUNS).await; // stuck on purpose
            std::fs::remove_file(running.join(&file)).unwrap();
            let body = count.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

fn counting(running: &Path, number: usize) -> Value {
    let file = running.join(format!("shell-{number}"));
    let (file, folder, seconds) = (file.display(), running.display(), RUNS.as_secs_f64());
    json!({"command": format!("touch {file}; ls {folder} | wc -l; sleep {seconds}; rm {file}")})
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_jobs_run_at_once_than_the_pool_may_and_all_of_them_run() {
    let stack = Stack::start(StackOptions { agents: 2, slots: 10, ..StackOptions::default() }).await;
    let running = stack.folder().join("running");
    std::fs::create_dir(&running).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut site = tokio::task::JoinSet::new();
    site.spawn(serve(listener, running.clone()));
    let put = stack.rest.put(&format!("/pools/{POOL}"), &json!({"limits": {"max_running": 3}})).await;
    assert!(put.status.is_success(), "{put:?}");
    let mut ids = Vec::new();
    for number in 0..20 {
        let priority = ["high", "normal", "low"][number % 3];
        let (kind, params) =
            if number % 2 == 0 { ("shell.run", counting(&running, number)) } else { ("http.request", json!({"url": url})) };
        let answer = stack.rest.post("/jobs", &json!({"pool": POOL, "type": kind, "priority": priority, "params": params})).await;
        assert!(answer.status.is_success(), "{answer:?}");
        ids.push(answer.text("/data/id").to_owned());
    }
    let mut most = 0;
    for id in ids {
        let result = stack.rest.finished(&id, 120).await["result"].clone();
        assert_eq!(result["outcome"], "succeeded", "{result}");
        let count: usize = result["stdout"].as_str().unwrap_or_else(|| panic!("no count in {result}")).trim().parse().unwrap();
        assert!(count <= 3, "{count} ran at once");
        most = most.max(count);
    }
    assert_eq!(most, 3, "and it used what it may");
    site.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pool_runs_nothing_also_after_the_broker_was_killed_and_then_everything() {
    let mut stack = Stack::usual().await;
    let long = stack.rest.submit("probe.sleep", json!({"ms": 2_000})).await;
    eventually("it runs", SOON, || async {
        (stack.rest.get(&format!("/jobs/{long}")).await.text("/data/state") == "running").then_some(())
    })
    .await;
    let paused = stack.rest.post(&format!("/pools/{POOL}/pause"), &json!({"note": "the disk is full"})).await;
    assert_eq!(paused.text("/data/paused/note"), "the disk is full", "{paused:?}");
    let ran = stack.folder().join("ran");
    let command = json!({"command": format!("echo x >> {}", ran.display())});
    let mut ids = vec![stack.rest.submit("shell.run", command.clone()).await];
    assert_eq!(stack.rest.finished(&long, 60).await["result"]["outcome"], "succeeded", "what runs ends normally");
    stack.kill_broker();
    stack.broker.restart().await.unwrap();
    eventually("a submit after the restart", SOON, || async {
        let body = json!({"pool": POOL, "type": "shell.run", "params": command, "id": "after"});
        stack
            .rest
            .try_send(stack.rest.request(reqwest::Method::POST, "/jobs").json(&body))
            .await
            .filter(|answer| answer.status.is_success())
    })
    .await;
    ids.push("after".into());
    stack.accepting(POOL, 2).await;
    let health = stack.rest.get(&format!("/pools/{POOL}/health")).await;
    assert_eq!(health.text("/data/status"), "paused");
    assert!(health.text("/data/detail").contains("the disk is full"), "{health:?}");
    // Another pool's jobs run meanwhile: whatever the broker had to give, it has given.
    stack.pool("other", 1).await;
    let other = stack.rest.post("/jobs", &json!({"pool": "other", "type": "probe.ping"})).await.text("/data/id").to_owned();
    stack.rest.finished(&other, 60).await;
    assert!(!ran.exists(), "a job of a paused pool ran");
    let resumed = stack.rest.post(&format!("/pools/{POOL}/resume"), &json!({})).await;
    assert!(resumed.status.is_success() && resumed.data()["paused"].is_null(), "{resumed:?}");
    for id in ids {
        assert_eq!(stack.rest.finished(&id, 60).await["result"]["outcome"], "succeeded");
    }
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\nx\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pools_defaults_reach_jobs_of_every_origin() {
    let stack = Stack::usual().await;
    let defaults = json!({"timeout_s": 1, "retry": {"max_attempts": 2, "initial_ms": 10}});
    let put = stack.rest.put(&format!("/pools/{POOL}"), &json!({"defaults": defaults})).await;
    assert_eq!(put.data()["defaults"]["timeout_s"], 1, "{put:?}");
    for number in 0..2 {
        let agent = stack.agent_id(&format!("agent-{number}")).await;
        eventually("the agent is told", SOON, || async {
            let agent = stack.rest.get(&format!("/agents/{agent}")).await;
            (agent.data()["standing"]["defaults"] == put.data()["defaults"]).then_some(())
        })
        .await;
    }
    // The standing is stored before it reaches the agent, so a first job may still miss it.
    eventually("the agents have heard", SOON, || async {
        let id = stack.rest.submit("probe.fail", json!({})).await;
        (stack.rest.finished(&id, 30).await["result"]["attempt"] == 2).then_some(())
    })
    .await;
    let hangs = stack.rest.submit("probe.sleep", json!({"ms": 60_000})).await;
    let core = stack.core().await;
    let (subject, body) = (format!("jobs.{POOL}.normal.probe.straight"), r#"{"type":"probe.fail"}"#);
    let headers = signed(&signer_of(&stack.service_creds(&[POOL]).await), &subject, body.as_bytes());
    let straight = core.request_with_headers(subject, headers, body.into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&straight.payload).contains("error"));
    let own = json!({"pool": POOL, "type": "probe.fail", "retry": {"max_attempts": 1}});
    let own = stack.rest.post("/jobs", &own).await.text("/data/id").to_owned();
    let result = stack.rest.finished("straight", 60).await["result"].clone();
    assert_eq!((&result["outcome"], &result["attempt"]), (&json!("failed"), &json!(2)), "{result}");
    assert_eq!(stack.rest.finished(&own, 60).await["result"]["attempt"], 1);
    let result = stack.rest.finished(&hangs, 60).await["result"].clone();
    assert_eq!((&result["outcome"], &result["attempt"]), (&json!("timed_out"), &json!(2)), "{result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_finds_all_who_pull_full_is_taken_by_an_agent_that_stood_by_also_after_the_dispatcher_has_died() {
    let dispatcher_settings = vec![("active_max", "1".to_owned())];
    // The lease is looked at with every second heartbeat.
    let agent_env = vec![("HEARTBEAT_INTERVAL", "1s".to_owned())];
    let mut stack = Stack::start(StackOptions { agents: 3, slots: 1, agent_env, dispatcher_settings, ..StackOptions::default() }).await;
    let standing_by = || async {
        let agents = stack.rest.get("/agents").await;
        let agents = agents.data().as_array().unwrap().clone();
        let standby = agents.into_iter().filter(|agent| agent["standing"]["standby"].as_array().is_some_and(|standby| !standby.is_empty()));
        let ids: Vec<_> = standby.map(|agent| agent["id"].as_str().unwrap().to_owned()).collect();
        (ids.len() == 2).then_some(ids)
    };
    let standing_by = eventually("all but one stand by", SOON, standing_by).await;
    let running = async |id: &str| {
        let started = || async { (stack.rest.get(&format!("/jobs/{id}")).await.text("/data/state") == "running").then_some(()) };
        eventually("it runs", SOON, started).await;
    };
    let long = stack.rest.submit("probe.sleep", json!({"seconds": 300})).await;
    running(&long).await;
    let short = stack.rest.submit("probe.ping", json!({})).await;
    let result = stack.rest.finished(&short, 60).await["result"].clone();
    assert!(standing_by.iter().any(|id| result["agent_id"] == **id), "{result} {standing_by:?}");

    // The second one is busy as well, and nobody is left who could call the third one up.
    let other = stack.rest.submit("probe.sleep", json!({"seconds": 300})).await;
    running(&other).await;
    stack.dispatchers[0].kill9();
    let alone = stack.rest.submit("probe.ping", json!({})).await;
    assert_eq!(stack.rest.finished(&alone, 60).await["result"]["outcome"], "succeeded");
}
