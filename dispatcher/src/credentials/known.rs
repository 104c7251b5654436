//! What is known of connections, agents, their last heartbeats and their mailboxes. No ciphertext is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use muster_schemas::{
    connection::{ConnectionRecord, Mailbox},
    heartbeat::Heartbeat,
    names::{AgentId, ConnectionName, PoolName},
    records::{AgentRecord, AgentState},
    sealed::SealingKey,
    time::Timestamp,
};

use crate::{
    score,
    state::{Feed, Key},
};

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connected {
    pub(super) revision: u64,
}

impl From<ConnectionRecord> for Connected {
    fn from(record: ConnectionRecord) -> Self {
        Self { revision: record.revision }
    }
}

/// An agent that has a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) pool: PoolName,
    /// Whether it may have secrets: it is registered, and neither revoked nor being removed.
    pub(super) trusted: bool,
    pub(super) public_key: Option<String>,
}

impl From<AgentRecord> for Member {
    fn from(record: AgentRecord) -> Self {
        let trusted = !matches!(record.state, AgentState::Pending | AgentState::Revoked | AgentState::Deleting);
        Self { pool: record.pool, trusted, public_key: record.public_key }
    }
}

/// What an agent said last of what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) pool: PoolName,
    /// When the broker stored it.
    pub(super) at: Timestamp,
    pub(super) interval: Duration,
    pub(super) goodbye: bool,
    pub(super) sealing: Option<SealingKey>,
    pub(super) held: BTreeMap<ConnectionName, u64>,
}

impl Told {
    pub(super) fn new(pool: PoolName, beat: Heartbeat, at: Timestamp) -> Self {
        let Heartbeat { interval_s, goodbye, sealing, credentials: held, .. } = beat;
        Self { pool, at, interval: score::interval(interval_s), goodbye, sealing, held }
    }

    /// Whether it is there.
    fn is_fresh(&self, now: Timestamp) -> bool {
        !self.goodbye && now.since(self.at) < self.interval * score::GONE_AFTER
    }

    /// Whether something else follows from it than from the one before.
    fn differs(&self, before: &Self) -> bool {
        (&self.pool, self.goodbye, &self.sealing, &self.held) != (&before.pool, before.goodbye, &before.sealing, &before.held)
            || self.at.since(before.at) >= before.interval * score::GONE_AFTER
    }
}

/// What lies in a mailbox: by connection, which revision, and the key that it is sealed to.
pub(super) type Contents = BTreeMap<ConnectionName, (u64, String)>;

/// The contents of a mailbox.
pub(super) fn contents(mailbox: Mailbox) -> Contents {
    mailbox.entries.into_iter().map(|(name, entry)| (name, (entry.revision, entry.key))).collect()
}

/// A bucket, as known: replaced as a whole by each reading, so that what was deleted meanwhile goes too.
#[derive(Debug)]
struct Bucket<K, T> {
    known: BTreeMap<K, T>,
    reading: Option<BTreeMap<K, T>>,
    read: bool,
}

impl<K, T> Default for Bucket<K, T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), reading: None, read: false }
    }
}

impl<K: Ord, T> Bucket<K, T> {
    fn follow(&mut self, feed: Feed<K, T>) {
        let into = self.reading.as_mut().unwrap_or(&mut self.known);
        match feed {
            Feed::Begin => self.reading = Some(BTreeMap::new()),
            Feed::Put(key, value, _) => drop(into.insert(key, value)),
            Feed::Gone(key, _) => drop(into.remove(&key)),
            Feed::End => {
                self.known = self.reading.take().unwrap_or_default();
                self.read = true;
            }
        }
    }
}

/// Something that was heard.
#[derive(Debug)]
pub(super) enum Heard {
    Connections(Feed<(PoolName, ConnectionName), Connected>),
    Agents(Feed<AgentId, Member>),
    Mailboxes(Feed<AgentId, Contents>),
    Heartbeat(Key, Box<Heartbeat>, Timestamp),
    /// All last heartbeats have come.
    Heartbeats,
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Known {
    connections: Bucket<(PoolName, ConnectionName), Connected>,
    agents: Bucket<AgentId, Member>,
    mailboxes: Bucket<AgentId, Contents>,
    told: BTreeMap<AgentId, Told>,
    heartbeats_read: bool,
}

/// An agent that is there, and may have secrets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present<'a> {
    pub(super) id: &'a AgentId,
    pub(super) public_key: &'a str,
    pub(super) told: &'a Told,
}

impl Known {
    /// Takes in what was heard. Says whether something may follow from it.
    pub(super) fn take(&mut self, heard: Heard) -> bool {
        match heard {
            Heard::Connections(feed) => self.connections.follow(feed),
            Heard::Agents(feed) => self.agents.follow(feed),
            Heard::Mailboxes(feed) => self.mailboxes.follow(feed),
            Heard::Heartbeats => self.heartbeats_read = true,
            Heard::Heartbeat(key, beat, at) => {
                let told = Told::new(key.pool, *beat, at);
                let differs = self.told.get(&key.agent).is_none_or(|before| told.differs(before));
                self.told.insert(key.agent, told);
                return differs;
            }
        }
        true
    }

    /// Whether everything was read once. Before that, what is not known may be there.
    pub(super) fn is_complete(&self) -> bool {
        self.connections.read && self.agents.read && self.mailboxes.read && self.heartbeats_read
    }

    /// Forgets the heartbeats of agents that are no more.
    pub(super) fn tidy(&mut self) {
        self.told.retain(|id, _| self.agents.known.contains_key(id));
    }

    /// The connections that have credentials, by pool.
    pub(super) fn connections(&self) -> BTreeMap<&PoolName, Vec<(&ConnectionName, u64)>> {
        let mut pools = BTreeMap::<_, Vec<_>>::new();
        for ((pool, name), connected) in self.connections.known.iter().filter(|(_, connected)| connected.revision > 0) {
            pools.entry(pool).or_default().push((name, connected.revision));
        }
        pools
    }

    /// The agents that are there and may have secrets, by pool.
    pub(super) fn present(&self, now: Timestamp) -> BTreeMap<&PoolName, Vec<Present<'_>>> {
        let mut pools = BTreeMap::<_, Vec<_>>::new();
        for (id, member) in self.agents.known.iter().filter(|(_, member)| member.trusted) {
            let told = self.told.get(id).filter(|told| told.pool == member.pool && told.is_fresh(now));
            if let (Some(told), Some(public_key)) = (told, &member.public_key) {
                pools.entry(&member.pool).or_default().push(Present { id, public_key, told });
            }
        }
        pools
    }

    /// What lies in an agent's mailbox of a connection.
    pub(super) fn lies(&self, agent: &AgentId, name: &ConnectionName) -> Option<&(u64, String)> {
        self.mailboxes.known.get(agent)?.get(name)
    }

    /// Mailboxes of agents that are no more.
    pub(super) fn ownerless(&self) -> BTreeSet<&AgentId> {
        self.mailboxes.known.keys().filter(|id| !self.agents.known.contains_key(*id)).collect()
    }

    /// What lies in mailboxes of connections that are no more, or are not of their agent's pool, or were made anew since.
    pub(super) fn stale(&self) -> BTreeSet<(&AgentId, &ConnectionName)> {
        let mut stale = BTreeSet::new();
        for (id, contents) in &self.mailboxes.known {
            let Some(member) = self.agents.known.get(id) else { continue };
            for (name, (revision, _)) in contents {
                let connection = self.connections.known.get(&(member.pool.clone(), name.clone()));
                if connection.is_none_or(|connection| connection.revision < *revision) {
                    stale.insert((id, name));
                }
            }
        }
        stale
    }
}
