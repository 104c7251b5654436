//! The words for how far credentials are with an agent.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use muster_schemas::{sealed::OpeningKey, time::Timestamp};
use nkeys::KeyPair;
use serde_json::json;

use super::*;

fn connection(revision: u64) -> ConnectionRecord {
    let at = Timestamp::from_secs(0);
    serde_json::from_value(json!({"name": "c", "kind": "secret", "pool": "p", "revision": revision, "created_at": at, "updated_at": at}))
        .unwrap()
}

fn beat(credentials: &[u64], sealing: Option<SealingKey>) -> Heartbeat {
    Heartbeat {
        sealing,
        credentials: credentials.iter().map(|revision| ("c".parse().unwrap(), *revision)).collect(),
        ..Heartbeat::first("a".parse().unwrap(), "i", Timestamp::from_secs(0))
    }
}

#[test]
fn each_status_is_what_heartbeat_and_mailbox_say_together() {
    let key = |text: &str| SealingKey { key: text.into(), signature: "s".into() };
    let entry = |revision, key: &str| SealedEntry { revision, key: key.into(), sealed: "x".into(), at: Timestamp::from_secs(0) };
    let of = |has: &[u64], sealing: Option<&str>, entry: Option<SealedEntry>| {
        let sealing = sealing.map(key);
        status(&connection(2), sealing.as_ref(), Some(&beat(has, sealing.clone())), entry.as_ref())
    };
    assert_eq!(of(&[2], Some("k"), Some(entry(2, "k"))), (Delivery::Delivered, Some(2)));
    assert_eq!(of(&[2], None, None), (Delivery::Delivered, Some(2)));
    assert_eq!(of(&[1], Some("k"), Some(entry(2, "k"))), (Delivery::Sent, Some(1)));
    assert_eq!(of(&[0], Some("k"), Some(entry(2, "k"))), (Delivery::Sent, Some(0)));
    // What has been lying there for long is lain over by what somebody put there by hand.
    let long_ago = SealedEntry { at: Timestamp::from_secs(-100), ..entry(2, "k") };
    assert_eq!(of(&[0], Some("k"), Some(long_ago)), (Delivery::Local, Some(0)));
    assert_eq!(of(&[0], Some("k"), None), (Delivery::Local, Some(0)));
    assert_eq!(of(&[1], Some("k"), None), (Delivery::Stale, Some(1)));
    // What lies there for a key that it has no more it can never open.
    assert_eq!(of(&[], Some("new"), Some(entry(2, "old"))), (Delivery::Missing, None));
    assert_eq!(of(&[], Some("k"), Some(entry(1, "k"))), (Delivery::Missing, None));
    assert_eq!(of(&[], None, Some(entry(2, "k"))), (Delivery::NoKey, None));
    assert_eq!(status(&connection(2), None, None, None), (Delivery::NoKey, None));
    assert_eq!(status(&connection(0), None, Some(&beat(&[0], None)), None).0, Delivery::Local);
}

#[test]
fn a_sealing_key_counts_only_with_the_signature_of_the_agents_present_identity() {
    let (id, identity) = (AgentId::generate(), KeyPair::new_user());
    let mut agent = AgentRecord::new(id.clone(), "a".parse().unwrap(), "p".parse().unwrap(), Timestamp::from_secs(0));
    let beat = beat(&[], Some(OpeningKey::generate().public(&id, &identity).unwrap()));
    assert_eq!(sealing(&agent, &beat), None);
    agent.public_key = Some(identity.public_key());
    assert!(sealing(&agent, &beat).is_some());
    agent.public_key = Some(KeyPair::new_user().public_key());
    assert_eq!(sealing(&agent, &beat), None);
}
