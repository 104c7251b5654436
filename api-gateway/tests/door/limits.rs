//! How much anybody may send, and how often.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use crate::{
    raw,
    stack::{self, Answer, Gateway, Http, Stack, eventually, send},
    support::{SOON, figure, member, queued},
};

const POOLS: &str = "/api/v1/pools";

fn limited(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (StatusCode::TOO_MANY_REQUESTS, "rate_limited"));
    assert!((1..=60).contains(&answer.header("retry-after").parse::<u32>().unwrap()), "{:?}", answer.headers);
}

#[tokio::test]
async fn a_key_may_send_so_many_requests_a_second_and_does_not_use_up_those_of_others() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[("requests_per_second_per_key", "5")]).await;
    let (_, eager) = member(&stack, &gateway, "operator", &gateway).await;
    let (_, other) = member(&stack, &gateway, "viewer", &gateway).await;
    let answers = join_all((0..40).map(|_| eager.get(POOLS))).await;
    let good = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert!((10..=14).contains(&good), "two seconds' worth at once, not {good}");
    answers.iter().filter(|answer| answer.status != StatusCode::OK).for_each(limited);
    assert_eq!(other.get(POOLS).await.status, StatusCode::OK);
    eventually("it may go on", Duration::from_secs(2), async || Some(eager.get(POOLS).await).filter(|answer| answer.status == 200)).await;
    // A batch is one request.
    let jobs: Vec<_> = (0..100).map(|_| json!({"pool": stack::POOL, "type": "shell.run"})).collect();
    let batch = json!({ "jobs": jobs });
    eventually("a batch", Duration::from_secs(2), async || {
        Some(eager.post("/api/v1/jobs/batch", &batch).await).filter(|answer| answer.status == 200)
    })
    .await;
    let metrics = gateway.anybody().get("/metrics").await.text;
    assert!(metrics.contains("muster_gateway_limited_total{limit=\"key\"}"), "{metrics}");
}

#[tokio::test]
async fn an_address_may_send_so_many_requests_a_second_whatever_it_sends() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[("requests_per_second_per_address", "5"), ("trusted_proxies", "127.0.0.1")]).await;
    let from =
        async |path: &str, address: &str| send(gateway.anybody().request(Method::GET, path).header("x-forwarded-for", address)).await;
    for (number, path) in ["/healthz", "/nothing", POOLS].into_iter().enumerate() {
        let address = format!("203.0.113.{number}");
        let answers = join_all((0..40).map(|number| {
            let forwarded = format!("10.9.9.{number}, {address}");
            let from = &from;
            async move { from(path, &forwarded).await }
        }))
        .await;
        let through: Vec<_> = answers.iter().filter(|answer| answer.status != StatusCode::TOO_MANY_REQUESTS).collect();
        assert!((10..=14).contains(&through.len()), "{path}: {}", through.len());
        answers.iter().filter(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS).for_each(limited);
    }
    assert_eq!(from("/healthz", "203.0.113.200").await.status, StatusCode::OK);
}

async fn watch(caller: &Http, job: &str) -> Result<Response, Answer> {
    let request = caller.request(Method::GET, &format!("/api/v1/jobs/{job}/events"));
    let mut response = request.try_clone().unwrap().send().await.unwrap();
    if response.status() != StatusCode::OK {
        return Err(send(request).await);
    }
    response.chunk().await.unwrap().unwrap();
    Ok(response)
}

async fn wait(caller: &Http, job: &str) -> Answer {
    caller.get(&format!("/api/v1/jobs/{job}?wait=60")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_and_streams_that_are_open_at_once_are_counted_per_key_and_in_all() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[("open_per_key", "2"), ("open_max", "3")]).await;
    let job = queued(&stack, &gateway).await;
    let (_, one) = member(&stack, &gateway, "viewer", &gateway).await;
    let (_, other) = member(&stack, &gateway, "viewer", &gateway).await;
    let stream = watch(&one, &job).await.unwrap();
    let mut waiting = Box::pin(wait(&one, &job));
    let waits = eventually("it waits", SOON, async || (figure(&gateway, "muster_gateway_waiting_requests").await == 1.0).then_some(()));
    tokio::select! {
        () = waits => {}
        answer = &mut waiting => panic!("{answer:?}"),
    }
    // Both kinds are counted together, and refused alike.
    for answer in [watch(&one, &job).await.unwrap_err(), wait(&one, &job).await] {
        limited(&answer);
        assert!(answer.text.contains("this key has 2 waits and streams open"), "{}", answer.text);
    }
    let third = watch(&other, &job).await.unwrap();
    let full = watch(&other, &job).await.unwrap_err();
    limited(&full);
    assert!(full.text.contains("this gateway has 3 waits and streams open"), "{}", full.text);
    assert_eq!(one.get(POOLS).await.status, StatusCode::OK, "what is answered at once is not counted");
    assert_eq!(figure(&gateway, "muster_gateway_watchers").await, 2.0, "those that were refused left their seats");
    // Whoever goes away leaves his place.
    drop((stream, third));
    eventually("there is a place", SOON, async || watch(&other, &job).await.ok()).await;
    drop(waiting);
    eventually("and another", SOON, async || watch(&one, &job).await.ok()).await;
    eventually("nobody waits", SOON, async || (figure(&gateway, "muster_gateway_waiting_requests").await == 0.0).then_some(())).await;
}

#[tokio::test]
async fn open_requests_leave_connections_for_others() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[("max_connections", "8")]).await;
    let job = queued(&stack, &gateway).await;
    let admin = stack.admin(&gateway);
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(watch(&admin, &job).await.unwrap());
    }
    let full = watch(&admin, &job).await.unwrap_err();
    limited(&full);
    assert!(full.text.contains("has 6 waits"), "three quarters of the connections: {}", full.text);
}

async fn head(gateway: &Gateway, line: &str, headers: &str) -> String {
    let request = format!("{line}\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    raw::exchange(gateway, request.as_bytes(), Duration::from_secs(5)).await.0
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_with_431() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let ours = |answer: &str| assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("head_too_large"), "{answer}");
    let servers = |answer: &str| assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    let line = "GET /healthz HTTP/1.1";
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    assert!(head(&gateway, line, &many(62)).await.starts_with("HTTP/1.1 200"));
    ours(&head(&gateway, line, &many(63)).await);
    servers(&head(&gateway, line, &many(200)).await);
    let long = |bytes: usize| format!("x: {}\r\n", "1".repeat(bytes));
    assert!(head(&gateway, line, &long(16_000)).await.starts_with("HTTP/1.1 200"));
    ours(&head(&gateway, line, &long(17_000)).await);
    servers(&head(&gateway, line, &long(70_000)).await);
    let path = |bytes: usize| format!("GET /healthz?{} HTTP/1.1", "a".repeat(bytes - "/healthz?".len()));
    assert!(head(&gateway, &path(8_192), "").await.starts_with("HTTP/1.1 200"));
    ours(&head(&gateway, &path(8_193), "").await);
    servers(&head(&gateway, &path(70_000), "").await);
    // A list of ten thousand addresses is over that, too.
    servers(&head(&gateway, line, &format!("x-forwarded-for: {}\r\n", vec!["10.0.0.2"; 10_000].join(", "))).await);
}

#[tokio::test]
async fn each_kind_of_body_has_its_limit() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    for (path, limit) in
        [("/api/v1/jobs", 16 * 1024 + muster_schemas::job::LIMIT), ("/api/v1/jobs/batch", 16 << 20), ("/api/v1/api-keys", 64 << 10)]
    {
        let declared = |length: usize| {
            format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n",
                stack.admin_key()
            )
        };
        let (answer, _) = raw::exchange(&gateway, declared(limit + 1).as_bytes(), Duration::from_secs(5)).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{path}: {answer}");
        let (answer, closed) = raw::exchange(&gateway, declared(limit).as_bytes(), Duration::from_millis(300)).await;
        assert!(answer.is_empty() && !closed, "{path} waits for what it may take: {answer}");
    }
    let deep = format!("{{\"name\":{}", "[".repeat(100_000 / 2));
    let deep = stack.admin(&gateway).request(Method::POST, "/api/v1/api-keys").header("content-type", "application/json").body(deep);
    let deep = send(deep).await;
    assert_eq!((deep.status, deep.code()), (StatusCode::BAD_REQUEST, "body_too_deep"));
}
