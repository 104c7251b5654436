//! The main job, end to end on real processes: submit, fittest agent, stored result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use muster_client::NewJob;
use muster_schemas::{result::Outcome, wire};
use muster_tests::{
    Stack, StackOptions, eventually,
    process::living,
    stack::{POOL, signed, signer_of},
    within,
};
use reqwest::StatusCode;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_job_submitted_over_rest_runs_and_its_result_is_stored_as_messagepack() {
    let stack = Stack::usual().await;
    let job =
        json!({"pool": POOL, "type": "shell.run", "params": {"command": "echo out; echo err >&2; exit 3"}, "labels": {"team": "ops"}});
    let answer = stack.rest.post("/jobs?wait=20s", &job).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let result = &answer.data()["result"];
    assert_eq!(answer.text("/data/state"), "failed");
    assert_eq!(
        (result["exit_code"].as_i64(), result["stdout"].as_str(), result["stderr"].as_str()),
        (Some(3), Some("out\n"), Some("err\n"))
    );
    assert_eq!((result["attempt"].as_i64(), result["error"]["code"].as_str()), (Some(1), Some("exit_nonzero")));
    assert_eq!(answer.text("/data/labels/team"), "ops");
    let id = answer.text("/data/id");
    assert_eq!(stack.rest.get(&format!("/jobs/{id}")).await.data(), answer.data(), "what is stored is what was answered");
    // The stored body, as any reader of the stream finds it.
    let context = async_nats::jetstream::new(stack.core().await);
    let stored = context.get_stream("RESULTS").await.unwrap().direct_get_last_for_subject(format!("results.{POOL}.{id}")).await.unwrap();
    assert!(!wire::is_json(&stored.payload));
    assert_eq!(wire::decode::<muster_schemas::result::JobResult>(&stored.payload).unwrap().outcome, Outcome::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_submits_waits_and_cancels_with_its_own_credentials() {
    let stack = Stack::usual().await;
    let service = stack.service().await;
    let pool = POOL.parse().unwrap();
    let result = service.run(&pool, NewJob::new("probe.echo", json!({"a": 1})), SOON).await.unwrap();
    assert_eq!((result.outcome, result.data), (Outcome::Succeeded, Some(json!({"a": 1}))));

    let long = service.submit(&pool, NewJob::new("probe.sleep", json!({"seconds": 300}))).await.unwrap();
    stack.runner_of(long.id.as_str()).await;
    let cancelled = service.cancel(&pool, &long.id).await.unwrap();
    assert_eq!(cancelled.outcome, Outcome::Cancelled);
    assert_eq!(service.wait(&pool, &long.id, SOON).await.unwrap().outcome, Outcome::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_nats_message_in_json_is_a_job_and_gets_its_result_at_its_reply_to() {
    let stack = Stack::usual().await;
    let creds = stack.service_creds(&[POOL]).await;
    let options = async_nats::ConnectOptions::with_credentials_file(creds.clone()).await.unwrap();
    let nats = options.connect(stack.broker.url()).await.unwrap();
    let inbox = nats.new_inbox();
    let mut answers = nats.subscribe(inbox.clone()).await.unwrap();
    let (subject, body) = ("jobs.default.normal.shell.hello", r#"{"type": "shell.run", "params": {"command": "echo $MUSTER_JOB_ID"}}"#);
    let mut headers = signed(&signer_of(&creds), subject, body.as_bytes());
    headers.insert("reply_to", inbox.as_str());
    nats.publish_with_headers(subject, headers, body.into()).await.unwrap();
    let answer = within("the result at the reply_to", SOON, futures_util::StreamExt::next(&mut answers)).await.unwrap();
    let result: muster_schemas::result::JobResult = wire::decode(&answer.payload).unwrap();
    assert_eq!((result.outcome, result.stdout.to_text().as_ref()), (Outcome::Succeeded, "hello\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fitter_agent_gets_the_jobs() {
    let stack = Stack::usual().await;
    // The unfit agent is the one that gets a job which fails; from then on its score is lower.
    let failed = stack.rest.submit("probe.fail", json!({})).await;
    let unfit = stack.rest.finished(&failed, 20).await["result"]["agent_id"].as_str().unwrap().to_string();
    eventually("a standing below the other's", SOON, || async {
        let health = stack.rest.get(&format!("/agents/{unfit}/health")).await;
        (health.data()["standing"]["pull_priority"].as_u64()? > 0).then_some(())
    })
    .await;
    let mut astray = 0;
    for _ in 0..50 {
        let id = stack.rest.submit("probe.ping", json!({})).await;
        astray += u32::from(stack.rest.finished(&id, 20).await["result"]["agent_id"] == unfit.as_str());
    }
    // The agent draws its old pulls back within a moment of its new standing; after that none may go astray.
    assert!(astray <= 2, "{astray} of 50 jobs went to the unfit agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_job_that_is_cancelled_never_runs_and_a_running_one_is_stopped_with_its_whole_tree() {
    let stack = Stack::usual().await;
    let marker = stack.folder().join("ran");
    stack.rest.put("/pools/empty", &json!({})).await;
    let command = format!("touch {}", marker.display());
    let queued = stack.rest.post("/jobs", &json!({"pool": "empty", "type": "shell.run", "params": {"command": command}})).await;
    let id = queued.text("/data/id").to_string();
    let cancelled = stack.rest.post(&format!("/jobs/{id}/cancel"), &json!({})).await;
    assert_eq!((cancelled.status, cancelled.text("/data/state")), (StatusCode::OK, "cancelled"), "{cancelled:?}");
    let again = stack.rest.post(&format!("/jobs/{id}/cancel"), &json!({})).await;
    assert_eq!((again.status, again.data()), (StatusCode::OK, cancelled.data()), "a cancel is safe to repeat");
    let done = stack.rest.submit("probe.ping", json!({})).await;
    stack.rest.finished(&done, 20).await;
    let late = stack.rest.post(&format!("/jobs/{done}/cancel"), &json!({})).await;
    assert_eq!((late.status, late.code()), (StatusCode::CONFLICT, "job_finished"), "{late:?}");

    let pids = stack.folder().join("pids");
    let tree = format!("echo $$ >> {0}; (setsid sh -c 'echo $$ >> {0}; sleep 300') & sleep 300", pids.display());
    let running = stack.rest.submit("shell.run", json!({"command": tree})).await;
    eventually("both processes of the job", SOON, || async { (living(&pids) == 2).then_some(()) }).await;
    stack.runner_of(&running).await;
    let cancelled = stack.rest.post(&format!("/jobs/{running}/cancel"), &json!({})).await;
    assert_eq!(cancelled.text("/data/state"), "cancelled", "{cancelled:?}");
    eventually("the end of the whole tree", SOON, || async { (living(&pids) == 0).then_some(()) }).await;
    assert!(!marker.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_streams_into_the_log_while_the_job_runs_and_its_end_is_in_the_result() {
    let stack = Stack::usual().await;
    let go = stack.folder().join("go");
    let command =
        format!("printf 'a\\377b\\n'; while [ ! -e {} ]; do sleep 0.05; done; head -c 300000 /dev/zero | tr '\\0' x", go.display());
    let id = stack.rest.submit("shell.run", json!({"command": command})).await;
    let logs = || async { stack.rest.get(&format!("/jobs/{id}/logs")).await.body["data"].as_array().cloned().unwrap_or_default() };
    eventually("the first line in the log while the job runs", SOON, || async { (!logs().await.is_empty()).then_some(()) }).await;
    let first = &logs().await[0];
    assert_eq!(first["data"]["base64"], "Yf9iCg==", "bytes that are not UTF-8 survive: {first}");
    std::fs::write(&go, "").unwrap();
    let result = &stack.rest.finished(&id, 20).await["result"];
    assert_eq!((result["stdout"].as_str().map(str::len), result["truncated"].as_bool()), (Some(64 * 1024), Some(true)));
    eventually("all of the output in the log", SOON, || async {
        let bytes: usize = logs().await.iter().map(|chunk| chunk["data"].as_str().map_or(4, str::len)).sum();
        (bytes == 300_004).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_stops_the_job_and_a_retry_policy_runs_it_again() {
    let stack = Stack::usual().await;
    let job = json!({"pool": POOL, "type": "shell.run", "params": {"argv": ["sleep", "300"]}, "timeout_s": 1});
    let answer = stack.rest.post("/jobs?wait=20s", &job).await;
    assert_eq!(answer.text("/data/state"), "timed_out", "{answer:?}");

    let count = stack.folder().join("count");
    let command = format!("echo x >> {0}; [ $(wc -l < {0}) -ge 3 ]", count.display());
    let job = json!({"pool": POOL, "type": "shell.run", "params": {"command": command}, "retry": {"max_attempts": 5, "initial_ms": 50}});
    let answer = stack.rest.post("/jobs?wait=20s", &job).await;
    assert_eq!((answer.text("/data/state"), answer.data()["result"]["attempt"].as_u64()), ("succeeded", Some(3)), "{answer:?}");
    assert_eq!(answer.data()["result"]["history"].as_array().map(Vec::len), Some(2));

    let job = json!({"pool": POOL, "type": "probe.fail", "params": {"message": "no"}, "retry": {"max_attempts": 2, "initial_ms": 10}});
    let answer = stack.rest.post("/jobs?wait=20s", &job).await;
    assert_eq!((answer.text("/data/state"), answer.data()["result"]["attempt"].as_u64()), ("failed", Some(2)), "{answer:?}");
    let context = async_nats::jetstream::new(stack.core().await);
    let subject = format!("dead.{POOL}.{}", answer.text("/data/id"));
    let letter = context.get_stream("DEAD").await.unwrap().direct_get_last_for_subject(subject).await.unwrap();
    let letter: muster_schemas::event::DeadLetter = wire::decode(&letter.payload).unwrap();
    assert_eq!(letter.attempts.len(), 2, "{letter:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_answered_by_the_agent_itself() {
    let stack = Stack::start(StackOptions { agents: 1, ..StackOptions::default() }).await;
    let id = stack.agent_id("agent-0").await;
    let pong = stack.rest.post(&format!("/agents/{id}/ping"), &json!({})).await;
    assert_eq!((pong.status, pong.text("/data/agent_id")), (StatusCode::OK, id.as_str()), "{pong:?}");
    stack.agents[0].freeze();
    let silent = stack.rest.post(&format!("/agents/{id}/ping"), &json!({})).await;
    assert_eq!((silent.status, silent.code()), (StatusCode::GATEWAY_TIMEOUT, "agent_silent"), "its record still says that it is online");
    stack.agents[0].thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_side_by_side_answer_alike() {
    let stack = Stack::start(muster_tests::StackOptions { gateways: 2, ..Default::default() }).await;
    let other = stack.rest_of(1);
    let job = json!({"pool": POOL, "type": "probe.ping", "id": "same"});
    assert_eq!(stack.rest.post("/jobs", &job).await.status, StatusCode::ACCEPTED);
    let done = other.finished("same", 20).await;
    assert_eq!(stack.rest.get("/jobs/same").await.data(), &done);
    assert_eq!(other.post("/jobs", &job).await.text("/data/state"), "succeeded", "the same submit again answers the first job");
    eventually("equal lists of agents", SOON, || async {
        let (one, two) = (stack.rest.get("/agents").await, other.get("/agents").await);
        let names = |list: &muster_tests::rest::Answer| {
            list.body["data"].as_array().unwrap().iter().map(|agent| agent["id"].clone()).collect::<Vec<_>>()
        };
        (names(&one) == names(&two) && names(&one).len() == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_submit_reaches_the_agents_log() {
    let options = muster_tests::StackOptions { agent_env: vec![("LOG_LEVEL", "debug".into())], ..Default::default() };
    let stack = Stack::start(options).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request =
        stack.rest.request(reqwest::Method::POST, "/jobs?wait=20s").header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let answer = stack.rest.send(request.json(&json!({"pool": POOL, "type": "probe.ping"}))).await;
    assert_eq!(answer.text("/data/state"), "succeeded");
    eventually("the trace in an agent's log", SOON, || async {
        stack.agents.iter().any(|agent| agent.log().contains(trace)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_job_is_watched_over_rest_from_its_submit_to_its_end() {
    let stack = Stack::start(muster_tests::StackOptions { gateways: 2, ..Default::default() }).await;
    let job = json!({
        "pool": POOL,
        "type": "shell.run",
        "params": {"command": "echo one; sleep 0.5; echo two; [ -e again ] && exit 0; touch again; exit 1", "cwd": stack.folder()},
        "retry": {"max_attempts": 2, "initial_ms": 100},
    });
    let id = stack.rest.post("/jobs", &job).await.text("/data/id").to_owned();
    let watch = |rest: &muster_tests::rest::Rest, last: &str| {
        rest.request(reqwest::Method::GET, &format!("/jobs/{id}/events")).header("last-event-id", last).send()
    };
    // The first one is cut off after its first event; another gateway goes on.
    let mut cut = within("a stream", SOON, watch(&stack.rest, "")).await.unwrap();
    let mut text = String::new();
    while !(text.contains("\nid: ") && text.ends_with("\n\n")) {
        let part = within("the first event", SOON, cut.chunk()).await.unwrap().expect("the stream goes on");
        text.push_str(std::str::from_utf8(&part).unwrap());
    }
    drop(cut);
    let last = text.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    let rest = within("the end", SOON, async { watch(&stack.rest_of(1), &last).await.unwrap().text().await.unwrap() }).await;
    text.push_str(&rest);

    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let data: Vec<serde_json::Value> =
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str(data).unwrap()).collect();
    let changes: Vec<&str> = data.iter().filter_map(|data| data["change"].as_str()).collect();
    assert_eq!(changes, ["queued", "started", "retrying", "started"], "{text}");
    let output: String = data.iter().filter(|data| data["stream"] == "stdout").filter_map(|data| data["data"].as_str()).collect();
    assert_eq!(output, "one\ntwo\none\ntwo\n", "{text}");
    assert_eq!((names.first(), names.last(), names.iter().filter(|name| **name == "end").count()), (Some(&"state"), Some(&"end"), 1));
    let end = data.last().unwrap();
    assert_eq!((end["state"].as_str(), end["result"]["attempt"].as_u64()), (Some("succeeded"), Some(2)));
    assert_eq!(end, stack.rest.get(&format!("/jobs/{id}")).await.data());
}
