//! Tests of [`super`]: files that were damaged, and files that somebody altered who can make checksums but has no key.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;

/// The key that tests seal with, without deriving it.
fn cipher() -> Cipher {
    Cipher::from_key(&[7; 32])
}

fn values(names: &[&str]) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
    names.iter().map(|name| ((*name).to_owned(), Zeroizing::new(format!("value of {name}").into_bytes()))).collect()
}

fn sealed(head: Head, names: &[&str]) -> (Content, Vec<u8>) {
    Content::seal(head, &values(names), &cipher()).unwrap()
}

/// What opening takes when the file is read, with a key that is there already.
fn open(bytes: &[u8], cipher: &Cipher) -> Result<Content, Problem> {
    Content::open(bytes, Head::read(bytes)?, cipher)
}

/// The file with its checksum put right, as one who alters it would.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - SUM;
    let sum = Sha256::digest(&bytes[..body]);
    bytes[body..].copy_from_slice(&sum);
    bytes
}

/// Where the entries begin.
const ENTRIES: usize = HEAD + NONCE + TAG;

#[test]
fn what_was_sealed_comes_back() {
    for names in [&[][..], &["a"], &["connection/db", "connection/web", "sealing-key"]] {
        let head = Head::new().next();
        let (kept, bytes) = sealed(head.clone(), names);
        let content = open(&bytes, &cipher()).unwrap();
        assert_eq!((&content.head, &content.entries), (&kept.head, &kept.entries));
        assert_eq!(content.head.mark(), head.mark());
        for (name, value) in values(names) {
            assert_eq!(content.head.open(&cipher(), &name, &content.entries[&name]).unwrap(), value);
        }
    }
}

#[test]
fn a_file_that_is_cut_at_any_byte_is_damaged() {
    let (_, bytes) = sealed(Head::new().next(), &["a", "b"]);
    for length in 0..bytes.len() {
        assert!(matches!(open(&bytes[..length], &cipher()), Err(Problem::Damaged(_))), "{length} bytes");
        // Cut by somebody who makes the checksum fit: no vault either.
        let mut cut = bytes[..length].to_vec();
        cut.extend_from_slice(&Sha256::digest(&bytes[..length]));
        assert!(open(&cut, &cipher()).is_err() || cut == bytes, "{length} bytes and a checksum");
    }
    assert_eq!(open(&[], &cipher()).unwrap_err(), Problem::Damaged("it is empty"));
}

#[test]
fn a_file_with_any_byte_flipped_is_damaged_and_with_a_checksum_to_it_still_does_not_open() {
    let (_, bytes) = sealed(Head::new().next(), &["a", "bb"]);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut flipped = bytes.clone();
            flipped[at] ^= flip;
            assert!(matches!(open(&flipped, &cipher()), Err(Problem::Damaged(_))), "byte {at}");
            let problem = open(&summed(flipped), &cipher());
            match at {
                0..8 => assert_eq!(problem.unwrap_err(), Problem::NoVault, "byte {at}"),
                8..12 => assert!(matches!(problem, Err(Problem::Version(_))), "byte {at}"),
                12..16 => assert!(matches!(problem, Err(Problem::Rounds(_))), "byte {at}"),
                // Salt, id, counter, number of entries, and the key check itself.
                16..ENTRIES => assert_eq!(problem.unwrap_err(), Problem::Key, "byte {at}"),
                // The checksum was put right again.
                _ if at >= bytes.len() - SUM => assert!(problem.is_ok(), "byte {at}"),
                _ => assert!(matches!(problem, Err(Problem::Altered(_))), "byte {at}"),
            }
        }
    }
}

#[test]
fn another_version_and_other_rounds_are_told_before_there_is_a_key() {
    let (_, bytes) = sealed(Head::new().next(), &["a"]);
    let with = |at: usize, number: u32| {
        let mut other = bytes.clone();
        other[at..at + 4].copy_from_slice(&number.to_be_bytes());
        Head::read(&summed(other))
    };
    for version in [0, 2, u32::MAX] {
        assert_eq!(with(8, version), Err(Problem::Version(version)));
    }
    for rounds in [0, 1, 599_999, 600_001, 1 << 31, u32::MAX] {
        assert_eq!(with(12, rounds), Err(Problem::Rounds(rounds)));
    }
    assert!(with(12, 600_000).is_ok());
}

#[test]
fn another_key_is_told_from_damage() {
    let (_, bytes) = sealed(Head::new().next(), &["a"]);
    assert_eq!(open(&bytes, &Cipher::from_key(&[8; 32])).unwrap_err(), Problem::Key);
    let derived = Cipher::derive("key", &[1; SALT]);
    let (_, bytes) = Content::seal(Head { salt: [1; SALT], ..Head::new() }, &values(&["a"]), &derived).unwrap();
    for (api_key, salt, opens) in [("key", [1; SALT], true), ("other", [1; SALT], false), ("key", [2; SALT], false)] {
        assert_eq!(open(&bytes, &Cipher::derive(api_key, &salt)).is_ok(), opens, "{api_key} {salt:?}");
    }
}

/// The bytes of each entry: name `name`, one letter.
fn entry_ranges(content: &Content) -> Vec<std::ops::Range<usize>> {
    let mut at = ENTRIES;
    let range = |entry: (&String, &Entry)| {
        let length = 2 + entry.0.len() + NONCE + 4 + entry.1.sealed.len();
        at += length;
        at - length..at
    };
    content.entries.iter().map(range).collect()
}

#[test]
fn salts_nonces_and_entries_that_were_swapped_dropped_or_doubled_do_not_open() {
    let head = Head::new().next();
    let (content, bytes) = sealed(head.clone(), &["a", "b"]);
    let (_, later) = sealed(head.next(), &["a", "b"]);
    let (_, other) = sealed(Head::new().next(), &["a", "b"]);
    let ranges = entry_ranges(&content);
    let (a, b) = (ranges[0].clone(), ranges[1].clone());
    let (a_nonce, b_nonce) = (a.start + 3..a.start + 3 + NONCE, b.start + 3..b.start + 3 + NONCE);
    let copy = |from: &[u8], range: std::ops::Range<usize>| {
        let mut altered = bytes.clone();
        altered[range.clone()].copy_from_slice(&from[range]);
        altered
    };
    let swapped = |x: std::ops::Range<usize>, y: std::ops::Range<usize>| {
        let mut altered = bytes.clone();
        altered[x.clone()].copy_from_slice(&bytes[y.clone()]);
        altered[y].copy_from_slice(&bytes[x]);
        altered
    };
    let seal = bytes.len() - SUM - NONCE - TAG..bytes.len() - SUM;
    let count = |number: u32, mut bytes: Vec<u8>| {
        bytes[HEAD - 4..HEAD].copy_from_slice(&number.to_be_bytes());
        bytes
    };
    let dropped = [&bytes[..b.start], &bytes[b.end..]].concat();
    let doubled = [&bytes[..b.end], &bytes[b.clone()], &bytes[b.end..]].concat();
    for (what, altered) in [
        ("the salt of another vault", copy(&other, 16..16 + SALT)),
        ("the id of another vault", copy(&other, 32..48)),
        ("the counter of a later state", copy(&later, 48..56)),
        ("the head and key check of a later state", copy(&later, 0..ENTRIES)),
        ("two nonces swapped", swapped(a_nonce.clone(), b_nonce)),
        ("the nonce of a later state", copy(&later, a_nonce)),
        ("two entries swapped", swapped(a.clone(), b.clone())),
        ("two names swapped", swapped(a.start + 2..a.start + 3, b.start + 2..b.start + 3)),
        ("the entry of a later state", copy(&later, a.clone())),
        ("the entry of another vault", copy(&other, a)),
        ("the seal of a later state", copy(&later, seal)),
        ("an entry dropped", dropped.clone()),
        ("an entry dropped, and counted", count(1, dropped)),
        ("an entry doubled", doubled.clone()),
        ("an entry doubled, and counted", count(3, doubled)),
    ] {
        let problem = open(&summed(altered), &cipher()).expect_err(what);
        assert!(matches!(problem, Problem::Key | Problem::Altered(_)), "{what}: {problem:?}");
    }
}

#[test]
fn no_nonce_is_used_twice_however_often_the_same_is_sealed() {
    let mut nonces = std::collections::BTreeSet::new();
    let (head, mut count) = (Head::new(), 0);
    for _ in 0..200 {
        // As after a roll-back: the same state, with the same counter, sealed again.
        let (content, bytes) = sealed(head.clone(), &["a", "b"]);
        let body = bytes.len() - SUM;
        nonces.insert(bytes[HEAD..HEAD + NONCE].to_vec());
        nonces.insert(bytes[body - NONCE - TAG..body - TAG].to_vec());
        nonces.extend(content.entries.values().map(|entry| entry.nonce.to_vec()));
        count += 4;
    }
    assert_eq!(nonces.len(), count);
}

proptest! {
    #[test]
    fn no_bytes_whatsoever_open_or_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), like in any::<bool>()) {
        if like && bytes.len() > SHORTEST {
            let (_, good) = sealed(Head::new(), &[]);
            bytes[..ENTRIES].copy_from_slice(&good[..ENTRIES]);
            bytes = summed(bytes);
        }
        prop_assert!(open(&bytes, &cipher()).is_err());
    }

    #[test]
    fn any_names_and_values_come_back(plain in proptest::collection::btree_map("\\PC{1,30}", proptest::collection::vec(any::<u8>(), 0..300), 0..8)) {
        let plain: BTreeMap<_, _> = plain.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect();
        let (_, bytes) = Content::seal(Head::new(), &plain, &cipher()).unwrap();
        let content = open(&bytes, &cipher()).unwrap();
        for (name, entry) in &content.entries {
            prop_assert_eq!(&content.head.open(&cipher(), name, entry).unwrap(), &plain[name]);
        }
        prop_assert_eq!(content.entries.len(), plain.len());
    }
}
