//! What callers bring along in headers, fields and bytes reaches neither the broker's messages nor a second request.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream;
use muster_schemas::{headers, topology};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    raw,
    stack::{self, Gateway, Http, Stack, send},
};

const JOBS: &str = "/api/v1/jobs";
/// In everything that must not arrive.
const EVIL: &str = "evil";

/// Every header that means something to the broker or to agents.
const BROUGHT: &[&str] = &[
    "Nats-Msg-Id",
    "Nats-TTL",
    "Nats-Rollup",
    "Nats-Schedule",
    "Nats-Schedule-Target",
    "Nats-Schedule-TTL",
    "Nats-Expected-Stream",
    "Nats-Expected-Last-Sequence",
    "Nats-Expected-Last-Subject-Sequence",
    "Nats-Expected-Last-Msg-Id",
    "Nats-Batch-Id",
    "Nats-Batch-Sequence",
    "Nats-Batch-Commit",
    "Nats-Trace-Dest",
    "Nats-Service-Error",
    "Status",
    "Description",
    headers::FRESH,
    headers::SIGNATURE,
    headers::JOB_ID,
    headers::REPLY_TO,
    "Reply-To",
    "traceparent",
    "tracestate",
];

fn laden(caller: &Http, path: &str) -> reqwest::RequestBuilder {
    // The list has some names twice in different case for those who compare without.
    let names = BROUGHT.iter().flat_map(|name| [(*name).to_owned(), name.to_lowercase()]);
    names.fold(caller.request(Method::POST, path), |request, name| request.header(name, EVIL))
}

/// The headers of everything in the pool's queue, by job id.
async fn stored(stack: &Stack) -> BTreeMap<String, BTreeMap<String, String>> {
    let js = jetstream::new(stack.broker().await);
    let stream = js.get_stream_no_info(topology::jobs_stream(&stack::POOL.parse().unwrap())).await.unwrap();
    let mut found = BTreeMap::new();
    for sequence in 1..=20 {
        let Ok(message) = stream.direct_get(sequence).await else { continue };
        let id = message.subject.rsplit('.').next().unwrap().to_owned();
        // What the broker adds to its answer begins so, too; what was stored under these names would be there twice.
        let answer = ["Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Last-Sequence", "Nats-Num-Pending"];
        let headers = message.headers.iter().filter(|(name, _)| !answer.contains(&name.to_string().as_str()));
        let headers = headers.map(|(name, values)| {
            assert_eq!(values.len(), 1, "{name} twice: {values:?}");
            (name.to_string(), values[0].to_string())
        });
        found.insert(id, headers.collect());
    }
    found
}

#[tokio::test]
async fn a_jobs_message_has_our_headers_and_no_others() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let job = json!({"pool": stack::POOL, "type": "shell.run"});
    let with_id = |id: &str| json!({"pool": stack::POOL, "type": "shell.run", "id": id});
    let one = send(laden(&admin, JOBS).json(&job)).await.data(202)["id"].as_str().unwrap().to_owned();
    send(laden(&admin, JOBS).json(&with_id("own"))).await.data(202);
    let keyed =
        send(laden(&admin, JOBS).header("idempotency-key", "order-7").json(&job)).await.data(202)["id"].as_str().unwrap().to_owned();
    let batch = send(laden(&admin, "/api/v1/jobs/batch").json(&json!({"jobs": [job, with_id("in-batch"), job]}))).await;
    assert!(batch.data(200).as_array().unwrap().iter().all(|entry| entry["job"].is_object()), "{}", batch.text);

    let stored = stored(&stack).await;
    assert_eq!(stored.len(), 6, "{stored:?}");
    for (id, message) in &stored {
        for (name, value) in message {
            assert!(!value.contains(EVIL), "{id}: {name}: {value}");
            let ours = match name.as_str() {
                headers::CONTENT_TYPE => value == headers::MSGPACK,
                headers::TRACEPARENT => value.starts_with("00-") && value.len() == 55,
                headers::FRESH => value == "1" && id.starts_with("job_") && *id != keyed,
                headers::MSG_ID => *value == format!("{}.{id}", stack::POOL) && (!id.starts_with("job_") || *id == keyed),
                headers::SIGNATURE => value.len() > 60,
                // The gateway's own, of a batch that it stores in one commit.
                headers::BATCH_ID | headers::BATCH_SEQUENCE | headers::BATCH_COMMIT => *id != one && id != "own" && *id != keyed,
                _ => false,
            };
            assert!(ours, "{id} brought {name}: {value}");
        }
        assert_ne!(message.contains_key(headers::FRESH), message.contains_key(headers::MSG_ID), "{id}: {message:?}");
    }
}

#[tokio::test]
async fn fields_that_would_become_headers_or_subjects_are_refused() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let refused = async |field: &str, value: Value| {
        let mut job = json!({"pool": stack::POOL, "type": "shell.run"});
        job[field] = value;
        let answer = admin.post(JOBS, &job).await;
        assert_eq!(answer.status, 400, "{job}: {}", answer.text);
    };
    for field in ["reply_to", "headers", "subject", "Nats-Msg-Id", "signature", "trace"] {
        refused(field, json!("_INBOX.evil")).await;
    }
    for field in ["id", "pool", "type", "priority"] {
        for value in ["a\r\nNats-Rollup: all", "a\nb", "a.b.c", "*", ">", "a b", "a\u{0}", "$JS.API", "_INBOX.x", "é", ""] {
            if (field, value) != ("type", "a.b.c") {
                refused(field, json!(value)).await;
            }
        }
    }
    for key in ["a b", "", "é"] {
        let keyed =
            admin.request(Method::POST, JOBS).header("idempotency-key", key).json(&json!({"pool": stack::POOL, "type": "shell.run"}));
        assert_eq!(send(keyed).await.status, 400, "{key:?}");
    }
    assert!(stored(&stack).await.is_empty());
}

/// A request that stores a job with this id, to be hidden in another one.
fn hidden(stack: &Stack) -> String {
    let body = json!({"pool": stack::POOL, "type": "shell.run", "id": "hidden"}).to_string();
    format!(
        "POST {JOBS} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        stack.admin_key(),
        body.len()
    )
}

async fn hides(stack: &Stack, gateway: &Gateway, what: &str, request: String) -> String {
    let (answer, closed) = raw::exchange(gateway, format!("{request}{}", hidden(stack)).as_bytes(), Duration::from_secs(5)).await;
    assert!(raw::answers(&answer) <= 1, "{what}: {answer}");
    assert!(closed, "{what}: a connection whose requests can't be told apart is closed: {answer}");
    answer
}

#[tokio::test]
async fn a_request_cannot_hide_another_one_behind_two_lengths() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let start =
        format!("POST /api/v1/api-keys HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: application/json\r\n", stack.admin_key());
    for (what, lengths) in [
        ("a length, then chunks", "content-length: 4\r\ntransfer-encoding: chunked\r\n"),
        ("chunks, then a length", "transfer-encoding: chunked\r\ncontent-length: 4\r\n"),
        ("chunks in capitals", "Transfer-Encoding: CHUNKED\r\nContent-Length: 4\r\n"),
        ("chunks alone", "transfer-encoding: chunked\r\n"),
        ("two lengths", "content-length: 4\r\ncontent-length: 5\r\n"),
        ("two lengths in one", "content-length: 4, 5\r\n"),
        ("a signed length", "content-length: +5\r\n"),
        ("a length in hex", "content-length: 0x5\r\n"),
        ("chunks that are no chunks", "transfer-encoding: xchunked\r\n"),
        ("chunks behind something else", "transfer-encoding: chunked, identity\r\n"),
        ("a space before the colon", "content-length : 5\r\n"),
        ("a folded line", "x: a\r\n content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        ("a bare CR", "x: a\rcontent-length: 5\r\n"),
        ("a NUL", "x: a\0b\r\n"),
        ("a bare LF in a name", "x\ny: 1\r\n"),
    ] {
        let answer = hides(&stack, &gateway, what, format!("{start}{lengths}\r\n0\r\n\r\n")).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
    }
    let job = stack.admin(&gateway).get(&format!("{JOBS}/hidden")).await;
    assert_eq!(job.code(), "job_not_found", "{}", job.text);
    assert!(stored(&stack).await.is_empty());
}

#[tokio::test]
async fn a_credential_that_comes_twice_is_refused() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let (good, token) = (stack.admin_key(), stack.join_token());
    let bearer = format!("Bearer {good}");
    for (path, method, twice) in [
        (JOBS, Method::GET, [("authorization", bearer.as_str()), ("authorization", bearer.as_str())]),
        (JOBS, Method::GET, [("authorization", "Bearer mst_x"), ("Authorization", bearer.as_str())]),
        (JOBS, Method::GET, [("x-api-key", good.as_str()), ("X-API-KEY", "mst_x")]),
        (JOBS, Method::GET, [("authorization", bearer.as_str()), ("x-api-key", good.as_str())]),
        ("/api/v1/agents/register", Method::POST, [("x-agent-token", token.as_str()), ("x-agent-token", token.as_str())]),
    ] {
        let [one, other] = twice;
        let request = gateway.anybody().request(method, path).header(one.0, one.1).header(other.0, other.1);
        assert_eq!(send(request).await.code(), "header_invalid", "{twice:?}");
    }
    // In a query it would be in every log on the way.
    let query = gateway.anybody().get(&format!("{JOBS}?api_key={good}&access_token={good}")).await;
    assert_eq!(query.code(), "unauthenticated");
}
