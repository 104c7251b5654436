//! The queue of the commands to one agent: its consumer in the stream that all agents share.
//!
//! Whoever registers an agent makes it, and whoever sends a command makes sure of it. An agent may not: it could take another's commands.

use std::collections::BTreeSet;

use async_nats::Client;
use muster_schemas::{
    names::{AgentId, PoolName},
    subjects::broker::{self, ConsumerApi},
    topology::{COMMANDS, command_consumer},
};
use serde_json::{Value, json};

use super::{
    Error,
    api::{self, call, unless},
    stream::ensure_consumer,
};

/// Makes the consumer with which an agent gets its commands, or brings it to its settings. Commands that were sent before wait for it.
///
/// # Errors
/// See [`Error`].
pub async fn ensure_commands(client: &Client, pool: &PoolName, agent: &AgentId) -> Result<(), Error> {
    ensure_consumer(client, COMMANDS, &command_consumer(pool, agent)).await
}

/// The agents that have one. Those of 1 024 agents come in one answer.
///
/// # Errors
/// See [`Error`].
pub async fn agents_with_commands(client: &Client) -> Result<BTreeSet<AgentId>, Error> {
    let what = || format!("list the consumers of stream {COMMANDS}");
    let (mut agents, mut offset) = (BTreeSet::new(), 0);
    loop {
        let answer = call(client, broker::consumer_names(COMMANDS), &json!({"offset": offset}), what).await?;
        let names = answer.get("consumers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        agents.extend(names.iter().filter_map(|name| name.as_str()?.parse::<AgentId>().ok()));
        offset += names.len();
        let total = answer.get("total").and_then(Value::as_u64).unwrap_or(0);
        if names.is_empty() || offset as u64 >= total {
            return Ok(agents);
        }
    }
}

/// Removes that consumer, for an agent that is gone for good. Commands that still wait stay in the stream until somebody cancels them.
///
/// # Errors
/// See [`Error`].
pub async fn remove_commands(client: &Client, agent: &AgentId) -> Result<(), Error> {
    let subject = ConsumerApi::Delete.subject(COMMANDS, agent.as_str());
    let answer = call(client, subject, &Value::Null, || format!("delete consumer {agent} of stream {COMMANDS}")).await;
    unless(answer, &[api::CONSUMER_NOT_FOUND, api::STREAM_NOT_FOUND]).map(drop)
}
