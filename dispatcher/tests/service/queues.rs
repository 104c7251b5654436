//! The consumers of agents with commands, made good and removed by a whole dispatcher.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use muster_broker_config::provision;
use muster_schemas::{
    control::{Order, What},
    names::AgentId,
    result::Outcome,
    subjects,
    time::Timestamp,
    wire,
};

use crate::{
    history::{dispatcher_in, pool},
    support::{Agent, POOL, SOON, Stack, eventually},
};

/// Two looks, on a busy machine.
const LOOKS: Duration = Duration::from_secs(30);

/// What the agent is told from now on.
async fn listens(agent: &Agent) -> Subscriber {
    let told = agent.client.subscribe(subjects::control(&agent.id)).await.unwrap();
    agent.client.flush().await.unwrap();
    told
}

async fn is_told(told: &mut Subscriber) {
    let order = tokio::time::timeout(LOOKS, told.next()).await.expect("an order in time").unwrap();
    assert_eq!(wire::decode::<Order>(&order.payload).unwrap().what, What::AskQueue);
}

impl Stack {
    /// Whether an agent has a consumer for its commands.
    pub(crate) async fn has_consumer(&self, agent: &AgentId) -> bool {
        let info = subjects::broker::ConsumerApi::Info.subject(muster_schemas::topology::COMMANDS, agent.as_str());
        let answer = self.gateway.request(info, "".into()).await.unwrap();
        !String::from_utf8_lossy(&answer.payload).contains("\"error\"")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_left_undone_that_died_behind_the_publish_is_done_by_the_dispatcher() {
    let stack = Stack::start().await;
    let (before, later) = (stack.agent(POOL).await, stack.agent(POOL).await);
    let (mut told_before, mut told_later) = (listens(&before).await, listens(&later).await);
    stack.command(&before.id, "before", r#"{"type":"probe.ping"}"#).await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    // At once, long before its next look.
    tokio::time::timeout(SOON, is_told(&mut told_before)).await.unwrap();
    assert!(stack.has_consumer(&before.id).await);
    stack.command(&later.id, "later", r#"{"type":"probe.ping"}"#).await;
    assert!(!stack.has_consumer(&later.id).await);
    is_told(&mut told_later).await;
    assert!(stack.has_consumer(&later.id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_lost_is_given_again() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let agent = stack.agent(POOL).await;
    stack.command(&agent.id, "j", r#"{"type":"probe.ping"}"#).await;
    provision::ensure_commands(&stack.gateway, &pool(), &agent.id).await.unwrap();
    let mut told = listens(&agent).await;
    is_told(&mut told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_active_dispatcher_looks_at_once() {
    let stack = Stack::start().await;
    let first = stack.dispatcher().await;
    first.becomes_active().await;
    let second = stack.dispatcher().await;
    let agent = stack.agent(POOL).await;
    let mut told = listens(&agent).await;
    first.stop().await;
    stack.command(&agent.id, "j", r#"{"type":"probe.ping"}"#).await;
    second.becomes_active().await;
    is_told(&mut told).await;
    eventually("it has a consumer", SOON, async || stack.has_consumer(&agent.id).await.then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_moved_is_given_nothing_of_its_old_pool_and_what_comes_there_expires() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let [moved, left, stays] = [stack.agent(POOL).await, stack.agent(POOL).await, stack.agent(POOL).await];
    let dispatcher = dispatcher_in(&stack, folder.path(), &[("expire_after", "1s".into())]).await;
    dispatcher.becomes_active().await;
    for agent in [&moved, &left, &stays] {
        provision::ensure_commands(&stack.gateway, &pool(), &agent.id).await.unwrap();
    }
    for agent in [&moved, &left] {
        stack.record("q", &agent.id, |record| record.replace_key(None, Timestamp::now())).await;
    }
    for agent in [&moved, &stays] {
        stack.settled(&agent.id).await;
    }
    assert!(!stack.has_consumer(&moved.id).await && stack.has_consumer(&stays.id).await);
    // Its gateway died behind the record.
    eventually("it is done all the same", LOOKS, async || (!stack.has_consumer(&left.id).await).then_some(())).await;
    assert!(stack.has_consumer(&stays.id).await);

    let soon = Timestamp::now() + Duration::from_millis(200);
    stack.command(&moved.id, "late", &format!(r#"{{"type":"probe.echo","expires_at":"{soon}"}}"#)).await;
    let result = eventually("it expires", LOOKS, async || stack.result("late").await).await;
    assert_eq!((result.outcome, result.agent_id), (Outcome::Expired, None));
    assert!(!stack.has_consumer(&moved.id).await);
}
