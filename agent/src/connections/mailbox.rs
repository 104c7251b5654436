//! What a mailbox says is to be done about the vault: a pure comparison of the two.

use std::collections::BTreeMap;

use muster_schemas::{
    connection::{CONNECTIONS_MAX, Mailbox, SealedEntry},
    names::ConnectionName,
};

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps<'a> {
    /// Entries that the vault has in another revision, or not at all.
    pub(super) put: Vec<(&'a ConnectionName, &'a SealedEntry)>,
    /// What was delivered here, and is to leave.
    pub(super) remove: Vec<ConnectionName>,
    /// Entries that are too many.
    pub(super) surplus: usize,
}

/// Compares. What somebody put here by hand (revision 0) stays unless there is an entry for it; whether that is a newer one, the vault knows.
///
/// The mailbox counts, not the larger number: a connection that was removed and made anew begins to count again.
pub(super) fn steps<'a>(mailbox: &'a Mailbox, held: &BTreeMap<ConnectionName, u64>) -> Steps<'a> {
    let put = mailbox.entries.iter().take(CONNECTIONS_MAX).filter(|(name, entry)| held.get(*name) != Some(&entry.revision));
    let gone = held.iter().filter(|(name, revision)| **revision > 0 && !mailbox.entries.contains_key(*name));
    Steps {
        put: put.collect(),
        remove: gone.map(|(name, _)| name.clone()).collect(),
        surplus: mailbox.entries.len().saturating_sub(CONNECTIONS_MAX),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{time::Timestamp, wire::V};

    use super::*;

    fn mailbox(entries: &[(&str, u64)]) -> Mailbox {
        let entry = |revision| SealedEntry { revision, key: String::new(), sealed: String::new(), at: Timestamp::from_secs(1) };
        Mailbox { v: V, entries: entries.iter().map(|(name, revision)| (name.parse().unwrap(), entry(*revision))).collect() }
    }

    fn held(held: &[(&str, u64)]) -> BTreeMap<ConnectionName, u64> {
        held.iter().map(|(name, revision)| (name.parse().unwrap(), *revision)).collect()
    }

    #[test]
    fn what_differs_is_put_what_vanished_leaves_and_what_is_there_by_hand_stays() {
        for (lies, has, put, remove) in [
            (&[][..], &[][..], &[][..], &[][..]),
            (&[("a", 1)], &[], &["a"], &[]),
            (&[("a", 2), ("b", 1)], &[("a", 2), ("b", 1)], &[], &[]),
            (&[("a", 3)], &[("a", 2)], &["a"], &[]),
            // Removed and made anew while this agent was away.
            (&[("a", 1)], &[("a", 5)], &["a"], &[]),
            (&[("a", 1)], &[("a", 1), ("b", 4)], &[], &["b"]),
            (&[], &[("a", 0), ("b", 1)], &[], &["b"]),
            (&[("a", 1)], &[("a", 0)], &["a"], &[]),
        ] {
            let mailbox = mailbox(lies);
            let steps = steps(&mailbox, &held(has));
            let names = |names: Vec<&ConnectionName>| names.into_iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(names(steps.put.iter().map(|(name, _)| *name).collect()), put, "{lies:?} {has:?}");
            assert_eq!(names(steps.remove.iter().collect()), remove, "{lies:?} {has:?}");
        }
    }

    #[test]
    fn no_more_is_taken_than_a_heartbeat_names() {
        let names: Vec<String> = (0..CONNECTIONS_MAX + 3).map(|at| format!("c{at}")).collect();
        let many: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let mailbox = mailbox(&many);
        let steps = steps(&mailbox, &BTreeMap::new());
        assert_eq!((steps.put.len(), steps.surplus), (CONNECTIONS_MAX, 3));
    }
}
