//! That secrets are wiped: this process looks through its own memory for one that it has put into a vault and taken out again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use muster_vault::{Vault, Zeroizing};

/// The secret, as it lies in the program and in memory while it is looked for: not as itself.
const HIDDEN: [u8; 24] = *b"irouds3-lioudfdru.xnt!uh";

fn secret() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(HIDDEN.iter().map(|byte| byte ^ 1).collect())
}

/// How often the secret is in memory that this process can write.
fn copies() -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut count = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [from, to] = [from, to].map(|end| u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        // Looked for in the hidden form, so that nothing here is a copy either.
        bytes.iter_mut().for_each(|byte| *byte ^= 1);
        count += bytes.windows(HIDDEN.len()).filter(|window| *window == HIDDEN).count();
        bytes.fill(0);
    }
    count
}

#[test]
fn what_went_through_a_vault_is_nowhere_in_memory_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vault");
    assert_eq!(copies(), 0);
    let held = secret();
    assert_eq!(copies(), 1, "it is found where it is");
    let mut vault = Vault::open(&path, "key").unwrap();
    vault.put("a", &held).unwrap();
    drop(held);
    assert_eq!(copies(), 0, "an open vault holds it sealed");
    let got = vault.get("a").unwrap().unwrap();
    assert_eq!(*got, *secret());
    assert_eq!(copies(), 1);
    drop(got);
    // All of it is sealed anew with each change.
    vault.put("b", b"x").unwrap();
    vault.remove("b").unwrap();
    assert_eq!(copies(), 0);
    drop(vault);
    drop(Vault::open(&path, "key").unwrap());
    assert_eq!(copies(), 0);
}
