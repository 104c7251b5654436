//! Revoked keys are refused by the broker: at once, for as long as they are revoked, and whichever dispatcher is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{ConnectOptions, Request, connection::State, jetstream};
use futures_util::StreamExt as _;
use muster_broker_config::jwt;
use muster_runtime::tasks::Group;
use muster_schemas::{
    code::Code,
    control::{SettleAnswer, SettleRequest},
    lane::Lane,
    names::{AgentId, JobId},
    records::RevocationRecord,
    subjects::{self, SETTLE},
    time::Timestamp,
    topology::{REVOCATION_AGE, REVOCATIONS, jobs_stream},
    wire::{self, V},
};
use serde_json::json;

use crate::support::{Agent, Dispatcher, POOL, Proxy, SOON, Stack, eventually};

impl Stack {
    /// Stores that a key is revoked, as the gateway does.
    pub(crate) async fn revoke(&self, agent: &Agent) {
        let until_s = (Timestamp::now() + REVOCATION_AGE).secs();
        let record = RevocationRecord { v: V, agent_id: agent.id.clone(), until_s, at: Timestamp::now() };
        self.bucket(REVOCATIONS).await.put(&agent.public_key, wire::encode(&record).into()).await.unwrap();
    }

    /// Asks that all be carried out at once. `None` when no dispatcher answers in the time that a gateway waits.
    pub(crate) async fn settle(&self, agent: &AgentId) -> Option<SettleAnswer> {
        let body = wire::encode(&SettleRequest { v: V, agent_id: agent.clone() });
        let request = Request::new().payload(body.into()).timeout(Some(Duration::from_secs(10)));
        Some(wire::decode(&self.gateway.send_request(SETTLE, request).await.ok()?.payload).unwrap())
    }

    pub(crate) async fn settled(&self, agent: &AgentId) {
        assert_eq!(self.settle(agent).await.expect("an answer").error, None);
    }

    /// The keys that the broker refuses.
    pub(crate) async fn refused_keys(&self) -> BTreeMap<String, i64> {
        let options = ConnectOptions::with_credentials_file(self.deployment.layout.system_creds()).await.unwrap();
        let system = options.connect(self.server.url()).await.unwrap();
        let lookup = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", self.deployment.fleet.account);
        let answer = system.request(lookup, "".into()).await.unwrap();
        jwt::revocations(std::str::from_utf8(&answer.payload).unwrap()).unwrap()
    }

    /// Whether the broker lets an agent in.
    pub(crate) async fn lets_in(&self, agent: &Agent) -> bool {
        ConnectOptions::with_credentials(&agent.creds).unwrap().connect(self.server.url()).await.is_ok()
    }
}

fn is_connected(agent: &Agent) -> bool {
    agent.client.connection_state() == State::Connected
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_cut_off_before_the_answer_and_not_one_job_is_given_to_it_after() {
    let stack = Arc::new(Stack::start().await);
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let (agent, other) = (stack.agent(POOL).await, stack.agent(POOL).await);
    let (lane, sent, tasks) = (Lane::of(&"probe".parse().unwrap())[1].clone(), Arc::new(AtomicU32::new(0)), Group::new("test"));

    // Jobs come all the time, and the agent takes them as fast as it can.
    let publisher = (Arc::clone(&stack), lane.clone(), Arc::clone(&sent));
    tasks.spawn(async move {
        let (stack, lane, sent) = publisher;
        loop {
            let subject = subjects::job(&POOL.parse().unwrap(), &lane, &JobId::generate(&POOL.parse().unwrap()));
            stack.gateway.request(subject, "{\"type\":\"probe.ping\"}".into()).await.unwrap();
            sent.fetch_add(1, Ordering::Relaxed);
        }
    });
    let inbox = agent.client.new_inbox();
    let mut given = agent.client.subscribe(inbox.clone()).await.unwrap();
    let (client, next) = (agent.client.clone(), subjects::js::next(&jobs_stream(&agent.pool), &lane.consumer()));
    let taken = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&taken);
    tasks.spawn(async move {
        let pull = json!({"batch": 1, "expires": 5_000_000_000_u64, "group": "standing", "priority": 0}).to_string();
        loop {
            client.publish_with_reply(next.clone(), inbox.clone(), pull.clone().into()).await.unwrap();
            let message = given.next().await.unwrap();
            if let Some(reply) = message.reply {
                counter.fetch_add(1, Ordering::Relaxed);
                client.publish(reply, "+ACK".into()).await.unwrap();
            }
        }
    });
    eventually("it runs jobs", SOON, async || (taken.load(Ordering::Relaxed) >= 50).then_some(())).await;

    stack.revoke(&agent).await;
    let asked = Instant::now();
    stack.settled(&agent.id).await;
    let took = asked.elapsed();
    let stream = jetstream::new(stack.gateway.clone()).get_stream(jobs_stream(&agent.pool)).await.unwrap();
    let given_out = async || stream.consumer_info(lane.consumer()).await.unwrap().delivered.consumer_sequence;
    let before = given_out().await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let answered = Instant::now();
    eventually("its own client notices", SOON, async || (!is_connected(&agent)).then_some(())).await;
    assert!(answered.elapsed() < Duration::from_secs(1));

    let (from, now) = (sent.load(Ordering::Relaxed), Instant::now());
    eventually("more jobs come", SOON, async || (sent.load(Ordering::Relaxed) >= from + 200).then_some(())).await;
    assert_eq!(given_out().await, before, "{:?}", now.elapsed());
    assert!(!stack.lets_in(&agent).await && !is_connected(&agent));
    assert!(is_connected(&other) && stack.lets_in(&other).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_refused_as_long_as_the_bucket_says_so_also_over_a_restart_of_the_broker() {
    let mut stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    let (agent, later) = (stack.agent(POOL).await, stack.agent(POOL).await);
    stack.revoke(&agent).await;
    // Nobody asks: the change is enough.
    eventually("it is cut off", SOON, async || (!is_connected(&agent)).then_some(())).await;
    assert!(stack.refused_keys().await.keys().eq([&agent.public_key]));

    dispatcher.stop().await;
    stack.server.restart().await.unwrap();
    assert!(!stack.lets_in(&agent).await);
    eventually("the other one is back", SOON, async || stack.lets_in(&later).await.then_some(())).await;

    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    stack.bucket(REVOCATIONS).await.delete(&agent.public_key).await.unwrap();
    eventually("it is let in again", SOON, async || stack.lets_in(&agent).await.then_some(())).await;
    assert_eq!(stack.refused_keys().await, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_carried_out_by_the_next_dispatcher_when_one_is_killed() {
    let stack = Stack::start().await;
    let first = stack.dispatcher().await;
    first.becomes_active().await;
    let (one, two, three) = (stack.agent(POOL).await, stack.agent(POOL).await, stack.agent(POOL).await);
    stack.revoke(&one).await;
    stack.settled(&one.id).await;
    let second = stack.dispatcher().await;
    // Before it could know; who asks meanwhile is answered by the next one.
    first.kill();
    stack.revoke(&two).await;
    stack.settled(&two.id).await;
    assert!(!stack.lets_in(&two).await && !stack.lets_in(&one).await && stack.lets_in(&three).await);
    // With nobody there.
    second.kill();
    stack.revoke(&three).await;
    assert_eq!(stack.settle(&three.id).await, None);
    let _third = stack.dispatcher().await;
    eventually("it is cut off", SOON, async || (!is_connected(&three)).then_some(())).await;
    assert_eq!(stack.refused_keys().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_revocations_during_a_change_of_dispatchers_and_of_many_at_once_none_is_lost() {
    let stack = Stack::start().await;
    let proxy = Proxy::to(stack.server.port()).await;
    let first = stack.dispatcher_at(&proxy.url).await;
    first.becomes_active().await;
    let second = stack.dispatcher().await;
    let mut agents = Vec::new();
    for _ in 0..22 {
        agents.push(stack.agent(POOL).await);
    }
    // One by each of two, the first of which is cut off in the middle of it, and comes back with what it had begun.
    stack.revoke(&agents[0]).await;
    proxy.cut(true);
    stack.revoke(&agents[1]).await;
    stack.settled(&agents[1].id).await;
    assert!(second.is_active().await);
    proxy.cut(false);
    futures_util::future::join_all(agents[2..].iter().map(async |agent| {
        stack.revoke(agent).await;
        stack.settled(&agent.id).await;
        assert!(!stack.lets_in(agent).await);
    }))
    .await;
    let keys = stack.refused_keys().await;
    assert!(agents.iter().all(|agent| keys.contains_key(&agent.public_key)) && keys.len() == agents.len(), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_without_what_it_needs_says_what_is_missing_and_does_the_rest() {
    let stack = Stack::start().await;
    let settings = [("operator_key", "/nowhere/key.nk".to_owned())];
    let dispatcher = Dispatcher::start_with(stack.deployment.layout.root().display().to_string(), &stack.server.url(), &settings);
    let mut agent = stack.agent(POOL).await;
    agent.beats(|_| {}).await;
    stack.standing(&agent, "it scores", |standing| standing.accepting).await;
    dispatcher.becomes_active().await;
    stack.revoke(&agent).await;
    let error = stack.settle(&agent.id).await.unwrap().error.unwrap();
    assert_eq!(error.code, Code::SettlePending);
    assert!(error.message.contains("`operator_key`: there is no /nowhere/key.nk"), "{}", error.message);
    assert!(stack.lets_in(&agent).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_the_broker_does_not_know_and_a_key_that_it_does_not_trust_are_errors() {
    let (mut stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let agent = stack.agent(POOL).await;
    stack.revoke(&agent).await;
    let (stranger, operator) = (nkeys::KeyPair::new_account(), nkeys::KeyPair::new_operator());
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("fleet.pub"), stranger.public_key()).unwrap();
    std::fs::write(path("key.nk"), operator.seed().unwrap()).unwrap();
    for (setting, file, said) in
        [("fleet_account", "fleet.pub", stranger.public_key()), ("operator_key", "key.nk", "does not go by".to_owned())]
    {
        let settings = [(setting, path(file).display().to_string())];
        let dispatcher = Dispatcher::start_with(stack.deployment.layout.root().display().to_string(), &stack.server.url(), &settings);
        dispatcher.becomes_active().await;
        let asked = Instant::now();
        let answer = stack.settle(&agent.id).await;
        let error = answer.unwrap_or_else(|| panic!("{setting}: no answer in {:?}", asked.elapsed())).error.expect(setting);
        assert!(error.message.contains(&said), "{setting}: {}", error.message);
        assert!(stack.lets_in(&agent).await);
        dispatcher.stop().await;
    }
    // Nothing of it is left with the broker, which would otherwise have no such account at its next start.
    stack.server.restart().await.unwrap();
    eventually("it is let in", SOON, async || stack.lets_in(&agent).await.then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_not_settled_and_only_gateways_are_answered() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let answer = stack.gateway.request(SETTLE, "garbage".into()).await.unwrap();
    assert!(wire::decode::<SettleAnswer>(&answer.payload).unwrap().error.is_some());
    stack.settled(&AgentId::generate()).await;
    // A key that would mean every agent to the broker, and one that is none.
    let (agent, bucket) = (stack.agent(POOL).await, stack.bucket(REVOCATIONS).await);
    bucket.put(nkeys::KeyPair::new_account().public_key(), "garbage".into()).await.unwrap();
    bucket.put("all", "garbage".into()).await.unwrap();
    stack.settled(&agent.id).await;
    assert_eq!(stack.refused_keys().await, BTreeMap::new());
    // What can't be read is revoked all the same.
    bucket.put(&agent.public_key, "garbage".into()).await.unwrap();
    stack.settled(&agent.id).await;
    assert!(!stack.lets_in(&agent).await);
}
