//! What a key has open ends with the key, on every gateway: streams, waits, and requests whose body is still to come.

use std::time::{Duration, Instant};

use muster_schemas::{
    records::{KeyOwner, Role},
    time::Timestamp,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    raw,
    stack::{self, Answer, Gateway, Http, Stack, eventually, send},
    support::{SOON, figure, member, planted, queued, revoke},
};

/// A stream of a job's events.
struct Stream {
    response: Response,
    told: String,
}

impl Stream {
    async fn open(caller: &Http, job: &str) -> Self {
        let response = caller.request(Method::GET, &format!("/api/v1/jobs/{job}/events")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut stream = Self { response, told: String::new() };
        stream.until("event: state").await;
        stream
    }

    async fn until(&mut self, word: &str) {
        while !self.told.contains(word) {
            let part = tokio::time::timeout(SOON, self.response.chunk()).await.expect("something in time").unwrap();
            self.told.push_str(std::str::from_utf8(&part.expect("more")).unwrap());
        }
    }

    /// Reads to the end, and answers when that was.
    async fn end(mut self) -> (String, Instant) {
        while let Some(part) = tokio::time::timeout(SOON, self.response.chunk()).await.expect("an end in time").unwrap() {
            self.told.push_str(std::str::from_utf8(&part).unwrap());
        }
        (self.told, Instant::now())
    }
}

/// Waits in each of the ways that there are.
fn waits(caller: &Http, job: &str) -> Vec<tokio::task::JoinHandle<(Answer, Instant)>> {
    let submit = caller.request(Method::POST, "/api/v1/jobs?wait=60").json(&json!({"pool": stack::POOL, "type": "shell.run"}));
    let look = caller.request(Method::GET, &format!("/api/v1/jobs/{job}?wait=60"));
    let odd = caller.request(Method::GET, &format!("/api/v1/jobs/{job}?w%61it=60"));
    let log = caller.request(Method::GET, &format!("/api/v1/jobs/{job}/logs?wait=60"));
    #[allow(clippy::disallowed_methods, reason = "a test's own task, which it awaits")]
    let running = [submit, look, odd, log].map(|request| tokio::spawn(async move { (send(request).await, Instant::now()) }));
    running.into()
}

/// Until so many requests wait or watch there.
async fn open(gateway: &Gateway, watching: f64, waiting: f64) {
    eventually("they are all open", SOON, async || {
        let there = (figure(gateway, "muster_gateway_watchers").await, figure(gateway, "muster_gateway_waiting_requests").await);
        (there == (watching, waiting)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_has_open_ends_with_its_revocation_on_all_gateways_and_nobody_elses_does() {
    let stack = Stack::start().await;
    let gateways = [stack.gateway(&[]).await, stack.gateway(&[]).await];
    let made = stack.admin(&gateways[0]).new_key("operator").await;
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let (_, other) = member(&stack, &gateways[0], "operator", &gateways[1]).await;
    let job = queued(&stack, &gateways[0]).await;
    let (mut streams, mut waiting) = (Vec::new(), Vec::new());
    for gateway in &gateways {
        let caller = gateway.with_key(key);
        streams.push(Stream::open(&caller, &job).await);
        waiting.extend(waits(&caller, &job));
    }
    let (mut theirs, their_waits) = (Stream::open(&other, &job).await, waits(&other, &job));
    // A wait for a log does not count as one for a job.
    open(&gateways[0], 1.0, 3.0).await;
    open(&gateways[1], 2.0, 6.0).await;

    revoke(&stack, &gateways[0], id).await;
    let revoked = Instant::now();
    let mut last = Duration::ZERO;
    for stream in streams {
        let (told, at) = stream.end().await;
        assert!(told.ends_with(": the API key was revoked\n\n"), "{told}");
        last = last.max(at.saturating_duration_since(revoked));
    }
    for wait in waiting {
        let (answer, at) = wait.await.unwrap();
        assert_eq!(answer.code(), "unauthenticated");
        assert!(
            answer.body["detail"].as_str().unwrap().starts_with("the API key was revoked while this request waited"),
            "{}",
            answer.text
        );
        last = last.max(at.saturating_duration_since(revoked));
    }
    assert!(last < Duration::from_secs(1), "{last:?}");
    open(&gateways[1], 1.0, 3.0).await;

    // The others go on, to the end of the job that they wait for.
    assert_eq!(other.post(&format!("/api/v1/jobs/{job}/cancel"), &json!({})).await.status, StatusCode::OK);
    theirs.until("event: end").await;
    let mut ended = 0;
    for wait in their_waits.into_iter().skip(1) {
        let (answer, _) = wait.await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        ended += 1;
    }
    assert_eq!(ended, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_has_open_ends_when_it_expires() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let job = queued(&stack, &gateway).await;
    let expires = Timestamp::now() + Duration::from_secs(3);
    let key = planted(&stack, KeyOwner::Role(Role::Operator), |record| record.expires_at = Some(expires)).await;
    let caller = gateway.with_key(&key);
    let stream = Stream::open(&caller, &job).await;
    let waiting = waits(&caller, &job);
    let (told, _) = stream.end().await;
    let late = Timestamp::now().since(expires);
    assert!(Timestamp::now() >= expires && late < Duration::from_secs(1), "{late:?}");
    assert!(told.ends_with(&format!(": the API key expired at {expires}\n\n")), "{told}");
    for wait in waiting {
        let (answer, _) = wait.await.unwrap();
        assert!(answer.code() == "unauthenticated" && answer.text.contains("expired"), "{}", answer.text);
    }
    let again = caller.get(&format!("/api/v1/jobs/{job}/events")).await;
    assert_eq!(again.code(), "unauthenticated", "whoever comes back is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_body_arrives_after_the_revocation_is_not_taken() {
    let stack = Stack::start().await;
    let (one, other) = (stack.gateway(&[]).await, stack.gateway(&[]).await);
    let made = stack.admin(&one).new_key("operator").await;
    let body = json!({"pool": stack::POOL, "type": "shell.run", "id": "too-late"}).to_string();
    let head = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        made["key"].as_str().unwrap(),
        body.len()
    );
    let mut socket = raw::connect(&other).await;
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&body.as_bytes()[..10]).await.unwrap();
    eventually("its head is there", SOON, async || (figure(&other, "muster_gateway_requests_running").await >= 2.0).then_some(())).await;
    // The key has been checked once that is counted.
    eventually("its key is checked", SOON, async || (figure(&other, "muster_gateway_key_hashes_total").await >= 1.0).then_some(())).await;
    revoke(&stack, &one, made["id"].as_str().unwrap()).await;
    let there = other.with_key(made["key"].as_str().unwrap());
    eventually("it is heard of", SOON, async || Some(there.get("/api/v1/pools").await).filter(|answer| answer.status == 401)).await;
    socket.write_all(&body.as_bytes()[10..]).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(SOON, socket.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let job = stack.admin(&one).get("/api/v1/jobs/too-late").await;
    assert_eq!(job.code(), "job_not_found", "nothing was queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_at_the_other_gateway_within_moments_of_the_answer_and_for_good() {
    let stack = Stack::start().await;
    let (one, other) = (stack.gateway(&[]).await, stack.gateway(&[]).await);
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let (id, there) = member(&stack, &one, "viewer", &other).await;
        assert_eq!(there.get("/api/v1/pools").await.status, StatusCode::OK, "it is remembered there");
        revoke(&stack, &one, &id).await;
        let answered = Instant::now();
        let refused = eventually("it is refused", Duration::from_secs(1), async || {
            let sent = answered.elapsed();
            Some(there.get("/api/v1/pools").await).filter(|answer| answer.status == 401).map(|_| sent)
        });
        slowest = slowest.max(refused.await);
        for _ in 0..5 {
            assert_eq!(there.get("/api/v1/pools").await.status, StatusCode::UNAUTHORIZED);
        }
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}
