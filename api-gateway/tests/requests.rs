//! What happens around every request: ids, problems, limits, documents, health, shutdown.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "stack/stack.rs"]
mod stack;

use std::time::Duration;

use muster_schemas::topology;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use stack::{Gateway, Stack, eventually, send};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const KEYS: &str = "/api/v1/api-keys";

/// Sends bytes and reads whatever comes back until the end.
async fn raw(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn whatever_goes_wrong_is_a_problem_document_with_the_requests_id() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);

    assert_eq!(gateway.anybody().get("/nothing").await.code(), "not_found");
    assert_eq!(gateway.anybody().get("/api/v1/nothing/%2e%2e/x").await.code(), "not_found");
    assert_eq!(send(gateway.anybody().request(Method::PUT, "/healthz")).await.code(), "method_not_allowed");

    let given = send(gateway.anybody().request(Method::GET, "/nothing").header("x-request-id", "my-id_1.2")).await;
    assert_eq!(given.header("x-request-id"), "my-id_1.2");
    assert_eq!(given.code(), "not_found");
    for unfit in ["", "a b", "<script>", &"a".repeat(65)] {
        let answer = send(gateway.anybody().request(Method::GET, "/nothing").header("x-request-id", unfit)).await;
        assert!(answer.header("x-request-id").starts_with("req_"), "{unfit:?}: {answer:?}");
    }
    assert!(admin.get("/api/v1/agents").await.header("x-request-id").starts_with("req_"), "good answers have one too");

    let post = |body: Vec<u8>| admin.request(Method::POST, KEYS).header("content-type", "application/json").body(body);
    let cases: [(&[u8], &str); 7] = [
        (b"", "body_malformed"),
        (b"{", "body_malformed"),
        (b"[\"x\",\"viewer\"]", "body_malformed"),
        (b"{\"name\":\"x\",\"role\":\"viewer\"} trailing", "body_malformed"),
        (b"{\"name\":\"\xff\",\"role\":\"viewer\"}", "body_malformed"),
        (b"{\"name\":\"x\"}", "field_invalid"),
        (b"{\"name\":\"x\",\"name\":\"y\",\"role\":\"viewer\"}", "field_invalid"),
    ];
    for (body, code) in cases {
        let answer = send(post(body.to_vec())).await;
        assert_eq!(answer.code(), code, "{}", String::from_utf8_lossy(body));
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
    assert_eq!(send(post(format!("{{\"name\":{}", "[".repeat(40)).into_bytes())).await.code(), "body_too_deep");
    assert_eq!(send(post(vec![b' '; 70_000])).await.code(), "body_too_large");
    for wrong in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx")] {
        let mut request = admin.request(Method::POST, KEYS).body(r#"{"name":"x","role":"viewer"}"#);
        if let Some(wrong) = wrong {
            request = request.header("content-type", wrong);
        }
        assert_eq!(send(request).await.code(), "header_invalid", "{wrong:?}");
    }
    let charset =
        admin.request(Method::POST, KEYS).header("content-type", "Application/JSON; charset=utf-8").body(r#"{"name":"x","role":"viewer"}"#);
    assert_eq!(send(charset).await.status, StatusCode::CREATED);
    for query in ["?limit=0", "?limit=501", "?limit=x", "?lmit=1", "?cursor=*", "?limit=1&limit=1"] {
        assert_eq!(admin.get(&format!("/api/v1/agents{query}")).await.code(), "query_invalid", "{query}");
    }
    for id in ["x", "*", "agt_.", "%00", "%ff", "a%20b", "..%2f"] {
        assert_eq!(admin.get(&format!("/api/v1/agents/{id}")).await.code(), "name_invalid", "{id}");
    }
}

#[tokio::test]
async fn a_caller_who_sends_no_http_or_too_slowly_costs_only_his_own_connection() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[("header_timeout", "1s"), ("max_connections", "8")]).await;
    for bytes in [&b"\0\0\0\0\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n"] {
        let answer = raw(&gateway, bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 505"), "{answer}");
    }
    let long = raw(&gateway, format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(100_000)).as_bytes()).await;
    assert!(long.is_empty() || long.starts_with("HTTP/1.1 431"), "{long}");
    let declared = raw(&gateway, format!("POST {KEYS} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\nconnection: close\r\n\r\n", stack.admin_key()).as_bytes()).await;
    assert!(declared.starts_with("HTTP/1.1 413") && declared.contains("body_too_large"), "{declared}");

    // Every place is taken by somebody who never finishes a head; they are sent away, and the next one is served.
    let address = gateway.url.strip_prefix("http://").unwrap();
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(gateway.anybody().get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_document_lists_every_route_and_the_page_needs_nothing_from_elsewhere() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let anybody = gateway.anybody();
    let document = anybody.get("/openapi.json").await;
    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(document.body["openapi"], "3.1.0");
    for path in ["/api/v1/jobs", "/api/v1/pools/{name}", "/api/v1/agents/register", "/api/v1/api-keys", "/api/v1/join-tokens", "/readyz"] {
        assert!(document.body["paths"][path].is_object(), "{path}");
    }
    let page = anybody.get("/docs").await;
    assert!(page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'") && !policy.contains("unsafe"), "{policy}");
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(page.text.matches(nonce).count(), 2, "one style and one script");
    for loads in ["src=", "http://", "https://", "@import", "url(", "innerHTML"] {
        assert!(!page.text.contains(loads), "{loads}");
    }
    assert_ne!(
        nonce,
        anybody.get("/docs").await.header("content-security-policy").split("'nonce-").nth(1).unwrap().split('\'').next().unwrap()
    );
    assert_eq!(anybody.get("/").await.header("location"), "/docs");
}

#[tokio::test]
async fn health_follows_the_broker_and_metrics_count_by_route() {
    let mut stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let (anybody, admin) = (gateway.anybody(), stack.admin(&gateway));
    assert_eq!(admin.get("/api/v1/agents").await.status, StatusCode::OK);
    anybody.get("/no/such/path").await;
    let metrics = anybody.get("/metrics").await.text;
    assert!(metrics.contains(r#"muster_gateway_requests_total{method="GET",route="/api/v1/agents",status="200"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"route="unmatched",status="404""#) && !metrics.contains("/no/such/path"));
    assert!(metrics.contains("muster_gateway_request_seconds_bucket"));

    stack.server.kill().await.unwrap();
    let away = eventually("it is not ready", Duration::from_secs(10), async || {
        Some(anybody.get("/readyz").await).filter(|answer| answer.status == StatusCode::SERVICE_UNAVAILABLE)
    })
    .await;
    assert!(away.body["checks"]["broker"]["ok"] == json!(false), "{}", away.text);
    assert_eq!(anybody.get("/healthz").await.status, StatusCode::OK);
    let refused = admin.get("/api/v1/agents").await;
    assert_eq!(refused.code(), "broker_unavailable", "a key is not trusted while its revocation could not be heard of");
    assert!(!refused.header("retry-after").is_empty());

    stack.server.restart().await.unwrap();
    eventually("it is ready again, and what was in memory was made again", Duration::from_secs(20), async || {
        let streams = stack.streams().await.contains(&topology::HEARTBEATS.to_owned());
        anybody.try_get("/readyz").await.filter(|answer| streams && answer.status == 200)
    })
    .await;
    let made = admin.new_key("viewer").await;
    let refused = admin.get("/api/v1/agents/agt_01ARZ3NDEKTSV4RRFFQ69G5FAV/health").await;
    assert_eq!(refused.code(), "agent_not_found");
    let seen = admin.get(KEYS).await;
    assert!(seen.text.contains(made["id"].as_str().unwrap()), "the mirrors follow again");
}

#[tokio::test]
async fn a_shutdown_finishes_what_runs_and_takes_nothing_new() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    // Half of a request's body is there when the shutdown comes.
    let address = gateway.url.strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let body = r#"{"name":"late","role":"viewer"}"#;
    let head = format!(
        "POST {KEYS} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        stack.admin_key(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body.as_bytes()[..5]).await.unwrap();
    let running = gateway.anybody();
    eventually("the request runs", Duration::from_secs(5), async || {
        running.get("/metrics").await.text.contains("muster_gateway_requests_running 2").then_some(())
    })
    .await;
    gateway.shutdown.trigger("test");
    eventually("nobody else gets in", Duration::from_secs(5), async || TcpStream::connect(&address).await.is_err().then_some(())).await;
    stream.write_all(&body.as_bytes()[5..]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201") && answer.contains("connection: close"), "{answer}");
    gateway.stop().await;
}

#[tokio::test]
async fn two_gateways_answer_alike() {
    let stack = Stack::start().await;
    let (one, other) = (stack.gateway(&[]).await, stack.gateway(&[]).await);
    let (here, there) = (stack.admin(&one), stack.admin(&other));
    here.post("/api/v1/join-tokens", &json!({"pool": stack::POOL, "uses": 3})).await.data(201);
    for path in ["/openapi.json", "/api/v1/agents", "/api/v1/api-keys", "/api/v1/join-tokens", "/api/v1/pools"] {
        eventually(path, Duration::from_secs(2), async || {
            let (mine, its) = (here.get(path).await, there.get(path).await);
            assert_eq!(mine.status, StatusCode::OK, "{}", mine.text);
            (mine.body == its.body && mine.body != Value::Null).then_some(())
        })
        .await;
    }
}
