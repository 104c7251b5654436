//! Agents join, come back, renew, and are refused; and how they are shown.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "stack/stack.rs"]
mod stack;

use std::time::Duration;

use futures_util::future::join_all;
use muster_broker_config::jwt;
use muster_schemas::{
    control::{RenewAnswer, RenewRequest},
    heartbeat::{Heartbeat, Load, Slots},
    names::AgentId,
    records::{AgentState, keys},
    standing::Standing,
    subjects::{self, broker},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use nkeys::KeyPair;
use reqwest::StatusCode;
use serde_json::{Value, json};
use stack::{Gateway, POOL, Stack, body, come_back, eventually, join, user};

async fn token(stack: &Stack, gateway: &Gateway, body: Value) -> Value {
    stack.admin(gateway).post("/api/v1/join-tokens", &body).await.data(201).clone()
}

#[tokio::test]
async fn an_agent_joins_once_and_comes_back_with_its_key() {
    let stack = Stack::start().await;
    let (gateway, other) = (stack.gateway(&[("agent_nats_urls", "[\"wss://broker.example:443\"]")]).await, stack.gateway(&[]).await);
    let joined = join(&gateway, &stack.join_token(), &body("web-1")).await;
    let data = joined.data(201).clone();
    assert_eq!(data["pool"], POOL);
    assert_eq!(data["nats_urls"], json!(["wss://broker.example:443"]));
    assert_eq!(data["config"]["heartbeat_interval_s"], 30);
    let (id, key) = (data["agent_id"].as_str().unwrap(), data["api_key"].as_str().unwrap());
    assert!(key.starts_with("mst_agent_"));
    let claims = jwt::decode(data["jwt"].as_str().unwrap()).unwrap();
    let lifetime = claims.expires_at.unwrap().secs() - claims.issued_at.secs();
    assert_eq!(lifetime, 24 * 3600);
    let core = stack.broker().await;
    let queue = async |api: broker::ConsumerApi| {
        let answer = core.request(api.subject(topology::COMMANDS, id), "".into()).await.unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()
    };
    let no_queue = async || assert_eq!(queue(broker::ConsumerApi::Info).await["error"]["err_code"], 10014, "without commands no consumer");
    no_queue().await;

    // At the other gateway, with a new key pair and a changed body.
    let user = user();
    let mut again = body("another-name");
    again["public_key"] = user.public_key().into();
    again["capabilities"] = json!(["shell", "docker"]);
    let back = come_back(&other, key, &again).await;
    let back = back.data(200);
    assert_eq!(back["agent_id"], id);
    no_queue().await;
    assert!(back["api_key"].is_null(), "a key is shown once");
    assert_eq!(jwt::decode(back["jwt"].as_str().unwrap()).unwrap().subject, user.public_key());
    let view = stack.admin(&gateway).get(&format!("/api/v1/agents/{id}")).await.data(200).clone();
    assert_eq!((view["name"].as_str(), view["status"].as_str()), (Some("web-1"), Some("offline")));
    assert_eq!(view["capabilities"], json!(["docker", "shell"]));
    assert_eq!(view["remote_ip"], "127.0.0.1");
    let pool = stack.admin(&gateway).get(&format!("/api/v1/pools/{POOL}")).await;
    assert!(pool.data(200)["executors"].as_array().unwrap().contains(&json!("docker")), "its lanes are declared: {}", pool.text);

    // An agent's key is good for nothing else, and is listed nowhere.
    assert_eq!(gateway.with_key(key).get("/api/v1/agents").await.code(), "forbidden");
    assert!(!stack.admin(&gateway).get("/api/v1/api-keys").await.text.contains(&key[10..20]));
}

#[tokio::test]
async fn what_a_registration_says_is_checked_before_the_token_is_used() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let single = token(&stack, &gateway, json!({"pool": POOL})).await;
    let single = single["token"].as_str().unwrap();
    let long = "a".repeat(256);
    for name in ["*", ">", "a.b", "a b", "", ".", "$JS", "$SYS", "_INBOX", &long, "\u{0}", "a\r\n", "％", "..", "A", "e\u{301}", "pool:A"]
    {
        let answer = join(&gateway, single, &body(name)).await;
        assert_eq!(answer.code(), "name_invalid", "{name:?}");
        assert!(!answer.body["detail"].as_str().unwrap().contains(char::is_control));
    }
    let account = KeyPair::new_account().public_key();
    let cases = [
        ("public_key", json!(""), "field_invalid"),
        ("public_key", json!(account), "field_invalid"),
        ("public_key", json!(KeyPair::new_user().seed().unwrap()), "field_invalid"),
        ("public_key", json!(format!("{}A", &KeyPair::new_user().public_key()[..55])), "field_invalid"),
        ("capabilities", json!(["*"]), "name_invalid"),
        ("capabilities", json!((0..33).map(|n| format!("e{n}")).collect::<Vec<_>>()), "field_invalid"),
        ("labels", json!({"": "x"}), "labels_invalid"),
        ("hostname", json!("h\n"), "field_invalid"),
        ("pool", json!("other"), "field_invalid"),
    ];
    for (field, value, code) in cases {
        let mut wrong = body("web-1");
        wrong[field] = value;
        assert_eq!(join(&gateway, single, &wrong).await.code(), code, "{wrong}");
    }
    assert_eq!(join(&gateway, single, &body("web-1")).await.status, StatusCode::CREATED, "the token is still good");
    let used = join(&gateway, single, &body("web-2")).await;
    assert_eq!(used.code(), "token_invalid");
    assert!(used.body["detail"].as_str().unwrap().contains("used"), "{}", used.text);
    for wrong in
        ["", "x", "mst_join_aaaaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &stack.admin_key(), &single.replace("mst_join_", "mst_agent_")]
    {
        assert_eq!(join(&gateway, wrong, &body("web-3")).await.code(), "token_invalid", "{wrong}");
    }
}

#[tokio::test]
async fn of_fifty_at_once_exactly_one_joins_with_a_single_use_token() {
    let stack = Stack::start().await;
    let gateways = [stack.gateway(&[]).await, stack.gateway(&[]).await];
    let single = token(&stack, &gateways[0], json!({"pool": POOL, "uses": 1})).await;
    let single = single["token"].as_str().unwrap();
    let tries = (0..50).map(|n| {
        let gateway = &gateways[n % 2];
        async move { join(gateway, single, &body(&format!("agent-{n}"))).await }
    });
    let answers = join_all(tries).await;
    let joined = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    assert_eq!(joined, 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    assert!(answers.iter().filter(|answer| answer.status != StatusCode::CREATED).all(|answer| answer.code() == "token_invalid"));
    let admin = stack.admin(&gateways[0]);
    assert_eq!(admin.get("/api/v1/agents").await.data(200).as_array().unwrap().len(), 1);

    // The names of those that were refused are free again.
    let many = token(&stack, &gateways[0], json!({"pool": POOL, "uses": 60})).await;
    let many = many["token"].as_str().unwrap();
    let free = join_all((0..50).map(|n| {
        let gateway = &gateways[n % 2];
        async move { join(gateway, many, &body(&format!("agent-{n}"))).await }
    }))
    .await;
    assert_eq!(free.iter().filter(|answer| answer.status == StatusCode::CREATED).count(), 49);
    assert_eq!(free.iter().filter(|answer| answer.status == StatusCode::CONFLICT && answer.code() == "name_taken").count(), 1);
    let left = eventually("the uses are counted", Duration::from_secs(2), async || {
        let list = admin.get("/api/v1/join-tokens").await;
        let tokens = list.data(200).as_array().unwrap().clone();
        tokens.into_iter().find(|token| many.contains(token["prefix"].as_str().unwrap())).filter(|token| token["uses_left"] == 11)
    })
    .await;
    assert!(left["token"].is_null(), "a token is shown once");
}

#[tokio::test]
async fn of_ten_that_want_one_name_one_gets_it_and_no_use_is_lost() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let many = token(&stack, &gateway, json!({"pool": POOL, "uses": 2})).await;
    let many = many["token"].as_str().unwrap();
    let answers = join_all((0..10).map(async |_| join(&gateway, many, &body("wanted")).await)).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == StatusCode::CONFLICT).count(), 9);
    assert_eq!(join(&gateway, many, &body("other")).await.status, StatusCode::CREATED, "the second use is still there");
    assert_eq!(join(&gateway, many, &body("third")).await.code(), "token_invalid");
}

#[tokio::test]
async fn tokens_end_and_are_deleted() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    for (wrong, code) in [
        (json!({"pool": "nope"}), "pool_not_found"),
        (json!({"pool": "*"}), "name_invalid"),
        (json!({"pool": POOL, "uses": 0}), "field_invalid"),
        (json!({"pool": POOL, "uses": 100_001}), "field_invalid"),
        (json!({"pool": POOL, "ttl_s": -1}), "field_invalid"),
        (json!({"pool": POOL, "forever": true}), "field_invalid"),
    ] {
        assert_eq!(admin.post("/api/v1/join-tokens", &wrong).await.code(), code, "{wrong}");
    }
    let short = token(&stack, &gateway, json!({"pool": POOL, "uses": 5, "ttl_s": 1})).await;
    let expired = eventually("the token expires", Duration::from_secs(5), async || {
        // A name that is refused, so that no use is counted meanwhile.
        Some(join(&gateway, short["token"].as_str().unwrap(), &body("*")).await).filter(|answer| answer.code() != "name_invalid")
    })
    .await;
    assert!(expired.code() == "token_invalid" && expired.body["detail"].as_str().unwrap().contains("expired"), "{}", expired.text);

    let gone = token(&stack, &gateway, json!({"pool": POOL, "uses": 5})).await;
    let path = format!("/api/v1/join-tokens/{}", gone["prefix"].as_str().unwrap());
    assert_eq!(admin.delete(&path).await.status, StatusCode::NO_CONTENT);
    assert_eq!(admin.delete(&path).await.code(), "not_found");
    assert_eq!(join(&gateway, gone["token"].as_str().unwrap(), &body("late")).await.code(), "token_invalid");
}

#[tokio::test]
async fn a_revoked_agent_is_refused_at_every_door() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let user = user();
    let mut asked = body("web-1");
    asked["public_key"] = user.public_key().into();
    let joined = join(&gateway, &stack.join_token(), &asked).await.data(201).clone();
    let id: AgentId = joined["agent_id"].as_str().unwrap().parse().unwrap();
    let client = stack.connect(&joined, user).await;
    let renew = async |public_key: &str| -> RenewAnswer {
        let request = RenewRequest { v: V, public_key: public_key.into(), csr: None };
        let answer = client.request(subjects::renew(&id), wire::encode(&request).into()).await.unwrap();
        wire::decode(&answer.payload).unwrap()
    };
    let key = asked["public_key"].as_str().unwrap();
    let fresh = renew(key).await;
    assert!(fresh.now.unwrap().apart(Timestamp::now()) < Duration::from_secs(60), "{:?}", fresh.now);
    let fresh = jwt::decode(&fresh.jwt.unwrap()).unwrap();
    assert_eq!((fresh.subject.as_str(), fresh.name.as_str()), (key, id.as_str()));
    let stranger = renew(&KeyPair::new_user().public_key()).await;
    assert!(stranger.jwt.is_none() && stranger.error.unwrap().code.as_str() == "forbidden", "a key that was never registered");

    // Bytes that are no request, or too many of them, are answered too.
    for bytes in [vec![0xc1], vec![b'x'; 20_000]] {
        let answer = client.request(subjects::renew(&id), bytes.into()).await.unwrap();
        assert!(wire::decode::<RenewAnswer>(&answer.payload).unwrap().error.is_some());
    }
    let commands = stack.broker().await.request(broker::StreamApi::Info.subject(topology::COMMANDS), "".into()).await.unwrap();
    let commands: Value = serde_json::from_slice(&commands.payload).unwrap();
    assert_eq!(commands["state"]["consumer_count"], 0, "without commands no consumer");
    // One that takes no jobs keeps its identity; a revoked one does not.
    stack.decide(&id, AgentState::Disabled).await;
    assert!(renew(key).await.jwt.is_some());
    stack.decide(&id, AgentState::Revoked).await;
    assert_eq!(renew(key).await.error.unwrap().code.as_str(), "agent_revoked");
    let back = come_back(&gateway, joined["api_key"].as_str().unwrap(), &asked).await;
    assert_eq!(back.code(), "agent_revoked");
    assert_eq!(back.status, StatusCode::FORBIDDEN);
    let view = stack.admin(&gateway).get(&format!("/api/v1/agents/{id}")).await;
    assert_eq!(view.data(200)["status"], "revoked");
    // Its name stays taken while its record is there.
    let again = join(&gateway, &stack.join_token(), &body("web-1")).await;
    assert_eq!(again.code(), "name_taken");
}

#[tokio::test]
async fn an_agents_health_is_its_standing_and_its_last_heartbeat() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let user = user();
    let mut asked = body("web-1");
    asked["public_key"] = user.public_key().into();
    let joined = join(&gateway, &stack.join_token(), &asked).await.data(201).clone();
    join(&gateway, &stack.join_token(), &body("web-2")).await.data(201);
    let id: AgentId = joined["agent_id"].as_str().unwrap().parse().unwrap();
    let path = format!("/api/v1/agents/{id}/health");
    let before = admin.get(&path).await.data(200).clone();
    assert_eq!((before["status"].as_str(), before["heartbeat_at"].is_null(), before["standing"].is_null()), (Some("offline"), true, true));
    assert_eq!(admin.get("/api/v1/agents/connected").await.data(200), &json!([]));

    let at = Timestamp::now();
    let beat = Heartbeat {
        slots: Slots { total: 5, running: 2, held: 0 },
        load: Load { cpu_pct: 12.5, ..Load::default() },
        spooled: 3,
        last_error: Some("a job failed".into()),
        ..Heartbeat::first("web-1".parse().unwrap(), "i", at)
    };
    let client = stack.connect(&joined, user).await;
    let pool = POOL.parse().unwrap();
    client.publish(subjects::heartbeat(&pool, &id), wire::encode(&beat).into()).await.unwrap();
    client.flush().await.unwrap();
    let standing = Standing { score: 97.5, success_part: 47.5, ..Standing::first(at) };
    let options = async_nats::ConnectOptions::with_credentials_file(stack.deployment.layout.dispatcher_creds()).await.unwrap();
    let dispatcher = options.custom_inbox_prefix(broker::dispatcher_inbox("test")).connect(stack.server.url()).await.unwrap();
    let key = subjects::js::key(topology::STANDINGS, &keys::standing(&pool, &id));
    dispatcher.publish(key, wire::encode(&standing).into()).await.unwrap();
    dispatcher.flush().await.unwrap();

    let health = eventually("both have arrived", Duration::from_secs(5), async || {
        Some(admin.get(&path).await.data(200).clone()).filter(|health| health["status"] == "online" && !health["heartbeat_at"].is_null())
    })
    .await;
    assert_eq!(health["standing"]["score"], 97.5);
    assert_eq!((health["slots"]["running"].as_u64(), health["spooled"].as_u64()), (Some(2), Some(3)));
    assert_eq!((health["load"]["cpu_pct"].as_f64(), health["last_error"].as_str()), (Some(12.5), Some("a job failed")));
    let connected = eventually("it is connected", Duration::from_secs(2), async || {
        Some(admin.get("/api/v1/agents/connected").await.data(200).clone()).filter(|list| list.as_array().unwrap().len() == 1)
    })
    .await;
    assert_eq!(connected[0]["id"], id.as_str());
    assert_eq!(connected[0]["connected_since"], json!(at));
    assert_eq!(connected[0]["remote_ip"], "127.0.0.1");
    for (query, found) in
        [("status=online", 1), ("status=offline", 1), ("label=zone%3Dnor", 2), ("q=WEB-2", 1), ("capability=http", 0), ("pool=none", 0)]
    {
        let list = admin.get(&format!("/api/v1/agents?{query}")).await;
        assert_eq!(list.data(200).as_array().unwrap().len(), found, "{query}");
    }
    for query in ["status=up", "tag=", "pool=", "colour=red"] {
        assert_eq!(admin.get(&format!("/api/v1/agents?{query}")).await.status, StatusCode::BAD_REQUEST, "{query}");
    }
}
