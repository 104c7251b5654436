//! Copies of buckets, kept up to date by watching them, so that a list is not a scan of a bucket per request.
//!
//! They lag behind the buckets by about a millisecond. What must be exact (a decision about one thing) is read from
//! [`super::Buckets`] instead. [`watch`] says how they survive a lost connection.

pub(crate) mod watch;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use muster_schemas::{
    names::{AgentId, PoolName},
    records::{AgentRecord, ApiKeyRecord, JoinTokenRecord, KeyUseRecord, PoolRecord},
    standing::Standing,
    wire::{self, Body},
};
use tokio::sync::watch as flag;

pub(crate) use watch::Change;

/// What is mirrored; clones share it. Maps are in the order of their keys, and agents' ids in the order of their making.
#[derive(Clone, Default)]
pub(crate) struct Mirror {
    pub(crate) agents: Copied<AgentId, AgentRecord>,
    pub(crate) standings: Copied<AgentId, Standing>,
    pub(crate) pools: Copied<PoolName, PoolRecord>,
    /// By prefix.
    pub(crate) api_keys: Copied<String, ApiKeyRecord>,
    /// By prefix.
    pub(crate) key_uses: Copied<String, KeyUseRecord>,
    /// By prefix.
    pub(crate) join_tokens: Copied<String, JoinTokenRecord>,
}

/// How long an answer waits for a copy to take its own write over. It takes about a millisecond.
const CATCH_UP: Duration = Duration::from_secs(1);

/// One mirrored bucket; clones share it.
pub(crate) struct Copied<K, V>(Arc<Inner<K, V>>);

struct Inner<K, V> {
    map: RwLock<BTreeMap<K, Arc<V>>>,
    /// The last revision taken over; `None` until the bucket was read once in full.
    seen: flag::Sender<Option<u64>>,
}

/// What was read of a bucket since its beginning, until it is all there.
struct Staged<K, V> {
    map: BTreeMap<K, Arc<V>>,
    revision: u64,
}

impl<K, V> Clone for Copied<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> Default for Copied<K, V> {
    fn default() -> Self {
        Self(Arc::new(Inner { map: RwLock::default(), seen: flag::Sender::new(None) }))
    }
}

impl<K: Ord + Clone, V: Body> Copied<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        self.read().get(key).cloned()
    }

    /// All of them, in the order of their keys. Costs one pointer each.
    pub(crate) fn all(&self) -> Vec<(K, Arc<V>)> {
        self.read().iter().map(|(key, value)| (key.clone(), Arc::clone(value))).collect()
    }

    /// Waits until the bucket was read once in full.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as `self`, so this ends only with the flag set.
        let _ = self.0.seen.subscribe().wait_for(Option::is_some).await;
    }

    /// How far this copy is.
    pub(crate) fn seen(&self) -> Option<u64> {
        *self.0.seen.borrow()
    }

    /// Waits until it is somewhere else.
    pub(crate) async fn changed_since(&self, before: Option<u64>) {
        let _ = self.0.seen.subscribe().wait_for(|seen| *seen != before).await;
    }

    /// Waits a moment until a write is taken over, so that whoever wrote it sees it in the next list of this gateway.
    pub(crate) async fn caught_up(&self, revision: u64) {
        let mut seen = self.0.seen.subscribe();
        let behind = tokio::time::timeout(CATCH_UP, seen.wait_for(|seen| *seen >= Some(revision))).await.is_err();
        if behind {
            tracing::warn!(revision, "a copy of a bucket lags behind");
        }
    }

    /// Takes a change of the bucket over; `parse` tells from the entry's key what it is about, `None` if it is of another kind.
    fn apply(&self, change: Change, staged: &mut Staged<K, V>, parse: impl Fn(&str) -> Option<K>) {
        let (key, value, revision, initial) = match change {
            Change::Restarted => return staged.map.clear(),
            Change::Complete => {
                *self.write() = std::mem::take(&mut staged.map);
                self.0.seen.send_replace(Some(staged.revision));
                return;
            }
            Change::Put { key, value, revision, initial } => match wire::decode::<V>(&value) {
                Ok(value) => (key, Some(Arc::new(value)), revision, initial),
                // Keys of another kind have values of another kind.
                Err(_) if parse(&key).is_none() => (key, None, revision, initial),
                Err(error) => return tracing::error!(%error, key, "a record can't be read"),
            },
            Change::Deleted { key, revision, initial } => (key, None, revision, initial),
        };
        staged.revision = revision;
        if let Some(key) = parse(&key) {
            let set = |map: &mut BTreeMap<K, Arc<V>>| match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
            if initial {
                set(&mut staged.map)
            } else {
                set(&mut self.write())
            };
        }
        if !initial {
            self.0.seen.send_replace(Some(revision));
        }
    }

    /// What feeds this copy with the changes of its bucket.
    pub(crate) fn feed(&self, parse: impl Fn(&str) -> Option<K> + Send + 'static) -> impl FnMut(Change) + Send + 'static
    where
        K: Send + Sync + 'static,
        V: Send + Sync + 'static,
    {
        let (copied, mut staged) = (self.clone(), Staged { map: BTreeMap::new(), revision: 0 });
        move |change| copied.apply(change, &mut staged, &parse)
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<K, Arc<V>>> {
        self.0.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<K, Arc<V>>> {
        self.0.map.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The agent's id in the key of a record (`id.<agent_id>`). Keys that keep names unique are of another kind.
pub(crate) fn agent_key(key: &str) -> Option<AgentId> {
    key.strip_prefix("id.")?.parse().ok()
}

/// The agent's id in the key of a standing (`<pool>.<agent_id>`).
pub(crate) fn standing_key(key: &str) -> Option<AgentId> {
    key.split_once('.')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{records::PoolLimits, time::Timestamp, wire::V};

    use super::*;

    fn put(name: &str, initial: bool) -> Change {
        let name: PoolName = name.parse().unwrap();
        let created_at = Timestamp::from_secs(0);
        let (limits, defaults) = (PoolLimits::default(), Default::default());
        let record = PoolRecord { v: V, name, description: None, executors: [].into(), limits, defaults, paused: None, created_at };
        Change::Put { key: record.name.to_string(), value: wire::encode(&record).into(), revision: 1, initial }
    }

    fn names(copied: &Copied<PoolName, PoolRecord>) -> Vec<String> {
        copied.all().iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn a_copy_is_replaced_as_a_whole_after_a_restart_so_that_nothing_deleted_meanwhile_stays() {
        let copied = Copied::<PoolName, PoolRecord>::default();
        let mut feed = copied.feed(|key| key.parse().ok());
        for change in [Change::Restarted, put("a", true), put("b", true), Change::Complete, put("c", false)] {
            feed(change);
        }
        assert_eq!(names(&copied), ["a", "b", "c"]);
        for change in [Change::Restarted, put("b", true)] {
            feed(change);
        }
        assert_eq!(names(&copied), ["a", "b", "c"], "the old copy serves until the new one is whole");
        feed(Change::Complete);
        assert_eq!(names(&copied), ["b"]);
        feed(Change::Deleted { key: "b".into(), revision: 9, initial: false });
        assert!(names(&copied).is_empty());
    }

    #[test]
    fn a_record_that_cannot_be_read_changes_nothing() {
        let copied = Copied::<PoolName, PoolRecord>::default();
        let mut feed = copied.feed(|key| key.parse().ok());
        feed(put("a", false));
        feed(Change::Put { key: "a".into(), value: vec![0xc1].into(), revision: 2, initial: false });
        feed(Change::Put { key: "A*".into(), value: vec![0xc1].into(), revision: 2, initial: false });
        assert_eq!(names(&copied), ["a"]);
    }
}
