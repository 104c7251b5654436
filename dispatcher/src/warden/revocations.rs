//! Keeps the revocations in the agents' account in step with the bucket: what is in the one is in the other, and nothing else.
//!
//! The bucket forgets an entry when no JWT for its key can be left, and the account follows. An update of the account names no revision, so what
//! two dispatchers do in the moment of a take-over is made good by looking again: after each update, and a moment after becoming active.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use muster_broker_config::jwt;
use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::{
    names::AgentId,
    records::{AgentRecord, RevocationRecord, keys},
    subjects::{broker::keys_of, js},
    time::Timestamp,
    topology::{AGENTS, REVOCATION_AGE, REVOCATIONS, bucket_stream},
    wire::{self, V},
};
use tokio::sync::{Mutex, Notify};

use super::{WardenError, account::Account, means::Missing, told};
use crate::{
    broker::{self, PATIENCE, Write},
    held::{self, Held, Record},
    intake::follow::{Heard, Listener},
    lease::keeper::Leadership,
    trail::Trail,
};

/// How often the two are compared when nothing happens.
const EVERY: Duration = Duration::from_secs(60);
/// Time between two tries that fail.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// So long after it became active a dispatcher looks once more: an update of the one before may have come late.
const ONCE_MORE: Duration = Duration::from_secs(6);
/// Looks at one change. Each but the last finds that somebody else has changed something.
const TRIES: usize = 10;
/// The most keys in the account: its JWT must fit one message of 1 MiB, and a key takes some 96 bytes of it. When there are more, those that
/// were revoked first are left out, whose JWTs run out first.
const MOST: usize = 10_000;

/// Told of changes of the bucket; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Hints(Arc<Notify>);

impl Listener for Hints {
    async fn hear(&mut self, _heard: Heard<'_>) {
        self.0.notify_one();
    }

    async fn clock(&mut self, _now: Timestamp) {}
}

/// The two, and how one is made of the other; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Revocations {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    broker: Broker,
    leadership: Leadership,
    account: Result<Account, Missing>,
    trail: Trail,
    /// How often it was asked for.
    asked: AtomicU64,
    /// How many of those have been met. Held by whoever is at it.
    met: Mutex<u64>,
}

impl Revocations {
    pub(super) fn new(broker: Broker, leadership: Leadership, account: Result<Account, Missing>, trail: Trail) -> Self {
        Self { inner: Arc::new(Inner { broker, leadership, account, trail, asked: AtomicU64::new(0), met: Mutex::new(0) }) }
    }

    /// Whether there is all that is needed.
    pub(super) fn can(&self) -> Result<(), Missing> {
        self.inner.account.as_ref().map(drop).map_err(Clone::clone)
    }

    /// Keeps them in step until the shutdown.
    pub(super) async fn run(self, hints: Hints, shutdown: Shutdown) -> anyhow::Result<()> {
        if self.can().is_err() {
            shutdown.requested().await;
            return Ok(());
        }
        let (mut leadership, mut led, mut next) = (self.inner.leadership.clone(), false, Instant::now());
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = hints.0.notified() => {}
                () = leadership.changed() => {
                    if led == leadership.is_mine() {
                        continue;
                    }
                }
                () = tokio::time::sleep_until(next.into()) => {}
            }
            let began = !std::mem::replace(&mut led, leadership.is_mine());
            next = Instant::now() + EVERY;
            if !led {
                continue;
            }
            let settled = tokio::select! {
                () = shutdown.requested() => return Ok(()),
                settled = self.settle() => settled,
            };
            match settled {
                Ok(()) if began => next = Instant::now() + ONCE_MORE,
                Ok(()) => {}
                Err(error) => {
                    next = Instant::now() + AGAIN_AFTER;
                    // Looked at anew as by one that has just become active.
                    led = !began && led;
                    tracing::warn!(error = &error as &dyn std::error::Error, "revocations are not carried out yet; trying again");
                }
            }
        }
    }

    /// Brings the account to what the bucket says. Once this is done, who was revoked before it was asked for is cut off and refused.
    pub(super) async fn settle(&self) -> Result<(), WardenError> {
        let account = self.inner.account.as_ref().map_err(Clone::clone)?;
        let asked = self.inner.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut met = self.inner.met.lock().await;
        // Of many that wait one does it for all: it looks after the last of them has asked.
        if *met >= asked {
            return Ok(());
        }
        let meets = self.inner.asked.load(Ordering::SeqCst);
        self.compare(account).await?;
        *met = meets;
        Ok(())
    }

    async fn compare(&self, account: &Account) -> Result<(), WardenError> {
        for _ in 0..TRIES {
            let entries = self.entries().await?;
            let before = account.jwt().await?;
            let had = jwt::revocations(&before).map_err(|error| WardenError::Account(error.to_string()))?;
            let revoked = wanted(&entries, &had, MOST, Timestamp::now());
            let Some(after) = account.with(&before, &revoked)? else { return Ok(()) };
            if !self.inner.leadership.is_mine() {
                return Err(WardenError::NotActive);
            }
            account.replace(before, after).await?;
            for (key, entry) in entries.iter().filter(|(key, _)| revoked.contains_key(*key) && !had.contains_key(*key)) {
                if let Some(agent) = entry.agent() {
                    told::cut_off(&self.inner.trail, agent, key, self.revoker(agent).await.as_deref());
                }
            }
        }
        Err(WardenError::Restless("the agents' account"))
    }

    /// Who revoked an agent, if it is revoked; for people.
    async fn revoker(&self, agent: &AgentId) -> Option<String> {
        let read = held::record::<AgentRecord>(self.inner.broker.client(), AGENTS, &keys::agent(agent)).await;
        Some(read.ok()?.0.readable()?.revoked?.by)
    }

    /// Puts a public key of an agent among those that are refused, unless it is there. Says whether it was not.
    pub(super) async fn refuse(&self, agent: &AgentId, key: &str, now: Timestamp) -> Result<bool, WardenError> {
        let client = self.inner.broker.client();
        let there = broker::entry(client, REVOCATIONS, key, PATIENCE).await?;
        if there.as_ref().is_some_and(|entry| entry.value.is_some()) {
            return Ok(false);
        }
        if !self.inner.leadership.is_mine() {
            return Err(WardenError::NotActive);
        }
        let revoked = RevocationRecord { v: V, agent_id: agent.clone(), until_s: (now + REVOCATION_AGE).secs(), at: now };
        let revision = there.map_or(0, |entry| entry.revision);
        // Refused when somebody else has just written the same.
        let written = broker::write(client, REVOCATIONS, key, Some(wire::encode(&revoked)), revision, PATIENCE).await?;
        Ok(matches!(written, Write::Stored(_)))
    }

    /// The keys that are in the bucket.
    pub(super) async fn keys(&self) -> Result<BTreeSet<String>, WardenError> {
        Ok(self.entries().await?.into_keys().collect())
    }

    async fn entries(&self) -> Result<BTreeMap<String, Entry>, WardenError> {
        let prefix = js::key(REVOCATIONS, "");
        let held = held::all(self.inner.broker.client(), &bucket_stream(REVOCATIONS), &keys_of(REVOCATIONS)).await?;
        let read = |held: Held| {
            let key = held.subject.strip_prefix(&prefix)?.to_owned();
            let entry = match held::decoded::<RevocationRecord>(&held) {
                Record::Absent => return None,
                Record::Value(record) => Entry::Known(record),
                Record::Unreadable => Entry::Unreadable,
            };
            Some((key, entry))
        };
        Ok(held.into_iter().filter_map(read).collect())
    }
}

/// An entry of the bucket.
#[derive(Debug, Clone, PartialEq)]
enum Entry {
    Known(RevocationRecord),
    /// Its key is refused all the same.
    Unreadable,
}

impl Entry {
    fn agent(&self) -> Option<&AgentId> {
        match self {
            Self::Known(record) => Some(&record.agent_id),
            Self::Unreadable => None,
        }
    }
}

/// What the account is to refuse, where it refuses `had` now.
fn wanted(entries: &BTreeMap<String, Entry>, had: &BTreeMap<String, i64>, most: usize, now: Timestamp) -> BTreeMap<String, i64> {
    // A key of another kind would mean something else to the broker: `*` is every user.
    let mut keys: Vec<_> = entries.iter().filter(|(key, _)| jwt::check_user_key(key).is_ok()).collect();
    if keys.len() > most {
        tracing::error!(revoked = keys.len(), most, "more keys are revoked than the broker's account can hold; the oldest are left out");
        keys.sort_by_key(|(_, entry)| match entry {
            Entry::Known(record) => std::cmp::Reverse(record.at),
            Entry::Unreadable => std::cmp::Reverse(now),
        });
        keys.truncate(most);
    }
    let until = |key: &str, entry: &Entry| match entry {
        Entry::Known(record) => record.until_s,
        Entry::Unreadable => had.get(key).copied().unwrap_or_else(|| (now + REVOCATION_AGE).secs()),
    };
    keys.into_iter().map(|(key, entry)| (key.clone(), until(key, entry))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use nkeys::KeyPair;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn entry(until_s: i64, at: Timestamp) -> Entry {
        Entry::Known(RevocationRecord { v: V, agent_id: AgentId::generate(), until_s, at })
    }

    #[test]
    fn the_account_refuses_what_the_bucket_says_and_nothing_else() {
        let [a, b, c] = [(); 3].map(|()| KeyPair::new_user().public_key());
        let entries = BTreeMap::from([(a.clone(), entry(7, now())), (b.clone(), Entry::Unreadable), (c.clone(), Entry::Unreadable)]);
        let had = BTreeMap::from([(KeyPair::new_user().public_key(), 5), (b.clone(), 6)]);
        let wanted = wanted(&entries, &had, MOST, now());
        assert_eq!(wanted, BTreeMap::from([(a, 7), (b, 6), (c, (now() + REVOCATION_AGE).secs())]));
    }

    #[test]
    fn a_key_that_is_no_users_is_never_put_into_the_account() {
        let keys = ["*".to_owned(), "x".to_owned(), KeyPair::new_account().public_key()];
        let entries: BTreeMap<_, _> = keys.into_iter().map(|key| (key, entry(7, now()))).collect();
        assert!(wanted(&entries, &BTreeMap::new(), MOST, now()).is_empty());
    }

    #[test]
    fn of_too_many_the_last_ones_are_kept() {
        let user = |n: usize| (KeyPair::new_user().public_key(), entry(7, now() + Duration::from_secs(n as u64)));
        let entries: BTreeMap<_, _> = (0..25).map(user).collect();
        let wanted = wanted(&entries, &BTreeMap::new(), 20, now());
        assert_eq!(wanted.len(), 20);
        let left: Vec<_> = entries.iter().filter(|(key, _)| !wanted.contains_key(*key)).collect();
        assert!(
            left.iter().all(|(_, entry)| matches!(entry, Entry::Known(record) if record.at < now() + Duration::from_secs(5))),
            "{left:?}"
        );
    }

    #[test]
    fn an_account_that_refuses_the_most_keys_fits_into_one_message_of_the_broker() {
        let revoked = (0..MOST).map(|n| (format!("U{n:055}"), now().secs())).collect();
        let keys = || KeyPair::new_account().public_key();
        let keys = muster_broker_config::accounts::AccountKeys { account: keys(), signing: keys() };
        let claims = muster_broker_config::accounts::fleet(&keys, &keys, revoked);
        let jwt = jwt::encode(&claims, &KeyPair::new_operator(), now()).unwrap();
        assert!(jwt.len() < 1024 * 1024, "{}", jwt.len());
    }
}
