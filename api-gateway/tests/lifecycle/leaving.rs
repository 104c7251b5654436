//! Ephemeral agents leave for good.

use std::time::Duration;

use muster_schemas::{
    control::{LeaveAnswer, LeaveRequest},
    names::AgentId,
    records::AgentState,
    subjects, wire,
};
use serde_json::json;

use crate::{
    stack::{body, come_back, eventually, user},
    world::World,
};

async fn leave(client: &async_nats::Client, id: &AgentId) -> Option<LeaveAnswer> {
    let asked = client.request(subjects::leave(id), wire::encode(&LeaveRequest::default()).into());
    let answer = tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?.ok()?;
    Some(wire::decode(&answer.payload).unwrap())
}

#[tokio::test]
async fn an_ephemeral_agent_that_leaves_is_being_removed_and_what_it_had_is_void() {
    let world = World::start().await;
    let user = user();
    let mut asked = body("web-1");
    (asked["public_key"], asked["ephemeral"]) = (json!(user.public_key()), json!(true));
    let (joined, id) = world.agent_with(&asked).await;
    let client = world.stack.connect(&joined, user).await;
    assert_eq!(leave(&client, &id).await.unwrap().error, None);
    assert_eq!(world.stack.record(&id).await.unwrap().state, AgentState::Deleting, "the dispatcher removes it");
    assert_eq!(come_back(&world.one, joined["api_key"].as_str().unwrap(), &body("x")).await.code(), "unauthenticated");
    eventually("its public key is refused", Duration::from_secs(5), async || {
        world.is_refused(asked["public_key"].as_str().unwrap()).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn only_an_ephemeral_agent_may_leave_and_only_for_itself() {
    let world = World::start().await;
    let user = user();
    let mut asked = body("stays");
    asked["public_key"] = json!(user.public_key());
    let (joined, id) = world.agent_with(&asked).await;
    let client = world.stack.connect(&joined, user).await;
    let refused = leave(&client, &id).await.unwrap().error.unwrap();
    assert_eq!(refused.code.as_str(), "forbidden");
    let mut asked = body("goes");
    asked["ephemeral"] = json!(true);
    let (_, other) = world.agent_with(&asked).await;
    // The broker lets nobody say it for another one.
    let said = client.request(subjects::leave(&other), wire::encode(&LeaveRequest::default()).into());
    assert!(tokio::time::timeout(Duration::from_millis(500), said).await.is_err());
    assert_eq!(world.stack.record(&other).await.unwrap().state, AgentState::Active);
    // Bytes that are none are answered.
    let answer = client.request(subjects::leave(&id), vec![0xc1].into()).await.unwrap();
    assert!(wire::decode::<LeaveAnswer>(&answer.payload).unwrap().error.is_some());
    assert_eq!(world.view(&id).await["status"], "offline");
}
