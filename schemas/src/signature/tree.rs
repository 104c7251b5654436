//! One signature for many messages: it is of the root of a tree of hashes, and each message brings the way from itself to that root.
//!
//! A signature costs some 25 µs to make and 40 µs to check, a step of the way less than 1 µs. Leaves and nodes are hashed as in RFC 9162, section 2.1.1
//! (a byte before each tells them apart, so no node can be passed off as a message); a tree that is not full is filled up with
//! [`NOTHING`], which is the hash of no message that anybody knows.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest as _, Sha256};

use super::SHARED_MAX;

/// Steps from a leaf to the root at most.
const DEPTH_MAX: usize = SHARED_MAX.ilog2() as usize;
/// Roots that are kept; with more, all are forgotten and checked again as they come.
const KEPT: usize = 4096;

/// A hash, of a leaf or a node.
pub(super) type Hash = [u8; 32];

/// What stands where a tree has no more messages.
const NOTHING: Hash = [0; 32];

/// The roots that hold, as hashes of key, time, root and signature.
static HOLD: Mutex<BTreeSet<Hash>> = Mutex::new(BTreeSet::new());

/// Where a message is in its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    /// Its place among the leaves.
    place: usize,
    /// The hashes beside the way to the root, from below.
    beside: Vec<Hash>,
}

/// The hash of what is signed of a message.
pub(super) fn leaf(text: &[u8]) -> Hash {
    Sha256::new_with_prefix([0]).chain_update(text).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new_with_prefix([1]).chain_update(left).chain_update(right).finalize().into()
}

impl Way {
    /// Reads the last two parts of a header. `None` when they are no way: there is only one form of each.
    pub(super) fn parse(place: &str, beside: &str) -> Option<Self> {
        let bytes = BASE64URL_NOPAD.decode(beside.as_bytes()).ok()?;
        let (beside, []) = bytes.as_chunks() else { return None };
        let number = place.parse().ok()?;
        let way = Self { place: number, beside: beside.to_vec() };
        let fits = (1..=DEPTH_MAX).contains(&way.beside.len()) && number < 1 << way.beside.len();
        (fits && number.to_string() == place).then_some(way)
    }

    /// The root that it leads to from this leaf.
    pub(super) fn root(&self, leaf: Hash) -> Hash {
        self.beside.iter().enumerate().fold(leaf, |below, (level, beside)| match (self.place >> level) & 1 {
            0 => node(&below, beside),
            _ => node(beside, &below),
        })
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.place, BASE64URL_NOPAD.encode(self.beside.as_flattened()))
    }
}

/// The root of a tree of these leaves, and the way of each to it. Of two leaves at least, and [`SHARED_MAX`] at most.
pub(super) fn grow(leaves: &[Hash]) -> (Hash, Vec<Way>) {
    let mut ways: Vec<Way> = (0..leaves.len()).map(|place| Way { place, beside: Vec::new() }).collect();
    let mut level = leaves.to_vec();
    level.resize(leaves.len().next_power_of_two(), NOTHING);
    let mut depth = 0;
    while let [_, _, ..] = level.as_slice() {
        for way in &mut ways {
            way.beside.extend(level.get((way.place >> depth) ^ 1));
        }
        level = level.as_chunks().0.iter().map(|[left, right]| node(left, right)).collect();
        depth += 1;
    }
    (level.first().copied().unwrap_or(NOTHING), ways)
}

/// Whether a root is known to hold, or does by this check, which is then known. Only what holds is kept, with its signature: whoever makes up
/// another one is checked.
pub(super) fn holds(parts: [&[u8]; 4], check: impl FnOnce() -> bool) -> bool {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let which: Hash = hasher.finalize().into();
    let known = || HOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if known().contains(&which) {
        return true;
    }
    if !check() {
        return false;
    }
    let mut hold = known();
    if hold.len() >= KEPT {
        hold.clear();
    }
    hold.insert(which);
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|number| leaf(number.to_string().as_bytes())).collect()
    }

    proptest! {
        #[test]
        fn each_leaf_leads_to_the_root_by_its_own_way_only(count in 2..=SHARED_MAX) {
            let leaves = leaves(count);
            let (root, ways) = grow(&leaves);
            prop_assert_eq!(ways.len(), count);
            for (place, way) in ways.iter().enumerate() {
                for (other, leaf) in leaves.iter().enumerate() {
                    prop_assert_eq!(way.root(*leaf) == root, other == place);
                }
                let text = way.to_string();
                let (number, beside) = text.split_once('.').unwrap();
                prop_assert_eq!(Way::parse(number, beside), Some(way.clone()));
            }
        }

        #[test]
        fn whatever_comes_as_a_way_never_panics(place in "\\PC{0,4}", beside in "[A-Za-z0-9_-]{0,300}") {
            let _ = Way::parse(&place, &beside);
        }
    }

    #[test]
    fn a_way_has_one_form_and_ends_within_the_largest_tree() {
        let (_, ways) = grow(&leaves(4));
        let beside = BASE64URL_NOPAD.encode(ways[2].beside.as_flattened());
        assert_eq!(Way::parse("2", &beside), Some(ways[2].clone()));
        for place in ["02", "+2", "4", "-1", "", "18446744073709551616"] {
            assert_eq!(Way::parse(place, &beside), None, "{place}");
        }
        let long = |steps: usize| BASE64URL_NOPAD.encode(&vec![7; 32 * steps]);
        assert!(Way::parse("0", &long(DEPTH_MAX)).is_some());
        for beside in [long(0), long(DEPTH_MAX + 1), BASE64URL_NOPAD.encode(&[7; 33]), "*".to_owned()] {
            assert_eq!(Way::parse("0", &beside), None, "{beside}");
        }
    }

    #[test]
    fn a_node_is_no_leaf() {
        let pair = leaves(2);
        let (root, _) = grow(&pair);
        assert_ne!(leaf(pair.as_flattened()), root);
    }

    #[test]
    fn a_root_is_checked_once_and_anew_under_any_other_signature() {
        let parts: [&[u8]; 4] = [b"key of this test", b"1", b"root", b"signature"];
        assert!(!holds(parts, || false));
        assert!(holds(parts, || true));
        // It is known.
        assert!(holds(parts, || false));
        for other in 0..parts.len() {
            let mut parts = parts;
            parts[other] = b"another";
            assert!(!holds(parts, || false));
        }
        // What stands where makes a difference.
        assert!(!holds([b"key of this test1", b"", b"root", b"signature"], || false));
    }
}
