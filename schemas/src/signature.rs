//! Signatures of jobs, results and registrations, and the list of whose signatures count.
//!
//! What is signed is the message as it travels: its subject (so pool, lane or agent, and id), the moment, and the digest of its body, byte for
//! byte. Nobody ever encodes a body anew to check a signature. Keys are nkeys of users (`U…`, Ed25519). Pure: who may sign what is
//! decided by whoever holds the [`Signers`]. Messages that are sent together may share one signature ([`Signer::sign_all`]); each is checked by
//! itself all the same.

mod keys;
mod tree;

use std::collections::BTreeSet;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    names::PoolName,
    time::Timestamp,
    wire::{Body, V},
};

/// By how much the clocks of two machines may differ, and how long a message may be on its way to the broker.
pub const SKEW_MAX: std::time::Duration = std::time::Duration::from_secs(10 * 60);
/// The most keys that may sign jobs.
pub const SIGNERS_MAX: usize = 200;
/// Messages under one signature at most. More would make each larger, by 43 bytes for each doubling, and save next to nothing.
pub const SHARED_MAX: usize = 32;
/// The most bytes of a broker's nonce: nats-server's have 15 to 22, in base64url.
const NONCE_MAX: usize = 64;
/// The key of the list in the bucket [`crate::topology::TRUST`].
pub const SIGNERS_KEY: &str = "signers";

/// What is signed. A signature of one kind is none of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// A job, by its publisher.
    Job {
        /// Whether it says that its id is new ([`crate::headers::FRESH`]).
        fresh: bool,
    },
    /// A result, by the agent that ran the job, or by whoever ended it in its queue.
    Result,
    /// A registration, by the key that it is for. Its subject is the prefix of the token or API key, its body the public key.
    Registration,
    /// The list of signers, by one of them.
    Signers,
    /// The root of a tree of messages, which is its body; it has no subject.
    Tree,
}

impl Signed {
    fn word(self) -> &'static str {
        match self {
            Self::Job { fresh: false } => "job",
            Self::Job { fresh: true } => "fresh job",
            Self::Result => "result",
            Self::Registration => "registration",
            Self::Signers => "signers",
            Self::Tree => "tree",
        }
    }

    /// The bytes under a signature.
    fn text(self, subject: &str, at: Timestamp, body: &[u8]) -> Vec<u8> {
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(body));
        format!("muster 1\n{}\n{subject}\n{}\n{digest}", self.word(), at.micros()).into_bytes()
    }
}

/// A message to be signed.
#[derive(Debug, Clone, Copy)]
pub struct Unsigned<'a> {
    /// As what.
    pub signed: Signed,
    /// Where it is published.
    pub subject: &'a str,
    /// Byte for byte.
    pub body: &'a [u8],
}

/// A signature as it travels in [`crate::headers::SIGNATURE`]: `<public key>.<microseconds since 1970>.<64 bytes in base64url>`. One that
/// a message shares with others is followed by `.<place in the tree, from 0>.<hashes beside the way to its root, from below, 32 bytes each, in base64url>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The public key of whoever signed.
    pub key: String,
    /// When, by the signer's clock.
    pub at: Timestamp,
    bytes: Vec<u8>,
    /// The way to what was signed, where that is the root of a tree.
    way: Option<tree::Way>,
}

/// Why a signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It is not in the form of one.
    #[error("the signature is malformed")]
    Malformed,
    /// It is not of this message.
    #[error("the signature does not fit the message")]
    Wrong,
}

/// What a broker asks to be signed at the login is not what one may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker asks for the signature of something that is no nonce")]
pub struct NoNonce;

impl Signature {
    /// Reads a header.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let mut parts = text.split('.');
        let (Some(key), Some(at), Some(bytes)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SignatureError::Malformed);
        };
        let way = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(place), Some(beside), None) => Some(tree::Way::parse(place, beside).ok_or(SignatureError::Malformed)?),
            _ => return Err(SignatureError::Malformed),
        };
        let bytes = BASE64URL_NOPAD.decode(bytes.as_bytes()).ok().filter(|bytes| bytes.len() == 64).ok_or(SignatureError::Malformed)?;
        let at = at.parse().map(Timestamp::from_micros).map_err(|_| SignatureError::Malformed)?;
        // Whether it is a point of the curve costs more to tell, and is told when the signature is checked.
        if !key.starts_with('U') || nkeys::from_public_key(key).is_err() {
            return Err(SignatureError::Malformed);
        }
        Ok(Self { key: key.into(), at, bytes, way })
    }

    /// Checks that its key made it, of this message.
    ///
    /// # Errors
    /// [`SignatureError::Wrong`].
    pub fn verify(&self, signed: Signed, subject: &str, body: &[u8]) -> Result<(), SignatureError> {
        let key = keys::read(&self.key).ok_or(SignatureError::Malformed)?;
        let text = signed.text(subject, self.at, body);
        let holds = match &self.way {
            None => key.verify(&text, &self.bytes).is_ok(),
            Some(way) => {
                let root = way.root(tree::leaf(&text));
                let check = || key.verify(&Signed::Tree.text("", self.at, &root), &self.bytes).is_ok();
                tree::holds([self.key.as_bytes(), &self.at.micros().to_be_bytes(), &root, &self.bytes], check)
            }
        };
        if holds { Ok(()) } else { Err(SignatureError::Wrong) }
    }
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.key, self.at.micros(), BASE64URL_NOPAD.encode(&self.bytes))?;
        self.way.iter().try_for_each(|way| write!(f, ".{way}"))
    }
}

/// A key that signs. Its `Debug` shows the public half.
pub struct Signer {
    pair: KeyPair,
    public: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.public)
    }
}

impl Signer {
    /// From a user's seed (`SU…`). `None` when it is none.
    pub fn from_seed(seed: &str) -> Option<Self> {
        let seed = seed.trim();
        let pair = seed.starts_with("SU").then(|| KeyPair::from_seed(seed).ok()).flatten()?;
        let public = pair.public_key();
        Some(Self { pair, public })
    }

    /// A new key, which nobody else has.
    pub fn generate() -> Self {
        let pair = KeyPair::new_user();
        let public = pair.public_key();
        Self { pair, public }
    }

    /// The public key, `U…`.
    pub fn public_key(&self) -> &str {
        &self.public
    }

    /// The signature of a message, for its header.
    pub fn sign(&self, signed: Signed, subject: &str, body: &[u8], at: Timestamp) -> Signature {
        // A key from a seed can always sign; an empty signature would be refused by everybody.
        let bytes = self.pair.sign(&signed.text(subject, at, body)).unwrap_or_default();
        Signature { key: self.public.clone(), at, bytes, way: None }
    }

    /// Signs what a broker gives it to sign at the login.
    ///
    /// # Errors
    /// When that is no nonce: it could be any text that this key signs messages with, all of which have line breaks, and the broker would
    /// have a job or a result of its own making signed.
    pub fn sign_nonce(&self, nonce: &[u8]) -> Result<Vec<u8>, NoNonce> {
        let is_nonce = nonce.len() <= NONCE_MAX && nonce.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
        if is_nonce { self.pair.sign(nonce).map_err(|_| NoNonce) } else { Err(NoNonce) }
    }

    /// The signatures of messages that are sent together, in their order. Up to [`SHARED_MAX`] share one, which costs each no more than some hashes, here and
    /// where it is checked, and makes each larger by up to 220 bytes.
    pub fn sign_all(&self, messages: &[Unsigned<'_>], at: Timestamp) -> Vec<Signature> {
        messages.chunks(SHARED_MAX).flat_map(|messages| self.sign_tree(messages, at)).collect()
    }

    fn sign_tree(&self, messages: &[Unsigned<'_>], at: Timestamp) -> Vec<Signature> {
        if let [Unsigned { signed, subject, body }] = messages {
            return vec![self.sign(*signed, subject, body, at)];
        }
        let text = |message: &Unsigned<'_>| message.signed.text(message.subject, at, message.body);
        let leaves: Vec<_> = messages.iter().map(|message| tree::leaf(&text(message))).collect();
        let (root, ways) = tree::grow(&leaves);
        let signature = self.sign(Signed::Tree, "", &root, at);
        ways.into_iter().map(|way| Signature { way: Some(way), ..signature.clone() }).collect()
    }
}

/// What is known of a result's signature. The history and every view of a job show it; only a valid one counts in a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Signed by the agent that it names as the one that ended it, or by the control plane.
    Valid,
    /// Not signed.
    Missing,
    /// Signed by somebody else, by a key that was revoked before, or not of this message.
    Wrong,
}

impl Mark {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Missing => "missing",
            Self::Wrong => "wrong",
        }
    }
}

/// What a key may sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every job, results of jobs that ended in their queue, and the list of signers itself: gateways and dispatchers.
    ControlPlane,
    /// Jobs of these pools: a service. None means none.
    Pools(BTreeSet<PoolName>),
}

/// A key whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TrustedSigner {
    /// The public key, `U…`.
    pub key: String,
    /// For people.
    pub name: String,
    /// What it may sign.
    pub scope: Scope,
    /// When it was added.
    pub added_at: Timestamp,
}

/// The list of signers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Signers {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Counts up with each change: an older list never replaces a newer one.
    pub serial: u64,
    /// The keys, at most [`SIGNERS_MAX`].
    pub signers: Vec<TrustedSigner>,
}

/// The list as it travels and is stored: its text, and a signature of that text by a key of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignedSigners {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The list, as JSON.
    pub list: String,
    /// Its signature.
    pub signature: String,
}

impl Body for SignedSigners {
    const LIMIT: usize = 256 * 1024;
}

/// Why a list is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignersError {
    /// It can't be read.
    #[error("the list of signers can't be read: {0}")]
    Malformed(String),
    /// Its signature does not hold.
    #[error("the list of signers: {0}")]
    Signature(#[from] SignatureError),
    /// Whoever signed it may not.
    #[error("the list of signers is signed by a key that may not change it ({0})")]
    Stranger(String),
}

impl Signers {
    /// Signs the list.
    pub fn sign(&self, signer: &Signer, now: Timestamp) -> SignedSigners {
        let list = serde_json::to_string(self).unwrap_or_default();
        let signature = signer.sign(Signed::Signers, SIGNERS_KEY, list.as_bytes(), now).to_string();
        SignedSigners { v: V, list, signature }
    }

    /// Reads a list that came over a channel that is trusted itself, such as the answer to a registration. Its own signature has to hold, by
    /// a key of the control plane in it.
    ///
    /// # Errors
    /// See [`SignersError`].
    pub fn pin(given: &SignedSigners) -> Result<Self, SignersError> {
        let list: Self = serde_json::from_str(&given.list).map_err(|error| SignersError::Malformed(error.to_string()))?;
        list.vouches_for(given)?;
        Ok(list)
    }

    /// Reads a list that came over a channel that is not trusted: a control plane key of this list has to have signed it.
    /// `None` when it is not newer than this one.
    ///
    /// # Errors
    /// See [`SignersError`].
    pub fn successor(&self, given: &SignedSigners) -> Result<Option<Self>, SignersError> {
        let list: Self = serde_json::from_str(&given.list).map_err(|error| SignersError::Malformed(error.to_string()))?;
        if list.serial <= self.serial {
            return Ok(None);
        }
        self.vouches_for(given)?;
        Ok(Some(list))
    }

    fn vouches_for(&self, given: &SignedSigners) -> Result<(), SignersError> {
        let signature = Signature::parse(&given.signature)?;
        if !self.is_control_plane(&signature.key) {
            return Err(SignersError::Stranger(signature.key));
        }
        Ok(signature.verify(Signed::Signers, SIGNERS_KEY, given.list.as_bytes())?)
    }

    /// Whether the key belongs to gateway or dispatcher.
    pub fn is_control_plane(&self, key: &str) -> bool {
        self.signers.iter().any(|signer| signer.key == key && signer.scope == Scope::ControlPlane)
    }

    /// Whether the key may sign jobs of the pool.
    pub fn may_sign(&self, key: &str, pool: &PoolName) -> bool {
        self.signers.iter().filter(|signer| signer.key == key).any(|signer| match &signer.scope {
            Scope::ControlPlane => true,
            Scope::Pools(pools) => pools.contains(pool),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;
    use proptest::prelude::*;

    const SUBJECT: &str = "jobs.p.normal.shell.j1";
    const JOB: Signed = Signed::Job { fresh: false };

    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn trusted(signer: &Signer, scope: Scope) -> TrustedSigner {
        TrustedSigner { key: signer.public_key().into(), name: "n".into(), scope, added_at: now() }
    }

    #[test]
    fn a_signature_holds_for_its_message_and_for_no_other() {
        let signer = Signer::generate();
        let signature = Signature::parse(&signer.sign(JOB, SUBJECT, b"body", now()).to_string()).unwrap();
        signature.verify(JOB, SUBJECT, b"body").unwrap();
        for (signed, subject, body) in [
            (JOB, "jobs.q.normal.shell.j1", "body"),
            (JOB, "jobs.p.normal.shell.j2", "body"),
            (JOB, SUBJECT, "body "),
            (Signed::Job { fresh: true }, SUBJECT, "body"),
            (Signed::Result, SUBJECT, "body"),
        ] {
            assert_eq!(signature.verify(signed, subject, body.as_bytes()), Err(SignatureError::Wrong), "{subject} {body}");
        }
        let later = Signature { at: Timestamp::from_secs(1_800_000_001), ..signature.clone() };
        assert_eq!(later.verify(JOB, SUBJECT, b"body"), Err(SignatureError::Wrong));
        let other = Signature { key: Signer::generate().public_key().into(), ..signature };
        assert_eq!(other.verify(JOB, SUBJECT, b"body"), Err(SignatureError::Wrong));
    }

    #[test]
    fn a_broker_gets_nothing_signed_but_a_nonce() {
        let signer = Signer::generate();
        let nonce = b"g1-_xYz0123456789aBcDe";
        let signature = signer.sign_nonce(nonce).unwrap();
        KeyPair::from_public_key(signer.public_key()).unwrap().verify(nonce, &signature).unwrap();
        let text = |signed: Signed| signed.text("results.p.j", now(), b"{}");
        let long = vec![b'a'; NONCE_MAX + 1];
        for given in [text(Signed::Result), text(Signed::Tree), text(JOB), long, b"muster 1".to_vec(), b"a\nb".to_vec()] {
            assert_eq!(signer.sign_nonce(&given), Err(NoNonce), "{}", String::from_utf8_lossy(&given));
        }
    }

    fn of_two() -> Vec<Signature> {
        let message = Unsigned { signed: JOB, subject: SUBJECT, body: b"" };
        Signer::generate().sign_all(&[message, message], now())
    }

    #[test]
    fn what_is_no_signature_is_malformed() {
        let good = Signer::generate().sign(JOB, SUBJECT, b"", now()).to_string();
        let account = good.replacen('U', "A", 1);
        let shared = of_two()[0].to_string();
        let (short, long) = (shared.rsplit_once('.').unwrap().0, format!("{shared}.x"));
        for text in ["", "a.b.c", "..", &good[..good.len() - 4], &format!("{good}.x"), &format!("{good}.0."), &account, short, &long] {
            assert_eq!(Signature::parse(text), Err(SignatureError::Malformed), "{text}");
        }
    }

    #[test]
    fn messages_that_share_a_signature_are_each_held_to_it() {
        let signer = Signer::generate();
        let bodies: Vec<String> = (0..2 * SHARED_MAX + 1).map(|number| format!("body {number}")).collect();
        let subjects: Vec<String> = (0..bodies.len()).map(|number| format!("jobs.p.normal.shell.j{number}")).collect();
        let unsigned = |number: usize| Unsigned { signed: JOB, subject: &subjects[number], body: bodies[number].as_bytes() };
        for count in [0, 1, 2, 3, SHARED_MAX, bodies.len()] {
            let messages: Vec<_> = (0..count).map(unsigned).collect();
            let made = signer.sign_all(&messages, now());
            assert_eq!(made.len(), count);
            let shared: BTreeSet<&[u8]> = made.iter().map(|signature| &signature.bytes[..]).collect();
            assert_eq!(shared.len(), count.div_ceil(SHARED_MAX));
            for (number, signature) in made.iter().enumerate() {
                let read = Signature::parse(&signature.to_string()).unwrap();
                assert_eq!(read, *signature);
                read.verify(JOB, &subjects[number], bodies[number].as_bytes()).unwrap();
                let other = (number + 1) % bodies.len();
                for (signed, subject, body) in
                    [(JOB, other, number), (JOB, number, other), (JOB, other, other), (Signed::Result, number, number)]
                {
                    assert_eq!(
                        read.verify(signed, &subjects[subject], bodies[body].as_bytes()),
                        Err(SignatureError::Wrong),
                        "{number} of {count}"
                    );
                }
                // Known roots included: nothing but the very signature holds.
                let later = Signature { at: Timestamp::from_secs(1_800_000_001), ..read.clone() };
                let foreign = Signature { key: Signer::generate().public_key().into(), ..read.clone() };
                let mut forged = read.clone();
                forged.bytes[7] ^= 1;
                for signature in [later, foreign, forged] {
                    assert_eq!(signature.verify(JOB, &subjects[number], bodies[number].as_bytes()), Err(SignatureError::Wrong));
                }
            }
        }
    }

    #[test]
    fn a_list_is_taken_over_from_the_control_plane_only_and_never_back() {
        let (gateway, service) = (Signer::generate(), Signer::generate());
        let pools = Scope::Pools(["p".parse().unwrap()].into());
        let list =
            |serial| Signers { v: V, serial, signers: vec![trusted(&gateway, Scope::ControlPlane), trusted(&service, pools.clone())] };
        let have = Signers::pin(&list(1).sign(&gateway, now())).unwrap();
        assert_eq!(have.successor(&list(2).sign(&gateway, now())).unwrap(), Some(list(2)));
        assert_eq!(have.successor(&list(1).sign(&gateway, now())).unwrap(), None);
        assert!(matches!(have.successor(&list(2).sign(&service, now())), Err(SignersError::Stranger(_))));
        let mut forged = list(2).sign(&gateway, now());
        forged.list = forged.list.replace("\"p\"", "\"q\"");
        assert!(matches!(have.successor(&forged), Err(SignersError::Signature(_))));
        assert!(matches!(Signers::pin(&list(1).sign(&service, now())), Err(SignersError::Stranger(_))));
    }

    #[test]
    fn a_service_signs_for_its_pools_and_an_empty_list_of_them_is_none() {
        let (one, none) = (Signer::generate(), Signer::generate());
        let signers = vec![trusted(&one, Scope::Pools(["p".parse().unwrap()].into())), trusted(&none, Scope::Pools(BTreeSet::new()))];
        let list = Signers { signers, ..Signers::default() };
        let may = |signer: &Signer, pool: &str| list.may_sign(signer.public_key(), &pool.parse().unwrap());
        assert!(may(&one, "p") && !may(&one, "q") && !may(&none, "p") && !may(&Signer::generate(), "p"));
        assert!(!list.is_control_plane(one.public_key()));
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_a_signature_panic(text in "\\PC{0,80}|U[A-Z2-7.]{0,120}|U[A-Z2-7]{55}\\.[0-9]{1,9}\\.[A-Za-z0-9_-]{86}\\.[0-9]{1,3}\\.[A-Za-z0-9_-]{0,240}") {
            let _ = Signature::parse(&text);
        }
    }
}
