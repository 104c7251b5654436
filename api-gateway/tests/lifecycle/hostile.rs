//! Names that would reach a permission, in every field and path that takes one.

use serde_json::json;

use crate::{
    stack::{POOL, body, join, send},
    world::{World, permissions},
};

const NAMES: &[&str] = &[
    "*", ">", "a.b", "a b", "", ".", "..", "$JS", "$SYS", "_INBOX", "\u{0}", "\r\n", "a\r\nb", "％", "A", "e\u{301}", "pool:A", "a/b",
    "%2e",
];

#[tokio::test]
async fn no_name_with_a_wildcard_gets_anywhere() {
    let world = World::start().await;
    let admin = world.admin();
    let token = world.token(json!({})).await;
    let (_, id) = world.agent("web-1").await;
    let long = "a".repeat(256);
    for name in NAMES.iter().copied().chain([&*"a".repeat(64), &*"a".repeat(255), &long]) {
        let refused = [
            admin.post("/api/v1/agents", &json!({"name": name, "pool": POOL})).await,
            admin.post("/api/v1/agents", &json!({"name": "web-2", "pool": name})).await,
            admin.post("/api/v1/join-tokens", &json!({"pool": name})).await,
            admin.patch(&format!("/api/v1/agents/{id}"), &json!({"pool": name})).await,
            admin.put(&format!("/api/v1/agents/{id}"), &json!({"capabilities": [name]})).await,
            join(&world.one, &token, &body(name)).await,
            join(&world.one, &token, &{
                let mut wrong = body("web-2");
                wrong["capabilities"] = json!([name]);
                wrong
            })
            .await,
        ];
        for (place, refused) in refused.iter().enumerate() {
            assert_eq!(refused.code(), "name_invalid", "{name:?} at {place}: {}", refused.text);
            assert!(!refused.body["detail"].as_str().unwrap().contains(char::is_control), "{name:?} at {place}");
        }
    }
    assert_eq!(world.view(&id).await["pool"], POOL);
}

#[tokio::test]
async fn no_id_with_a_wildcard_in_a_path_gets_anywhere() {
    let world = World::start().await;
    let admin = world.admin();
    for id in ["*", "%3E", "a.b", "a%20b", "%24JS", "%00", "%0d%0a", "agt_*", "agt_00000000000000000000000000.x", "%EF%BC%85", "agt_%2e%2e"]
    {
        for deed in ["/disable", "/enable", "/drain", "/revoke", "/rotate-key", ""] {
            let path = format!("/api/v1/agents/{id}{deed}");
            let answer = if deed.is_empty() { admin.delete(&path).await } else { send(admin.request(reqwest::Method::POST, &path)).await };
            assert_eq!(answer.code(), "name_invalid", "{path}");
        }
        assert_eq!(admin.patch(&format!("/api/v1/agents/{id}"), &json!({})).await.code(), "name_invalid", "{id}");
        assert_eq!(admin.delete(&format!("/api/v1/join-tokens/{id}")).await.code(), "name_invalid", "{id}");
    }
}

#[tokio::test]
async fn the_longest_names_give_a_permission_without_a_wildcard_before_its_end() {
    let world = World::start().await;
    let created = world.admin().post("/api/v1/agents", &json!({"name": "a".repeat(63), "pool": "other"})).await.data(201).clone();
    let joined = join(&world.one, created["join_token"].as_str().unwrap(), &body("x")).await.data(201).clone();
    let claims = permissions(joined["jwt"].as_str().unwrap());
    let id = created["id"].as_str().unwrap();
    let mut seen = 0;
    for list in ["/pub/allow", "/sub/allow"] {
        for subject in claims.pointer(list).unwrap().as_array().unwrap() {
            // Acks that come over a gateway of brokers say which cluster and account they are of.
            if subject.as_str().unwrap().starts_with("$JS.ACK._.") {
                continue;
            }
            let tokens: Vec<&str> = subject.as_str().unwrap().split('.').collect();
            let own = tokens.iter().position(|token| *token == "other" || *token == id);
            let wild = tokens.iter().position(|token| *token == "*" || *token == ">");
            seen += usize::from(own.is_some());
            assert!(own.is_none() || wild.is_none() || own < wild, "{subject}");
        }
    }
    assert!(seen > 3);
}
