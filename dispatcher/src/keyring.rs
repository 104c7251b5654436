//! Whose results are whose: the public keys of all agents, followed from their records, and the mark of each stored result that follows.
//!
//! A result is valid when the agent signed it that it names as the one that ended it, or the control plane did, over the very bytes that are
//! stored. The score does not count any other ([`crate::intake::results`]), the history shows the mark ([`crate::history`]), and one that is wrong
//! is told to people ([`forged`]). What a job's state is does not depend on it: the first result that is stored ends the job.

pub(crate) mod forged;
mod looks;
mod marks;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap};
use muster_broker_config::signing::{Judgement, StoredResult};
use muster_runtime::tasks::Tasks;
use muster_schemas::{
    headers::{KV_OPERATION, SIGNATURE},
    names::AgentId,
    records::{SigningKeys, keys},
    signature::{Mark, SIGNERS_KEY, Signature, Signed},
    subjects::js,
    time::Timestamp,
    topology::{AGENTS, RESULT_AGE_MAX, TRUST, bucket_stream},
    wire,
};
use tokio::sync::{Notify, watch};

use crate::{
    held,
    intake::follow::{Follower, Heard, Listener, Message, Range, Source},
    signing::Signing,
};
use looks::Looks;
use marks::Marks;

/// How often, and how long apart, a look-up is tried that the broker does not answer. Then a result is marked by what is known.
const TRIES: u32 = 20;
const APART: Duration = Duration::from_millis(250);

/// How often agents are forgotten of which no result is kept any more.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// The keys of all agents; clones share it.
#[derive(Clone)]
pub(crate) struct Keyring(Arc<Inner>);

struct Inner {
    client: Client,
    signing: Signing,
    agents: RwLock<HashMap<AgentId, Known>>,
    /// Whether all records of agents have been read once.
    read: watch::Sender<bool>,
    /// Told of records that have revoked keys.
    revoked: Notify,
    marks: Mutex<Marks>,
    looks: tokio::sync::Mutex<Looks>,
}

/// What is known of an agent.
#[derive(Debug, Clone)]
struct Known {
    keys: SigningKeys,
    /// When this process heard of it.
    heard: Instant,
    /// Of one that was removed: when no result of it is kept any more.
    until: Option<Timestamp>,
}

impl Known {
    /// From a record, or from the marker of its deletion. What is neither is told of where records are read for all else.
    fn read(headers: &HeaderMap, body: &[u8], stored: Option<Timestamp>) -> Option<Self> {
        let removed = headers.get(KV_OPERATION).is_some();
        let until = stored.filter(|_| removed).map(|stored| stored + RESULT_AGE_MAX);
        Some(Self { keys: wire::decode(body).ok()?, heard: Instant::now(), until })
    }
}

/// Follows the records of agents from here on.
pub(crate) fn start(tasks: &Tasks, source: &Source, signing: &Signing) -> Keyring {
    let inner = Inner {
        client: source.broker.client().clone(),
        signing: signing.clone(),
        agents: RwLock::default(),
        read: watch::Sender::new(false),
        revoked: Notify::new(),
        marks: Mutex::default(),
        looks: tokio::sync::Mutex::default(),
    };
    let keyring = Keyring(Arc::new(inner));
    // Names of consumers are made of it, and the state follows the same bucket.
    let source = Source { instance: format!("{}_keys", source.instance), ..source.clone() };
    let records = js::key(AGENTS, muster_schemas::records::keys::AGENTS);
    let follower = Follower::new(source, bucket_stream(AGENTS), records, Range::Everything);
    let (records, shutdown) =
        (Records { keyring: keyring.clone(), reading: None, tidied: Timestamp::from_secs(0) }, tasks.shutdown().clone());
    tasks.essential("keyring", async move {
        tokio::select! {
            () = follower.run(records) => {}
            () = shutdown.requested() => {}
        }
        Ok(())
    });
    keyring
}

impl Keyring {
    /// The mark of a stored result; `named` is who it says has ended its job. Waits until all records of agents have been read.
    pub(crate) async fn mark(&self, message: &Message, named: Option<&AgentId>) -> Mark {
        let place = (message.stored, message.sequence);
        if let Some(mark) = self.marks().take(place) {
            return mark;
        }
        // The sender lives as long as `self`, so this ends only with the flag set.
        let _ = self.0.read.subscribe().wait_for(|read| *read).await;
        let mark = self.judge(message, named).await;
        self.marks().keep(place, mark);
        mark
    }

    async fn judge(&self, message: &Message, named: Option<&AgentId>) -> Mark {
        let header = message.headers.get(SIGNATURE).map(|header| header.as_str());
        let result = StoredResult { header, subject: &message.subject, body: &message.payload, stored_at: message.stored, named };
        if let Judgement::Final(mark) = self.judge_now(&result) {
            return mark;
        }
        // Its key may be newer than what has been heard of here; whoever looks for one has the others wait for what he finds.
        let mut looks = self.0.looks.lock().await;
        for what in std::iter::once(None).chain(named.map(Some)) {
            if let Judgement::Final(mark) = self.judge_now(&result) {
                return mark;
            }
            if looks.due(what, Instant::now()) {
                self.look(what).await;
            }
        }
        drop(looks);
        match self.judge_now(&result) {
            Judgement::Final(mark) => mark,
            Judgement::Stranger => Mark::Wrong,
        }
    }

    fn judge_now(&self, result: &StoredResult<'_>) -> Judgement {
        let agents = self.0.agents.read().unwrap_or_else(PoisonError::into_inner);
        let known = result.named.and_then(|agent| agents.get(agent)).map(|known| known.keys.clone());
        drop(agents);
        self.0.signing.judge(result, known.as_ref())
    }

    /// Looks at an agent's record, or at the list of signers.
    async fn look(&self, what: Option<&AgentId>) {
        let Some(agent) = what else {
            if let Some(list) = self.last(TRUST, SIGNERS_KEY).await {
                // One that does not hold is told of where the list is followed.
                let _ = self.0.signing.take(&list.payload);
            }
            return;
        };
        // Of one that was removed they are left in the marker of its record's deletion.
        let Some(found) = self.last(AGENTS, &keys::agent(agent)).await else { return };
        if let Some(known) = Known::read(&found.headers, &found.payload, found.stored_at()) {
            self.0.agents.write().unwrap_or_else(PoisonError::into_inner).insert(agent.clone(), known);
        }
    }

    /// What is in a bucket under a key, straight from it.
    async fn last(&self, bucket: &str, key: &str) -> Option<held::Held> {
        for _ in 0..TRIES {
            match held::last(&self.0.client, &bucket_stream(bucket), &js::key(bucket, key)).await {
                Ok(held) => return held,
                Err(error) => {
                    tracing::warn!(
                        bucket,
                        key,
                        error = &error as &dyn std::error::Error,
                        "cannot look up who has signed a result; trying again"
                    );
                    tokio::time::sleep(APART).await;
                }
            }
        }
        None
    }

    /// The agent whose key has signed a message, present or past. `None` when the signature does not hold, or the key is none of an agent's.
    pub(crate) fn signer(&self, message: &Message) -> Option<AgentId> {
        let signature = Signature::parse(message.headers.get(SIGNATURE)?.as_str()).ok()?;
        signature.verify(Signed::Result, &message.subject, &message.payload).ok()?;
        let agents = self.0.agents.read().unwrap_or_else(PoisonError::into_inner);
        agents.iter().find(|(_, known)| known.keys.knows(&signature.key)).map(|(id, _)| id.clone())
    }

    /// The agents that have a record with a revoked key in it, their keys, and when this process heard of that. Waits until all records have been read.
    pub(crate) async fn revoked(&self) -> Vec<(AgentId, SigningKeys, Instant)> {
        let _ = self.0.read.subscribe().wait_for(|read| *read).await;
        let agents = self.0.agents.read().unwrap_or_else(PoisonError::into_inner);
        let revoked = agents.iter().filter(|(_, known)| known.until.is_none() && known.keys.past_keys.iter().any(|past| past.revoked));
        revoked.map(|(id, known)| (id.clone(), known.keys.clone(), known.heard)).collect()
    }

    /// Waits until a record comes that has a revoked key in it.
    pub(crate) async fn hears_of_revoked(&self) {
        self.0.revoked.notified().await;
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, Marks> {
        self.0.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key that a message says has signed it, for people.
pub(crate) fn signing_key(headers: &HeaderMap) -> Option<String> {
    headers.get(SIGNATURE).and_then(|header| Signature::parse(header.as_str()).ok()).map(|signature| signature.key)
}

/// Takes records over: while the bucket is read from its beginning, beside what is known.
struct Records {
    keyring: Keyring,
    reading: Option<HashMap<AgentId, Known>>,
    /// When it was last looked, by the broker's clock, whether something can be forgotten.
    tidied: Timestamp,
}

impl Listener for Records {
    async fn hear(&mut self, heard: Heard<'_>) {
        let inner = &self.keyring.0;
        let agents = || inner.agents.write().unwrap_or_else(PoisonError::into_inner);
        match heard {
            Heard::Begin(_) => self.reading = Some(HashMap::new()),
            Heard::CaughtUp => {
                if let Some(read) = self.reading.take() {
                    *agents() = read;
                }
                inner.read.send_replace(true);
            }
            Heard::Message(message) => {
                let prefix = js::key(AGENTS, keys::AGENTS.trim_end_matches('*'));
                let id = message.subject.strip_prefix(&prefix).and_then(|id| id.parse::<AgentId>().ok());
                let Some((id, keys)) = id.zip(Known::read(&message.headers, &message.payload, Some(message.stored))) else { return };
                let revoked = keys.keys.past_keys.iter().any(|past| past.revoked);
                match &mut self.reading {
                    Some(reading) => reading.insert(id, keys),
                    None => agents().insert(id, keys),
                };
                if revoked {
                    inner.revoked.notify_one();
                }
                // What grows only does so by messages.
                if message.stored.since(self.tidied) >= TIDY_EVERY {
                    self.tidied = message.stored;
                    agents().retain(|_, known| known.until.is_none_or(|until| message.stored < until));
                }
            }
        }
    }

    async fn clock(&mut self, _: Timestamp) {}
}
