//! The layout of a vault's file, version 1; `docs/vault.md` has it in words. Numbers are big-endian.
//!
//! | part | bytes |
//! |---|---|
//! | head | magic 8, version 4, rounds 4, salt 16, id 16, counter 8, number of entries 4 |
//! | key check | nonce 12, tag 16: nothing, sealed in the context of the head |
//! | each entry | length of name 2, name, nonce 12, length of sealed 4, sealed with tag; in the context of the head and the name |
//! | seal | nonce 12, tag 16: nothing, sealed in the context of all before it |
//! | sum | SHA-256 of all before it, 32 |
//!
//! The sum tells damage from a wrong key without a key. The key check tells a wrong key from an altered file. The seal makes one thing of
//! the whole: no entry can be left out, doubled, or taken from another state of the file.

use std::{collections::BTreeMap, path::Path};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    ENTRIES_MAX, Mark, NAME_MAX, VaultError,
    cipher::{Cipher, Closed, NONCE, Nonce, ROUNDS, SALT, Salt, TAG},
};

/// The version of this layout. Every version begins with magic and version, and ends with the sum.
pub(crate) const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"MUSTERVT";
const ID: usize = 16;
/// Bytes of the head.
pub(crate) const HEAD: usize = 8 + 4 + 4 + SALT + ID + 8 + 4;
const SUM: usize = 32;
/// The shortest file: one without entries.
const SHORTEST: usize = HEAD + 2 * (NONCE + TAG) + SUM;

/// What the three kinds of contexts begin with. They have one length, so that none can be read as another.
const KEY_CHECK: &[u8] = b"muster vault, key  \n";
const ENTRY: &[u8] = b"muster vault, entry\n";
const SEAL: &[u8] = b"muster vault, whole\n";

/// What is wrong with the bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    NoVault,
    Damaged(&'static str),
    Version(u32),
    Rounds(u32),
    Key,
    Altered(&'static str),
}

impl Problem {
    /// Of this file.
    pub(crate) fn of(self, path: &Path) -> VaultError {
        let path = path.to_owned();
        match self {
            Self::NoVault => VaultError::NoVault { path },
            Self::Damaged(what) => VaultError::Damaged { path, what },
            Self::Version(found) => VaultError::Version { path, found },
            Self::Rounds(found) => VaultError::Rounds { path, found },
            Self::Key => VaultError::Key { path },
            Self::Altered(what) => VaultError::Altered { path, what },
        }
    }
}

/// The last bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum(pub(crate) [u8; SUM]);

impl Sum {
    /// How these bytes end.
    pub(crate) fn at_end(bytes: &[u8]) -> Self {
        Self(bytes.last_chunk().copied().unwrap_or_default())
    }
}

/// The head of a file: what it is, before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) salt: Salt,
    id: [u8; ID],
    counter: u64,
    count: u32,
}

/// A sealed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    nonce: Nonce,
    sealed: Vec<u8>,
}

/// A vault as it is in memory: its entries stay sealed.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) head: Head,
    pub(crate) entries: BTreeMap<String, Entry>,
}

impl Head {
    /// The head of a new vault, which nobody has written yet.
    pub(crate) fn new() -> Self {
        Self { salt: rand::random(), id: rand::random(), counter: 0, count: 0 }
    }

    /// The head of the next state of the same vault.
    pub(crate) fn next(&self) -> Self {
        Self { counter: self.counter.saturating_add(1), ..self.clone() }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { id: data_encoding::HEXLOWER.encode(&self.id), counter: self.counter }
    }

    /// Reads it, and makes sure of all that can be made sure of without a key.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Problem> {
        if bytes.is_empty() {
            return Err(Problem::Damaged("it is empty"));
        }
        if bytes.len() >= MAGIC.len() && !bytes.starts_with(MAGIC) {
            return Err(if sum_fits(bytes) {
                Problem::NoVault
            } else {
                Problem::Damaged("its first bytes are wrong, if it is a vault at all")
            });
        }
        if bytes.len() < SHORTEST {
            return Err(Problem::Damaged("it is cut short"));
        }
        if !sum_fits(bytes) {
            return Err(Problem::Damaged("its checksum is wrong"));
        }
        let mut reader = Reader(bytes);
        reader.take(MAGIC.len())?;
        match reader.u32()? {
            VERSION => {}
            other => return Err(Problem::Version(other)),
        }
        match reader.u32()? {
            ROUNDS => {}
            other => return Err(Problem::Rounds(other)),
        }
        Ok(Self { salt: reader.array()?, id: reader.array()?, counter: u64::from_be_bytes(reader.array()?), count: reader.u32()? })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&ROUNDS.to_be_bytes());
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.counter.to_be_bytes());
        bytes.extend_from_slice(&self.count.to_be_bytes());
        bytes
    }

    fn key_check(&self) -> Vec<u8> {
        [KEY_CHECK, &self.bytes()].concat()
    }

    /// An entry belongs to one state of one vault, and to its name.
    fn entry(&self, name: &str) -> Vec<u8> {
        [ENTRY, &self.bytes(), name.as_bytes()].concat()
    }

    /// Opens one entry.
    pub(crate) fn open(&self, cipher: &Cipher, name: &str, entry: &Entry) -> Result<Zeroizing<Vec<u8>>, Problem> {
        cipher.open(&self.entry(name), &entry.nonce, &entry.sealed).map_err(|Closed| Problem::Altered("an entry"))
    }
}

impl Content {
    /// Of a vault without entries.
    pub(crate) fn empty(head: Head) -> Self {
        Self { head, entries: BTreeMap::new() }
    }

    /// Opens a file whose head was read. Every entry is opened once, so that what opens is whole.
    pub(crate) fn open(bytes: &[u8], head: Head, cipher: &Cipher) -> Result<Self, Problem> {
        let (body, _sum) = bytes.split_at_checked(bytes.len().saturating_sub(SUM)).ok_or(CUT)?;
        let mut reader = Reader(body);
        reader.take(HEAD)?;
        let (nonce, tag) = (reader.array()?, reader.take(TAG)?);
        cipher.open(&head.key_check(), &nonce, tag).map_err(|Closed| Problem::Key)?;
        let (inner, _) = body.split_at_checked(body.len().saturating_sub(NONCE + TAG)).ok_or(CUT)?;
        let mut end = Reader(body);
        end.take(inner.len())?;
        let (nonce, tag) = (end.array()?, end.take(TAG)?);
        cipher.open(&[SEAL, inner].concat(), &nonce, tag).map_err(|Closed| Problem::Altered("the seal over the whole file"))?;

        // From here on it is what somebody with the key has written.
        if head.count as usize > ENTRIES_MAX {
            return Err(Problem::Altered("the number of entries"));
        }
        let mut content = Self::empty(head);
        for _ in 0..content.head.count {
            let length = u16::from_be_bytes(reader.array()?).into();
            let name = std::str::from_utf8(reader.take(length)?).map_err(|_| Problem::Altered("a name"))?;
            let nonce = reader.array()?;
            let length = reader.u32()? as usize;
            let entry = Entry { nonce, sealed: reader.take(length)?.to_vec() };
            drop(content.head.open(cipher, name, &entry)?);
            if name.is_empty() || name.len() > NAME_MAX || content.entries.insert(name.to_owned(), entry).is_some() {
                return Err(Problem::Altered("a name"));
            }
        }
        if reader.0.len() != NONCE + TAG {
            return Err(Problem::Altered("the number of entries"));
        }
        Ok(content)
    }

    /// Seals all of it, each entry with a new nonce; answers it with the bytes of its file.
    pub(crate) fn seal(head: Head, plain: &BTreeMap<String, Zeroizing<Vec<u8>>>, cipher: &Cipher) -> Result<(Self, Vec<u8>), Problem> {
        let too_large = |_| Problem::Altered("the size of an entry");
        let failed = |Closed| Problem::Altered("what is to be sealed");
        let head = Head { count: u32::try_from(plain.len()).map_err(too_large)?, ..head };
        let mut bytes = head.bytes();
        push_sealed(&mut bytes, cipher.seal(&head.key_check(), &[]).map_err(failed)?);
        let mut entries = BTreeMap::new();
        for (name, value) in plain {
            let (nonce, sealed) = cipher.seal(&head.entry(name), value).map_err(failed)?;
            bytes.extend_from_slice(&u16::try_from(name.len()).map_err(too_large)?.to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&nonce);
            bytes.extend_from_slice(&u32::try_from(sealed.len()).map_err(too_large)?.to_be_bytes());
            bytes.extend_from_slice(&sealed);
            entries.insert(name.clone(), Entry { nonce, sealed });
        }
        let seal = cipher.seal(&[SEAL, &bytes].concat(), &[]).map_err(failed)?;
        push_sealed(&mut bytes, seal);
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum);
        Ok((Self { head, entries }, bytes))
    }
}

fn push_sealed(bytes: &mut Vec<u8>, (nonce, sealed): (Nonce, Vec<u8>)) {
    bytes.extend_from_slice(&nonce);
    bytes.extend_from_slice(&sealed);
}

fn sum_fits(bytes: &[u8]) -> bool {
    bytes.split_last_chunk::<SUM>().is_some_and(|(body, sum)| Sha256::digest(body).as_slice() == sum)
}

const CUT: Problem = Problem::Altered("its lengths");

/// Reads from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        self.take(N)?.try_into().map_err(|_| CUT)
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_be_bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests;
