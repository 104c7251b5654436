//! Revoked, given another key, removed: what had been handed out is worth nothing at once, at every gateway.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::StreamExt as _;
use muster_schemas::{
    control::{IdentityEnd, Order, What},
    names::AgentId,
    records::{AgentState, PAST_KEYS_MAX, Revoked, keys},
    subjects,
    time::Timestamp,
    topology, wire,
};
use serde_json::{Value, json};

use crate::{
    stack::{body, come_back, eventually, join, user},
    world::{World, path},
};

/// An agent's body with this public key.
fn with_key(public_key: &Value) -> Value {
    let mut body = body("x");
    body["public_key"] = public_key.clone();
    body
}

#[tokio::test]
async fn a_revoked_agent_is_told_and_refused_everywhere_and_comes_back_only_with_a_fresh_token() {
    let world = World::start().await;
    let user = user();
    let first = with_key(&json!(user.public_key()));
    let (joined, id) = world.agent_with(&first).await;
    let key = joined["api_key"].as_str().unwrap();
    let mut orders = world.stack.connect(&joined, user).await.subscribe(subjects::control(&id)).await.unwrap();
    let second = body("x");
    come_back(&world.two, key, &second).await.data(200);
    assert_eq!(world.view(&id).await["public_key"], second["public_key"], "a signature can be traced to its agent");

    let revoked = world.admin().post(&format!("{}/revoke", path(&id)), &json!({"reason": "the laptop was lost"})).await.data(200).clone();
    assert_eq!((revoked["status"].as_str(), revoked["revoked"]["reason"].as_str()), (Some("revoked"), Some("the laptop was lost")));
    assert!(revoked["revoked"]["by"].is_string() && revoked["revoked"]["at"].is_string());
    let order = tokio::time::timeout(Duration::from_secs(5), orders.next()).await.unwrap().unwrap();
    let Order { what, .. } = wire::decode(&order.payload).unwrap();
    assert_eq!(what, What::IdentityEnded { why: IdentityEnd::Revoked, reason: Some("the laptop was lost".into()) });
    assert_eq!(world.settled(&id), 1);
    for body in [&first, &second] {
        assert!(world.is_refused(body["public_key"].as_str().unwrap()).await, "the key before last counts as well");
    }
    for gateway in [&world.one, &world.two] {
        let code = eventually("its key is forgotten", Duration::from_secs(5), async || {
            Some(come_back(gateway, key, &body("x")).await.code().to_owned()).filter(|code| code != "agent_revoked")
        });
        assert_eq!(code.await, "unauthenticated");
    }
    // Again changes nothing: neither the words nor the state.
    let again = world.admin().post(&format!("{}/revoke", path(&id)), &json!({"reason": "other words"})).await;
    assert_eq!(again.data(200)["revoked"], revoked["revoked"]);
    assert_eq!(world.settled(&id), 2);

    let enabled = world.act(&id, "enable").await.data(200).clone();
    assert_eq!((enabled["status"].as_str(), enabled["revoked"].is_null()), (Some("pending"), true));
    assert!(enabled["note"].as_str().unwrap().contains("state directory"));
    let token = enabled["join_token"].as_str().unwrap();
    for old in [&first, &second] {
        assert_eq!(join(&world.one, token, old).await.code(), "key_revoked", "no public key comes back");
    }
    let fresh = join(&world.two, token, &body("x")).await.data(201).clone();
    assert_eq!(fresh["agent_id"], id.as_str());
    assert_eq!(come_back(&world.one, key, &body("x")).await.code(), "unauthenticated", "nor the old API key");
    come_back(&world.one, fresh["api_key"].as_str().unwrap(), &body("x")).await.data(200);
}

#[tokio::test]
async fn a_revocation_that_a_gateway_died_in_is_completed_by_the_next_request() {
    let world = World::start().await;
    let first = body("web-1");
    let (joined, id) = world.agent_with(&first).await;
    let key = joined["api_key"].as_str().unwrap();
    // As after its first step.
    world
        .stack
        .rewrite(&id, |record| {
            record.state = AgentState::Revoked;
            record.revoked = Some(Revoked { at: Timestamp::now(), by: "ops".into(), reason: None });
            record.replace_key(None, Timestamp::now());
            record.key_prefix = None;
        })
        .await;
    assert_eq!(come_back(&world.two, key, &body("x")).await.code(), "agent_revoked", "that step counts already");
    assert!(!world.is_refused(first["public_key"].as_str().unwrap()).await);
    let done = world.act(&id, "revoke").await;
    assert_eq!(done.data(200)["revoked"]["by"], "ops");
    assert!(world.is_refused(first["public_key"].as_str().unwrap()).await);
    assert_eq!(world.settled(&id), 1);
    assert_eq!(come_back(&world.one, key, &body("x")).await.code(), "unauthenticated", "its API key is revoked too");
}

#[tokio::test]
async fn without_a_dispatcher_it_is_stored_and_said_that_the_connection_is_not_cut_yet() {
    let world = World::without_dispatcher().await;
    let (joined, id) = world.agent("web-1").await;
    let pending = world.act(&id, "revoke").await;
    assert_eq!((pending.code(), pending.status.as_u16()), ("settle_pending", 503));
    assert!(!pending.header("retry-after").is_empty());
    assert_eq!(world.view(&id).await["status"], "revoked");
    assert_eq!(come_back(&world.one, joined["api_key"].as_str().unwrap(), &body("x")).await.code(), "unauthenticated");
    // One that becomes active meanwhile is waited for.
    let (_, later) = world.agent("web-2").await;
    let (revoked, ()) = tokio::join!(world.act(&later, "revoke"), async {
        eventually("the request has begun", Duration::from_secs(5), async || {
            (world.view(&later).await["status"] == "revoked").then_some(())
        })
        .await;
        world.dispatch().await;
    });
    revoked.data(200);
}

#[tokio::test]
async fn a_question_that_dies_with_a_dispatcher_is_put_again() {
    let world = World::start().await;
    let (_, id) = world.agent("web-1").await;
    world.unheard.store(1, Ordering::Relaxed);
    assert_eq!(world.admin().delete(&path(&id)).await.status, 204);
    assert!(world.stack.record(&id).await.is_none());
    assert_eq!(world.unheard.load(Ordering::Relaxed), 0, "the first one was lost");
    // One that does it, and dies before it says so.
    let (_, id) = world.agent("web-2").await;
    world.unheard.store(usize::MAX, Ordering::Relaxed);
    let admin = world.admin();
    let path = path(&id);
    let (deleted, ()) = tokio::join!(admin.delete(&path), async {
        eventually("it is being removed", Duration::from_secs(5), async || {
            world.stack.record(&id).await.filter(|record| record.state == AgentState::Deleting)
        })
        .await;
        world.stack.bucket(topology::AGENTS).await.delete(keys::agent(&id)).await.unwrap();
    });
    assert_eq!(deleted.status, 204);
}

#[tokio::test]
async fn a_delete_that_is_not_carried_out_yet_says_what_a_404_will_mean() {
    let world = World::without_dispatcher().await;
    let (_, id) = world.agent("web-1").await;
    let pending = world.admin().delete(&path(&id)).await;
    assert_eq!(pending.code(), "settle_pending");
    assert!(pending.text.contains("(404) then means that it is done"), "{}", pending.text);
}

#[tokio::test]
async fn a_new_key_ends_the_old_one_and_the_present_credential() {
    let world = World::start().await;
    let first = body("web-1");
    let (joined, id) = world.agent_with(&first).await;
    let old = joined["api_key"].as_str().unwrap();
    world.act(&id, "disable").await.data(200);
    let rotated = world.act(&id, "rotate-key").await.data(200).clone();
    let new = rotated["api_key"].as_str().unwrap();
    assert!(new != old && rotated["note"].as_str().unwrap().contains("AGENT_API_KEY"));
    assert!(rotated["key_rotated_at"].is_string() && rotated["status"] == "disabled", "an operator's word stays");
    assert!(world.is_refused(first["public_key"].as_str().unwrap()).await);
    for gateway in [&world.one, &world.two] {
        assert_eq!(come_back(gateway, old, &body("x")).await.code(), "unauthenticated");
    }
    assert_eq!(come_back(&world.two, new, &first).await.code(), "key_revoked", "a copy of the machine's files is worthless");
    come_back(&world.two, new, &body("x")).await.data(200);
    let again = world.act(&id, "rotate-key").await.data(200).clone();
    assert_eq!(come_back(&world.one, new, &body("x")).await.code(), "unauthenticated");
    come_back(&world.one, again["api_key"].as_str().unwrap(), &body("x")).await.data(200);
}

#[tokio::test]
async fn of_two_that_replace_a_key_at_once_one_key_works() {
    let world = World::start().await;
    let (_, id) = world.agent("web-1").await;
    let other = world.stack.admin(&world.two);
    let (one, two) = tokio::join!(world.act(&id, "rotate-key"), crate::world::act(&other, &id, "rotate-key"));
    let mut works = 0;
    for rotated in [one, two] {
        let key = rotated.data(200)["api_key"].as_str().unwrap().to_owned();
        works += usize::from(come_back(&world.one, &key, &body("x")).await.status == 200);
    }
    assert_eq!(works, 1);
}

#[tokio::test]
async fn whoever_registers_with_one_new_key_after_the_other_keeps_none_of_them() {
    let world = World::start().await;
    let mut bodies = vec![body("web-1")];
    let (joined, id) = world.agent_with(&bodies[0]).await;
    for _ in 0..PAST_KEYS_MAX + 4 {
        let next = body("x");
        come_back(&world.one, joined["api_key"].as_str().unwrap(), &next).await.data(200);
        bodies.push(next);
    }
    world.act(&id, "revoke").await.data(200);
    for (place, body) in bodies.iter().enumerate() {
        assert!(world.is_refused(body["public_key"].as_str().unwrap()).await, "the key of registration {place}");
    }
}

#[tokio::test]
async fn a_removed_agent_is_gone_and_the_next_of_its_name_inherits_nothing() {
    let world = World::start().await;
    let (first, admin) = (body("web-1"), world.admin());
    let (joined, id) = world.agent_with(&first).await;
    let old = joined["api_key"].as_str().unwrap();
    admin.patch(&path(&id), &json!({"labels": {"secret": "yes"}, "description": "the first", "capabilities": ["shell"]})).await.data(200);
    assert_eq!(admin.delete(&path(&id)).await.status, 204);
    assert_eq!(admin.get(&path(&id)).await.code(), "agent_not_found");
    assert_eq!(admin.delete(&path(&id)).await.code(), "agent_not_found");
    assert_eq!(admin.get("/api/v1/agents").await.data(200), &json!([]));
    assert_eq!(come_back(&world.two, old, &body("x")).await.code(), "unauthenticated");

    assert_eq!(join(&world.two, &world.stack.join_token(), &first).await.code(), "key_revoked", "its public key is spent");
    let (next, fresh) = world.agent("web-1").await;
    assert_ne!(fresh, id);
    assert_ne!(next["api_key"], joined["api_key"]);
    let view = world.view(&fresh).await;
    assert!(view["description"].is_null() && view["standing"].is_null() && view["labels"]["secret"].is_null(), "{view}");
    assert_eq!(view["capabilities"], json!(["probe", "shell"]));
    assert_eq!(come_back(&world.one, old, &body("x")).await.code(), "unauthenticated");
}

#[tokio::test]
async fn one_that_is_being_removed_is_gone_for_everybody_and_a_repeated_removal_completes_it() {
    let world = World::start().await;
    let first = body("web-1");
    let (joined, id) = world.agent_with(&first).await;
    // As after the first step of a removal that a gateway died in.
    world
        .stack
        .rewrite(&id, |record| {
            record.state = AgentState::Deleting;
            record.replace_key(None, Timestamp::now());
        })
        .await;
    let admin = world.admin();
    eventually("the lists are without it", Duration::from_secs(5), async || {
        (admin.get("/api/v1/agents").await.data(200) == &json!([])).then_some(())
    })
    .await;
    for path in [path(&id), format!("{}/health", path(&id)), format!("{}/commands", path(&id))] {
        assert_eq!(admin.get(&path).await.code(), "agent_not_found", "{path}");
    }
    for deed in ["disable", "drain", "enable", "revoke", "rotate-key", "ping"] {
        assert_eq!(world.act(&id, deed).await.code(), "agent_not_found", "{deed}");
    }
    assert_eq!(admin.patch(&path(&id), &json!({"tags": ["a"]})).await.code(), "agent_not_found");
    let command = json!({"type": "shell", "params": {"command": "true"}});
    assert_eq!(admin.post(&format!("{}/commands", path(&id)), &command).await.code(), "agent_not_found");
    assert_eq!(come_back(&world.two, joined["api_key"].as_str().unwrap(), &body("x")).await.code(), "agent_not_found");
    assert_eq!(join(&world.two, &world.stack.join_token(), &body("web-1")).await.code(), "name_taken", "until it is gone");
    assert_eq!(admin.delete(&path(&id)).await.status, 204);
    assert!(world.is_refused(first["public_key"].as_str().unwrap()).await);
    assert!(world.stack.record(&id).await.is_none());
    let _: (Value, AgentId) = world.agent("web-1").await;
}
