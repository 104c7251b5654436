//! Agents that are removed: nothing of them is left but what they did, whoever is killed in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use async_nats::{Message, jetstream::kv::Operation};
use futures_util::StreamExt as _;
use muster_broker_config::provision;
use muster_schemas::{
    code::Code,
    connection::Mailbox,
    names::{AgentId, AgentName},
    records::{AgentRecord, AgentState, ApiKeyRecord, JoinTokenRecord, KeyOwner, PastKey, keys},
    result::Outcome,
    standing::Status,
    subjects,
    time::Timestamp,
    topology::{AGENTS, API_KEYS, COMMANDS, JOIN_TOKENS, MAILBOXES, jobs_stream},
    wire::{self, V},
};
use serde_json::json;

use crate::{
    history::pool,
    support::{Agent, Dispatcher, POOL, SOON, Stack, eventually},
};

const BODY: &str = r#"{"type":"probe.echo"}"#;

fn token(prefix: &str, agent_id: Option<AgentId>) -> JoinTokenRecord {
    JoinTokenRecord {
        v: V,
        prefix: prefix.into(),
        hash: "x".into(),
        pool: pool(),
        uses_left: None,
        created_at: Timestamp::now(),
        expires_at: None,
        agent_id,
        name_pattern: None,
        ephemeral: false,
    }
}

fn prefix(id: &AgentId) -> String {
    id.as_str().chars().rev().take(8).collect()
}

fn name(id: &AgentId) -> AgentName {
    format!("agent-{}", prefix(id).to_lowercase()).parse().unwrap()
}

impl Stack {
    /// An agent as the gateway enrols one: with a name, a key, a queue of commands and a join token.
    async fn enrolled(&self) -> Agent {
        let agent = self.agent(POOL).await;
        let id = &agent.id;
        self.marked(&agent, AgentState::Active, |_| {}).await;
        self.bucket(AGENTS).await.put(keys::agent_name(&name(id)), id.to_string().into()).await.unwrap();
        let key = ApiKeyRecord {
            v: V,
            id: "key_1".into(),
            prefix: prefix(id),
            hash: "x".into(),
            name: "agent".into(),
            owner: KeyOwner::Agent(id.clone()),
            created_at: Timestamp::now(),
            expires_at: None,
            revoked_at: None,
        };
        self.bucket(API_KEYS).await.put(prefix(id), wire::encode(&key).into()).await.unwrap();
        let its = token(&prefix(id), Some(id.clone()));
        self.bucket(JOIN_TOKENS).await.put(&its.prefix, wire::encode(&its).into()).await.unwrap();
        self.bucket(MAILBOXES).await.put(id.as_str(), wire::encode(&Mailbox::default()).into()).await.unwrap();
        provision::ensure_commands(&self.gateway, &agent.pool, id).await.unwrap();
        agent
    }

    async fn marked(&self, agent: &Agent, state: AgentState, change: impl FnOnce(&mut AgentRecord)) {
        self.record(POOL, &agent.id, |record| {
            (record.name, record.state) = (name(&agent.id), state);
            (record.key_prefix, record.public_key) = (Some(prefix(&agent.id)), Some(agent.public_key.clone()));
            change(record);
        })
        .await;
    }

    async fn has(&self, bucket: &str, key: &str) -> bool {
        self.bucket(bucket).await.entry(key).await.unwrap().is_some_and(|entry| entry.operation == Operation::Put)
    }

    /// Nothing of it is left, and it can't come back.
    async fn is_gone(&self, agent: &Agent) {
        let id = &agent.id;
        eventually("its record is gone", SOON, async || (!self.has(AGENTS, &keys::agent(id)).await).then_some(())).await;
        assert!(!self.has(API_KEYS, &prefix(id)).await && !self.has(JOIN_TOKENS, &prefix(id)).await);
        assert!(!self.has(MAILBOXES, id.as_str()).await);
        assert!(!self.has_consumer(id).await);
        assert!(self.subjects(COMMANDS).await.into_keys().all(|subject| !subject.contains(id.as_str())));
        assert!(!self.lets_in(agent).await);
        eventually("its standing is gone", SOON, async || self.entry(POOL, id).await.is_none().then_some(())).await;
    }

    async fn ended(&self, job: &str) {
        let result = self.result(job).await.unwrap_or_else(|| panic!("{job} has no result"));
        assert_eq!((result.outcome, result.error.unwrap().code), (Outcome::Cancelled, Code::AgentDeleted), "{job}");
    }
}

/// The next command that the agent is given.
async fn takes(agent: &Agent) -> Message {
    let inbox = agent.client.new_inbox();
    let mut given = agent.client.subscribe(inbox.clone()).await.unwrap();
    let pull = json!({"batch": 1, "expires": 5_000_000_000_u64}).to_string();
    agent.client.publish_with_reply(subjects::js::next(COMMANDS, agent.id.as_str()), inbox, pull.into()).await.unwrap();
    tokio::time::timeout(SOON, given.next()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_agent_leaves_nothing_behind_its_commands_end_and_jobs_of_its_pool_stay() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let (mut agent, mut other) = (stack.enrolled().await, stack.enrolled().await);
    for agent in [&mut agent, &mut other] {
        agent.beats(|_| {}).await;
        stack.standing(agent, "online", |standing| standing.status == Status::Online).await;
    }
    let general = token("general", None);
    stack.bucket(JOIN_TOKENS).await.put("general", wire::encode(&general).into()).await.unwrap();
    stack.queue("high.probe", "pool-job", BODY).await;
    stack.command(&other.id, "others", BODY).await;
    // One that it has, one that was put off, and some that wait, one under an id that is none.
    for id in ["held", "put-off"] {
        stack.command(&agent.id, id, BODY).await;
        let message = takes(&agent).await;
        if id == "put-off" {
            agent.client.publish(message.reply.unwrap(), r#"-NAK {"delay":3600000000000}"#.into()).await.unwrap();
        }
    }
    agent.client.flush().await.unwrap();
    for n in 0..20 {
        stack.command(&agent.id, &format!("waits-{n}"), BODY).await;
    }
    let odd = format!("{}x$y", subjects::commands_to(&agent.pool, &agent.id).trim_end_matches('*'));
    stack.gateway.request(odd, BODY.into()).await.unwrap();

    stack.marked(&agent, AgentState::Deleting, |_| {}).await;
    stack.settled(&agent.id).await;
    assert!(!stack.has(AGENTS, &keys::agent(&agent.id)).await, "it is answered once all is done");
    stack.is_gone(&agent).await;
    assert!(!stack.has(AGENTS, &keys::agent_name(&name(&agent.id))).await);
    for id in ["held".to_owned(), "put-off".to_owned()].into_iter().chain((0..20).map(|n| format!("waits-{n}"))) {
        stack.ended(&id).await;
    }
    let left = stack.subjects(COMMANDS).await;
    assert_eq!(left.into_keys().collect::<Vec<_>>(), [subjects::command(&other.pool, &other.id, &"others".parse().unwrap())]);
    assert_eq!(stack.subjects(&jobs_stream(&pool())).await.into_keys().collect::<Vec<_>>(), ["jobs.default.high.probe.pool-job"]);
    assert!(stack.lets_in(&other).await && stack.has(AGENTS, &keys::agent_name(&name(&other.id))).await);
    assert!(stack.has(API_KEYS, &prefix(&other.id)).await && stack.has(JOIN_TOKENS, &prefix(&other.id)).await);
    assert!(stack.has(MAILBOXES, other.id.as_str()).await);
    assert!(stack.has(JOIN_TOKENS, "general").await);
    stack.settled(&agent.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_stopped_anywhere_is_finished_by_the_next_dispatcher() {
    let stack = Stack::start().await;
    let agents = futures_util::future::join_all((0..6).map(|_| stack.enrolled())).await;
    for (n, agent) in agents.iter().enumerate() {
        stack.command(&agent.id, &format!("job-{n}"), BODY).await;
        stack.marked(agent, AgentState::Deleting, |_| {}).await;
    }
    // What each had done when it was killed: nothing; the key; commands; consumer; API key and token; the name, which another agent has by now.
    for agent in &agents[1..] {
        stack.revoke(agent).await;
    }
    for (n, agent) in agents.iter().enumerate().skip(2) {
        let job = format!("job-{n}").parse().unwrap();
        let now = Timestamp::now();
        let error = muster_schemas::result::ErrorInfo::new(Code::AgentDeleted, "x");
        let result = muster_schemas::result::JobResult::never_ran(Outcome::Cancelled, error, now, now);
        let subject = subjects::About::Result.job(&agent.pool, &job);
        stack.gateway.request(subject, wire::encode(&result).into()).await.unwrap();
    }
    for agent in &agents[3..] {
        provision::remove_commands(&stack.gateway, &agent.id).await.unwrap();
    }
    for agent in &agents[4..] {
        stack.bucket(API_KEYS).await.delete(prefix(&agent.id)).await.unwrap();
        stack.bucket(JOIN_TOKENS).await.delete(prefix(&agent.id)).await.unwrap();
    }
    let heir = AgentId::generate();
    stack.bucket(AGENTS).await.put(keys::agent_name(&name(&agents[5].id)), heir.to_string().into()).await.unwrap();

    // Nobody asks.
    let _dispatcher = stack.dispatcher().await;
    for (n, agent) in agents.iter().enumerate() {
        stack.is_gone(agent).await;
        stack.ended(&format!("job-{n}")).await;
        assert_eq!(stack.has(AGENTS, &keys::agent_name(&name(&agent.id))).await, n == 5);
    }
    let holder = stack.bucket(AGENTS).await.get(keys::agent_name(&name(&agents[5].id))).await.unwrap().unwrap();
    assert_eq!(holder, heir.as_str().as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatchers_that_are_killed_in_the_middle_of_a_removal_lose_nothing_of_it() {
    let stack = Stack::start().await;
    let agent = stack.enrolled().await;
    for n in 0..300 {
        stack.command(&agent.id, &format!("job-{n}"), BODY).await;
    }
    let mut dispatchers = vec![stack.dispatcher().await];
    dispatchers[0].becomes_active().await;
    stack.marked(&agent, AgentState::Deleting, |_| {}).await;
    for before in [250, 120, 10] {
        eventually("it is on its way", Duration::from_secs(20), async || (stack.subjects(COMMANDS).await.len() < before).then_some(()))
            .await;
        dispatchers.pop().unwrap().kill();
        dispatchers.push(Dispatcher::start(stack.deployment.layout.root().display().to_string(), &stack.server.url()));
    }
    eventually("its record is gone", Duration::from_secs(20), async || (!stack.has(AGENTS, &keys::agent(&agent.id)).await).then_some(()))
        .await;
    stack.is_gone(&agent).await;
    for n in 0..300 {
        stack.ended(&format!("job-{n}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_removed_agent_had_before_are_refused_too_while_they_could_still_be_used() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let agent = stack.enrolled().await;
    let before = Agent::connect(&stack, POOL, agent.id.clone()).await;
    let long_ago = nkeys::KeyPair::new_user().public_key();
    let past = [(&before.public_key, 3600), (&long_ago, 2 * 24 * 3600)].map(|(key, ago)| PastKey {
        public_key: key.clone(),
        until: Timestamp::now() - Duration::from_secs(ago),
        revoked: false,
    });
    stack.marked(&agent, AgentState::Deleting, |record| record.past_keys = past.into()).await;
    stack.settled(&agent.id).await;
    assert!(!stack.lets_in(&agent).await && !stack.lets_in(&before).await);
    assert!(!stack.refused_keys().await.contains_key(&long_ago));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_agent_that_stays_away_is_removed_and_any_other_is_not() {
    let stack = Stack::start().await;
    let (mut away, mut here, mut lasting) = (stack.enrolled().await, stack.enrolled().await, stack.enrolled().await);
    for agent in [&away, &here] {
        stack.marked(agent, AgentState::Active, |record| record.ephemeral = true).await;
    }
    let settings = [("ephemeral_after", "1s".to_owned())];
    let dispatcher = Dispatcher::start_with(stack.deployment.layout.root().display().to_string(), &stack.server.url(), &settings);
    for agent in [&mut away, &mut here, &mut lasting] {
        agent.beats(|_| {}).await;
    }
    dispatcher.becomes_active().await;
    for agent in [&mut away, &mut lasting] {
        agent.beats(|beat| beat.goodbye = true).await;
    }
    stack.command(&away.id, "job", BODY).await;
    stack.is_gone(&away).await;
    stack.ended("job").await;
    for agent in [&here, &lasting] {
        assert!(stack.has(AGENTS, &keys::agent(&agent.id)).await && stack.lets_in(agent).await);
    }
}
