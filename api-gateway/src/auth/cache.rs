//! Keys that were checked a short while ago, so that a request does not cost a password hash. Pure; the clock is an argument.
//!
//! Entries are found by a keyed hash of the whole key, made with a secret of this process: what is in memory neither shows a key nor
//! lets anybody choose where it lands. A change of a key's record removes what is known of it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Known, Refusal};

/// A keyed hash of a whole key.
pub(crate) type Digest = [u8; 32];

/// Good keys remembered at once.
const GOOD_MAX: usize = 1_000;
/// How long a good key is remembered.
const GOOD_FOR: Duration = Duration::from_secs(300);
/// Refused keys remembered at once.
const BAD_MAX: usize = 1_000;
/// How long a refused key is remembered: long enough that a client with an old key in a loop costs no hashes.
const BAD_FOR: Duration = Duration::from_secs(5);

/// What was found of a key.
pub(crate) type Verdict = Result<Arc<Known>, Refused>;

/// A key that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) why: Refusal,
    /// Whose it was, when the secret was right: one who shows a key that was revoked or has expired.
    pub(crate) whose: Option<Arc<Known>>,
}

impl From<Refusal> for Refused {
    /// Nobody's.
    fn from(why: Refusal) -> Self {
        Self { why, whose: None }
    }
}

/// Keys that were checked.
#[derive(Default)]
pub(crate) struct Cache {
    good: HashMap<Digest, Entry<Arc<Known>>>,
    bad: HashMap<Digest, Entry<Refused>>,
    /// Counts changes. What was read before a change must not be entered after it.
    epoch: u64,
    /// Whether changes are heard of. While they are not, nothing is entered.
    listening: bool,
}

struct Entry<T> {
    prefix: String,
    value: T,
    until: Instant,
}

impl Cache {
    pub(crate) fn get(&self, digest: &Digest, now: Instant) -> Option<Verdict> {
        let good = self.good.get(digest).filter(|entry| entry.until > now).map(|entry| Ok(Arc::clone(&entry.value)));
        good.or_else(|| self.bad.get(digest).filter(|entry| entry.until > now).map(|entry| Err(entry.value.clone())))
    }

    /// What to show to [`Cache::enter`]: ask for it before the key's record is read.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Remembers what was found, unless a record has changed since `epoch`.
    pub(crate) fn enter(&mut self, digest: Digest, prefix: &str, verdict: &Verdict, epoch: u64, now: Instant) {
        if epoch != self.epoch || !self.listening {
            return;
        }
        let prefix = prefix.to_owned();
        match verdict {
            Ok(known) => insert(&mut self.good, GOOD_MAX, digest, Entry { prefix, value: Arc::clone(known), until: now + GOOD_FOR }, now),
            Err(refused) => insert(&mut self.bad, BAD_MAX, digest, Entry { prefix, value: refused.clone(), until: now + BAD_FOR }, now),
        }
    }

    /// The record with this prefix has changed.
    pub(crate) fn forget(&mut self, prefix: &str) {
        self.epoch += 1;
        self.good.retain(|_, entry| entry.prefix != prefix);
        self.bad.retain(|_, entry| entry.prefix != prefix);
    }

    /// Any record may have changed: changes are not heard of for now.
    pub(crate) fn deaf(&mut self) {
        self.epoch += 1;
        self.listening = false;
        self.good.clear();
        self.bad.clear();
    }

    /// Changes are heard of from here on.
    pub(crate) fn hears(&mut self) {
        self.listening = true;
    }

    /// Whether changes are heard of.
    pub(crate) fn listening(&self) -> bool {
        self.listening
    }
}

/// Makes room for an entry: first what is out of date, then what soonest will be.
fn insert<T>(map: &mut HashMap<Digest, Entry<T>>, most: usize, digest: Digest, entry: Entry<T>, now: Instant) {
    if map.len() >= most {
        map.retain(|_, entry| entry.until > now);
    }
    if map.len() >= most {
        let oldest = map.iter().min_by_key(|(_, entry)| entry.until).map(|(digest, _)| *digest);
        oldest.map(|digest| map.remove(&digest));
    }
    map.insert(digest, entry);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::records::{KeyOwner, Role};

    use super::*;

    fn known() -> Verdict {
        Ok(Arc::new(Known { key_id: "key_1".into(), name: "ci".into(), owner: KeyOwner::Role(Role::Viewer), expires_at: None }))
    }

    fn listening() -> Cache {
        let mut cache = Cache::default();
        cache.hears();
        cache
    }

    fn enter(cache: &mut Cache, n: u32, verdict: &Verdict, now: Instant) {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&n.to_be_bytes());
        let epoch = cache.epoch();
        cache.enter(digest, &format!("p{n}"), verdict, epoch, now);
    }

    #[test]
    fn a_good_key_is_remembered_for_five_minutes_and_a_refused_one_for_seconds() {
        let (mut cache, now) = (listening(), Instant::now());
        cache.enter([1; 32], "a", &known(), 0, now);
        cache.enter([2; 32], "b", &Err(Refusal::Wrong.into()), 0, now);
        assert!(cache.get(&[1; 32], now + GOOD_FOR - Duration::from_secs(1)).unwrap().is_ok());
        assert!(cache.get(&[1; 32], now + GOOD_FOR).is_none());
        assert_eq!(cache.get(&[2; 32], now).unwrap().unwrap_err(), Refusal::Wrong.into());
        assert!(cache.get(&[2; 32], now + BAD_FOR).is_none());
    }

    #[test]
    fn a_changed_record_is_forgotten_and_what_was_read_before_is_not_entered_after() {
        let (mut cache, now) = (listening(), Instant::now());
        let before = cache.epoch();
        cache.enter([1; 32], "a", &known(), before, now);
        cache.forget("a");
        assert!(cache.get(&[1; 32], now).is_none());
        cache.enter([1; 32], "a", &known(), before, now);
        assert!(cache.get(&[1; 32], now).is_none(), "a revocation in between would be missed");
    }

    #[test]
    fn nothing_is_remembered_while_changes_are_not_heard_of() {
        let (mut cache, now) = (listening(), Instant::now());
        enter(&mut cache, 1, &known(), now);
        cache.deaf();
        assert!(cache.good.is_empty());
        enter(&mut cache, 1, &known(), now);
        assert!(cache.good.is_empty());
    }

    #[test]
    fn a_thousand_keys_are_remembered_and_the_oldest_makes_room() {
        let (mut cache, now) = (listening(), Instant::now());
        for n in 0..1_200 {
            enter(&mut cache, n, &known(), now + Duration::from_millis(n.into()));
            enter(&mut cache, n, &Err(Refusal::Wrong.into()), now + Duration::from_millis(n.into()));
        }
        assert_eq!((cache.good.len(), cache.bad.len()), (GOOD_MAX, BAD_MAX));
        assert!(cache.get(&[0; 32], now).is_none());
    }
}
