//! Tokens that are for some agents only, public keys that are spent, and clocks.

use std::time::Duration;

use muster_schemas::time::Timestamp;
use reqwest::Method;
use serde_json::json;

use crate::{
    stack::{POOL, REGISTER, body, come_back, join, proven, send, user},
    world::World,
};

#[tokio::test]
async fn a_token_with_a_pattern_is_for_agents_of_such_names() {
    let world = World::start().await;
    let token = world.token(json!({"name_pattern": "web-*", "uses": 2})).await;
    for name in ["db-1", "my-web-1", "web"] {
        let refused = join(&world.one, &token, &body(name)).await;
        assert_eq!(refused.code(), "name_invalid", "{name}");
        assert!(refused.text.contains("web-*"), "{}", refused.text);
    }
    join(&world.two, &token, &body("web-1")).await.data(201);
    let list = world.admin().get("/api/v1/join-tokens").await.data(200).clone();
    let shown = list.as_array().unwrap().iter().find(|token| token["name_pattern"] == "web-*").unwrap().clone();
    assert_eq!(shown["uses_left"], 1, "what is refused uses nothing up");
    for pattern in ["", ">", "a.*", "*\r\n", "A*", &"*".repeat(64)] {
        let refused = world.admin().post("/api/v1/join-tokens", &json!({"pool": POOL, "name_pattern": pattern})).await;
        assert_eq!(refused.code(), "name_invalid", "{pattern:?}");
    }
}

#[tokio::test]
async fn agents_are_ephemeral_if_they_or_their_token_say_so_and_never_those_that_were_created() {
    let world = World::start().await;
    let mut asked = body("own-word");
    asked["ephemeral"] = json!(true);
    let (joined, own) = world.agent_with(&asked).await;
    assert_eq!(world.view(&own).await["ephemeral"], true);
    come_back(&world.two, joined["api_key"].as_str().unwrap(), &body("x")).await.data(200);
    assert_eq!(world.view(&own).await["ephemeral"], true, "it stays so");
    let token = world.token(json!({"ephemeral": true})).await;
    let joined = join(&world.one, &token, &body("by-token")).await.data(201).clone();
    assert_eq!(world.view(&joined["agent_id"].as_str().unwrap().parse().unwrap()).await["ephemeral"], true);
    let created = world.admin().post("/api/v1/agents", &json!({"name": "created", "pool": POOL})).await.data(201).clone();
    let mut asked = body("created");
    asked["ephemeral"] = json!(true);
    join(&world.one, created["join_token"].as_str().unwrap(), &asked).await.data(201);
    assert!(world.view(&created["id"].as_str().unwrap().parse().unwrap()).await["ephemeral"].is_null());
}

#[tokio::test]
async fn a_registration_that_is_replayed_makes_no_second_agent() {
    let world = World::start().await;
    let token = world.token(json!({"uses": 5})).await;
    let sent = proven(&body("web-1"), &token, Timestamp::now());
    join(&world.one, &token, &sent).await.data(201);
    assert_eq!(join(&world.two, &token, &sent).await.code(), "key_revoked", "its public key is another agent's");
    let mut renamed = sent.clone();
    renamed["name"] = json!("web-2");
    assert_eq!(join(&world.two, &token, &renamed).await.code(), "key_revoked");
    assert_eq!(world.admin().get("/api/v1/agents").await.data(200).as_array().unwrap().len(), 1);
    // With another token its proof does not hold in the first place.
    let other = world.token(json!({})).await;
    let refused = join(&world.two, &other, &sent).await;
    assert!(refused.code() == "key_revoked" && refused.text.contains("proof"), "{}", refused.text);
}

#[tokio::test]
async fn a_key_has_to_be_proven_to_be_the_callers_own() {
    let world = World::start().await;
    let token = world.token(json!({})).await;
    let mut stolen = body("web-1");
    stolen["public_key"] = json!(nkeys::KeyPair::new_user().public_key());
    assert_eq!(join(&world.one, &token, &stolen).await.code(), "key_revoked", "without a proof");
    let mine = proven(&body("web-1"), &token, Timestamp::now());
    for proof in [json!(""), json!("x.y.z"), json!("U".repeat(5000)), mine["proof"].clone()] {
        stolen["proof"] = proof;
        assert_eq!(join(&world.one, &token, &stolen).await.code(), "key_revoked");
    }
    // The API key of an agent does not make it the owner of another agent's public key either.
    let (first, _) = world.agent_with(&body("web-1")).await;
    let theirs = body("web-2");
    world.agent_with(&theirs).await;
    assert_eq!(come_back(&world.two, first["api_key"].as_str().unwrap(), &theirs).await.code(), "key_revoked");
    assert_eq!(come_back(&world.two, first["api_key"].as_str().unwrap(), &stolen).await.code(), "key_revoked");
}

#[tokio::test]
async fn a_clock_five_minutes_off_does_no_harm_and_one_that_is_a_day_off_is_a_clear_error() {
    let world = World::start().await;
    let token = world.token(json!({})).await;
    let (minutes, day) = (Duration::from_secs(300), Duration::from_secs(24 * 3600));
    for (name, at) in [("behind", Timestamp::now() - minutes), ("ahead", Timestamp::now() + minutes)] {
        let sent = proven(&body(name), &token, at);
        let joined = join(&world.one, &token, &sent).await.data(201).clone();
        let says: Timestamp = serde_json::from_value(joined["now"].clone()).unwrap();
        assert!(Timestamp::now().since(says) < Duration::from_secs(60), "the agent learns what time it is");
    }
    for at in [Timestamp::now() - day, Timestamp::now() + day] {
        let refused = join(&world.one, &token, &proven(&body("days"), &token, at)).await;
        assert_eq!((refused.code(), refused.status.as_u16()), ("clock_skewed", 400));
        assert!(refused.text.contains(&at.to_string()), "{}", refused.text);
    }
}

#[tokio::test]
async fn a_second_token_in_a_request_is_refused() {
    let world = World::start().await;
    let token = world.token(json!({})).await;
    let sent = proven(&body("web-1"), &token, Timestamp::now());
    let request = world.one.anybody().request(Method::POST, REGISTER).header("x-agent-token", &token).header("X-Agent-Token", &token);
    let twice = send(request.json(&sent)).await;
    assert_eq!((twice.code(), twice.status.as_u16()), ("header_invalid", 400));
    let (_, key) = (user(), world.agent("web-2").await.0["api_key"].as_str().unwrap().to_owned());
    let request = world.one.with_key(&key).request(Method::POST, REGISTER).header("x-api-key", &key);
    assert_eq!(send(request.json(&proven(&body("x"), &key, Timestamp::now()))).await.code(), "header_invalid");
}
