//! The queue of the commands to one agent: its consumer in the stream that all agents share.
//!
//! Whoever registers an agent makes it, and whoever sends a command makes sure of it. An agent may not: it could take another's commands.

use async_nats::Client;
use muster_schemas::{
    names::{AgentId, PoolName},
    subjects::broker::ConsumerApi,
    topology::{COMMANDS, command_consumer},
};
use serde_json::Value;

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

/// Removes that consumer, for an agent that is gone for good. Commands that still wait stay in the stream until somebody cancels them.
///
/// # Errors
/// See [`Error`].
pub async fn remove_commands(client: &Client, agent: &AgentId) -> Result<(), Error> {
    let subject = ConsumerApi::Delete.subject(COMMANDS, agent.as_str());
    let answer = call(client, subject, &Value::Null, || format!("delete consumer {agent} of stream {COMMANDS}")).await;
    unless(answer, &[api::CONSUMER_NOT_FOUND, api::STREAM_NOT_FOUND]).map(drop)
}
