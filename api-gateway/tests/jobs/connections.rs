//! Connections: their records, and the delivery of credentials to agents that open them with their own keys. What jobs may name is in [`named`].

mod named;
mod names;

use std::{collections::BTreeMap, path::Path};

use async_nats::jetstream::{self, kv};
use muster_schemas::{
    connection::{Mailbox, SealedEntry, keys},
    heartbeat::Heartbeat,
    names::{AgentId, ConnectionName},
    sealed::{Credentials, OpeningKey, Purpose, SealingKey},
    subjects::{self, js},
    time::Timestamp,
    topology::{self, bucket_stream},
    wire::{self, V},
};
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    world::{Rest, World, eventually},
};

/// What nobody but the agents may ever see.
const SECRET: &str = "correct-horse-battery-staple";

/// An agent with a vault of its own: its key, and what it has put into it.
struct Holder {
    agent: Agent,
    key: OpeningKey,
    has: BTreeMap<ConnectionName, u64>,
}

impl Holder {
    /// An agent that is enlisted and has been there.
    async fn new(world: &World, pool: &str, name: &str) -> Self {
        let holder = Self::silent(world, pool, name).await;
        holder.beat().await;
        holder
    }

    /// One that has never been there.
    async fn silent(world: &World, pool: &str, name: &str) -> Self {
        let agent = world.agent(pool).await;
        let capabilities = ["shell", "http", "probe", "backup"].map(|executor| executor.parse().unwrap());
        world
            .enlist(&agent, name, |record| {
                record.capabilities = capabilities.into();
                record.registered_at = Some(Timestamp::now());
            })
            .await;
        Self { agent, key: OpeningKey::generate(), has: BTreeMap::new() }
    }

    fn sealing(&self) -> SealingKey {
        self.key.public(&self.agent.id, &self.agent.identity).unwrap()
    }

    /// Says what it has, and where to seal to.
    async fn beat(&self) {
        let beat = Heartbeat {
            sealing: Some(self.sealing()),
            credentials: self.has.clone(),
            ..Heartbeat::first("a".parse().unwrap(), "i", Timestamp::now())
        };
        let subject = subjects::heartbeat(&self.agent.pool, &self.agent.id);
        let stored = self.agent.client.request(subject, wire::encode(&beat).into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&stored.payload).contains("error"));
    }

    /// Reads its own mailbox, with its own rights.
    async fn mailbox(&self) -> Mailbox {
        let key = js::key(topology::MAILBOXES, &keys::mailbox(&self.agent.id));
        let got = self.agent.client.request(js::direct_get(&bucket_stream(topology::MAILBOXES), &key), "".into()).await.unwrap();
        if got.payload.is_empty() { Mailbox::default() } else { wire::decode(&got.payload).unwrap() }
    }

    /// Opens what lies there of a connection.
    fn open(&self, name: &ConnectionName, entry: &SealedEntry) -> Credentials {
        self.key.open(entry, Purpose { agent: &self.agent.id, connection: name, revision: entry.revision }).unwrap()
    }

    /// Takes over what lies in its mailbox, as agents do, and says so.
    async fn collect(&mut self) -> Vec<Credentials> {
        let mailbox = self.mailbox().await;
        self.has = mailbox.entries.iter().map(|(name, entry)| (name.clone(), entry.revision)).collect();
        self.beat().await;
        mailbox.entries.iter().map(|(name, entry)| self.open(name, entry)).collect()
    }
}

fn name(text: &str) -> ConnectionName {
    text.parse().unwrap()
}

fn secret() -> Value {
    json!({"kind": "secret", "pool": "default"})
}

/// A delivery as a caller seals it who has seen the connection like this.
fn sealed(view: &Value, revision: u64, value: &str) -> Value {
    let connection = name(view["name"].as_str().unwrap());
    let credentials = Credentials { v: V, fields: [("token".to_owned(), value.to_owned())].into(), shared: true, bound: None };
    let mut sealed = json!({});
    for agent in view["agents"].as_array().unwrap().iter().filter(|agent| !agent["sealing"].is_null()) {
        let id: AgentId = agent["agent_id"].as_str().unwrap().parse().unwrap();
        let key: SealingKey = serde_json::from_value(agent["sealing"].clone()).unwrap();
        key.check(&id, agent["public_key"].as_str().unwrap()).unwrap();
        let entry = key.seal(&credentials, Purpose { agent: &id, connection: &connection, revision }, Timestamp::now()).unwrap();
        sealed[id.as_str()] = json!({"key": entry.key, "sealed": entry.sealed});
    }
    json!({"revision": revision, "sealed": sealed})
}

/// The connection, once as many agents as that have a key.
async fn look(rest: &Rest, connection: &str, keys: usize) -> Value {
    eventually("the agents have keys", async || {
        let view = rest.get(&format!("/connections/{connection}")).await.data(200);
        let there = view["agents"].as_array().unwrap().iter().filter(|agent| !agent["sealing"].is_null()).count();
        (there == keys).then_some(view)
    })
    .await
}

async fn deliver(rest: &Rest, connection: &str, body: &Value) -> crate::world::Answer {
    rest.put(&format!("/connections/{connection}/credentials"), body).await
}

/// How far each agent is, by its id.
fn statuses(view: &Value) -> BTreeMap<String, String> {
    let text = |agent: &Value, field: &str| agent[field].as_str().unwrap().to_owned();
    view["agents"].as_array().unwrap().iter().map(|agent| (text(agent, "agent_id"), text(agent, "status"))).collect()
}

async fn bucket(world: &World, name: &str) -> kv::Store {
    jetstream::new(world.core().await).get_key_value(name).await.unwrap()
}

/// Whether any file below holds these bytes.
fn holds(dir: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).any(|path| match path.is_dir() {
        true => holds(&path, bytes),
        false => std::fs::read(&path).unwrap_or_default().windows(bytes.len()).any(|part| part == bytes),
    })
}

#[tokio::test]
async fn credentials_reach_each_agent_sealed_and_nothing_between_them_and_the_caller_holds_any() {
    let world = World::start().await;
    let rest = world.rest();
    let (mut one, mut two) = (Holder::new(&world, "default", "one").await, Holder::new(&world, "default", "two").await);
    let silent = Holder::silent(&world, "default", "silent").await;
    Holder::new(&world, "other", "elsewhere").await;
    let made = rest.put("/connections/app", &secret()).await.data(201);
    assert_eq!((made["revision"].as_u64(), &made["settings"]), (Some(0), &json!({})));
    let view = look(rest, "app", 2).await;
    let status = |view: &Value, holder: &Holder| statuses(view)[holder.agent.id.as_str()].clone();
    assert_eq!((status(&view, &one), status(&view, &silent), statuses(&view).len()), ("missing".into(), "no_key".into(), 3));

    let sent = deliver(rest, "app", &sealed(&view, 1, SECRET)).await.data(200);
    assert_eq!((sent["revision"].as_u64(), status(&sent, &one), status(&sent, &two)), (Some(1), "sent".into(), "sent".into()));
    assert!(!sent.to_string().contains("\"sealed\""), "ciphertext is shown to nobody: {sent}");
    for holder in [&mut one, &mut two] {
        let opened = holder.collect().await;
        assert_eq!((opened.len(), opened[0].get("token"), opened[0].shared), (1, Some(SECRET), true));
    }
    let theirs = two.mailbox().await.entries[&name("app")].clone();
    let purpose = Purpose { agent: &one.agent.id, connection: &name("app"), revision: 1 };
    assert!(one.key.open(&theirs, purpose).is_err(), "what is for one is for no other");
    let key = js::key(topology::MAILBOXES, &keys::mailbox(&two.agent.id));
    let foreign = one.agent.client.request(js::direct_get(&bucket_stream(topology::MAILBOXES), &key), "".into());
    assert!(tokio::time::timeout(std::time::Duration::from_millis(500), foreign).await.is_err(), "and nobody else's mailbox may be read");

    let view = rest.get("/connections/app").await.data(200);
    assert_eq!((status(&view, &one), status(&view, &two)), ("delivered".into(), "delivered".into()));
    deliver(rest, "app", &sealed(&view, 2, "another-one")).await.data(200);
    two.collect().await;
    one.has = [(name("app"), 0)].into();
    one.key = OpeningKey::generate();
    one.beat().await;
    let view = rest.get("/connections/app").await.data(200);
    assert_eq!((status(&view, &one), status(&view, &two)), ("local".into(), "delivered".into()), "what it can't open is not sent to it");

    let store = world.deployment.layout.root().parent().unwrap().join("store");
    eventually("the broker has written it down", async || holds(&store, one.agent.id.as_str().as_bytes()).then_some(())).await;
    assert!(!holds(&store, SECRET.as_bytes()), "the broker's disk holds no plaintext");
    // A dispatcher has the trail's history; the entries themselves are in the stream.
    let trail = eventually("the trail tells of it", async || {
        let stream = jetstream::new(world.core().await).get_stream(topology::AUDIT).await.unwrap();
        let mut told = String::new();
        for sequence in 1..=stream.get_info().await.unwrap().state.last_sequence {
            told.push_str(&String::from_utf8_lossy(&stream.direct_get(sequence).await.unwrap().payload));
        }
        (told.matches("connections.deliver").count() == 2).then_some(told)
    })
    .await;
    assert!(trail.contains("revision 1 to 2 agents") && trail.contains("connections.put"), "{trail}");
    assert!(!trail.contains(SECRET) && !trail.contains(&theirs.sealed));
}

#[tokio::test]
async fn a_delivery_that_does_not_fit_is_refused_as_a_whole_and_changes_nothing() {
    let world = World::start().await;
    let rest = world.rest();
    let (one, other) = (Holder::new(&world, "default", "one").await, Holder::new(&world, "other", "other").await);
    rest.put("/connections/app", &secret()).await.data(201);
    let view = look(rest, "app", 1).await;
    let good = sealed(&view, 1, SECRET);
    let (mine, text) = (one.agent.id.as_str(), |bytes: usize| base64(&vec![7; bytes]));
    let with = |id: &str, entry: Value| {
        let mut body = good.clone();
        body["sealed"][id] = entry;
        body
    };
    let key = good["sealed"][mine]["key"].clone();
    for (body, code, says) in [
        (json!({"revision": 1, "sealed": {}}), "credentials_invalid", "nobody"),
        (
            with(other.agent.id.as_str(), json!({"key": other.sealing().key, "sealed": text(99)})),
            "credentials_invalid",
            "none of pool `default`",
        ),
        (with(AgentId::generate().as_str(), json!({"key": key, "sealed": text(99)})), "credentials_invalid", "none of pool"),
        (with(mine, json!({"key": other.sealing().key, "sealed": text(99)})), "credentials_invalid", "another sealing key"),
        (with(mine, json!({"key": key, "sealed": "*"})), "credentials_invalid", "not base64"),
        (with(mine, json!({"key": key, "sealed": text(3)})), "credentials_invalid", "3 bytes"),
        (with(mine, json!({"key": key, "sealed": text(30_000)})), "credentials_invalid", "30000 bytes"),
        (with("agt_1", json!({"key": key, "sealed": text(99)})), "field_invalid", "agent id"),
        (json!({"revision": 2, "sealed": good["sealed"]}), "revision_conflict", "the next delivery is 1"),
        (json!({"revision": 0, "sealed": good["sealed"]}), "revision_conflict", "the next delivery is 1"),
        (json!({"revision": 1, "sealed": good["sealed"], "token": SECRET}), "field_invalid", "token"),
    ] {
        let refused = deliver(rest, "app", &body).await;
        let status = if code == "revision_conflict" { 409 } else { 400 };
        assert_eq!(refused.code(status), code, "{says}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains(says) && !detail.contains(SECRET), "{detail}");
    }
    assert_eq!(deliver(rest, "nothing", &good).await.code(404), "connection_not_found");
    assert_eq!(rest.get("/connections/app").await.data(200)["revision"], 0);
    assert!(one.mailbox().await.entries.is_empty() && other.mailbox().await.entries.is_empty());
}

#[tokio::test]
async fn a_delivery_that_was_cut_off_goes_on_when_it_is_repeated_and_nothing_else_is_taken_for_it() {
    let world = World::with_gateways(2).await;
    let rest = world.rest();
    let (one, two) = (Holder::new(&world, "default", "one").await, Holder::new(&world, "default", "two").await);
    rest.put("/connections/app", &secret()).await.data(201);
    let view = look(rest, "app", 2).await;
    let (first, another) = (sealed(&view, 1, "first"), sealed(&view, 1, "another"));
    deliver(rest, "app", &first).await.data(200);
    // The gateway died before it wrote the second mailbox.
    bucket(&world, topology::MAILBOXES).await.purge(keys::mailbox(&two.agent.id)).await.unwrap();
    let before = one.mailbox().await;
    assert_eq!(deliver(&world.gateways[1].rest, "app", &another).await.code(409), "revision_conflict");
    assert!(two.mailbox().await.entries.is_empty());
    let repeated = deliver(&world.gateways[1].rest, "app", &first).await.data(200);
    assert_eq!((repeated["revision"].as_u64(), one.mailbox().await), (Some(1), before));
    assert_eq!(two.open(&name("app"), &two.mailbox().await.entries[&name("app")]).get("token"), Some("first"));
    // Once there is a newer one it is over with the old.
    deliver(rest, "app", &sealed(&view, 2, "second")).await.data(200);
    assert_eq!(deliver(rest, "app", &first).await.code(409), "revision_conflict");
    assert_eq!(two.open(&name("app"), &two.mailbox().await.entries[&name("app")]).get("token"), Some("second"));
}

#[tokio::test]
async fn of_two_deliveries_at_once_one_is_taken_and_all_agents_have_the_same() {
    let world = World::with_gateways(2).await;
    let mut holders = Vec::new();
    for number in 0..3 {
        holders.push(Holder::new(&world, "default", &format!("a-{number}")).await);
    }
    world.rest().put("/connections/app", &secret()).await.data(201);
    let view = look(world.rest(), "app", 3).await;
    look(&world.gateways[1].rest, "app", 3).await;
    for revision in 1..=10 {
        let bodies = ["left", "right"].map(|value| sealed(&view, revision, value));
        let (left, right) = tokio::join!(deliver(world.rest(), "app", &bodies[0]), deliver(&world.gateways[1].rest, "app", &bodies[1]));
        let won = match (left.status.as_u16(), right.status.as_u16()) {
            (200, 409) => "left",
            (409, 200) => "right",
            other => panic!("{other:?}: {} {}", left.body, right.body),
        };
        for holder in &holders {
            let entry = holder.mailbox().await.entries[&name("app")].clone();
            assert_eq!((entry.revision, holder.open(&name("app"), &entry).get("token")), (revision, Some(won)));
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}
