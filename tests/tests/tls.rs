//! The whole stack with TLS on: certificates that live for seconds are renewed while everything runs, and one agent gets through by WebSocket alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{net::ToSocketAddrs as _, time::Duration};

use muster_tests::{
    Stack, StackOptions, eventually,
    proxy::Proxy,
    stack::{POOL, READY},
};
use serde_json::json;

/// Renewed at two thirds, so the first ones are over when a test has waited for a second renewal.
const LIFE: Duration = Duration::from_secs(9);

#[tokio::test]
async fn certificates_are_renewed_live_and_an_agent_behind_a_proxy_works_over_websocket() {
    let mut stack = Stack::start(StackOptions { agents: 1, tls: Some(LIFE), ..StackOptions::default() }).await;
    let websocket = stack.broker.websocket_url().unwrap().to_owned();
    let upstream = websocket.split_once("://").unwrap().1.to_socket_addrs().unwrap().next().unwrap();
    let proxy = Proxy::start(upstream).await;
    let token = stack.deployment().join_token.clone().unwrap();
    // All that it can reach are the gateway and, by way of the proxy, the broker's WebSocket.
    let far = stack.agent_of("far", &token, &format!("wss://localhost:{}", proxy.address().port()), &[]);
    stack.agents.push(far);
    stack.accepting(POOL, 2).await;

    let certificate = |name: &str| std::fs::read_to_string(stack.state_of(name).join("tls.pem")).unwrap_or_default();
    let first = ["agent-0", "far"].map(certificate);
    assert!(first.iter().all(|pem| pem.contains("BEGIN CERTIFICATE")));
    let mut last = first.clone();
    for renewal in 1..=2 {
        eventually(&format!("renewal {renewal} of both agents' certificates"), READY, || async {
            ["agent-0", "far"].iter().zip(&last).all(|(name, old)| certificate(name) != *old).then_some(())
        })
        .await;
        last = ["agent-0", "far"].map(certificate);
    }
    // The first certificates of all are over. Whoever comes back has to show a fresh one.
    stack.broker.restart().await.unwrap();
    proxy.cut();
    proxy.mend();
    stack.gateway_ready(0).await;
    stack.accepting(POOL, 2).await;
    for _ in 0..4 {
        let id = stack.rest.submit("probe.echo", json!({"over": "tls"})).await;
        assert_eq!(stack.rest.finished(&id, 60).await["state"], "succeeded");
    }
    let far = stack.agent_id("far").await;
    let answer = stack.rest.post(&format!("/agents/{far}/commands?wait=30s"), &json!({"type": "probe.ping"})).await;
    assert_eq!(answer.text("/data/job/state"), "succeeded", "{answer:?}");
}
