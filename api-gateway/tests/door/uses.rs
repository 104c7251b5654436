//! When and from where a key was last used.

use std::time::Duration;

use muster_schemas::{time::Timestamp, topology};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::{
    stack::{Gateway, Stack, eventually, send},
    support::{SOON, member, other_secret},
};

/// What the list says of a key.
async fn listed(stack: &Stack, gateway: &Gateway, id: &str) -> Value {
    let list = stack.admin(gateway).get("/api/v1/api-keys").await;
    list.data(200).as_array().unwrap().iter().find(|key| key["id"] == id).unwrap().clone()
}

#[tokio::test]
async fn the_list_says_when_and_from_where_a_key_was_last_used_at_any_gateway() {
    let stack = Stack::start().await;
    let proxied = [("trusted_proxies", "127.0.0.1")];
    let (one, other) = (stack.gateway(&proxied).await, stack.gateway(&proxied).await);
    let (id, caller) = member(&stack, &one, "viewer", &other).await;
    assert!(listed(&stack, &one, &id).await["last_used_at"].is_null());
    let before = Timestamp::now();
    // It counts as used when it was not enough for what it was used for, too.
    let refused = caller.request(Method::POST, "/api/v1/join-tokens").header("x-forwarded-for", "203.0.113.9");
    assert_eq!(send(refused).await.code(), "forbidden");
    let seen =
        eventually("it is listed", SOON, async || Some(listed(&stack, &one, &id).await).filter(|key| !key["last_used_at"].is_null())).await;
    let at: Timestamp = seen["last_used_at"].as_str().unwrap().parse().unwrap();
    assert!(at >= before && at <= Timestamp::now());
    assert_eq!(seen["last_used_from"], "203.0.113.9");

    let uses = async_nats::jetstream::new(stack.broker().await).get_key_value(topology::KEY_USES).await.unwrap();
    let prefix = seen["prefix"].as_str().unwrap();
    let revision = uses.entry(prefix).await.unwrap().unwrap().revision;
    for _ in 0..50 {
        assert_eq!(caller.get("/api/v1/pools").await.status, StatusCode::OK);
    }
    // A use that was written would have been so before the next one of another key is.
    let (second, another) = member(&stack, &one, "viewer", &other).await;
    another.get("/api/v1/pools").await;
    eventually("the other key is listed", SOON, async || {
        Some(listed(&stack, &one, &second).await).filter(|key| !key["last_used_at"].is_null())
    })
    .await;
    assert_eq!(uses.entry(prefix).await.unwrap().unwrap().revision, revision, "once a minute is enough");

    // A wrong key with its beginning is no use of it.
    let (third, wrong) = member(&stack, &one, "viewer", &other).await;
    let wrong = other.with_key(&other_secret(wrong.key.as_ref().unwrap(), 3));
    assert_eq!(wrong.get("/api/v1/pools").await.code(), "unauthenticated");
    another.get("/api/v1/pools").await;
    tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
    assert!(listed(&stack, &one, &third).await["last_used_at"].is_null());
}
