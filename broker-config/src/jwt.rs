//! NATS JWTs, version 2: signing claims, and reading the few fields that our processes act on.
//!
//! It never verifies a signature: the broker does. The claims themselves are in [`claims`].

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use muster_schemas::time::Timestamp;
use nkeys::KeyPair;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha512_256};

pub mod claims;
mod revocations;
pub use claims::{AccountClaims, Claims, OperatorClaims, UserClaims};
pub use revocations::{revocations, with_revocations};

/// The header of every NATS JWT: the signature is by an nkey over header and payload.
const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// Why a JWT could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// The key has no seed, so it cannot sign.
    #[error("the key cannot sign: {0}")]
    Sign(#[source] nkeys::error::Error),
    /// A seed or public key is damaged or of the wrong kind.
    #[error("{what} is not a valid nkey")]
    Key {
        /// Which key.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: nkeys::error::Error,
    },
    /// A key is of the wrong kind, such as an account's where a user's belongs.
    #[error("{what} must start with `{prefix}`")]
    Kind {
        /// Which key.
        what: &'static str,
        /// What such keys start with.
        prefix: &'static str,
    },
    /// A JWT would be longer than the server takes: too many pools in one.
    #[error("the JWT would have {size} bytes; the server takes {limit}: name fewer pools")]
    TooLong {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The text is not a JWT, or lacks a field.
    #[error("not a JWT: {0}")]
    Malformed(String),
}

/// Reads a seed (`SU…`, `SA…`, `SO…`). `what` names it in errors; the seed itself never appears there.
///
/// # Errors
/// [`JwtError::Key`] when it is damaged.
pub fn key_pair(seed: &str, what: &'static str) -> Result<KeyPair, JwtError> {
    KeyPair::from_seed(seed.trim()).map_err(|source| JwtError::Key { what, source })
}

/// Checks that a text from outside is a public key of a user, as agents bring it at registration.
///
/// # Errors
/// [`JwtError::Key`] or [`JwtError::Kind`].
pub fn check_user_key(public_key: &str) -> Result<(), JwtError> {
    check_key(public_key, "the user's public key", "U")
}

pub(crate) fn check_key(public_key: &str, what: &'static str, prefix: &'static str) -> Result<(), JwtError> {
    if !public_key.starts_with(prefix) {
        return Err(JwtError::Kind { what, prefix });
    }
    KeyPair::from_public_key(public_key).map(drop).map_err(|source| JwtError::Key { what, source })
}

/// Signs claims as of `now`, which becomes `iat` in whole seconds.
///
/// # Errors
/// [`JwtError::Sign`] when the key has no seed.
pub fn encode(claims: &impl Claims, key: &KeyPair, now: Timestamp) -> Result<String, JwtError> {
    let mut body = claims.to_value();
    if let (Some(map), Some(lifetime)) = (body.as_object_mut(), claims.lifetime()) {
        map.insert("exp".into(), (now + lifetime).secs().into());
    }
    sign(body, key, now.secs())
}

/// Signs a payload as of a second.
fn sign(mut body: Value, key: &KeyPair, iat: i64) -> Result<String, JwtError> {
    if let Some(map) = body.as_object_mut() {
        map.insert("iat".into(), iat.into());
        map.insert("iss".into(), key.public_key().into());
        map.insert("jti".into(), "".into());
    }
    // As the reference implementation has it: the id is a hash of the claims with an empty id.
    let id = BASE32_NOPAD.encode(&Sha512_256::digest(body.to_string()));
    if let Some(map) = body.as_object_mut() {
        map.insert("jti".into(), id.into());
    }
    let text = format!("{}.{}", BASE64URL_NOPAD.encode(HEADER.as_bytes()), BASE64URL_NOPAD.encode(body.to_string().as_bytes()));
    let signature = key.sign(text.as_bytes()).map_err(JwtError::Sign)?;
    Ok(format!("{text}.{}", BASE64URL_NOPAD.encode(&signature)))
}

/// What our processes read from a JWT. The signature is not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The name that it was given.
    pub name: String,
    /// Whose it is: a public key.
    pub subject: String,
    /// Who signed it: a public key.
    pub issuer: String,
    /// When it was signed, to the second.
    pub issued_at: Timestamp,
    /// When it stops working, to the second; `None` is never.
    pub expires_at: Option<Timestamp>,
}

impl Decoded {
    /// When to ask for the next one: at two thirds of the lifetime. `None` when it never expires.
    pub fn renew_at(&self) -> Option<Timestamp> {
        self.expires_at.map(|end| self.issued_at + end.since(self.issued_at) * 2 / 3)
    }
}

/// Reads a JWT without checking its signature.
///
/// # Errors
/// [`JwtError::Malformed`] when it is not one.
pub fn decode(jwt: &str) -> Result<Decoded, JwtError> {
    #[derive(Deserialize)]
    struct Raw {
        #[serde(default)]
        name: String,
        sub: String,
        iss: String,
        iat: i64,
        #[serde(default)]
        exp: i64,
    }
    let raw: Raw = serde_json::from_value(payload(jwt)?).map_err(|error| JwtError::Malformed(error.to_string()))?;
    Ok(Decoded {
        name: raw.name,
        subject: raw.sub,
        issuer: raw.iss,
        issued_at: Timestamp::from_secs(raw.iat),
        expires_at: (raw.exp != 0).then(|| Timestamp::from_secs(raw.exp)),
    })
}

/// The payload as JSON, unverified.
pub(crate) fn payload(jwt: &str) -> Result<Value, JwtError> {
    let bad = |why: &str| JwtError::Malformed(why.to_owned());
    let mut parts = jwt.trim().split('.');
    let (Some(_), Some(body), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(bad("it does not have three parts"));
    };
    let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| bad("its payload is not base64"))?;
    serde_json::from_slice(&bytes).map_err(|_| bad("its payload is not JSON"))
}

/// Whether a JWT says the same as `claims`, whenever it was signed.
pub(crate) fn says_same(jwt: &str, claims: &impl Claims, key: &KeyPair) -> bool {
    let Ok(mut have) = payload(jwt) else { return false };
    let mut want = claims.to_value();
    if let (Some(have), Some(want)) = (have.as_object_mut(), want.as_object_mut()) {
        for field in ["iat", "jti"] {
            have.remove(field);
        }
        want.insert("iss".into(), key.public_key().into());
    }
    have == want
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use super::*;
    use crate::permissions::Permissions;
    use proptest::prelude::*;

    fn user(lifetime: Option<Duration>) -> UserClaims {
        UserClaims {
            name: "agt".into(),
            public_key: KeyPair::new_user().public_key(),
            permissions: Permissions::default(),
            expires_in: lifetime,
            issuer_account: None,
            max_subscriptions: None,
        }
    }

    #[test]
    fn a_jwt_reads_back_and_its_signature_verifies() {
        let (key, now) = (KeyPair::new_account(), Timestamp::from_secs(1_800_000_000));
        let claims = user(Some(Duration::from_secs(90)));
        let jwt = encode(&claims, &key, now).unwrap();
        let read = decode(&jwt).unwrap();
        assert_eq!((read.subject.as_str(), read.issuer.as_str()), (claims.public_key.as_str(), key.public_key().as_str()));
        assert_eq!((read.issued_at, read.expires_at), (now, Some(now + Duration::from_secs(90))));
        assert_eq!(read.renew_at(), Some(now + Duration::from_secs(60)));
        let (text, signature) = jwt.rsplit_once('.').unwrap();
        key.verify(text.as_bytes(), &BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap()).unwrap();
    }

    #[test]
    fn a_jwt_without_an_end_is_never_renewed() {
        let jwt = encode(&user(None), &KeyPair::new_account(), Timestamp::from_secs(1)).unwrap();
        assert_eq!(decode(&jwt).unwrap().renew_at(), None);
    }

    #[test]
    fn the_same_claims_signed_later_say_the_same() {
        let (key, claims) = (KeyPair::new_account(), user(None));
        let jwt = encode(&claims, &key, Timestamp::from_secs(1)).unwrap();
        assert!(says_same(&jwt, &claims, &key));
        assert!(!says_same(&jwt, &claims, &KeyPair::new_account()));
        assert!(!says_same(&jwt, &UserClaims { name: "other".into(), ..claims }, &key));
    }

    #[test]
    fn a_key_of_another_kind_is_refused_by_name() {
        check_user_key(&KeyPair::new_user().public_key()).unwrap();
        let account = KeyPair::new_account().public_key();
        let error = check_user_key(&account).unwrap_err().to_string();
        assert!(error.contains("must start with `U`"), "{error}");
        assert!(matches!(check_user_key("Unonsense"), Err(JwtError::Key { .. })));
    }

    proptest! {
        #[test]
        fn no_text_makes_decoding_panic(text in "[a-zA-Z0-9._-]{0,80}|\\PC{0,40}") {
            let _ = decode(&text);
            let _ = check_user_key(&text);
        }
    }
}
