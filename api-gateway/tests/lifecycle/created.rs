//! Agents that are created before they are there.

use serde_json::{Value, json};

use crate::{
    stack::{POOL, body, come_back, join},
    world::{World, path},
};

const AGENTS: &str = "/api/v1/agents";

#[tokio::test]
async fn an_agent_that_was_created_waits_for_the_one_that_has_its_token() {
    let world = World::start().await;
    let admin = world.admin();
    let asked = json!({
        "name": "web-1", "pool": POOL, "description": "in the cellar", "tags": ["blue"], "labels": {"zone": "south"},
        "metadata": {"owner": "ops"}, "platform": "linux",
    });
    let created = admin.post(AGENTS, &asked).await;
    let data = created.data(201).clone();
    let id = data["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(created.header("location"), path(&id));
    assert_eq!((data["status"].as_str(), data["api_key"].is_null()), (Some("pending"), true));
    let token = data["join_token"].as_str().unwrap();
    assert!(token.starts_with("mst_join_") && !data["expires_at"].is_null());
    let listed = admin.get(&format!("{AGENTS}?status=pending")).await.data(200).clone();
    assert_eq!((listed.as_array().unwrap().len(), listed[0]["metadata"]["owner"].as_str()), (1, Some("ops")));
    assert!(!listed.to_string().contains(token) && listed[0]["join_token"].is_null(), "a secret is shown once");
    assert_eq!(admin.get(&format!("{AGENTS}?status=offline")).await.data(200), &json!([]));
    let tokens = admin.get("/api/v1/join-tokens").await.data(200).as_array().unwrap().clone();
    assert!(tokens.iter().any(|token| token["agent_id"] == data["id"] && token["token"].is_null()));

    // What it is called and where it belongs is in its record.
    let registered = join(&world.two, token, &body("another-name")).await;
    let registered = registered.data(201);
    assert_eq!((registered["agent_id"].as_str(), registered["name"].as_str()), (data["id"].as_str(), Some("web-1")));
    let view = world.view(&id).await;
    assert_eq!((view["status"].as_str(), view["labels"]["zone"].as_str()), (Some("offline"), Some("south")));
    assert_eq!((view["ephemeral"].is_null(), view["platform"].as_str()), (true, Some("linux")));
    let label = admin.get(&format!("{AGENTS}?label=zone%3Dsouth&tag=blue&capability=shell")).await;
    assert_eq!(label.data(200).as_array().unwrap().len(), 1);
    assert_eq!(join(&world.one, token, &body("web-1")).await.code(), "token_invalid", "its token works once");
    let key = registered["api_key"].as_str().unwrap();
    assert_eq!(come_back(&world.one, key, &body("x")).await.data(200)["agent_id"], data["id"]);
}

#[tokio::test]
async fn one_that_is_created_with_an_api_key_registers_with_it() {
    let world = World::start().await;
    let data = world.admin().post(AGENTS, &json!({"name": "web-1", "pool": POOL, "credential": "api_key"})).await.data(201).clone();
    assert!(data["join_token"].is_null() && data["expires_at"].is_null());
    let id = data["id"].as_str().unwrap().parse().unwrap();
    let key = data["api_key"].as_str().unwrap();
    assert!(key.starts_with("mst_agent_"));
    let first = come_back(&world.two, key, &body("x")).await;
    assert!(first.data(200)["api_key"].is_null());
    assert_eq!(world.view(&id).await["status"], "offline");
}

#[tokio::test]
async fn a_token_that_was_lost_is_replaced_and_no_longer_works() {
    let world = World::start().await;
    let data = world.admin().post(AGENTS, &json!({"name": "web-1", "pool": POOL})).await.data(201).clone();
    let id = data["id"].as_str().unwrap().parse().unwrap();
    let fresh = world.act(&id, "enable").await.data(200).clone();
    assert_eq!((fresh["status"].as_str(), fresh["note"].is_null()), (Some("pending"), true));
    assert_eq!(join(&world.two, data["join_token"].as_str().unwrap(), &body("x")).await.code(), "token_invalid");
    join(&world.two, fresh["join_token"].as_str().unwrap(), &body("x")).await.data(201);
    // A token for an agent that is in use takes nobody's place.
    let operator = world.act(&id, "disable").await;
    assert_eq!(operator.data(200)["status"], "disabled");
}

#[tokio::test]
async fn what_is_wrong_with_an_agent_to_create_is_refused_and_leaves_nothing() {
    let world = World::start().await;
    let admin = world.admin();
    let cases: Vec<(Value, &str)> = vec![
        (json!({"name": "web-1", "pool": "none"}), "pool_not_found"),
        (json!({"name": "web-1"}), "field_invalid"),
        (json!({"name": "web-1", "pool": POOL, "credential": "password"}), "field_invalid"),
        (json!({"name": "web-1", "pool": POOL, "colour": "red"}), "field_invalid"),
        (json!({"name": "web-1", "pool": POOL, "tags": [""]}), "field_invalid"),
        (json!({"name": "web-1", "pool": POOL, "description": "x".repeat(1001)}), "field_invalid"),
        (json!({"name": "web-1", "pool": POOL, "platform": "a\r\nb"}), "field_invalid"),
        (json!({"name": "web-1", "pool": POOL, "labels": {"": "x"}}), "labels_invalid"),
        (json!({"name": "web-1", "pool": POOL, "metadata": {"a": "x".repeat(256)}}), "labels_invalid"),
    ];
    for (asked, code) in cases {
        assert_eq!(admin.post(AGENTS, &asked).await.code(), code, "{asked}");
    }
    let web = json!({"name": "web-1", "pool": POOL});
    admin.post(AGENTS, &web).await.data(201);
    assert_eq!(world.stack.admin(&world.two).post(AGENTS, &web).await.code(), "name_taken");
    assert_eq!(join(&world.two, &world.stack.join_token(), &body("web-1")).await.code(), "name_taken");
    assert_eq!(admin.get(AGENTS).await.data(200).as_array().unwrap().len(), 1);
}
