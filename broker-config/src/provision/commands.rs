//! The queue of the commands to one agent: its consumer in the stream that all agents share.
//!
//! It is there only while the agent had a command lately: the broker compares each consumer of a stream with all others, so that thousands of
//! them make everything slow that makes one more. Whoever sends a command makes sure of it, *after* the command is stored: it may be
//! removed at any moment before ([`retire_commands`]). An agent may not make it: it could take another's commands. It names the pool of its
//! agent, so it goes when the agent moves ([`leave_behind`]).

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use async_nats::{Client, RequestErrorKind, StatusCode};
use bytes::Bytes;
use muster_schemas::{
    headers,
    names::{AgentId, PoolName},
    records::keys,
    subjects::{
        self,
        broker::{self, ConsumerApi},
        js,
    },
    time::Timestamp,
    topology::{COMMANDS, LEASE_AGE, LEASES, bucket_stream, command_consumer},
};
use serde_json::{Value, json};

use super::{
    Error,
    api::{self, call, unless},
    bucket, pause,
    stream::{is_there, make_consumer},
};

/// For so long a consumer that is being removed gives nothing out. Should whoever removes it vanish half-way, it goes on by itself.
const PAUSE: Duration = Duration::from_secs(30);
/// A removal that has come no further by then is left: pause and mark have to outlast it.
const PROMPT: Duration = Duration::from_secs(1);
/// How often it is looked whether a removal is over: it takes some round trips and two flushes.
const MOMENT: Duration = Duration::from_millis(10);

/// What became of a consumer that was to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retired {
    /// It is gone, and no command was left behind.
    Gone,
    /// It was left alone: it has commands, or had some lately.
    Kept,
    /// It is gone, and a command to the agent, of this pool, was sent at that moment: the agent needs a consumer again.
    Overtaken(PoolName),
}

/// Makes the consumer with which an agent gets its commands, or brings it to its settings. Commands that were sent before wait for it. To be
/// called once the command is stored. One that is just being removed is waited for, some milliseconds as a rule.
///
/// # Errors
/// See [`Error`].
pub async fn ensure_commands(client: &Client, pool: &PoolName, agent: &AgentId) -> Result<(), Error> {
    let (want, began) = (command_consumer(pool, agent), Instant::now());
    while !is_there(client, COMMANDS, &want).await? {
        // In this order: what is missing because it is being removed was marked before.
        if !is_retiring(client, agent).await? || began.elapsed() > LEASE_AGE {
            return make_consumer(client, COMMANDS, &want).await;
        }
        tokio::time::sleep(MOMENT).await;
    }
    Ok(())
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

/// Removes the consumer of an agent that has no command, and has had none for `idle`. `may` is asked once more before it is removed.
///
/// A command that is sent at that moment is neither lost nor given out twice. The consumer is paused before it is looked whether there is a
/// command: one that is stored from then on is not given out by it, so that no delivery is forgotten. Once the consumer is gone it is looked
/// again, for one whose sender found the consumer there.
///
/// Meanwhile a mark keeps others from making the consumer anew: **[seen on 2.15.1]** a consumer that is made while one of its name is being
/// removed, over another connection, loses its files to that removal. It works on in memory, and is gone after a restart.
///
/// # Errors
/// See [`Error`]. It may be repeated. What was begun ends by itself: the mark within [`LEASE_AGE`], the pause within half a minute.
pub async fn retire_commands(client: &Client, agent: &AgentId, idle: Duration, may: impl Fn() -> bool) -> Result<Retired, Error> {
    let (name, began) = (agent.as_str(), Instant::now());
    let info = call(client, ConsumerApi::Info.subject(COMMANDS, name), &Value::Null, || format!("read consumer {name}")).await;
    let Some(info) = unless(info, &[api::CONSUMER_NOT_FOUND])? else { return Ok(Retired::Gone) };
    let now = pause::clock(&info);
    if used_at(&info).is_none_or(|at| now.since(at) < idle) || !mark(client, agent).await? {
        return Ok(Retired::Kept);
    }
    let paused = pause::until(client, COMMANDS, name, now + PAUSE).await.map(Value::Bool);
    if unless(paused, &[api::CONSUMER_NOT_FOUND])?.is_none() {
        // Its agent has been removed meanwhile.
        unmark(client, agent).await?;
        return Ok(Retired::Gone);
    }
    let any = subjects::commands_anywhere_to(agent);
    if waiting(client, &any).await?.is_some() || began.elapsed() > PROMPT || !may() {
        pause::go_on(client, COMMANDS, name).await?;
        unmark(client, agent).await?;
        return Ok(Retired::Kept);
    }
    remove_commands(client, agent).await?;
    // Before the last look: who still sees the mark has stored its command before that.
    unmark(client, agent).await?;
    Ok(waiting(client, &any).await?.map_or(Retired::Gone, Retired::Overtaken))
}

/// Removes the consumer of an agent that is in `pool` by now, if it is for another one: it would give out what is sent there. What it had given
/// out, or still would, stays in the stream until it expires. Answers whether there was one. `may` is asked once more before it is removed.
///
/// With a command of `pool` there already, whoever sent it may be changing the consumer at this moment: then it is changed here as well, not removed.
///
/// # Errors
/// See [`Error`]; [`Error::Contended`] when it is just being removed anyway, or that may not be done any more. It may be repeated.
pub async fn leave_behind(client: &Client, pool: &PoolName, agent: &AgentId, may: impl Fn() -> bool) -> Result<bool, Error> {
    let (name, own, began) = (agent.as_str(), subjects::commands_to(pool, agent), Instant::now());
    let info = call(client, ConsumerApi::Info.subject(COMMANDS, name), &Value::Null, || format!("read consumer {name}")).await;
    let Some(info) = unless(info, &[api::CONSUMER_NOT_FOUND, api::STREAM_NOT_FOUND])? else { return Ok(false) };
    if info.pointer("/config/filter_subject").and_then(Value::as_str) == Some(own.as_str()) {
        return Ok(false);
    }
    let contended = || Error::Contended { what: format!("the consumer of {agent}, which has moved,") };
    if !mark(client, agent).await? {
        return Err(contended());
    }
    // Who sends a command after this look sees the mark.
    let overtaken = waiting(client, &own).await?.is_some();
    let late = began.elapsed() > PROMPT || !may();
    if !overtaken && !late {
        remove_commands(client, agent).await?;
    }
    unmark(client, agent).await?;
    match (late, overtaken) {
        (true, _) => Err(contended()),
        (false, true) => ensure_commands(client, pool, agent).await.map(|()| true),
        (false, false) => Ok(true),
    }
}

/// Says that the consumer of an agent is being removed. Answers `false` when somebody has said so already, and it has to be left to them.
async fn mark(client: &Client, agent: &AgentId) -> Result<bool, Error> {
    match marked(client, agent).await? {
        Mark { set: true, .. } => Ok(false),
        Mark { set: false, revision } => bucket::put(client, LEASES, &keys::retiring(agent), Vec::new(), revision).await,
    }
}

/// Says that it is not being removed any more.
async fn unmark(client: &Client, agent: &AgentId) -> Result<(), Error> {
    bucket::delete(client, LEASES, &keys::retiring(agent)).await
}

/// Whether the consumer of an agent is being removed.
async fn is_retiring(client: &Client, agent: &AgentId) -> Result<bool, Error> {
    marked(client, agent).await.map(|mark| mark.set)
}

/// What the bucket says of a removal.
#[derive(Debug, Default)]
struct Mark {
    set: bool,
    revision: u64,
}

async fn marked(client: &Client, agent: &AgentId) -> Result<Mark, Error> {
    let subject = js::direct_get(&bucket_stream(LEASES), &js::key(LEASES, &keys::retiring(agent)));
    let what = || format!("look whether the consumer of {agent} is being removed");
    match client.request(subject, Bytes::new()).await {
        Ok(message) if message.status == Some(StatusCode::NOT_FOUND) => Ok(Mark::default()),
        Ok(message) => {
            let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get_last(name));
            let revision = header(headers::SEQUENCE).and_then(|revision| revision.as_str().parse().ok());
            let revision = revision.ok_or_else(|| Error::Malformed { what: what(), problem: "it has no revision".into() })?;
            Ok(Mark { set: header(headers::KV_OPERATION).is_none(), revision })
        }
        // A broker that was restarted has forgotten the bucket.
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(Mark::default()),
        Err(source) => Err(Error::Unreachable { operation: what(), source }),
    }
}

/// When a consumer was made, or last gave something out.
fn used_at(info: &Value) -> Option<Timestamp> {
    let time = |pointer: &str| info.pointer(pointer).and_then(Value::as_str).and_then(|at| at.parse::<Timestamp>().ok());
    time("/created").max(time("/delivered/last_active"))
}

/// The pool of the first command at such a subject that has not ended; `None` when there is no command.
async fn waiting(client: &Client, filter: &str) -> Result<Option<PoolName>, Error> {
    let operation = || format!("look for commands at {filter}");
    let body = json!({"next_by_subj": filter, "seq": 1}).to_string();
    let answer = client.request(js::direct_get_by_request(COMMANDS), body.into()).await;
    let message = answer.map_err(|source| Error::Unreachable { operation: operation(), source })?;
    if message.status == Some(StatusCode::NOT_FOUND) {
        return Ok(None);
    }
    let subject = message.headers.as_ref().and_then(|headers| headers.get_last(headers::REPUBLISHED_SUBJECT));
    let pool = subject.and_then(|subject| subject.as_str().split('.').nth(1)?.parse().ok());
    pool.map(Some).ok_or_else(|| Error::Malformed { what: operation(), problem: "the answer names no command".into() })
}
