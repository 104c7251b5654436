//! Why a command waits: every reason.

use std::time::Duration;

use muster_broker_config::provision;
use muster_schemas::{
    event::EventKind,
    heartbeat::{Heartbeat, Slots},
    records::{AgentState, keys},
    standing::Status,
    subjects,
    time::Timestamp,
    topology, wire,
};
use serde_json::{Value, json};

use super::{enlist, enlisted, send, sent, with};
use crate::{
    agent::Agent,
    why::{sentence, standing, told, why},
    world::{World, eventually},
};

async fn beat(agent: &Agent, running: u32) {
    let beat = Heartbeat { slots: Slots { total: 5, running, held: 0 }, ..Heartbeat::first("one".parse().unwrap(), "i", Timestamp::now()) };
    agent.client.request(subjects::heartbeat(&agent.pool, &agent.id), wire::encode(&beat).into()).await.unwrap();
}

/// Waits until the explanation has this reason and says this.
async fn says(world: &World, id: &str, reason: &str, what: &str) -> Value {
    eventually(what, async || {
        let why = why(world, id, reason).await;
        sentence(&why).contains(what).then_some(why)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_says_what_keeps_its_agent_from_it() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    world.enlist(&agent, "one", |record| record.state = AgentState::Pending).await;
    let id = sent(&world, &agent, &json!({"type": "shell.run"})).await;
    let pending = why(&world, &id, "agent_pending").await;
    assert!(
        sentence(&pending)
            .starts_with("Its agent `one` has never registered: it gets the command once it does. Unless it begins before, it expires at ")
    );
    let target = &pending["facts"]["target"];
    assert_eq!((&target["id"], &target["name"], &target["state"]), (&json!(agent.id), &json!("one"), &json!("pending")));
    assert_eq!((&pending["facts"]["executor"], &pending["state"]), (&json!("shell"), &json!("pending")));
    assert!(pending["facts"]["expires_at"].is_string() && pending["facts"]["agents"].is_null());
    enlist(&world, &agent, "one", AgentState::Active).await;
    says(&world, &id, "agent_offline", "Its agent `one` has not been heard of yet").await;
    beat(&agent, 0).await;
    standing(&world, &agent, Status::Offline, Some("said goodbye")).await;
    let offline = says(&world, &id, "agent_offline", "is offline (said goodbye); its last heartbeat came at ").await;
    let at = offline["facts"]["target"]["heartbeat_at"].as_str().unwrap();
    assert!(sentence(&offline).contains(&format!("{at}. It gets the command when it is back.")), "{offline}");
    enlist(&world, &agent, "one", AgentState::Disabled).await;
    says(&world, &id, "agent_disabled", "Its agent `one` is disabled").await;
    enlist(&world, &agent, "one", AgentState::Draining).await;
    says(&world, &id, "agent_draining", "Its agent `one` is draining: it finishes what it has").await;
    enlist(&world, &agent, "one", AgentState::Active).await;
    standing(&world, &agent, Status::Online, Some("its disk is full")).await;
    says(&world, &id, "agent_refuses", "is there, and takes nothing at present (its disk is full).").await;
    enlist(&world, &agent, "one", AgentState::Revoked).await;
    says(&world, &id, "agent_revoked", "Its agent `one` is revoked").await;
    let agents = async_nats::jetstream::new(world.core().await).get_key_value(topology::AGENTS).await.unwrap();
    agents.delete(keys::agent(&agent.id)).await.unwrap();
    says(&world, &id, "agent_gone", &format!("Its agent {} is not registered any more.", agent.id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_behind_others_says_how_many_and_how_busy_its_agent_is() {
    let world = World::start().await;
    let agent = enlisted(&world, "one").await;
    standing(&world, &agent, Status::Online, None).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(sent(&world, &agent, &json!({"type": "shell.run"})).await);
    }
    // Jobs of the pool, paused or not, are not ahead of a command.
    world.rest().submit(json!({"priority": "high"})).await.data(202);
    world.rest().send(reqwest::Method::POST, "/pools/default/pause", &[], Some(&json!({}))).await.data(200);
    says(&world, &ids[3], "busy", "does not ask for commands at this moment, and 3 commands are ahead of it.").await;
    beat(&agent, 5).await;
    says(&world, &ids[1], "busy", "Its agent `one` is busy with 5 jobs, and 1 command is ahead of it.").await;
    // Its consumer is being made, or made again.
    provision::remove_commands(&world.core().await, &agent.id).await.unwrap();
    says(&world, &ids[3], "busy", "and 3 commands are ahead of it.").await;
    provision::ensure_commands(&world.core().await, &agent.pool, &agent.id).await.unwrap();
    let busy = says(&world, &ids[0], "busy", "Its agent `one` is busy with 5 jobs, and nothing is ahead of it.").await;
    assert_eq!((&busy["facts"]["target"]["slots"]["total"], &busy["facts"]["paused"]), (&json!(5), &Value::Null));
    beat(&agent, 2).await;
    says(&world, &ids[0], "busy", "(2 of its 5 slots ran jobs at its last heartbeat)").await;
    // With all of them out, it asks for more and gets the next.
    for _ in 0..4 {
        agent.command(crate::world::SOON).await.unwrap();
    }
    let (asks, next) =
        tokio::join!(agent.command(Duration::from_secs(5)), says(&world, &ids[3], "next", "Nothing is in its way: agent `one` is about"));
    assert!(asks.is_none() && !sentence(&next).contains("expires"), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_put_off_runs_or_is_too_late_says_so() {
    let world = World::start().await;
    let agent = enlisted(&world, "one").await;
    standing(&world, &agent, Status::Online, None).await;
    let later = Timestamp::now() + Duration::from_secs(3600);
    let scheduled = sent(&world, &agent, &with("not_before", json!(later))).await;
    says(&world, &scheduled, "not_before", &format!("it starts at {later} at the earliest. Unless it begins before, it expires at ")).await;
    let id = sent(&world, &agent, &with("params", json!({"command": "x"}))).await;
    told(&agent, &id, EventKind::Retrying, Some(later)).await;
    says(&world, &id, "backoff", "Attempt 2 failed (exit status 3); the next one comes after its backoff, at ").await;
    told(&agent, &id, EventKind::Released, Some(later)).await;
    says(&world, &id, "released", "Agent `one` gave it back (exit status 3);").await;
    told(&agent, &id, EventKind::Started, None).await;
    says(&world, &id, "running", "It does not wait: agent `one` runs attempt 2 of it since ").await;
    standing(&world, &agent, Status::Offline, None).await;
    let gone = says(&world, &id, "agent_offline", "Agent `one` began attempt 2 of it at ").await;
    assert!(sentence(&gone).contains("is not heard of any more. Its agent `one` is offline"), "{gone}");
    assert!(sentence(&gone).ends_with(" It gets the command when it is back."), "{gone}");
    let soon = Timestamp::now() + Duration::from_millis(1500);
    let brief = send(world.rest(), &agent.id, &with("expires_at", json!(soon))).await.data(202)["command_id"].clone();
    says(&world, brief.as_str().unwrap(), "agent_offline", &format!("it expires at {soon}.")).await;
    says(&world, brief.as_str().unwrap(), "overdue", &format!("It was to begin before {soon} and did not: it ends as expired.")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_body_does_not_say_when_it_expires_is_told_when_it_does() {
    let world = World::start().await;
    let agent = enlisted(&world, "one").await;
    let id = "bare".parse().unwrap();
    let subject = subjects::command(&agent.pool, &agent.id, &id);
    // As those of a group are.
    world.core().await.request(subject, r#"{"type":"shell.run"}"#.into()).await.unwrap();
    let why = why(&world, "bare", "agent_offline").await;
    let expires_at: Timestamp = why["facts"]["expires_at"].as_str().unwrap().parse().unwrap();
    let left = expires_at.since(Timestamp::now());
    assert!(left <= topology::COMMAND_EXPIRES && left > topology::COMMAND_EXPIRES - Duration::from_secs(60), "{why}");
}
