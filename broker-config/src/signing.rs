//! What gateway and dispatcher sign with: the seeds of a file, and the list of signers that says which of them agents trust.
//!
//! During a roll-over the file holds several seeds, newest first. Messages are signed with the newest that the list trusts, so that a key
//! is used as soon as agents can know of it and not before; the list itself with the oldest, so that an agent that has not heard of the
//! newer ones yet takes it over. A list counts here only when a key that `muster init` wrote down has signed it: whoever can write to the
//! bucket cannot make one. It talks to nobody: whoever holds a [`Signing`] feeds it the list.

mod control_plane;
mod results;
pub use control_plane::{ControlPlane, Retired};
pub use results::{Judgement, StoredResult};

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use muster_schemas::{
    signature::{Signature, Signed, SignedSigners, Signer, Signers, SignersError, Unsigned},
    time::Timestamp,
    wire::{self, WireError},
};
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// Why the keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It does not hold what it should.
    #[error("{path} holds no keys to sign with: {problem}; `muster init` makes them")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Why a list of signers is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Its body can't be read.
    #[error("the list of signers can't be read: {0}")]
    Body(#[from] WireError),
    /// It does not hold.
    #[error(transparent)]
    List(#[from] SignersError),
    /// Whoever signed it is none of this deployment's.
    #[error("the list of signers is signed by {0}, which is no key of this deployment's gateways and dispatchers")]
    Stranger(String),
    /// It is older than the one that is known.
    #[error("the list of signers has the serial {given}, and {known} is known")]
    Older {
        /// Of this one.
        given: u64,
        /// Of the one that is known.
        known: u64,
    },
}

/// The list as it is at present.
#[derive(Debug, Clone)]
pub struct Present {
    /// What it says.
    pub list: Signers,
    /// As it is stored and given to agents.
    pub signed: SignedSigners,
}

/// The keys of one process, and the list. Clones share it.
#[derive(Debug, Clone)]
pub struct Signing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Newest first.
    keys: Vec<Signer>,
    control_plane: ControlPlane,
    /// Keys that were dropped while this process ran, and when.
    dropped: RwLock<BTreeMap<String, Timestamp>>,
    present: RwLock<Option<Arc<Present>>>,
}

/// Reads seeds of users, one a line, newest first.
///
/// # Errors
/// See [`SigningError`].
pub fn read_keys(path: &Path) -> Result<Vec<Signer>, SigningError> {
    let damaged = |problem| SigningError::Damaged { path: path.display().to_string(), problem };
    let text = Zeroizing::new(files::read(path)?.ok_or_else(|| damaged("there is no such file"))?);
    parse_keys(&text).map_err(damaged)
}

/// The same, of a text. The error says what is wrong with it.
pub(crate) fn parse_keys(text: &str) -> Result<Vec<Signer>, &'static str> {
    let read = |line: &str| Signer::from_seed(line).ok_or("a line of it is no seed of a user (SU…)");
    let keys: Vec<Signer> = text.lines().filter(|line| !line.trim().is_empty()).map(read).collect::<Result<_, _>>()?;
    if keys.is_empty() { Err("it is empty") } else { Ok(keys) }
}

impl Signing {
    /// With the keys of a file, and those of all gateways and dispatchers. Without keys it signs nothing.
    ///
    /// # Errors
    /// See [`SigningError`].
    pub fn load(keys: Option<&Path>, control_plane: Option<&Path>) -> Result<Self, SigningError> {
        let keys = keys.map(read_keys).transpose()?.unwrap_or_default();
        Ok(Self::new(keys, control_plane.map(ControlPlane::read).transpose()?.unwrap_or_default()))
    }

    /// With these keys, newest first, and those of the control plane.
    pub fn new(keys: Vec<Signer>, control_plane: ControlPlane) -> Self {
        Self(Arc::new(Inner { keys, control_plane, dropped: RwLock::default(), present: RwLock::new(None) }))
    }

    /// The public keys of all gateways and dispatchers, and whose they are, as `muster init` wrote them down.
    pub fn control_plane(&self) -> &BTreeMap<String, String> {
        &self.0.control_plane.present
    }

    /// Reads a list, without taking it over.
    ///
    /// # Errors
    /// When it can't be read, no key of this deployment has signed it, or it is older than the one that is known.
    pub fn read(&self, body: &[u8]) -> Result<Present, ListError> {
        let signed: SignedSigners = wire::decode(body)?;
        let list = Signers::pin(&signed)?;
        let signer = Signature::parse(&signed.signature).map_err(SignersError::from)?.key;
        let own = self.0.keys.iter().any(|key| key.public_key() == signer);
        let ControlPlane { present, retired } = &self.0.control_plane;
        if !own && !present.contains_key(&signer) && !retired.get(&signer).is_some_and(|old| old.lists) {
            return Err(ListError::Stranger(signer));
        }
        match self.present().map(|present| present.list.serial) {
            Some(known) if list.serial < known => Err(ListError::Older { given: list.serial, known }),
            _ => Ok(Present { list, signed }),
        }
    }

    /// Takes a list over as it was read from its bucket.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn take(&self, body: &[u8]) -> Result<(), ListError> {
        let read = self.read(body)?;
        let mut present = self.0.present.write().unwrap_or_else(PoisonError::into_inner);
        // Several tasks take lists over: a newer one may have come since this one was read.
        if let Some(known) = present.as_ref().map(|present| present.list.serial).filter(|known| read.list.serial < *known) {
            return Err(ListError::Older { given: read.list.serial, known });
        }
        if let Some(before) = present.as_ref() {
            // It is this moment for every process that reads both lists.
            let at = Signature::parse(&read.signed.signature).map_err(SignersError::from)?.at;
            let keys = before.list.signers.iter().map(|signer| &signer.key);
            let gone = keys.filter(|key| before.list.is_control_plane(key) && !read.list.is_control_plane(key));
            let mut dropped = self.0.dropped.write().unwrap_or_else(PoisonError::into_inner);
            dropped.extend(gone.map(|key| (key.clone(), at)));
        }
        *present = Some(Arc::new(read));
        Ok(())
    }

    /// Whether `key` is, or was, a gateway's or dispatcher's.
    fn knows(&self, key: &str) -> bool {
        self.present().is_some_and(|present| present.list.is_control_plane(key)) || self.until(key).is_some()
    }

    /// Whether what `key` signed and the broker stored at that moment is a gateway's or dispatcher's.
    pub fn signs_with(&self, key: &str, stored_at: Timestamp) -> bool {
        self.present().is_some_and(|present| present.list.is_control_plane(key)) || self.until(key).is_some_and(|until| stored_at <= until)
    }

    /// When a key was dropped.
    fn until(&self, key: &str) -> Option<Timestamp> {
        let dropped = self.0.dropped.read().unwrap_or_else(PoisonError::into_inner).get(key).copied();
        self.0.control_plane.retired.get(key).map(|old| old.until).max(dropped)
    }

    /// The list, once it is known.
    pub fn present(&self) -> Option<Arc<Present>> {
        self.0.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs a message with the newest key that agents trust. `None` while there is none: it must not be sent then.
    pub fn sign(&self, signed: Signed, subject: &str, body: &[u8]) -> Option<Signature> {
        self.sign_all(&[Unsigned { signed, subject, body }])?.pop()
    }

    /// The same for messages that are sent together, which share signatures; in their order.
    pub fn sign_all(&self, messages: &[Unsigned<'_>]) -> Option<Vec<Signature>> {
        let present = self.present()?;
        let key = self.0.keys.iter().find(|key| present.list.is_control_plane(key.public_key()))?;
        Some(key.sign_all(messages, Timestamp::now()))
    }

    /// The key that turns one list into the next: the oldest that is trusted before and after.
    pub fn of_list(&self, before: &Signers, after: &Signers) -> Option<&Signer> {
        let trusted = |key: &&Signer| [before, after].iter().all(|list| list.is_control_plane(key.public_key()));
        self.0.keys.iter().rev().find(trusted)
    }

    /// Whether messages can be signed, in words for an operator.
    ///
    /// # Errors
    /// Why not, and what mends it.
    pub fn check(&self) -> Result<(), String> {
        let Some(newest) = self.0.keys.first() else {
            return Err("no keys to sign jobs with are set (job_keys): agents would run none of them".into());
        };
        let Some(present) = self.present() else {
            return Err(
                "the list of signers is not known: it is missing in the bucket `trust`, or no key of this deployment signed it".into()
            );
        };
        if self.of_list(&present.list, &present.list).is_some() {
            return Ok(());
        }
        Err(format!(
            "agents trust none of this process's keys: {} is not in the list of signers. Give it the keys that `muster init` made, \
             or let it roll over: `muster init --roll-job-keys`, then restart a gateway first",
            newest.public_key()
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{
        signature::{Scope, TrustedSigner},
        wire::V,
    };

    use super::*;

    fn list(serial: u64, keys: &[&Signer], by: &Signer) -> Vec<u8> {
        let at = Timestamp::from_secs(1_800_000_000);
        let trusted = |key: &&Signer| TrustedSigner {
            key: key.public_key().into(),
            name: "gateway".into(),
            scope: Scope::ControlPlane,
            added_at: at,
        };
        wire::encode(&Signers { v: V, serial, signers: keys.iter().map(trusted).collect() }.sign(by, at))
    }

    fn who(signing: &Signing) -> Option<String> {
        signing.sign(Signed::Result, "s", b"").map(|signature| signature.key)
    }

    #[test]
    fn messages_are_signed_with_the_newest_key_that_is_trusted_and_the_list_with_the_oldest() {
        let (new, old) = (Signer::generate(), Signer::generate());
        let [new_key, old_key] = [&new, &old].map(|key| key.public_key().to_owned());
        let (before, after) = (list(1, &[&old], &old), list(2, &[&old, &new], &old));
        let dropped = list(3, &[&new], &new);
        let signing = Signing::new(vec![new, old], ControlPlane::default());
        assert_eq!((who(&signing), signing.check().is_err()), (None, true), "the list is not known");
        let of_list = |body: &[u8]| {
            let (now, next) = (signing.present().unwrap(), signing.read(body).unwrap());
            signing.of_list(&now.list, &next.list).map(|key| key.public_key().to_owned())
        };
        signing.take(&before).unwrap();
        assert_eq!((who(&signing), of_list(&after)), (Some(old_key.clone()), Some(old_key)));
        signing.take(&after).unwrap();
        assert_eq!((who(&signing), of_list(&dropped)), (Some(new_key.clone()), Some(new_key)));
        signing.check().unwrap();
    }

    #[test]
    fn a_key_in_no_list_signs_nothing_and_says_so() {
        let (own, other) = (Signer::generate(), Signer::generate());
        let signing = Signing::new(vec![own], BTreeMap::from([(other.public_key().to_owned(), "gateway".to_owned())]).into());
        signing.take(&list(1, &[&other], &other)).unwrap();
        assert_eq!(who(&signing), None);
        assert!(signing.check().unwrap_err().contains("is not in the list of signers"));
    }

    #[test]
    fn a_list_that_this_deployment_did_not_sign_and_an_older_one_are_not_taken_over() {
        let (own, stranger) = (Signer::generate(), Signer::generate());
        let (first, second) = (list(1, &[&own], &own), list(2, &[&own], &own));
        let forged = list(9, &[&own, &stranger], &stranger);
        let signing = Signing::new(vec![own], ControlPlane::default());
        signing.take(&second).unwrap();
        assert!(matches!(signing.take(&forged), Err(ListError::Stranger(_))));
        assert!(matches!(signing.take(&first), Err(ListError::Older { given: 1, known: 2 })));
        assert!(matches!(signing.take(b"{}"), Err(ListError::Body(_))));
        assert_eq!(signing.present().unwrap().list.serial, 2);
    }

    #[test]
    fn a_file_without_a_seed_or_with_something_else_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jobs.nk");
        assert!(read_keys(&path).unwrap_err().to_string().contains("there is no such file"));
        for text in ["", "\n \n", "SUNOSEED\n", "SAAG\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(read_keys(&path).unwrap_err().to_string().contains("jobs.nk"), "{text:?}");
        }
    }
}
