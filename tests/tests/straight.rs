//! Jobs straight onto NATS that must be refused: by the broker at once, or by the agent with a `rejected` result under the same code that REST gives.
//! None of them blocks a lane or is lost in silence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt;
use muster_schemas::{result::JobResult, signature::Signer, wire};
use muster_tests::{
    Stack, eventually,
    stack::{POOL, signed, signer_of},
    within,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

struct Service {
    nats: Client,
    signer: Signer,
    done: async_nats::Subscriber,
}

impl Service {
    async fn of(stack: &Stack) -> Self {
        let creds = stack.service_creds(&[POOL]).await;
        let signer = signer_of(&creds);
        let options = async_nats::ConnectOptions::with_credentials_file(creds).await.unwrap();
        let nats = options.connect(stack.broker.url()).await.unwrap();
        let done = nats.subscribe(format!("done.{POOL}.*")).await.unwrap();
        nats.flush().await.unwrap();
        Self { nats, signer, done }
    }

    /// Publishes and gives back the broker's answer.
    async fn publish(&self, subject: &str, body: &[u8]) -> Result<serde_json::Value, String> {
        let headers = signed(&self.signer, subject, body);
        let answer = self.nats.request_with_headers(subject.to_string(), headers, Bytes::copy_from_slice(body)).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        if answer["error"].is_null() { Ok(answer) } else { Err(answer["error"].to_string()) }
    }

    /// The next stored result: the job's id and the result.
    async fn result(&mut self) -> (String, JobResult) {
        let message = within("a stored result", SOON, self.done.next()).await.unwrap();
        (message.subject.rsplit('.').next().unwrap().into(), wire::decode(&message.payload).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_job_is_rejected_under_its_code_and_the_lane_goes_on() {
    let stack = Stack::usual().await;
    let mut service = Service::of(&stack).await;
    let deep = format!("{{\"type\":\"probe.ping\",\"params\":{}{}}}", "{\"a\":".repeat(40), "1".to_string() + &"}".repeat(40));
    let mut trailing = wire::encode(&json!({"type": "probe.ping"}));
    trailing.push(0xc0);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("probe", b"hello".to_vec(), "body_malformed"),
        ("probe", vec![], "body_malformed"),
        ("probe", vec![0xc1, 0xff], "body_malformed"),
        ("probe", vec![0xdf, 0xff, 0xff, 0xff, 0xff], "body_malformed"),
        ("probe", trailing, "body_malformed"),
        ("probe", vec![0xc0; 200_000], "body_malformed"),
        ("probe", deep.into_bytes(), "body_too_deep"),
        ("probe", br#"{"v":7,"type":"probe.ping"}"#.to_vec(), "version_unknown"),
        ("probe", br#"{"type":"probe.nothing"}"#.to_vec(), "type_unknown"),
        ("probe", br#"{"type":"nothing"}"#.to_vec(), "type_unknown"),
        ("probe", br#"{"params":{}}"#.to_vec(), "field_invalid"),
        ("probe", br#"{"type":"shell.run","params":{"command":"date"}}"#.to_vec(), "executor_mismatch"),
        ("shell", br#"{"type":"shell.run","params":{"cmd":"date"}}"#.to_vec(), "params_invalid"),
        ("shell", br#"{"type":"shell.run","params":7}"#.to_vec(), "params_invalid"),
        ("probe", br#"{"type":"probe.ping","timeout_s":-1}"#.to_vec(), "timeout_invalid"),
        ("probe", br#"{"type":"probe.ping","timeout_s":99999999999}"#.to_vec(), "timeout_invalid"),
        ("probe", br#"{"type":"probe.ping","not_before":"9999-12-31T00:00:00Z"}"#.to_vec(), "time_invalid"),
        ("probe", br#"{"type":"probe.ping","retry":{"max_attempts":0}}"#.to_vec(), "retry_invalid"),
        ("probe", br#"{"type":"probe.ping","retry":{"max_attempts":1000000000}}"#.to_vec(), "retry_invalid"),
    ];
    for (number, (executor, body, code)) in cases.iter().enumerate() {
        service.publish(&format!("jobs.{POOL}.normal.{executor}.bad-{number}"), body).await.unwrap();
        let (id, result) = service.result().await;
        assert_eq!((id.as_str(), result.outcome.as_str()), (format!("bad-{number}").as_str(), "rejected"), "{result:?}");
        assert_eq!(
            result.error.as_ref().unwrap().code.as_str(),
            *code,
            "{:?}: {:?}",
            String::from_utf8_lossy(&body[..body.len().min(60)]),
            result.error
        );
        assert_eq!(result.attempt, 0, "a rejected job was begun");
    }
    service.publish(&format!("jobs.{POOL}.normal.probe.good"), br#"{"type":"probe.ping"}"#).await.unwrap();
    assert_eq!(service.result().await.1.outcome.as_str(), "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_lane_takes_is_refused_by_the_broker_at_once() {
    let stack = Stack::usual().await;
    let service = Service::of(&stack).await;
    let ping = br#"{"type":"probe.ping"}"#;
    for subject in [
        format!("jobs.{POOL}.normal.nobody.x"),
        format!("jobs.{POOL}.urgent.probe.x"),
        format!("jobs.{POOL}.normal.probe.x.y"),
        format!("jobs.{POOL}.normal.probe"),
    ] {
        let refused = within("the refusal", SOON, service.publish(&subject, ping)).await.unwrap_err();
        assert!(refused.contains("no responders"), "{subject}: {refused}");
    }
    let large = service.publish(&format!("jobs.{POOL}.normal.probe.large"), &vec![b' '; 300 * 1024]).await.unwrap_err();
    assert!(large.contains("exceeds"), "{large}");
    assert!(
        service.publish(&format!("jobs.{POOL}.normal.probe.twice"), br#"{"type":"probe.sleep","params":{"seconds":20}}"#).await.is_ok()
    );
    let twice = service.publish(&format!("jobs.{POOL}.normal.probe.twice"), ping).await.unwrap_err();
    assert!(twice.contains("10077"), "{twice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_reaches_its_own_pools_only() {
    let stack = Stack::usual().await;
    stack.rest.put("/pools/other", &json!({})).await;
    let service = Service::of(&stack).await;
    let result = within("the refusal", SOON, service.publish("jobs.other.normal.probe.x", br#"{"type":"probe.ping"}"#)).await;
    assert!(result.is_err(), "{result:?}");
    // An acknowledgement sent into another pool's queue would be stored there as a job of somebody else's making.
    let (subject, body) = (format!("jobs.{POOL}.normal.probe.y"), r#"{"type":"probe.ping"}"#);
    let mut headers = signed(&service.signer, &subject, body.as_bytes());
    headers.insert("Nats-Msg-Id", "one");
    let reply = "jobs.other.normal.probe.planted";
    service.nats.publish_with_reply_and_headers(subject, reply, headers, body.into()).await.unwrap();
    service.nats.publish_with_reply(format!("query.result.{POOL}.y"), reply, "".into()).await.unwrap();
    stack.rest.finished("y", 20).await;
    let planted = stack.rest.get("/jobs/planted").await;
    // The broker's own acknowledgement may get there; it is no job, and nothing of the service's choosing ever is.
    assert!(planted.code() == "job_not_found" || planted.data()["type"].is_null(), "{planted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_no_id_is_rejected_under_an_id_of_ours() {
    let stack = Stack::usual().await;
    let mut service = Service::of(&stack).await;
    for token in ["é", "a%b", &"x".repeat(300)] {
        service.publish(&format!("jobs.{POOL}.normal.probe.{token}"), br#"{"type":"probe.ping"}"#).await.unwrap();
        let (id, result) = service.result().await;
        assert!(id.starts_with("rejected-"), "{id}");
        let error = result.error.unwrap();
        assert_eq!(error.code.as_str(), "name_invalid", "{error:?}");
        let told = token.chars().take(80).collect::<String>();
        assert!(error.message.contains(&told), "its publisher cannot find it: {}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_used_again_after_its_result_is_stored_never_runs_again() {
    let stack = Stack::usual().await;
    let mut service = Service::of(&stack).await;
    let ran = stack.folder().join("ran");
    let body = json!({"type": "shell.run", "params": {"command": format!("echo x >> {}", ran.display())}}).to_string();
    service.publish(&format!("jobs.{POOL}.normal.shell.again"), body.as_bytes()).await.unwrap();
    let (_, first) = service.result().await;
    // Once its result is stored the job leaves the queue; then the broker takes the id again.
    eventually("the first job's ack", SOON, || async {
        service.publish(&format!("jobs.{POOL}.normal.shell.again"), body.as_bytes()).await.ok()
    })
    .await;
    service.publish(&format!("jobs.{POOL}.high.shell.again"), body.as_bytes()).await.unwrap();
    eventually("an empty queue", SOON, || async {
        let pool = stack.rest.get(&format!("/pools/{POOL}")).await;
        let queue = &pool.data()["queue"];
        (queue["pending"] == 0 && queue["running"] == 0).then_some(())
    })
    .await;
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n");
    assert_eq!(stack.rest.finished("again", 5).await["result"]["finished_at"], json!(first.finished_at));
}
