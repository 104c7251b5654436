//! Folding entries that are alike, so that a flood of wrong keys cannot fill the trail. Pure: the clock is an argument.
//!
//! The first of its kind is written at once. Those behind it are counted, and one entry a minute stands for them. How many kinds are
//! followed at a time is bounded: what comes beyond that is folded into one kind, whatever it was, so the trail grows by a bounded number
//! of entries a minute whoever asks for what from where.

use std::{
    collections::{HashMap, hash_map},
    time::Duration,
};

use super::{Actor, ActorKind, AuditEntry};
use crate::{code::Code, time::Timestamp};

/// How often an entry stands for those that were counted.
pub const FOLD_EVERY: Duration = Duration::from_secs(60);
/// Kinds that are followed at a time. At some 300 bytes an entry, a flood of as many kinds without end takes 27 MB a day.
pub const FOLDS_MAX: usize = 64;
/// The action of what is folded beyond [`FOLDS_MAX`].
pub const FOLDED_ACTION: &str = "requests.refused";

/// What makes entries alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    actor: ActorKind,
    id: Option<String>,
    address: Option<String>,
    action: String,
    code: Option<Code>,
}

/// Those of one kind, since the last entry that was written of it.
#[derive(Debug)]
struct Counted {
    since: Timestamp,
    count: u64,
    last: AuditEntry,
}

/// Folds entries.
#[derive(Debug, Default)]
pub struct Fold {
    kinds: HashMap<Kind, Counted>,
}

impl Fold {
    /// Takes an entry, and gives it back when it is the first of its kind: it is to be written now.
    pub fn take(&mut self, entry: AuditEntry, now: Timestamp) -> Option<AuditEntry> {
        let (mut entry, mut kind) = (entry.clone(), Kind::of(&entry));
        if !self.kinds.contains_key(&kind) && self.kinds.len() >= FOLDS_MAX {
            entry = AuditEntry {
                action: FOLDED_ACTION.to_owned(),
                actor: Actor { kind: entry.actor.kind, id: None, name: None },
                address: None,
                target: None,
                detail: None,
                request_id: None,
                ..entry
            };
            kind = Kind::of(&entry);
        }
        match self.kinds.entry(kind) {
            hash_map::Entry::Vacant(place) => {
                place.insert(Counted { since: now, count: 0, last: entry.clone() });
                Some(entry)
            }
            hash_map::Entry::Occupied(mut place) => {
                let counted = place.get_mut();
                counted.count = counted.count.saturating_add(1);
                // Of several targets none is named.
                let target = entry.target.take().filter(|target| counted.count == 1 || counted.last.target.as_ref() == Some(target));
                counted.last = AuditEntry { target, ..entry };
                None
            }
        }
    }

    /// The entries that stand for what was counted for a minute. A kind of which nothing came in that time is forgotten.
    pub fn due(&mut self, now: Timestamp) -> Vec<AuditEntry> {
        let mut due = Vec::new();
        self.kinds.retain(|_, counted| {
            if now.since(counted.since) < FOLD_EVERY {
                return true;
            }
            let told = counted.tell();
            counted.since = now;
            let goes_on = told.is_some();
            due.extend(told);
            goes_on
        });
        due
    }

    /// The entries that stand for all that was counted. Nothing is followed any more.
    pub fn end(&mut self) -> Vec<AuditEntry> {
        self.kinds.drain().filter_map(|(_, mut counted)| counted.tell()).collect()
    }
}

impl Counted {
    fn tell(&mut self) -> Option<AuditEntry> {
        let count = std::mem::take(&mut self.count);
        (count > 0).then(|| AuditEntry { count: Some(count), ..self.last.clone() })
    }
}

impl Kind {
    fn of(entry: &AuditEntry) -> Self {
        Self {
            actor: entry.actor.kind,
            id: entry.actor.id.clone(),
            address: entry.address.clone(),
            action: entry.action.clone(),
            code: entry.code,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;
    use crate::audit::AuditOutcome;

    fn refused(address: &str, target: &str) -> AuditEntry {
        AuditEntry {
            actor: Actor::nobody(),
            address: Some(address.into()),
            target: Some(target.into()),
            code: Some(Code::Unauthenticated),
            ..AuditEntry::new("agents.read", Actor::nobody(), AuditOutcome::Refused, Timestamp::from_secs(0))
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn the_first_is_written_at_once_and_the_rest_once_a_minute_with_their_count() {
        let mut fold = Fold::default();
        assert_eq!(fold.take(refused("10.0.0.1", "a"), at(0)).unwrap().count, None);
        for second in 1..=100 {
            assert!(fold.take(refused("10.0.0.1", "a"), at(second)).is_none());
        }
        assert!(fold.due(at(59)).is_empty());
        let due = fold.due(at(101));
        assert_eq!((due.len(), due[0].count, due[0].target.as_deref()), (1, Some(100), Some("a")));
        assert!(fold.take(refused("10.0.0.1", "a"), at(102)).is_none(), "it goes on: the next entry is that of the next minute");
        assert_eq!(fold.due(at(161))[0].count, Some(1));
        assert!(fold.due(at(221)).is_empty(), "nothing came for a minute");
        assert!(fold.take(refused("10.0.0.1", "a"), at(222)).is_some(), "so the next one is a first one");
    }

    #[test]
    fn others_are_not_folded_with_it_and_of_several_targets_none_is_named() {
        let mut fold = Fold::default();
        assert!(fold.take(refused("10.0.0.1", "a"), at(0)).is_some());
        assert!(fold.take(refused("10.0.0.2", "a"), at(0)).is_some());
        assert!(fold.take(AuditEntry { code: Some(Code::Forbidden), ..refused("10.0.0.1", "a") }, at(0)).is_some());
        for target in ["a", "b", "b"] {
            assert!(fold.take(refused("10.0.0.1", target), at(1)).is_none());
        }
        let ended = fold.end();
        assert_eq!((ended.len(), ended[0].count, &ended[0].target), (1, Some(3), &None));
        assert!(fold.end().is_empty());
    }

    #[test]
    fn a_flood_from_everywhere_is_a_bounded_number_of_entries() {
        let mut fold = Fold::default();
        let first = (0..10_000).filter_map(|n| fold.take(refused(&format!("10.0.{}.{}", n / 250, n % 250), "a"), at(0))).count();
        assert_eq!(first, FOLDS_MAX + 1);
        let due = fold.due(at(60));
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].action.as_str(), &due[0].address, due[0].count), (FOLDED_ACTION, &None, Some(10_000 - FOLDS_MAX as u64 - 1)));
    }
}
