//! Credentials reach agents that join or have another key by now, from agents that have them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt as _;
use muster_runtime::tasks::Group;
use muster_schemas::{
    code::Code,
    connection::{ConnectionKind, ConnectionRecord, Mailbox, keys},
    control::{ResealAnswer, ResealRequest},
    names::AgentId,
    result::ErrorInfo,
    sealed::{Credentials, OpeningKey, Purpose},
    subjects,
    time::Timestamp,
    topology::{AGENTS, CONNECTIONS, MAILBOXES},
    wire::{self, V},
};
use nkeys::KeyPair;

use crate::support::{Agent, Dispatcher, POOL, SOON, Stack, eventually};

/// For what is left alone for ten seconds first.
const LATER: Duration = Duration::from_secs(30);

/// An agent with a sealing key.
struct Member {
    agent: Agent,
    opening: OpeningKey,
}

/// Who was asked for what: the connection, and for whom.
type Asked = Arc<Mutex<Vec<(String, AgentId)>>>;

fn secret(name: &str, shared: bool) -> Credentials {
    Credentials { v: V, fields: [("password".to_owned(), format!("secret of {name}"))].into(), shared, bound: None }
}

impl Member {
    /// One that joins, and says that it has these.
    async fn joins(stack: &Stack, held: &[(&str, u64)]) -> Self {
        let mut member = Self { agent: stack.agent(POOL).await, opening: OpeningKey::generate() };
        member.agent.beat.credentials = held.iter().map(|(name, revision)| (name.parse().unwrap(), *revision)).collect();
        member.beats().await;
        member
    }

    async fn beats(&mut self) {
        let sealing = self.opening.public(&self.agent.id, &self.identity()).unwrap();
        self.agent.beats(|beat| beat.sealing = Some(sealing)).await;
    }

    fn identity(&self) -> KeyPair {
        let seed = self.agent.creds.lines().find(|line| line.starts_with("SU")).unwrap();
        KeyPair::from_seed(seed.trim()).unwrap()
    }

    /// Seals what it is asked for, but the connection `own`.
    async fn answers(&self, group: &Group) -> Asked {
        let asked = Asked::default();
        let (noted, client) = (Arc::clone(&asked), self.agent.client.clone());
        let mut requests = client.subscribe(subjects::rpc_of(&self.agent.id)).await.unwrap();
        client.flush().await.unwrap();
        group.spawn(async move {
            while let Some(message) = requests.next().await {
                let asked: ResealRequest = wire::decode(&message.payload).unwrap();
                let ResealRequest { connection, revision, agent_id, public_key, sealing, .. } = asked;
                sealing.check(&agent_id, &public_key).unwrap();
                noted.lock().unwrap().push((connection.to_string(), agent_id.clone()));
                let answer = if connection.as_ref() == "own" {
                    ResealAnswer { error: Some(ErrorInfo::new(Code::Forbidden, "not shared")), ..Default::default() }
                } else {
                    let purpose = Purpose { agent: &agent_id, connection: &connection, revision };
                    let entry = sealing.seal(&secret(connection.as_ref(), true), purpose, Timestamp::now()).unwrap();
                    ResealAnswer { entry: Some(entry), ..Default::default() }
                };
                client.publish(message.reply.unwrap(), wire::encode(&answer).into()).await.unwrap();
            }
        });
        asked
    }

    /// Waits until its mailbox holds what it can open.
    async fn gets(&self, stack: &Stack, name: &str, revision: u64) {
        let connection = name.parse().unwrap();
        let purpose = Purpose { agent: &self.agent.id, connection: &connection, revision };
        let opened = eventually("it gets them", SOON, async || {
            let mailbox = mailbox(stack, &self.agent.id).await?;
            self.opening.open(mailbox.entries.get(&connection)?, purpose).ok()
        })
        .await;
        assert_eq!(opened, secret(name, true));
    }
}

async fn mailbox(stack: &Stack, agent: &AgentId) -> Option<Mailbox> {
    let entry = stack.bucket(MAILBOXES).await.get(keys::mailbox(agent)).await.unwrap()?;
    Some(wire::decode(&entry).unwrap())
}

async fn connection(stack: &Stack, name: &str, revision: u64) {
    let (now, pool) = (Timestamp::now(), POOL.parse().unwrap());
    let name = name.parse().unwrap();
    let key = keys::record(&pool, &name);
    let record = ConnectionRecord {
        v: V,
        name,
        kind: ConnectionKind::Secret,
        pool,
        settings: serde_json::Value::Null,
        revision,
        delivery: None,
        created_at: now,
        updated_at: now,
    };
    stack.bucket(CONNECTIONS).await.put(key, wire::encode(&record).into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_joins_later_gets_them_from_one_that_has_them_and_again_with_another_key() {
    let (stack, group) = (Stack::start().await, Group::new("agents"));
    let _dispatcher = stack.dispatcher().await;
    connection(&stack, "db", 3).await;
    connection(&stack, "web", 1).await;
    let holder = Member::joins(&stack, &[("db", 3), ("web", 1)]).await;
    let asked = holder.answers(&group).await;
    let mut joins = Member::joins(&stack, &[]).await;
    joins.gets(&stack, "db", 3).await;
    joins.gets(&stack, "web", 1).await;
    joins.agent.beat.credentials = holder.agent.beat.credentials.clone();
    joins.beats().await;
    // A vault that is void, as after a rotation of its API key, has another key and nothing in it.
    joins.opening = OpeningKey::generate();
    joins.agent.beat.credentials.clear();
    joins.beats().await;
    joins.gets(&stack, "db", 3).await;
    joins.gets(&stack, "web", 1).await;
    assert_eq!(asked.lock().unwrap().len(), 4, "each once: {asked:?}");
    assert!(mailbox(&stack, &holder.agent.id).await.is_none(), "the holder has them");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_shared_is_not_handed_on() {
    let (stack, group) = (Stack::start().await, Group::new("agents"));
    let _dispatcher = stack.dispatcher().await;
    connection(&stack, "own", 1).await;
    let mut holder = Member::joins(&stack, &[("own", 1)]).await;
    let asked = holder.answers(&group).await;
    let joins = Member::joins(&stack, &[]).await;
    eventually("it was asked", SOON, async || (!asked.lock().unwrap().is_empty()).then_some(())).await;
    // What comes behind it gets through, and nothing else.
    connection(&stack, "zoo", 1).await;
    holder.agent.beat.credentials = [("own".parse().unwrap(), 1), ("zoo".parse().unwrap(), 1)].into();
    holder.beats().await;
    joins.gets(&stack, "zoo", 1).await;
    let mailbox = mailbox(&stack, &joins.agent.id).await.unwrap();
    assert_eq!(mailbox.entries.keys().map(ToString::to_string).collect::<Vec<_>>(), ["zoo"]);
    assert_eq!(asked.lock().unwrap().iter().filter(|(name, _)| name == "own").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_dispatchers_one_delivers_and_the_other_goes_on_when_that_is_killed() {
    let (stack, group) = (Stack::start().await, Group::new("agents"));
    let first = stack.dispatcher().await;
    first.becomes_active().await;
    let second = stack.dispatcher().await;
    connection(&stack, "db", 1).await;
    let holder = Member::joins(&stack, &[("db", 1)]).await;
    let asked = holder.answers(&group).await;
    let one = Member::joins(&stack, &[]).await;
    one.gets(&stack, "db", 1).await;
    Dispatcher::kill(first);
    let two = Member::joins(&stack, &[]).await;
    two.gets(&stack, "db", 1).await;
    assert!(second.is_active().await);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked, [("db".to_owned(), one.agent.id.clone()), ("db".to_owned(), two.agent.id.clone())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_that_died_left_in_mailboxes_is_taken_out() {
    let stack = Stack::start().await;
    let agent = Member::joins(&stack, &[]).await;
    let gone = AgentId::generate();
    connection(&stack, "db", 1).await;
    let mut left = Mailbox::default();
    for (name, owner) in [("db", &agent.agent.id), ("deleted", &agent.agent.id)] {
        let connection = name.parse().unwrap();
        let purpose = Purpose { agent: owner, connection: &connection, revision: 1 };
        let sealing = agent.agent.beat.sealing.clone();
        let sealing = sealing.unwrap_or_else(|| agent.opening.public(owner, &agent.identity()).unwrap());
        left.entries.insert(connection.clone(), sealing.seal(&secret(name, true), purpose, Timestamp::now()).unwrap());
    }
    for owner in [&agent.agent.id, &gone] {
        stack.bucket(MAILBOXES).await.put(keys::mailbox(owner), wire::encode(&left).into()).await.unwrap();
    }
    let _dispatcher = stack.dispatcher().await;
    eventually("the mailbox of nobody goes", LATER, async || mailbox(&stack, &gone).await.is_none().then_some(())).await;
    let names = eventually("what is of no connection goes", LATER, async || {
        let names: Vec<_> = mailbox(&stack, &agent.agent.id).await?.entries.keys().map(ToString::to_string).collect();
        (names.len() == 1).then_some(names)
    })
    .await;
    assert_eq!(names, ["db"]);
    assert!(stack.bucket(AGENTS).await.get(muster_schemas::records::keys::agent(&agent.agent.id)).await.unwrap().is_some());
}
