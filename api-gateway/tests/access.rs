//! API keys: made, listed, refused, revoked. Who may use which route is in `door/roles.rs`, what ends with a key in `door/ends.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "stack/stack.rs"]
mod stack;

use std::time::Duration;

use futures_util::future::join_all;
use muster_schemas::time::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::json;
use stack::{Stack, eventually, send};

#[tokio::test]
async fn a_key_that_is_wrong_expired_or_of_an_agent_is_refused_with_its_own_sentence() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let list = "/api/v1/agents";
    assert_eq!(admin.get(list).await.status, StatusCode::OK);

    let good = stack.admin_key();
    let mut other_secret = good.clone();
    other_secret.replace_range(good.len() - 1.., if good.ends_with('a') { "b" } else { "a" });
    let wrong = ["", "x", "mst_", &good[..good.len() - 1], &other_secret, &good.to_uppercase(), &stack.join_token(), &"a".repeat(5000)];
    for key in wrong {
        // A second time it is remembered, and answered alike.
        for _ in 0..2 {
            let answer = gateway.with_key(key).get(list).await;
            assert_eq!(answer.code(), "unauthenticated", "{key}");
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
            assert!(!answer.text.contains(&good[15..]), "the answer repeats a secret");
        }
    }
    let twice = send(gateway.with_key(&good).request(Method::GET, list).header("x-api-key", &good)).await;
    assert_eq!(twice.code(), "header_invalid");
    let other_header = send(gateway.anybody().request(Method::GET, list).header("X-API-Key", &good)).await;
    assert_eq!(other_header.status, StatusCode::OK);

    let soon = Timestamp::now() + Duration::from_millis(900);
    let made = admin.post("/api/v1/api-keys", &json!({"name": "short", "role": "viewer", "expires_at": soon})).await.data(201).clone();
    let short = gateway.with_key(made["key"].as_str().unwrap());
    assert_eq!(short.get(list).await.status, StatusCode::OK);
    let expired =
        eventually("the key expires", Duration::from_secs(5), async || Some(short.get(list).await).filter(|answer| answer.status != 200))
            .await;
    assert!(expired.code() == "unauthenticated" && expired.body["detail"].as_str().unwrap().contains("expired"), "{}", expired.text);
}

#[tokio::test]
async fn the_last_key_that_may_administer_cannot_be_revoked() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let first = admin.get("/api/v1/api-keys").await.data(200)[0]["id"].as_str().unwrap().to_owned();
    let expires = (Timestamp::now() + Duration::from_secs(3600)).to_string();
    let (viewer, short) = (json!({"name": "v", "role": "viewer"}), json!({"name": "s", "role": "admin", "expires_at": expires}));
    for body in [viewer, short] {
        admin.post("/api/v1/api-keys", &body).await.data(201);
        let refused = admin.delete(&format!("/api/v1/api-keys/{first}")).await;
        assert_eq!((refused.status, refused.code()), (StatusCode::CONFLICT, "last_admin_key"), "beside {body}");
    }
    let second = admin.new_key("admin").await;
    let second = gateway.with_key(second["key"].as_str().unwrap());
    assert_eq!(second.delete(&format!("/api/v1/api-keys/{first}")).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn keys_are_listed_without_their_secrets_at_every_gateway_alike() {
    let stack = Stack::start().await;
    let (one, other) = (stack.gateway(&[]).await, stack.gateway(&[]).await);
    let admin = stack.admin(&one);
    let mut made = Vec::new();
    for role in ["viewer", "operator", "admin"] {
        made.push(admin.new_key(role).await);
    }
    let first = admin.get("/api/v1/api-keys?limit=2").await;
    let ids: Vec<_> = first.data(200).as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], made[2]["id"].as_str().unwrap(), "newest first");
    let cursor = first.body["meta"]["page"]["cursor"].as_str().unwrap();
    let second = admin.get(&format!("/api/v1/api-keys?limit=2&cursor={cursor}")).await;
    assert_eq!(second.data(200).as_array().unwrap().len(), 2, "three and the first admin's");
    assert!(second.body["meta"]["page"]["cursor"].is_null());
    for key in &made {
        let secret = key["key"].as_str().unwrap().rsplit('_').next().unwrap().to_owned();
        assert!(!first.text.contains(&secret) && !second.text.contains(&secret) && !first.text.contains("$2b$"));
    }
    eventually("both gateways answer alike", Duration::from_secs(1), async || {
        let there = stack.admin(&other).get("/api/v1/api-keys?limit=2").await;
        (there.body == admin.get("/api/v1/api-keys?limit=2").await.body).then_some(())
    })
    .await;
    for (body, code) in [
        (json!({"name": "", "role": "viewer"}), "field_invalid"),
        (json!({"name": "a\nb", "role": "viewer"}), "field_invalid"),
        (json!({"name": "x", "role": "root"}), "field_invalid"),
        (json!({"name": "x", "role": "viewer", "expires_at": "2020-01-01T00:00:00Z"}), "time_invalid"),
        (json!({"name": "x", "role": "viewer", "admin": true}), "field_invalid"),
    ] {
        assert_eq!(admin.post("/api/v1/api-keys", &body).await.code(), code, "{body}");
    }
    assert_eq!(admin.delete("/api/v1/api-keys/key_01ARZ3NDEKTSV4RRFFQ69G5FAV").await.code(), "key_not_found");
    assert_eq!(admin.delete("/api/v1/api-keys/*").await.code(), "name_invalid");
}

#[tokio::test]
async fn guessing_is_slowed_down_per_address_and_good_keys_in_use_go_on() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[("refusals_per_minute", "20")]).await;
    let other = stack.gateway(&[("refusals_per_minute", "5")]).await;
    let admin = stack.admin(&gateway);
    assert_eq!(admin.get("/api/v1/agents").await.status, StatusCode::OK);
    // Fifty at once, each with another key of a prefix that exists: none may slip through because the others are not counted yet.
    let prefix = &stack.admin_key()[..15];
    let guesses = (0..50u8).map(|n| {
        let secret: String =
            std::iter::repeat_n(char::from(b'a' + n % 26), 16).chain(std::iter::repeat_n(char::from(b'b' + n / 26), 16)).collect();
        let caller = gateway.with_key(&format!("{prefix}{secret}"));
        // The header that proxies set is not believed.
        async move { send(caller.request(Method::GET, "/api/v1/agents").header("x-forwarded-for", format!("10.0.0.{n}"))).await }
    });
    let answers = join_all(guesses).await;
    let count = |code: &str| answers.iter().filter(|answer| answer.code() == code).count();
    assert_eq!(count("unauthenticated") + count("rate_limited"), 50);
    assert!((20..=23).contains(&count("unauthenticated")), "{}", count("unauthenticated"));
    let limited = answers.iter().find(|answer| answer.code() == "rate_limited").unwrap();
    assert!((1..=60).contains(&limited.header("retry-after").parse::<u32>().unwrap()));
    assert_eq!(admin.get("/api/v1/agents").await.status, StatusCode::OK, "a key that was checked before still works");
    let token = send(gateway.anybody().request(Method::POST, "/api/v1/agents/register").header("x-agent-token", "mst_join_x")).await;
    assert_eq!(token.code(), "rate_limited", "tokens are counted with keys");

    let good = join_all((0..30).map(async |n| {
        let agent = json!({"name": format!("agent-{n}"), "public_key": stack::user().public_key()});
        stack::join(&other, &stack.join_token(), &agent).await.data(201)["api_key"].as_str().unwrap().to_owned()
    }))
    .await;
    let backs = join_all(good.iter().map(async |key| {
        let agent = json!({"name": "x", "public_key": stack::user().public_key()});
        stack::come_back(&other, key, &agent).await.status
    }));
    assert!(backs.await.iter().all(|status| *status == StatusCode::OK), "many good tokens and keys at once are no guessing");
}
