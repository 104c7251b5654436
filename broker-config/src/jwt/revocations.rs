//! The revocations in an account's JWT: public keys of users, each with the last second of `iat` that is refused.
//!
//! A JWT that the server has may be of another version than this code: whatever else it says is carried over as it is.

use std::collections::BTreeMap;

use muster_schemas::time::Timestamp;
use nkeys::KeyPair;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{JwtError, decode, payload, sign};

/// Where they are in the payload.
const PLACE: &str = "/nats/revocations";

/// The revocations in an account's JWT, unverified.
///
/// # Errors
/// [`JwtError::Malformed`].
pub fn revocations(jwt: &str) -> Result<BTreeMap<String, i64>, JwtError> {
    in_payload(&payload(jwt)?)
}

fn in_payload(payload: &Value) -> Result<BTreeMap<String, i64>, JwtError> {
    match payload.pointer(PLACE) {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(revoked) => {
            BTreeMap::<String, i64>::deserialize(revoked).map_err(|error| JwtError::Malformed(format!("its revocations: {error}")))
        }
    }
}

/// An account's JWT with these revocations in place of its own, signed anew; every other claim stays. `None` when it has just these.
///
/// The server keeps the newest of two by whole seconds of `iat`, so the new one is at least a second younger than the one it replaces.
///
/// # Errors
/// [`JwtError::Malformed`] when it is no account's; [`JwtError::Sign`] when the key has no seed.
pub fn with_revocations(jwt: &str, revoked: &BTreeMap<String, i64>, key: &KeyPair, now: Timestamp) -> Result<Option<String>, JwtError> {
    let (mut body, before) = (payload(jwt)?, decode(jwt)?);
    if in_payload(&body)? == *revoked {
        return Ok(None);
    }
    let no_account = || JwtError::Malformed("it is no account's".to_owned());
    let nats = body.pointer_mut("/nats").and_then(Value::as_object_mut);
    let nats = nats.filter(|nats| nats.get("type").is_some_and(|kind| kind == "account")).ok_or_else(no_account)?;
    match revoked.is_empty() {
        true => drop(nats.remove("revocations")),
        false => drop(nats.insert("revocations".into(), json!(revoked))),
    }
    sign(body, key, now.secs().max(before.issued_at.secs().saturating_add(1))).map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;
    use crate::{accounts, jwt::encode};

    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn revoked(keys: &[(&str, i64)]) -> BTreeMap<String, i64> {
        keys.iter().map(|(key, until)| ((*key).to_owned(), *until)).collect()
    }

    #[test]
    fn other_revocations_leave_every_other_claim_as_it_is_also_an_unknown_one() {
        let key = KeyPair::new_operator();
        let claim = json!({"name": "FLEET", "sub": "A1", "aud": "x", "future": [1, {"a": 2.5}],
            "nats": {"type": "account", "version": 2, "limits": {"subs": -1, "new": true}, "revocations": {"UOLD": 5}, "trace": {"dest": "t"}}});
        let before = sign(claim.clone(), &key, now().secs()).unwrap();
        let signer = KeyPair::new_operator();
        let after = with_revocations(&before, &revoked(&[("UA", 7), ("UB", 9)]), &signer, now() + std::time::Duration::from_secs(60))
            .unwrap()
            .unwrap();
        assert_eq!(revocations(&after).unwrap(), revoked(&[("UA", 7), ("UB", 9)]));
        let read = decode(&after).unwrap();
        assert_eq!((read.issuer, read.issued_at.secs()), (signer.public_key(), now().secs() + 60));
        let mut body = payload(&after).unwrap();
        let map = body.as_object_mut().unwrap();
        for field in ["iat", "iss", "jti"] {
            map.remove(field);
        }
        body["nats"]["revocations"] = claim["nats"]["revocations"].clone();
        assert_eq!(body, claim);
        let (text, signature) = after.rsplit_once('.').unwrap();
        signer.verify(text.as_bytes(), &data_encoding::BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap()).unwrap();
    }

    #[test]
    fn the_same_revocations_sign_nothing_and_none_at_all_leave_no_trace() {
        let key = KeyPair::new_operator();
        let keys = accounts::AccountKeys { account: KeyPair::new_account().public_key(), signing: KeyPair::new_account().public_key() };
        let before = encode(&accounts::fleet(&keys, &keys, revoked(&[("UA", 7)])), &key, now()).unwrap();
        assert_eq!(with_revocations(&before, &revoked(&[("UA", 7)]), &key, now()).unwrap(), None);
        let after = with_revocations(&before, &revoked(&[]), &key, now()).unwrap().unwrap();
        assert!(payload(&after).unwrap().pointer(PLACE).is_none());
        assert_eq!(with_revocations(&after, &revoked(&[]), &key, now()).unwrap(), None);
    }

    #[test]
    fn a_new_one_is_a_second_younger_than_the_one_before_whatever_the_clock_says() {
        let key = KeyPair::new_operator();
        let before = sign(json!({"sub": "A1", "nats": {"type": "account"}}), &key, now().secs()).unwrap();
        for clock in [now(), now() - std::time::Duration::from_secs(3600)] {
            let after = with_revocations(&before, &revoked(&[("UA", 7)]), &key, clock).unwrap().unwrap();
            assert_eq!(decode(&after).unwrap().issued_at.secs(), now().secs() + 1);
        }
    }

    #[test]
    fn what_is_no_accounts_jwt_is_refused() {
        let key = KeyPair::new_operator();
        let user = sign(json!({"sub": "U1", "nats": {"type": "user"}}), &key, 1).unwrap();
        let odd = sign(json!({"sub": "A1", "nats": {"type": "account", "revocations": ["UA"]}}), &key, 1).unwrap();
        for text in ["", "a.b.c", user.as_str(), odd.as_str()] {
            assert!(matches!(with_revocations(text, &revoked(&[("UA", 7)]), &key, now()), Err(JwtError::Malformed(_))), "{text}");
        }
    }
}
