//! What an attacker would do to the trail: hide in a flood, put a secret where an id belongs, be refused before anybody looks, come back
//! with a key that was taken away.

use super::*;

/// As if from another address: the gateway of these tests trusts a proxy on its own machine.
const PROXIED: (&str, &str) = ("trusted_proxies", "127.0.0.1");

async fn send_from(address: &str, request: reqwest::RequestBuilder) -> stack::Answer {
    send(request.header("x-forwarded-for", address)).await
}

#[tokio::test]
async fn a_flood_by_nobody_does_not_hide_what_a_key_was_refused_nor_tell_a_read_as_refused() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[PROXIED]).await;
    let admin = stack.admin(&gateway);
    let operator = admin.new_key("operator").await;
    let caller = gateway.with_key(operator["key"].as_str().unwrap());
    let document = gateway.anybody().get("/openapi.json").await;
    for (path, operations) in document.body["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            for address in ["10.0.0.1", "10.0.0.2"] {
                let request = gateway.anybody().request(method.to_uppercase().parse().unwrap(), path);
                send_from(address, request).await;
            }
        }
    }
    assert!(stored(&stack).await.iter().any(|entry| entry.action == "requests.refused"), "the flood is more than is followed");
    let agents = ["A", "B", "C"].map(|last| format!("agt_01ARZ3NDEKTSV4RRFFQ69G5FA{last}"));
    for agent in &agents {
        assert_eq!(caller.delete(&format!("/api/v1/agents/{agent}")).await.code(), "forbidden");
    }
    let tried = trail(&admin, "action=agents.delete&actor=key").await;
    let targets: Vec<&str> = tried.iter().rev().map(|entry| entry["target"].as_str().unwrap()).collect();
    assert_eq!(targets, agents, "{tried:?}");
    assert!(tried.iter().all(|entry| who(entry).1 == operator["id"].as_str() && entry["address"] == "127.0.0.1"), "{tried:?}");
    let read = trail(&admin, "action=audit.read&outcome=done").await;
    assert_eq!(read.len(), 1, "{read:?}");
    gateway.stop().await;
    let told = stored(&stack).await.into_iter().filter(|entry| entry.action == "requests.refused");
    let told: Vec<AuditEntry> = told.filter(|entry| entry.outcome == muster_schemas::audit::AuditOutcome::Done).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test]
async fn no_secret_in_a_path_or_an_id_is_kept_of_whoever_is_turned_away() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let operator = gateway.with_key(admin.new_key("operator").await["key"].as_str().unwrap());
    let seed = user().seed().unwrap();
    let token = admin.post("/api/v1/join-tokens", &json!({"pool": POOL})).await.data(201)["token"].as_str().unwrap().to_owned();
    let secret = token.rsplit('_').next().unwrap();
    let encoded = token.replacen('m', "%256d", 1);
    for caller in [&operator, &gateway.anybody()] {
        for place in [&seed, secret, &encoded, &token] {
            for path in ["signers", "join-tokens", "pools", "agents", "api-keys", "schedules", "dead-letters"] {
                let request = caller.request(Method::DELETE, &format!("/api/v1/{path}/{place}")).header("x-request-id", &seed);
                assert!(send(request).await.status.is_client_error(), "{path}/{place}");
            }
        }
    }
    let key = user().public_key();
    operator.delete(&format!("/api/v1/signers/{key}")).await;
    gateway.stop().await;
    let entries = stored(&stack).await;
    assert!(
        entries.iter().any(|entry| entry.action == "signers.remove" && entry.target.as_ref() == Some(&key)),
        "what is a public key stays"
    );
    let all = serde_json::to_string(&entries).unwrap().to_lowercase();
    for part in [&seed[2..12], &seed[40..], &secret[..8], &secret[24..], "%6d", "%256d"] {
        assert!(!all.contains(&part.to_lowercase()), "{part} is in the trail");
    }
}

#[tokio::test]
async fn what_the_door_refuses_is_in_the_trail_by_nobody_and_folded() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[PROXIED, ("requests_per_second_per_address", "5")]).await;
    let admin = stack.admin(&gateway);
    let mut limited = 0;
    for _ in 0..40 {
        let answer = send_from("10.0.0.1", admin.request(Method::DELETE, "/api/v1/pools/nowhere")).await;
        limited += u64::from(answer.status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(limited > 1, "{limited}");
    let long = "a".repeat(9 * 1024);
    for (address, path) in [("10.0.0.2", format!("/api/v1/jobs?pool={long}")), ("10.0.0.3", format!("/{long}"))] {
        assert_eq!(send_from(address, gateway.anybody().request(Method::GET, &path)).await.status.as_u16(), 431);
    }
    gateway.stop().await;
    let entries = stored(&stack).await;
    let of = |action: &str, address: &str, code: &str| -> Vec<&AuditEntry> {
        let alike = entries.iter().filter(|entry| entry.action == action && entry.address.as_deref() == Some(address));
        alike.filter(|entry| entry.code.is_some_and(|found| found.as_str() == code)).collect()
    };
    let by_rate = of("pools.delete", "10.0.0.1", "rate_limited");
    assert_eq!(by_rate.iter().map(|entry| entry.count).collect::<Vec<_>>(), [None, Some(limited - 1)], "{by_rate:?}");
    assert!(by_rate.iter().all(|entry| entry.actor == muster_schemas::audit::Actor::nobody()), "{by_rate:?}");
    assert_eq!(of("jobs.read", "10.0.0.2", "head_too_large").len(), 1, "{entries:?}");
    assert_eq!(of("requests.refuse", "10.0.0.3", "head_too_large").len(), 1, "{entries:?}");
}

#[tokio::test]
async fn who_comes_with_a_key_or_token_that_was_theirs_is_named() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let revoked = admin.new_key("operator").await;
    let with_revoked = gateway.with_key(revoked["key"].as_str().unwrap());
    with_revoked.get("/api/v1/pools").await.data(200);
    admin.delete(&format!("/api/v1/api-keys/{}", revoked["id"].as_str().unwrap())).await;
    eventually("the revocation is heard of", SOON, async || (with_revoked.get("/api/v1/pools").await.status == 401).then_some(())).await;
    let soon = (Timestamp::now() + Duration::from_millis(1500)).to_string();
    let expired = admin.post("/api/v1/api-keys", &json!({"name": "short", "role": "viewer", "expires_at": soon})).await.data(201).clone();
    let with_expired = gateway.with_key(expired["key"].as_str().unwrap());
    eventually("the key expires", SOON, async || (with_expired.get("/api/v1/pools").await.status == 401).then_some(())).await;
    // Once as it was looked up, and once as it is remembered.
    for _ in 0..2 {
        for caller in [&with_revoked, &with_expired] {
            assert_eq!(caller.delete("/api/v1/pools/default").await.code(), "unauthenticated");
        }
    }
    for key in [&revoked, &expired] {
        let id = key["id"].as_str().unwrap();
        let found = trail(&admin, "action=pools.delete&outcome=refused").await;
        let of_key = found.iter().find(|entry| who(entry).1 == Some(id)).unwrap_or_else(|| panic!("{id} in {found:?}"));
        assert_eq!((who(of_key).0, who(of_key).2, &of_key["code"]), ("key", key["name"].as_str(), &json!("unauthenticated")));
    }
    let token = admin.post("/api/v1/join-tokens", &json!({"pool": POOL, "uses": 1})).await.data(201).clone();
    let whole = token["token"].as_str().unwrap();
    join(&gateway, whole, &body("web-1")).await.data(201);
    assert_eq!(join(&gateway, whole, &body("web-2")).await.code(), "token_invalid");
    let entry = newest(&admin, "agents.register").await;
    assert_eq!((who(&entry).0, who(&entry).1, &entry["outcome"]), ("join_token", token["prefix"].as_str(), &json!("refused")), "{entry}");
    // With a wrong secret it may be anybody.
    let prefix = revoked["key"].as_str().unwrap().rsplit_once('_').unwrap().0;
    gateway.with_key(&format!("{prefix}_{}", "a".repeat(32))).delete("/api/v1/pools/default").await;
    let entry = newest(&admin, "pools.delete").await;
    assert_eq!(who(&entry), ("nobody", None, None), "{entry}");
}
