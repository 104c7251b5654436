//! Follows connections, agents, mailboxes and heartbeats, and decodes them. What does not decode is skipped, as in [`crate::intake`], which counts it.

use std::time::Instant;

use muster_runtime::tasks::Tasks;
use muster_schemas::{
    connection::{ConnectionRecord, Mailbox, keys},
    headers::KV_OPERATION,
    heartbeat::Heartbeat,
    names::AgentId,
    records::{self, AgentRecord},
    subjects::{self, broker::keys_of, js},
    time::Timestamp,
    topology::{AGENTS, CONNECTIONS, HEARTBEATS, MAILBOXES, bucket_stream},
    wire::{self, Body},
};
use tokio::sync::mpsc;

use super::known::{Connected, Heard, Member, contents};
use crate::{
    intake::follow::{self, Follower, Listener, Message, Range, Source},
    state::{Feed, Key},
};

/// What may wait for the driver. While it is behind, the streams are read more slowly; nothing is lost.
const QUEUE: usize = 256;

/// What the driver is told.
#[derive(Debug)]
pub(super) enum Input {
    Heard(Heard),
    /// The broker's clock showed this when this machine's monotonic clock showed that.
    BrokerClock(Timestamp, Instant),
}

/// Starts all four followers.
pub(super) fn start(tasks: &Tasks, source: &Source) -> mpsc::Receiver<Input> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    // Names of consumers are made of it, and others follow the same streams.
    let source = Source { instance: format!("{}_credentials", source.instance), ..source.clone() };
    let bucket = |name: &str, filter: String| Follower::new(source.clone(), bucket_stream(name), filter, Range::Everything);
    let agents = bucket(AGENTS, js::key(AGENTS, records::keys::AGENTS));
    let beats = Follower::new(source.clone(), HEARTBEATS.to_owned(), subjects::heartbeats(), Range::Latest);
    let follow = |name, follower: Follower, read: fn(follow::Heard<'_>) -> Option<Heard>| {
        let (shutdown, listener) = (tasks.shutdown().clone(), Ear { inputs: sender.clone(), read });
        tasks.essential(name, async move {
            tokio::select! {
                () = follower.run(listener) => {}
                () = shutdown.requested() => {}
            }
            Ok(())
        });
    };
    follow("credentials: connections", bucket(CONNECTIONS, keys_of(CONNECTIONS)), connections);
    follow("credentials: agents", agents, self::agents);
    follow("credentials: mailboxes", bucket(MAILBOXES, keys_of(MAILBOXES)), mailboxes);
    follow("credentials: heartbeats", beats, heartbeats);
    receiver
}

struct Ear {
    inputs: mpsc::Sender<Input>,
    read: fn(follow::Heard<'_>) -> Option<Heard>,
}

impl Listener for Ear {
    async fn hear(&mut self, heard: follow::Heard<'_>) {
        if let Some(heard) = (self.read)(heard) {
            // Refused only when the driver has ended, and then the process ends.
            let _ = self.inputs.send(Input::Heard(heard)).await;
        }
    }

    async fn clock(&mut self, now: Timestamp) {
        let _ = self.inputs.send(Input::BrokerClock(now, Instant::now())).await;
    }
}

fn connections(heard: follow::Heard<'_>) -> Option<Heard> {
    let record = |bytes: &[u8]| decode::<ConnectionRecord>(bytes).map(Connected::from);
    bucket(heard, CONNECTIONS, keys::parse_record, record).map(Heard::Connections)
}

fn agents(heard: follow::Heard<'_>) -> Option<Heard> {
    let id = |key: &str| key.strip_prefix(records::keys::AGENTS.trim_end_matches('*'))?.parse::<AgentId>().ok();
    bucket(heard, AGENTS, id, |bytes| decode::<AgentRecord>(bytes).map(Member::from)).map(Heard::Agents)
}

fn mailboxes(heard: follow::Heard<'_>) -> Option<Heard> {
    bucket(heard, MAILBOXES, |key| key.parse::<AgentId>().ok(), |bytes| decode::<Mailbox>(bytes).map(contents)).map(Heard::Mailboxes)
}

fn heartbeats(heard: follow::Heard<'_>) -> Option<Heard> {
    match heard {
        follow::Heard::Begin(_) => None,
        follow::Heard::CaughtUp => Some(Heard::Heartbeats),
        follow::Heard::Message(message) => {
            let (pool, agent) = subjects::parse_heartbeat(&message.subject)?;
            let beat = decode::<Heartbeat>(&message.payload)?;
            Some(Heard::Heartbeat(Key { pool, agent }, Box::new(beat), message.stored))
        }
    }
}

/// What was heard of a bucket. An entry that can't be read is as good as deleted: nothing follows from it.
fn bucket<K, T>(
    heard: follow::Heard<'_>,
    name: &str,
    key: impl FnOnce(&str) -> Option<K>,
    read: impl FnOnce(&[u8]) -> Option<T>,
) -> Option<Feed<K, T>> {
    let Message { subject, headers, payload, sequence, .. } = match heard {
        follow::Heard::Begin(_) => return Some(Feed::Begin),
        follow::Heard::CaughtUp => return Some(Feed::End),
        follow::Heard::Message(message) => message,
    };
    let key = key(subject.strip_prefix(&js::key(name, ""))?)?;
    let value = headers.get(KV_OPERATION).is_none().then(|| read(payload)).flatten();
    Some(match value {
        Some(value) => Feed::Put(key, value, *sequence),
        None => Feed::Gone(key, *sequence),
    })
}

fn decode<T: Body>(bytes: &[u8]) -> Option<T> {
    wire::decode(bytes).inspect_err(|error| tracing::debug!(%error, "a body that can't be decoded")).ok()
}
