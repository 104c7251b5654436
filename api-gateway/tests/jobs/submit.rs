//! What a submit stores, and what the same submit answers again.

use muster_schemas::{
    event::EventKind,
    headers::{FRESH, MSG_ID, SIGNATURE, TRACEPARENT},
    job::Job,
    lane::Priority,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, job};

#[tokio::test(flavor = "multi_thread")]
async fn a_submit_with_a_wait_answers_the_result() {
    let world = World::start().await;
    let _work = world.agent("default").await.work();
    let answer = world.rest().post("/jobs?wait=20s", &job(json!({"labels": {"a": "b"}}))).await;
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    let done = answer.data(200);
    assert_eq!((&done["state"], &done["result"]["stdout"], &done["labels"]["a"]), (&json!("succeeded"), &json!("done"), &json!("b")));
    assert_eq!(location, format!("/api/v1/jobs/{}", done["id"].as_str().unwrap()));
    assert_eq!(world.rest().get(&format!("/jobs/{}", done["id"].as_str().unwrap())).await.data(200), done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submit_whose_wait_elapses_answers_the_pending_job() {
    let world = World::start().await;
    let pending = world.rest().post("/jobs?wait=50ms", &job(json!({}))).await.data(202);
    assert_eq!((&pending["state"], &pending["attempt"], pending.get("result")), (&json!("pending"), &json!(0), None));
    let later = world.rest().submit(json!({"not_before": "2090-01-01T00:00:00Z"})).await;
    assert_eq!(later.code(400), "time_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_the_job_with_our_own_headers_whatever_the_caller_sends() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let hostile = [
        ("Nats-Rollup", "all"),
        ("Nats-TTL", "1s"),
        ("Nats-Msg-Id", "poison"),
        ("Nats-Expected-Stream", "OTHER"),
        ("Nats-Expected-Last-Sequence", "7"),
        ("Nats-Schedule-Target", "x"),
        ("Nats-Trace-Dest", "x"),
        ("Muster-Fresh", "0"),
        ("reply_to", "x"),
        ("traceparent", trace),
    ];
    let body = job(json!({"params": {"command": "date"}}));
    world.rest().send(Method::POST, "/jobs", &hostile, Some(&body)).await.data(202);
    let taken = agent.take().await;
    let names: Vec<String> = taken.message.headers.as_ref().unwrap().iter().map(|(name, _)| name.to_string()).collect();
    let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, ["Content-Type", FRESH, SIGNATURE, TRACEPARENT]);
    assert_eq!(taken.header(FRESH).unwrap(), "1");
    let sent = taken.header(TRACEPARENT).unwrap();
    assert!(sent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && sent != trace, "the same trace, a span of ours: {sent}");
    assert_eq!(Job::decode(&taken.message.payload).unwrap().params, json!({"command": "date"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_id_submitted_again_answers_the_first_job_queued_finished_and_on_another_priority() {
    let world = World::start().await;
    let (rest, agent) = (world.rest(), world.agent("default").await);
    let first = rest.submit(json!({"id": "invoice-7"})).await;
    assert_eq!(first.headers["location"], "/api/v1/jobs/invoice-7?pool=default");
    assert_eq!(first.data(202)["state"], "pending");
    assert_eq!(rest.submit(json!({"id": "invoice-7"})).await.data(202)["state"], "pending");
    let other = rest.submit(json!({"id": "invoice-7", "priority": "high"})).await.data(202);
    assert_eq!(other["priority"], "normal", "the first one");
    let taken = agent.take().await;
    assert_eq!((taken.header(MSG_ID).as_deref(), taken.header(FRESH)), (Some("default.invoice-7"), None));
    agent.tell(&taken.id, EventKind::Started, 1).await;
    assert_eq!(rest.submit(json!({"id": "invoice-7"})).await.data(202)["state"], "running");
    assert!(agent.finish(&taken, "once").await);
    for priority in ["normal", "low"] {
        let again = rest.submit(json!({"id": "invoice-7", "priority": priority})).await.data(200);
        assert_eq!((&again["state"], &again["result"]["stdout"]), (&json!("succeeded"), &json!("once")));
    }
    assert!(agent.finds_nothing().await, "it was queued once");
    assert_eq!(rest.post("/jobs", &json!({"pool": "other", "type": "shell.run", "id": "invoice-7"})).await.data(202)["pool"], "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_id_submitted_by_many_at_once_is_queued_once() {
    let world = World::with_gateways(2).await;
    let agent = world.agent("default").await;
    let submits = (0..20).map(|n| {
        let rest = world.gateways[n % 2].rest.clone();
        async move { rest.submit(json!({"id": "race", "priority": (["high", "normal", "low"][n % 3])})).await.data(202) }
    });
    let answers = futures_util::future::join_all(submits).await;
    let priority = answers[0]["priority"].clone();
    assert!(answers.iter().all(|answer| answer["id"] == "race"));
    let taken = agent.take_of(priority.as_str().unwrap().parse::<Priority>().unwrap()).await;
    assert!(agent.finish(&taken, "").await);
    let pool = world.rest().get("/pools/default").await.data(200);
    assert_eq!(pool["queue"]["pending"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_answers_the_first_job_and_refuses_another_one() {
    let world = World::start().await;
    let rest = world.rest();
    let send = async |key: &str, fields: Value| rest.send(Method::POST, "/jobs", &[("Idempotency-Key", key)], Some(&job(fields))).await;
    let first = send("order-7", json!({"params": {"a": 1}})).await.data(202);
    assert_eq!(send("order-7", json!({"params": {"a": 1}})).await.data(202)["id"], first["id"]);
    assert_ne!(send("order-8", json!({"params": {"a": 1}})).await.data(202)["id"], first["id"]);
    assert_eq!(send("order-7", json!({"params": {"a": 2}})).await.code(409), "job_conflict");
    assert_eq!(send("order 7", json!({})).await.code(400), "header_invalid");
    assert_eq!(send("order-7", json!({"id": "x"})).await.code(400), "header_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_field_is_refused_with_its_code_and_nothing_is_stored() {
    let world = World::start().await;
    let rest = world.rest();
    let cases = [
        (json!({"pool": "nowhere"}), 404, "pool_not_found"),
        (json!({"pool": "a.b"}), 400, "name_invalid"),
        (json!({"pool": "*"}), 400, "name_invalid"),
        (json!({"pool": ">"}), 400, "name_invalid"),
        (json!({"pool": "a b"}), 400, "name_invalid"),
        (json!({"pool": "a\r\nb"}), 400, "name_invalid"),
        (json!({"pool": "a".repeat(300)}), 400, "name_invalid"),
        (json!({"pool": 7}), 400, "field_invalid"),
        (json!({"id": "a.b"}), 400, "name_invalid"),
        (json!({"id": "$JS"}), 400, "name_invalid"),
        (json!({"id": "a".repeat(65)}), 400, "name_invalid"),
        (json!({"priority": "urgent"}), 400, "name_invalid"),
        (json!({"type": "shell"}), 400, "type_unknown"),
        (json!({"type": "*.run"}), 400, "type_unknown"),
        (json!({"type": "shell.run.x"}), 400, "type_unknown"),
        (json!({"params": []}), 400, "params_invalid"),
        (json!({"timeout_s": 0}), 400, "timeout_invalid"),
        (json!({"timeout_s": -1}), 400, "timeout_invalid"),
        (json!({"timeout_s": 9_000_000_000_i64}), 400, "timeout_invalid"),
        (json!({"retry": {"max_attempts": 0}}), 400, "retry_invalid"),
        (json!({"retry": {"max_attempts": 1_000_000_000}}), 400, "retry_invalid"),
        (json!({"labels": {"": ""}}), 400, "labels_invalid"),
        (json!({"not_before": "2999-01-01T00:00:00Z"}), 400, "time_invalid"),
        (json!({"not_before": "soon"}), 400, "field_invalid"),
        (json!({"result_ttl_s": 0}), 400, "field_invalid"),
        (json!({"tiemout_s": 3}), 400, "field_invalid"),
        (json!({"params": {"a": "x".repeat(300_000)}}), 413, "body_too_large"),
        (json!({"params": (0..40).fold(json!({}), |inner, _| json!({"a": inner}))}), 400, "body_too_deep"),
    ];
    for (fields, status, code) in cases {
        let answer = rest.submit(fields.clone()).await;
        assert_eq!(answer.code(status), code, "{}", fields.to_string().chars().take(80).collect::<String>());
    }
    for wait in ["61s", "1h", "-1s", "x", ""] {
        assert_eq!(rest.post(&format!("/jobs?wait={wait}"), &job(json!({}))).await.code(400), "wait_invalid", "{wait}");
    }
    assert_eq!(rest.post("/jobs?wiat=1s", &job(json!({}))).await.code(400), "query_invalid");
    assert_eq!(rest.get("/pools/default").await.data(200)["queue"]["pending"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submit_for_an_executor_that_nobody_has_is_refused_until_it_is_declared() {
    let world = World::start().await;
    let refused = world.rest().submit(json!({"type": "backup.run"})).await;
    assert_eq!(refused.code(400), "type_unknown");
    world.rest().put("/pools/default", &json!({"executors": ["backup"]})).await.data(200);
    let id = world.rest().submit(json!({"type": "backup.run"})).await.data(202)["id"].as_str().unwrap().to_owned();
    assert_eq!(world.rest().state(&id).await, "pending");
    let pool = world.rest().get("/pools/default").await.data(200);
    assert_eq!(pool["executors"], json!(["backup", "http", "probe", "shell"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_a_429_that_says_when_to_come_back() {
    let world = World::start().await;
    let rest = world.rest();
    rest.put("/pools/default", &json!({"limits": {"max_queued": 2}})).await.data(200);
    rest.submit(json!({"id": "one"})).await.data(202);
    rest.submit(json!({"id": "two"})).await.data(202);
    let refused = rest.submit(json!({"id": "three"})).await;
    assert_eq!(refused.code(429), "queue_full");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(rest.submit(json!({"id": "two"})).await.data(202)["id"], "two", "the first job, full or not");
    assert_eq!(rest.post("/jobs?wait=1s", &job(json!({}))).await.code(429), "queue_full");
    rest.put("/pools/default", &json!({"limits": {"max_queued": 1}})).await.data(200);
    assert_eq!(rest.get("/pools/default").await.data(200)["queue"]["pending"], 2, "a smaller limit drops nothing");
    rest.put("/pools/default", &json!({"limits": {"max_queued": 3}})).await.data(200);
    rest.submit(json!({"id": "three"})).await.data(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_free_again_once_its_result_is_forgotten() {
    let world = World::start().await;
    let (rest, agent, core) = (world.rest(), world.agent("default").await, world.core().await);
    rest.submit(json!({"id": "again"})).await.data(202);
    let taken = agent.take().await;
    // Without a result, as when it has passed its time to live. The broker still remembers the id.
    agent.ack(&taken).await;
    core.flush().await.unwrap();
    crate::world::eventually("the job left the queue", async || (rest.get("/jobs/again").await.status == 404).then_some(())).await;
    assert_eq!(rest.submit(json!({"id": "again"})).await.data(202)["state"], "pending");
    assert_eq!(agent.take().await.id.as_str(), "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn submits_and_queues_show_in_the_metrics() {
    let world = World::start().await;
    let rest = world.rest();
    rest.submit(json!({"id": "a"})).await.data(202);
    rest.submit(json!({"id": "a"})).await.data(202);
    rest.submit(json!({"pool": "nowhere"})).await.code(404);
    crate::world::eventually("the figures", async || {
        let text = rest.http.get(format!("{}/metrics", rest.url)).bearer_auth(&rest.key).send().await.unwrap().text().await.unwrap();
        let figures = [
            r#"muster_gateway_submits_total{outcome="accepted"} 1"#,
            r#"muster_gateway_submits_total{outcome="repeated"} 1"#,
            r#"muster_gateway_submits_total{outcome="pool_not_found"} 1"#,
            r#"muster_pool_queued_jobs{pool="default"} 1"#,
        ];
        figures.iter().all(|figure| text.contains(figure)).then_some(())
    })
    .await;
}
