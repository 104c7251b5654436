//! Folding entries that are alike, so that a flood of wrong keys cannot fill the trail. Pure: the clock is an argument.
//!
//! The first of its kind is written at once. Those behind it are counted, and one entry a minute stands for them. How many kinds are
//! followed at a time is bounded: what comes beyond that is folded into coarser kinds, so the trail grows by a bounded number of entries a
//! minute whoever asks for what from where.
//!
//! Who proved to be somebody has room of their own, and each of them only some of it: neither a flood by nobody nor one by somebody else
//! takes away who it was. What was done keeps its action however much comes.

use std::{
    collections::{HashMap, hash_map},
    time::Duration,
};

use super::{Actor, ActorKind, AuditEntry, AuditOutcome};
use crate::{code::Code, time::Timestamp};

/// How often an entry stands for those that were counted.
pub const FOLD_EVERY: Duration = Duration::from_secs(60);
/// Kinds by nobody that are followed at a time. At some 300 bytes an entry, a flood of as many kinds without end takes 27 MB a day.
pub const FOLDS_MAX: usize = 64;
/// Kinds by those who proved to be somebody that are followed at a time.
pub const PROVEN_MAX: usize = 128;
/// How many of [`PROVEN_MAX`] are one identity's.
const IDENTITY_MAX: usize = 32;
/// Identities and addresses that are told apart beyond that.
const OVER_MAX: usize = 64;
/// How many of [`OVER_MAX`] are one identity's.
const IDENTITY_OVER_MAX: usize = 4;
/// The action of what was refused and is folded beyond the bounds.
pub const FOLDED_ACTION: &str = "requests.refused";

/// How much of an entry tells its kind from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Grain {
    /// All that makes entries alike.
    Whole,
    /// Who and from where.
    Identity,
    /// What sort of identity.
    Bare,
}

/// What makes entries alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    grain: Grain,
    actor: ActorKind,
    id: Option<String>,
    address: Option<String>,
    action: String,
    /// Of changes that somebody tried: which of them were tried is worth more than an entry.
    target: Option<String>,
    outcome: AuditOutcome,
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
        let (mut entry, kind) = self.grained(entry);
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

    /// The entry as coarse as there is room for, and its kind.
    fn grained(&self, entry: AuditEntry) -> (AuditEntry, Kind) {
        let whole = Kind::of(&entry, Grain::Whole);
        if self.has_room(&whole) {
            return (entry, whole);
        }
        if entry.actor.kind != ActorKind::Nobody {
            let coarse = coarse(&entry);
            let kind = Kind::of(&coarse, Grain::Identity);
            if self.has_room(&kind) {
                return (coarse, kind);
            }
        }
        let actor = Actor { kind: entry.actor.kind, id: None, name: None };
        let bare = AuditEntry { actor, address: None, ..coarse(&entry) };
        let kind = Kind::of(&bare, Grain::Bare);
        (bare, kind)
    }

    /// Whether a kind is followed, or can be.
    fn has_room(&self, kind: &Kind) -> bool {
        if self.kinds.contains_key(kind) {
            return true;
        }
        let count = |alike: &dyn Fn(&Kind) -> bool| self.kinds.keys().filter(|other| other.grain == kind.grain && alike(other)).count();
        if !kind.is_proven() {
            return count(&|other| !other.is_proven()) < FOLDS_MAX;
        }
        let (most, most_of_one) = match kind.grain {
            Grain::Whole => (PROVEN_MAX, IDENTITY_MAX),
            Grain::Identity | Grain::Bare => (OVER_MAX, IDENTITY_OVER_MAX),
        };
        count(&Kind::is_proven) < most && count(&|other| (other.actor, &other.id) == (kind.actor, &kind.id)) < most_of_one
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

/// Without what was asked for, unless it was done: that keeps its action, of which there are only so many.
fn coarse(entry: &AuditEntry) -> AuditEntry {
    let refused = entry.outcome == AuditOutcome::Refused;
    AuditEntry {
        action: if refused { FOLDED_ACTION.to_owned() } else { entry.action.clone() },
        target: None,
        detail: None,
        request_id: None,
        ..entry.clone()
    }
}

impl Kind {
    fn of(entry: &AuditEntry, grain: Grain) -> Self {
        let changes = entry.actor.kind != ActorKind::Nobody && !entry.action.ends_with(".read");
        Self {
            grain,
            actor: entry.actor.kind,
            id: entry.actor.id.clone(),
            address: entry.address.clone(),
            action: entry.action.clone(),
            target: entry.target.clone().filter(|_| changes),
            outcome: entry.outcome,
            code: entry.code,
        }
    }

    fn is_proven(&self) -> bool {
        self.actor != ActorKind::Nobody
    }
}

#[cfg(test)]
mod tests;
