//! How long a key lives while a request of it is open. A wait or a stream is let in once and lasts; what becomes of its key meanwhile
//! is told here, by the changes of the keys' bucket and by the clock.
//!
//! A request enters before its key is checked, so that no change falls between the check and the listening.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muster_schemas::{records::ApiKeyRecord, time::Timestamp, wire};
use tokio::sync::watch;

use super::Refusal;
use crate::{app::mirror::Change, problem::ApiError};

/// How often a key that expires is looked at: the clock may be set while somebody waits for it.
const LOOK: Duration = Duration::from_secs(30);

/// The keys of requests that run; clones share it.
#[derive(Clone, Default)]
pub(super) struct Lives(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// By prefix: what became of the key, and how many requests want to know.
    keys: HashMap<String, (watch::Sender<Option<Refusal>>, usize)>,
    /// The keys that were seen since the bucket was read from its beginning, until it is all there.
    seen: Option<HashSet<String>>,
}

/// One request's view of its key.
pub(crate) struct Life {
    lives: Lives,
    prefix: String,
    ended: watch::Receiver<Option<Refusal>>,
    expires_at: Option<Timestamp>,
}

impl Lives {
    /// Listens for what becomes of a key, until what is answered is dropped.
    pub(super) fn enter(&self, prefix: String) -> Life {
        let mut inner = self.lock();
        let (sender, count) = inner.keys.entry(prefix.clone()).or_insert_with(|| (watch::Sender::new(None), 0));
        *count += 1;
        let ended = sender.subscribe();
        drop(inner);
        Life { lives: self.clone(), prefix, ended, expires_at: None }
    }

    /// Takes a change of the keys' bucket into account.
    pub(super) fn apply(&self, change: &Change) {
        let mut inner = self.lock();
        match change {
            Change::Restarted => inner.seen = Some(HashSet::new()),
            Change::Put { key, value, .. } => {
                let known = inner.keys.contains_key(key);
                if let Some(seen) = &mut inner.seen {
                    seen.insert(key.clone());
                }
                // What can't be read can't be checked either.
                if known && wire::decode::<ApiKeyRecord>(value).map_or(true, |record| record.revoked_at.is_some()) {
                    inner.end(key, Refusal::Revoked);
                }
            }
            Change::Deleted { key, .. } => inner.end(key, Refusal::Wrong),
            Change::Complete => {
                // Those that are not there any more were deleted while nothing was heard.
                let seen = inner.seen.take().unwrap_or_default();
                let gone: Vec<String> = inner.keys.keys().filter(|key| !seen.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| inner.end(key, Refusal::Wrong));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn end(&mut self, prefix: &str, why: Refusal) {
        if let Some((sender, _)) = self.keys.get(prefix) {
            sender.send_replace(Some(why));
        }
    }
}

impl Life {
    /// The same, which also ends with the key's time.
    pub(super) fn expiring(mut self, at: Option<Timestamp>) -> Self {
        self.expires_at = at;
        self
    }

    /// Whether the key is still good.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        self.now().map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    fn now(&self) -> Option<Refusal> {
        let expired = self.expires_at.filter(|at| *at <= Timestamp::now()).map(Refusal::Expired);
        expired.or(*self.ended.borrow())
    }

    /// Waits until the key is not good any more, and answers why.
    pub(crate) async fn ended(&self) -> Refusal {
        let mut told = self.ended.clone();
        loop {
            if let Some(refusal) = self.now() {
                return refusal;
            }
            let left = self.expires_at.map_or(LOOK, |at| at.since(Timestamp::now()).min(LOOK));
            tokio::select! {
                // The sender lives as long as `self` does.
                _ = told.changed() => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let mut inner = self.lives.lock();
        if let Some((_, count)) = inner.keys.get_mut(&self.prefix) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                inner.keys.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{
        records::{KeyOwner, Role},
        wire::V,
    };

    use super::*;

    fn put(prefix: &str, revoked: bool) -> Change {
        let at = Timestamp::from_secs(1);
        let record = ApiKeyRecord {
            v: V,
            id: "key_1".into(),
            prefix: prefix.into(),
            hash: String::new(),
            name: "x".into(),
            owner: KeyOwner::Role(Role::Viewer),
            created_at: at,
            expires_at: None,
            revoked_at: revoked.then_some(at),
        };
        Change::Put { key: prefix.into(), value: wire::encode(&record).into(), revision: 1, initial: false }
    }

    #[tokio::test]
    async fn a_revocation_ends_the_requests_of_its_key_and_of_no_other() {
        let lives = Lives::default();
        let (here, there, other) = (lives.enter("a".into()), lives.enter("a".into()), lives.enter("b".into()));
        lives.apply(&put("a", false));
        assert!(here.check().is_ok());
        lives.apply(&put("a", true));
        assert_eq!((here.ended().await, there.ended().await), (Refusal::Revoked, Refusal::Revoked));
        assert!(here.check().is_err() && other.check().is_ok());
        lives.apply(&Change::Deleted { key: "b".into(), revision: 2, initial: false });
        assert_eq!(other.ended().await, Refusal::Wrong);
        drop((here, there, other));
        assert!(lives.lock().keys.is_empty());
    }

    #[test]
    fn what_was_deleted_or_revoked_while_nothing_was_heard_ends_with_the_next_reading() {
        let lives = Lives::default();
        let all = ["kept", "revoked", "deleted"].map(|prefix| lives.enter(prefix.into()));
        for change in [Change::Restarted, put("kept", false), put("revoked", true)] {
            lives.apply(&change);
        }
        assert!(all[2].check().is_ok(), "it may still come");
        lives.apply(&Change::Complete);
        assert_eq!(all.map(|life| life.check().is_ok()), [true, false, false]);
    }

    #[tokio::test]
    async fn a_key_ends_with_its_time_too() {
        let lives = Lives::default();
        let life = lives.enter("a".into()).expiring(Some(Timestamp::now() + Duration::from_millis(50)));
        assert!(life.check().is_ok());
        assert!(matches!(life.ended().await, Refusal::Expired(_)));
    }
}
