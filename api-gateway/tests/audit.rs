//! The audit trail: what is in it, what never is, and that it is there before the answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

#[path = "audit/hiding.rs"]
mod hiding;
#[path = "stack/stack.rs"]
mod stack;

use std::time::Duration;

use muster_broker_config::{
    creds::{self, Creds},
    jwt::{self, UserClaims},
    layout::Account,
    permissions::Permissions,
    provision,
};
use muster_schemas::{
    audit::AuditEntry,
    control::{RenewAnswer, RenewRequest},
    records::AgentState,
    subjects::{self, Query, broker::StreamApi},
    time::Timestamp,
    topology::{self, AUDIT},
    wire::{self, V},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use stack::{Gateway, Http, POOL, Stack, body, come_back, eventually, join, send, user};

const SOON: Duration = Duration::from_secs(10);
const TRAIL: &str = "/api/v1/audit";

/// The entries that a query finds, newest first.
async fn trail(admin: &Http, query: &str) -> Vec<Value> {
    admin.get(&format!("{TRAIL}?limit=500&{query}")).await.data(200).as_array().unwrap().clone()
}

/// The newest entry of an action.
async fn newest(admin: &Http, action: &str) -> Value {
    trail(admin, &format!("action={action}")).await.first().unwrap_or_else(|| panic!("no entry of {action}")).clone()
}

/// Everything in the stream, as the broker has it.
async fn stored(stack: &Stack) -> Vec<AuditEntry> {
    let js = async_nats::jetstream::new(stack.broker().await);
    let mut stream = js.get_stream(AUDIT).await.unwrap();
    let state = stream.info().await.unwrap().state.clone();
    let mut entries = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        assert_eq!(message.subject.as_str(), subjects::audit(&wire::decode::<AuditEntry>(&message.payload).unwrap().action).unwrap());
        entries.push(wire::decode(&message.payload).unwrap());
    }
    entries
}

/// A connection to the streams' account that may do anything, as whoever has that account's keys could make it.
async fn owner(stack: &Stack) -> async_nats::Client {
    let seed = std::fs::read_to_string(stack.deployment.layout.signing_key(Account::Core)).unwrap();
    let user = nkeys::KeyPair::new_user();
    let all = || vec![">".to_owned()];
    let claims = UserClaims {
        name: "owner".into(),
        public_key: user.public_key(),
        permissions: Permissions { publish: all(), subscribe: all(), ..Permissions::default() },
        expires_in: None,
        issuer_account: Some(stack.deployment.core.account.clone()),
        max_subscriptions: None,
    };
    let jwt = jwt::encode(&claims, &jwt::key_pair(seed.trim(), "the account's key").unwrap(), Timestamp::now()).unwrap();
    let creds = Creds { jwt, seed: user.seed().unwrap().into() };
    async_nats::ConnectOptions::with_credentials(&creds.to_text()).unwrap().connect(stack.server.url()).await.unwrap()
}

fn who(entry: &Value) -> (&str, Option<&str>, Option<&str>) {
    let text = |value: &'static str| entry["actor"][value].as_str();
    (text("kind").unwrap(), text("id"), text("name"))
}

#[tokio::test]
async fn every_change_is_in_the_trail_before_its_answer_with_who_did_what_to_whom_from_where() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let first = admin.get("/api/v1/api-keys").await.data(200)[0].clone();
    let is_admins = |entry: &Value| {
        assert_eq!(who(entry), ("key", first["id"].as_str(), first["name"].as_str()), "{entry}");
        assert_eq!(entry["address"], "127.0.0.1", "{entry}");
    };

    let made = send(
        admin.request(Method::POST, "/api/v1/api-keys").header("x-request-id", "req-1").json(&json!({"name": "ci", "role": "operator"})),
    )
    .await;
    let entry = newest(&admin, "api_keys.create").await;
    is_admins(&entry);
    let said = (&entry["target"], &entry["outcome"], &entry["request_id"], &entry["detail"], &entry["code"]);
    assert_eq!(said, (&made.data(201)["id"], &json!("done"), &json!("req-1"), &json!("role operator"), &Value::Null));

    let operator = gateway.with_key(made.data(201)["key"].as_str().unwrap());
    let token = admin.post("/api/v1/join-tokens", &json!({"pool": POOL})).await.data(201).clone();
    let agent = join(&gateway, token["token"].as_str().unwrap(), &body("web-1")).await.data(201).clone();
    let id = agent["agent_id"].as_str().unwrap();
    admin.put("/api/v1/pools/build", &json!({})).await.data(201);
    operator.post("/api/v1/pools/build/pause", &json!({})).await.data(200);
    admin.delete("/api/v1/pools/build").await;
    let command = operator.post(&format!("/api/v1/agents/{id}/commands"), &json!({"type": "shell", "params": {"command": "true"}})).await;
    let job = command.data(202)["command_id"].as_str().unwrap().to_owned();
    operator.post(&format!("/api/v1/jobs/{job}/cancel"), &json!({})).await.data(200);
    let group = operator
        .post("/api/v1/jobs", &json!({"pool": POOL, "type": "shell.run", "params": {"command": "true"}, "target": {"all": {"pool": POOL}}}))
        .await;
    let prefix = token["prefix"].as_str().unwrap();
    admin.delete(&format!("/api/v1/join-tokens/{prefix}")).await;
    admin.delete(&format!("/api/v1/api-keys/{}", made.data(201)["id"].as_str().unwrap())).await;
    for (action, target) in [
        ("join_tokens.create", prefix),
        ("pools.put", "build"),
        ("pools.delete", "build"),
        ("join_tokens.delete", prefix),
        ("api_keys.revoke", made.data(201)["id"].as_str().unwrap()),
    ] {
        let entry = newest(&admin, action).await;
        is_admins(&entry);
        assert_eq!((entry["target"].as_str(), &entry["outcome"]), (Some(target), &json!("done")), "{entry}");
    }
    let operators = ("key", made.data(201)["id"].as_str(), Some("ci"));
    for (action, target) in [("pools.pause", "build"), ("agents.command", id), ("jobs.cancel", &job)] {
        let entry = newest(&admin, action).await;
        assert_eq!((who(&entry), entry["target"].as_str(), &entry["outcome"]), (operators, Some(target), &json!("done")), "{entry}");
    }
    assert_eq!(newest(&admin, "agents.command").await["detail"], format!("job {job}"));
    let entry = newest(&admin, "groups.create").await;
    let outcome = if group.status == StatusCode::ACCEPTED { ("done", group.body["data"]["id"].clone()) } else { ("refused", Value::Null) };
    assert_eq!((&entry["outcome"], &entry["target"]), (&json!(outcome.0), &outcome.1), "{entry}");
    let joined = newest(&admin, "agents.register").await;
    assert_eq!((who(&joined), joined["target"].as_str()), (("join_token", Some(prefix), None), Some(id)), "{joined}");
    come_back(&gateway, agent["api_key"].as_str().unwrap(), &body("web-1")).await.data(200);
    let back = newest(&admin, "agents.register").await;
    assert_eq!((who(&back), back["target"].as_str()), (("agent", Some(id), Some("web-1")), Some(id)), "{back}");
}

#[tokio::test]
async fn an_attempt_that_failed_is_in_the_trail_and_a_flood_of_them_is_two_entries() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let viewer = admin.new_key("viewer").await;
    let as_viewer = gateway.with_key(viewer["key"].as_str().unwrap());

    // Whose key is good and who may not; what is not there; what is no name; whose key is wrong.
    as_viewer.post("/api/v1/api-keys", &json!({"name": "mine", "role": "admin"})).await;
    let entry = newest(&admin, "api_keys.create").await;
    let refused = trail(&admin, "action=api_keys.create&outcome=refused").await;
    assert_eq!((refused.len(), &refused[0]), (1, &entry));
    assert_eq!((who(&entry).1, &entry["code"], &entry["target"]), (viewer["id"].as_str(), &json!("forbidden"), &Value::Null), "{entry}");
    admin.delete("/api/v1/pools/nowhere").await;
    let entry = newest(&admin, "pools.delete").await;
    assert_eq!((&entry["outcome"], &entry["code"], &entry["target"]), (&json!("refused"), &json!("pool_not_found"), &json!("nowhere")));
    admin.delete("/api/v1/pools/No*Name").await;
    let entry = newest(&admin, "pools.delete").await;
    assert_eq!((&entry["code"], &entry["target"]), (&json!("name_invalid"), &Value::Null), "what is no name may be anything");

    let before = stored(&stack).await.len();
    for number in 0..40 {
        let wrong =
            gateway.with_key(&stack.admin_key().replace(|c: char| c.is_ascii_digit(), "a").replace("mst_", &format!("mst_{number}")));
        for path in ["/api/v1/agents", "/api/v1/agents/agt_01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
            assert_eq!(wrong.get(path).await.code(), "unauthenticated");
        }
        assert_eq!(gateway.anybody().delete("/api/v1/pools/default").await.code(), "unauthenticated");
        assert_eq!(gateway.anybody().post("/api/v1/jobs", &json!({})).await.code(), "unauthenticated");
        assert_eq!(join(&gateway, "mst_join_wrong", &body("x")).await.code(), "token_invalid");
    }
    let new = stored(&stack).await.split_off(before);
    let mut actions: Vec<&str> = new.iter().map(|entry| entry.action.as_str()).collect();
    actions.sort_unstable();
    assert_eq!(actions, ["agents.read", "agents.register", "jobs.submit", "pools.delete"], "the first of each, and the rest are counted");
    assert!(new.iter().all(|entry| entry.address.as_deref() == Some("127.0.0.1") && entry.actor.id.is_none()), "{new:?}");
    // What was counted is told at the end, at the latest.
    gateway.stop().await;
    let told = stored(&stack).await.split_off(before + new.len());
    let counts: Vec<(&str, Option<u64>)> = told.iter().map(|entry| (entry.action.as_str(), entry.count)).collect();
    for (action, count) in [("agents.read", 79), ("agents.register", 39), ("jobs.submit", 39), ("pools.delete", 39)] {
        assert!(counts.contains(&(action, Some(count))), "{action} {count} in {counts:?}");
    }
}

/// What every route answers when it is asked with markers everywhere.
async fn flooded(gateway: &Gateway, callers: &[Http], marker: &str) -> usize {
    let document = gateway.anybody().get("/openapi.json").await;
    let (name, mut asked) = (format!("{marker}-name"), 0);
    let bodies = [
        json!({"name": name, "role": "viewer", "pool": POOL, "reason": name, "public_key": name, "proof": name, "type": "shell.run",
               "params": {"command": marker, "password": marker, "env": {"TOKEN": marker}}, "labels": {"k": marker}, "csr": marker}),
        json!({"name": marker, "role": "viewer"}),
        json!({"pool": POOL, "uses": 1, "name_pattern": marker}),
        json!({"type": "shell", "params": {"command": marker}}),
        json!({"cron": "0 0 * * *", "job": {"pool": POOL, "type": "shell.run", "params": {"command": marker}}}),
        json!(marker),
    ];
    for (path, operations) in document.body["paths"].as_object().unwrap() {
        // A whole key, a damaged one, and a text that is no name, where a name belongs.
        for place in ["mst_aaaaaaaaaa_", "x.*."] {
            let path = path.split('/').map(|part| if part.starts_with('{') { format!("{place}{marker}") } else { part.to_owned() });
            let path = path.collect::<Vec<_>>().join("/");
            for method in operations.as_object().unwrap().keys() {
                for caller in callers {
                    for body in &bodies {
                        let request = caller.request(method.to_uppercase().parse().unwrap(), &format!("{path}?pool={marker}&wait=0s"));
                        let request = request.header("idempotency-key", marker).header("x-request-id", format!("mst_{marker}"));
                        // An answer may be a stream without an end.
                        let request =
                            request.header("x-agent-token", format!("mst_join_{marker}")).json(body).timeout(Duration::from_secs(5));
                        asked += usize::from(stack::try_send(request).await.is_some());
                        let plain =
                            caller.request(method.to_uppercase().parse().unwrap(), &path).json(body).timeout(Duration::from_secs(5));
                        asked += usize::from(stack::try_send(plain).await.is_some());
                        if method == "get" {
                            break;
                        }
                    }
                }
            }
        }
    }
    asked
}

#[tokio::test]
async fn whatever_is_sent_to_whichever_route_no_secret_gets_into_the_trail() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[("refusals_per_minute", "100000")]).await;
    let admin = stack.admin(&gateway);
    let marker = "qzqzq7marker7qzqzq7marker7qzqzq7";
    let operator = admin.new_key("operator").await;
    let callers = [
        admin.clone(),
        gateway.with_key(operator["key"].as_str().unwrap()),
        gateway.with_key(&format!("mst_aaaaaaaaaa_{marker}")),
        gateway.anybody(),
    ];
    let asked = flooded(&gateway, &callers, marker).await;
    assert!(asked > 500, "{asked}");
    let token = admin.post("/api/v1/join-tokens", &json!({"pool": POOL})).await.data(201)["token"].as_str().unwrap().to_owned();
    let agent = join(&gateway, &token, &body("web-1")).await.data(201).clone();
    let named = admin.post("/api/v1/api-keys", &json!({"name": format!("was {}", stack.admin_key()), "role": "viewer"})).await;
    gateway.with_key(named.data(201)["key"].as_str().unwrap()).delete("/api/v1/pools/default").await;
    gateway.stop().await;

    let secret = |text: &str| text.rsplit('_').next().unwrap().to_owned();
    let entries = stored(&stack).await;
    assert!(entries.len() > 50, "{}", entries.len());
    let trail = serde_json::to_string(&entries).unwrap().to_lowercase();
    let secrets = [stack.admin_key(), stack.join_token(), token].iter().map(|key| secret(key)).collect::<Vec<_>>();
    let given = [&agent["api_key"], &operator["key"], &named.body["data"]["key"]].map(|value| secret(value.as_str().unwrap()));
    // A token is in the alphabet of base64 for addresses, in which `_` parts nothing: its signature stands after the last dot.
    let signature = agent["jwt"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
    for secret in
        secrets.iter().chain(&given).chain([&signature]).map(|secret| secret.to_lowercase()).chain(["password".into(), "command\":".into()])
    {
        assert!(!trail.contains(&secret), "{secret} is in the trail");
    }
    let found: Vec<&AuditEntry> =
        entries.iter().filter(|entry| serde_json::to_string(entry).unwrap().to_lowercase().contains("qzqzq7")).collect();
    assert!(found.is_empty(), "{:#?}", found.first());
    // After a lead that tells a key, nothing stands but the prefix of one, and the mark of what was cut out.
    for (at, lead) in trail.match_indices("mst_") {
        let rest: String = trail[at + lead.len()..].chars().take_while(|c| c.is_ascii_alphanumeric() || "_…".contains(*c)).collect();
        assert!(rest.ends_with('…') && rest.len() < 24, "mst_{rest}");
    }
}

#[tokio::test]
async fn the_trail_is_read_by_filters_in_pages_by_administrators_and_reading_it_is_audited() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    for role in ["viewer", "operator"] {
        let caller = gateway.with_key(admin.new_key(role).await["key"].as_str().unwrap());
        assert_eq!(caller.get(TRAIL).await.code(), "forbidden");
    }
    for number in 0..30 {
        admin.put(&format!("/api/v1/pools/p{number}"), &json!({})).await.data(201);
    }
    let since = Timestamp::now();
    admin.delete("/api/v1/pools/p7").await;
    admin.delete("/api/v1/pools/p8").await;

    let all = trail(&admin, "").await;
    let sequences: Vec<u64> = all.iter().map(|entry| entry["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.is_sorted_by(|newer, older| newer > older) && sequences.len() > 34, "{sequences:?}");
    let (mut cursor, mut paged) = (String::new(), Vec::new());
    loop {
        let page = admin.get(&format!("{TRAIL}?action=pools.*&limit=7{cursor}")).await;
        paged.extend(page.data(200).as_array().unwrap().iter().map(|entry| entry["target"].as_str().unwrap().to_owned()));
        let Some(next) = page.body["meta"]["page"]["cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let expected = ["p8", "p7"].map(str::to_owned).into_iter().chain((0..30).rev().map(|number| format!("p{number}")));
    assert_eq!(paged, expected.collect::<Vec<_>>());

    let count = async |query: &str| trail(&admin, query).await.len();
    assert_eq!(count("target=p7").await, 2);
    assert_eq!(count("target=p7&action=pools.delete&outcome=done&address=127.0.0.1").await, 1);
    assert_eq!(
        count("action=pools.*&actor=admin").await + count("action=pools.*&actor=key").await,
        32 + if count("actor=admin").await > 0 { 32 } else { 0 }
    );
    assert_eq!(count("address=10.1.2.3").await, 0);
    assert_eq!(count(&format!("action=pools.*&since={since}")).await, 2);
    assert_eq!(count(&format!("action=pools.*&until={since}")).await, 30);
    assert_eq!(count("outcome=refused&action=audit.read").await, 2, "the viewer and the operator");
    let read = trail(&admin, "action=audit.read&outcome=done").await;
    assert_eq!(read.len(), 1, "those that follow it are counted: {read:?}");
    for wrong in ["action=pools", "action=*", "action=pools.>", "outcome=maybe", "since=x", "limit=0", "limit=501", "cursor=*", "who=me"] {
        assert_eq!(admin.get(&format!("{TRAIL}?{wrong}")).await.code(), "query_invalid", "{wrong}");
    }
}

#[tokio::test]
async fn what_services_and_agents_ask_over_nats_is_in_the_trail() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let seed = std::fs::read_to_string(stack.deployment.layout.signing_key(Account::Core)).unwrap();
    let creds = creds::issue_service(&seed, &stack.deployment.core.account, "billing", &[POOL.parse().unwrap()]).unwrap();
    let service = async_nats::ConnectOptions::with_credentials(&creds.to_text()).unwrap().connect(stack.server.url()).await.unwrap();
    let job = admin.post("/api/v1/jobs", &json!({"pool": POOL, "type": "shell.run", "params": {"command": "true"}})).await.data(202)["id"]
        .clone();
    for (id, code) in [(job.as_str().unwrap(), None), ("nowhere", Some("job_not_found"))] {
        let subject = Query::Cancel.subject(&POOL.parse().unwrap(), &id.parse().unwrap());
        service.request(subject, "".into()).await.unwrap();
        let entry = newest(&admin, "jobs.cancel").await;
        assert_eq!((who(&entry), entry["target"].as_str(), entry["code"].as_str()), (("service", None, None), Some(id), code), "{entry}");
    }

    let agent_user = user();
    let mut asked = body("web-1");
    asked["public_key"] = agent_user.public_key().into();
    let agent = join(&gateway, &stack.join_token(), &asked).await.data(201).clone();
    let id = agent["agent_id"].as_str().unwrap().parse().unwrap();
    let public_key = agent_user.public_key();
    let client = stack.connect(&agent, agent_user).await;
    let request = wire::encode(&RenewRequest { v: V, public_key, csr: None });
    let renew = async || {
        let answer = client.request(subjects::renew(&id), request.clone().into()).await.unwrap();
        wire::decode::<RenewAnswer>(&answer.payload).unwrap()
    };
    assert!(renew().await.jwt.is_some());
    stack.decide(&id, AgentState::Revoked).await;
    for _ in 0..5 {
        assert!(renew().await.error.is_some());
    }
    let entries = trail(&admin, "action=agents.renew").await;
    assert_eq!(entries.len(), 1, "one that was granted is none, and those that were refused are folded: {entries:?}");
    assert_eq!((who(&entries[0]).1, &entries[0]["code"]), (Some(id.as_str()), &json!("agent_revoked")));
}

#[tokio::test]
async fn a_change_whose_entry_cannot_be_stored_is_answered_and_the_entry_is_stored_later() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let owner = owner(&stack).await;
    owner.request(StreamApi::Delete.subject(AUDIT), "".into()).await.unwrap();
    let made = admin.post("/api/v1/api-keys", &json!({"name": "ci", "role": "viewer"})).await.data(201)["id"].clone();
    let ready = eventually("readiness tells of it", SOON, async || {
        let ready = gateway.anybody().get("/readyz").await;
        ready.body["checks"]["audit"]["detail"].as_str().is_some_and(|detail| detail.contains("1 entries wait")).then_some(ready)
    })
    .await;
    assert_eq!(ready.body["checks"]["audit"]["ok"], true, "requests are served all the same");
    assert!(gateway.anybody().get("/metrics").await.text.contains("muster_audit_waiting 1"));
    provision::provision_fixed(&stack.broker().await).await.unwrap();
    let entry = eventually("the entry is stored", SOON, async || trail(&admin, "action=api_keys.create").await.into_iter().next()).await;
    assert_eq!(entry["target"], made);
    eventually("readiness is as before", SOON, async || {
        gateway.anybody().get("/readyz").await.text.contains("every entry is stored").then_some(())
    })
    .await;
    assert!(gateway.anybody().get("/metrics").await.text.contains(r#"muster_audit_entries_total{outcome="late"} 1"#));
}

#[tokio::test]
async fn a_caller_who_goes_away_before_the_answer_is_in_the_trail() {
    let stack = Stack::start().await;
    let gateway = stack.gateway(&[]).await;
    let admin = stack.admin(&gateway);
    let agent = join(&gateway, &stack.join_token(), &body("web-1")).await.data(201)["agent_id"].as_str().unwrap().to_owned();
    let command = json!({"type": "shell", "params": {"command": "true"}});
    let waits = admin.request(Method::POST, &format!("/api/v1/agents/{agent}/commands?wait=60s")).json(&command);
    // Until the command is stored, and no longer.
    let went = async {
        eventually("the command waits", SOON, async || {
            let js = async_nats::jetstream::new(stack.broker().await);
            let mut stream = js.get_stream(topology::COMMANDS).await.ok()?;
            (stream.info().await.ok()?.state.messages == 1).then_some(())
        })
        .await;
    };
    tokio::select! {
        answer = waits.send() => panic!("answered: {answer:?}"),
        () = went => {}
    }
    let entry = eventually("the entry", SOON, async || trail(&admin, "action=agents.command").await.into_iter().next()).await;
    assert_eq!((&entry["outcome"], entry["target"].as_str()), (&json!("failed"), Some(&*agent)), "{entry}");
    let detail = entry["detail"].as_str().unwrap();
    assert!(detail.starts_with("job job_") && detail.contains("may have been done"), "{entry}");
}
