//! A gateway that dies while it ends an agent's identity: what its record says is done all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use async_nats::connection::State;
use futures_util::StreamExt as _;
use muster_schemas::{
    control::{IdentityEnd, Order, What},
    records::{AgentState, ApiKeyRecord, KeyOwner, PastKey, Revoked},
    subjects,
    time::Timestamp,
    topology::{API_KEYS, REVOCATION_AGE, REVOCATIONS},
    wire::{self, V},
};

use crate::support::{Agent, POOL, SOON, Stack, eventually};

/// A gateway is left alone with its own record for 5 s.
const IN_A_WHILE: Duration = Duration::from_secs(20);

impl Stack {
    /// The first step of a revocation, and no other.
    async fn begins_to_revoke(&self, agent: &Agent) {
        let now = Timestamp::now();
        let key = ApiKeyRecord {
            v: V,
            id: "key_1".into(),
            prefix: agent.id.to_string(),
            hash: "x".into(),
            name: "agent".into(),
            owner: KeyOwner::Agent(agent.id.clone()),
            created_at: now,
            expires_at: None,
            revoked_at: None,
        };
        self.bucket(API_KEYS).await.put(agent.id.as_str(), wire::encode(&key).into()).await.unwrap();
        self.record(POOL, &agent.id, |record| {
            record.replace_key(None, now);
            record.state = AgentState::Revoked;
            record.revoked = Some(Revoked { at: now, by: "night shift".into(), reason: Some("stolen".into()) });
        })
        .await;
    }

    async fn api_key_is_revoked(&self, agent: &Agent) -> bool {
        let key = self.bucket(API_KEYS).await.get(agent.id.as_str()).await.unwrap().unwrap();
        wire::decode::<ApiKeyRecord>(&key).unwrap().revoked_at.is_some()
    }

    async fn is_cut_off(&self, agent: &Agent) {
        eventually("it is cut off", IN_A_WHILE, async || (agent.client.connection_state() != State::Connected).then_some(())).await;
        assert!(!self.lets_in(agent).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_cut_off_whose_gateway_died_after_the_first_step_and_is_told_why() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let (agent, other) = (stack.agent(POOL).await, stack.agent(POOL).await);
    let mut orders = agent.client.subscribe(subjects::control(&agent.id)).await.unwrap();
    agent.client.flush().await.unwrap();
    stack.begins_to_revoke(&agent).await;
    let order = tokio::time::timeout(IN_A_WHILE, orders.next()).await.expect("an order").unwrap();
    let why = What::IdentityEnded { why: IdentityEnd::Revoked, reason: Some("stolen".into()) };
    assert_eq!(wire::decode::<Order>(&order.payload).unwrap().what, why);
    stack.is_cut_off(&agent).await;
    assert!(stack.api_key_is_revoked(&agent).await && stack.lets_in(&other).await);
    let (entry, _) = stack.audited("agents.cut_off").await;
    assert!(entry.detail.as_deref().unwrap().contains("night shift"), "{entry:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_starts_later_cuts_it_off_and_so_it_is_after_a_rotation_and_with_the_keys_it_had_before() {
    let stack = Stack::start().await;
    let [revoked, rotated, earlier, replaced] =
        [stack.agent(POOL).await, stack.agent(POOL).await, stack.agent(POOL).await, stack.agent(POOL).await];
    stack.begins_to_revoke(&revoked).await;
    let now = Timestamp::now();
    let past = |agent: &Agent| PastKey { public_key: agent.public_key.clone(), until: now, revoked: false };
    // Another key of the same agent, that it had before; and an agent that has only taken a new key, which ends nothing.
    stack
        .record(POOL, &rotated.id, |record| {
            record.past_keys = vec![past(&earlier)];
            record.replace_key(None, now);
        })
        .await;
    stack.record(POOL, &replaced.id, |record| record.past_keys = vec![past(&replaced)]).await;
    // An entry that is there is left as it is.
    stack.revoke(&revoked).await;
    let before = stack.bucket(REVOCATIONS).await.entry(&revoked.public_key).await.unwrap().unwrap().revision;
    let _dispatcher = stack.dispatcher().await;
    for agent in [&revoked, &rotated, &earlier] {
        stack.is_cut_off(agent).await;
    }
    let after = stack.bucket(REVOCATIONS).await.entry(&revoked.public_key).await.unwrap().unwrap().revision;
    assert_eq!(before, after);
    let until_s = stack.refused_keys().await[&rotated.public_key];
    assert!(until_s >= (now + REVOCATION_AGE).secs());
    assert!(stack.lets_in(&replaced).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_goes_on_with_it_waits_for_nothing() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let agent = stack.agent(POOL).await;
    stack.begins_to_revoke(&agent).await;
    stack.settled(&agent.id).await;
    assert!(!stack.lets_in(&agent).await);
    eventually("its client notices", SOON, async || (agent.client.connection_state() != State::Connected).then_some(())).await;
}
