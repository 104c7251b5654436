//! Disable, drain, enable; and who may do what.

use std::time::Duration;

use muster_schemas::names::AgentId;
use serde_json::json;

use crate::{
    stack::{POOL, body, come_back, eventually},
    world::{World, act, path},
};

#[tokio::test]
async fn an_agent_is_stopped_and_let_go_on_and_may_register_meanwhile() {
    let world = World::start().await;
    let (joined, id) = world.agent("web-1").await;
    let key = joined["api_key"].as_str().unwrap();
    for (deed, status, draining) in
        [("disable", "disabled", false), ("disable", "disabled", false), ("drain", "offline", true), ("enable", "offline", false)]
    {
        let data = world.act(&id, deed).await.data(200).clone();
        assert_eq!((data["status"].as_str(), data["draining"] == true), (Some(status), draining), "{deed}");
        assert!(data["join_token"].is_null());
    }
    world.act(&id, "disable").await.data(200);
    come_back(&world.two, key, &body("x")).await.data(200);
    assert_eq!(world.view(&id).await["status"], "disabled", "a restart of the agent does not undo it");
    let listed = eventually("the list has it", Duration::from_secs(5), async || {
        Some(world.stack.admin(&world.two).get("/api/v1/agents?status=disabled").await.data(200).clone())
            .filter(|list| list[0]["id"] == id.as_str())
    });
    listed.await;
    assert_eq!(world.settled(&id), 0, "its connection is left alone");
}

#[tokio::test]
async fn what_takes_no_jobs_anyway_cannot_be_stopped() {
    let world = World::start().await;
    let data = world.admin().post("/api/v1/agents", &json!({"name": "web-1", "pool": POOL})).await.data(201).clone();
    let pending: AgentId = data["id"].as_str().unwrap().parse().unwrap();
    for deed in ["disable", "drain", "rotate-key"] {
        let refused = world.act(&pending, deed).await;
        assert_eq!((refused.code(), refused.status.as_u16()), ("agent_busy", 409), "{deed}");
        assert!(refused.text.contains("has not registered yet"), "{}", refused.text);
    }
    world.act(&pending, "revoke").await.data(200);
    for deed in ["disable", "drain", "rotate-key"] {
        assert_eq!(world.act(&pending, deed).await.code(), "agent_busy", "{deed}");
    }
    let nobody = AgentId::generate();
    for deed in ["disable", "drain", "enable", "revoke", "rotate-key"] {
        assert_eq!(world.act(&nobody, deed).await.code(), "agent_not_found", "{deed}");
    }
}

#[tokio::test]
async fn operators_stop_agents_and_only_administrators_give_and_take_identities() {
    let world = World::start().await;
    let (_, id) = world.agent("web-1").await;
    let key = world.admin().new_key("operator").await;
    let operator = world.one.with_key(key["key"].as_str().unwrap());
    let key = world.admin().new_key("viewer").await;
    let viewer = world.one.with_key(key["key"].as_str().unwrap());
    for deed in ["disable", "enable", "drain", "enable"] {
        assert_eq!(act(&viewer, &id, deed).await.code(), "forbidden", "{deed}");
        act(&operator, &id, deed).await.data(200);
    }
    for deed in ["revoke", "rotate-key"] {
        assert_eq!(act(&operator, &id, deed).await.code(), "forbidden", "{deed}");
    }
    assert_eq!(operator.delete(&path(&id)).await.code(), "forbidden");
    assert_eq!(operator.patch(&path(&id), &json!({"tags": []})).await.code(), "forbidden");
    assert_eq!(operator.put(&path(&id), &json!({"tags": []})).await.code(), "forbidden");
    assert_eq!(operator.post("/api/v1/agents", &json!({"name": "web-2", "pool": POOL})).await.code(), "forbidden");
    // Enabling one that was revoked makes a secret.
    world.act(&id, "revoke").await.data(200);
    assert_eq!(act(&operator, &id, "enable").await.code(), "forbidden");
    assert_eq!(world.view(&id).await["status"], "revoked");
    assert!(world.act(&id, "enable").await.data(200)["join_token"].is_string());
}
