//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
use std::os::unix::fs::PermissionsExt as _;

use nkeys::KeyPair;

use super::*;

pub(crate) fn stored() -> Stored {
    Stored {
        agent_id: AgentId::generate(),
        name: None,
        pool: "p".parse().unwrap(),
        api_key: "mst_agent_hunter2".into(),
        seed: KeyPair::new_user().seed().unwrap(),
        jwt: "a.b.c".into(),
        issued_at: Timestamp::from_secs(1_800_000_000),
        nats_urls: vec!["nats://127.0.0.1:4222".into()],
        heartbeat_interval_s: Some(30),
        labels: [("zone".to_owned(), "north".to_owned())].into(),
        joined_with: None,
        ephemeral: false,
    }
}

#[test]
fn an_identity_is_kept_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Stored::load(dir.path()).unwrap().is_none());
    let stored = stored();
    stored.save(dir.path()).unwrap();
    let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let back = Stored::load(dir.path()).unwrap().unwrap();
    assert_eq!((back.agent_id, back.seed, back.issued_at), (stored.agent_id, stored.seed, stored.issued_at));
    assert!(!format!("{:?}", self::stored()).contains("hunter2"));
}

#[test]
fn a_file_that_others_may_read_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    stored().save(dir.path()).unwrap();
    for mode in [0o640, 0o604, 0o660] {
        std::fs::set_permissions(dir.path().join(FILE), std::fs::Permissions::from_mode(mode)).unwrap();
        let error = Stored::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}

#[test]
fn a_file_that_holds_something_else_is_refused_and_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let mut broken = stored();
    broken.seed = "SU".into();
    broken.save(dir.path()).unwrap();
    assert!(Stored::load(dir.path()).unwrap_err().to_string().contains("seed"));
    super::file::write_private(&dir.path().join(FILE), b"{}").unwrap();
    assert!(Stored::load(dir.path()).unwrap_err().to_string().contains("does not hold"));
    assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), b"{}");
}

#[test]
fn a_left_over_of_a_crash_does_not_stop_the_next_write() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("identity.tmp"), b"half").unwrap();
    stored().save(dir.path()).unwrap();
    assert!(Stored::load(dir.path()).unwrap().is_some());
}

#[test]
fn two_agents_cannot_share_a_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = super::file::claim(&dir.path().join("state")).unwrap();
    let error = super::file::claim(&dir.path().join("state")).unwrap_err().to_string();
    assert!(error.contains("another agent"), "{error}");
    drop(first);
    super::file::claim(&dir.path().join("state")).unwrap();
}

fn answer(agent_id: AgentId, pool: &str) -> Registered {
    Registered {
        agent_id,
        name: "n".parse().unwrap(),
        pool: pool.parse().unwrap(),
        api_key: None,
        jwt: "d.e.f".into(),
        nats_urls: vec![],
        config: muster_schemas::api::RegisteredConfig { heartbeat_interval_s: 10, log_level: "INFO".into() },
        now: Timestamp::from_secs(1_800_000_100),
        signers: None,
        certificate: None,
        ephemeral: false,
    }
}

#[test]
fn a_registration_takes_over_what_the_gateway_says_but_never_changes_who_a_running_agent_is() {
    let dir = tempfile::tempdir().unwrap();
    let before = stored();
    before.save(dir.path()).unwrap();
    let identity = Identity::new(dir.path().to_owned(), before.clone());
    let now = Timestamp::from_secs(1_800_000_100);
    identity.registered(answer(before.agent_id.clone(), "p"), &Register::default(), now).unwrap();
    let after = Stored::load(dir.path()).unwrap().unwrap();
    assert_eq!((&after.agent_id, &after.api_key, &after.seed), (&before.agent_id, &before.api_key, &before.seed));
    assert_eq!((after.jwt.as_str(), after.heartbeat_interval_s, after.name), ("d.e.f", Some(10), Some("n".parse().unwrap())));
    for other in [answer(before.agent_id.clone(), "other"), answer(AgentId::generate(), "p")] {
        let pool = other.pool.clone();
        assert_eq!(identity.registered(other, &Register::default(), now), Err(pool));
        assert_eq!(Stored::load(dir.path()).unwrap().unwrap().pool, before.pool);
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_with_the_remedy_and_never_half_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE);
    stored().save(dir.path()).unwrap();
    let whole = std::fs::read(&file).unwrap();
    // Without its last byte, the line break, it is whole.
    for length in 0..whole.len() - 1 {
        super::file::write_private(&file, &whole[..length]).unwrap();
        let error = Stored::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("does not hold an agent's identity") && error.contains("new join token"), "{length}: {error}");
    }
}

#[test]
fn a_file_that_is_too_large_or_has_values_of_another_kind_is_refused_without_showing_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE);
    let mut value = serde_json::to_value(stored()).unwrap();
    for (field, wrong, said) in [
        ("heartbeat_interval_s", "\"hunter2\"".to_owned(), "wrong kind"),
        ("pool", "\"hunter2 *\"".to_owned(), "wrong kind"),
        ("agent_id", "7".to_owned(), "wrong kind"),
        ("nats_urls", "\"hunter2\"".to_owned(), "wrong kind"),
        ("seed", format!("\"{}\"", KeyPair::new_account().seed().unwrap()), "seed"),
        ("api_key", "\" \"".to_owned(), "API key is empty"),
        ("jwt", format!("\"{}\"", "x".repeat(2 << 20)), "larger than"),
    ] {
        let kept = std::mem::replace(&mut value[field], serde_json::from_str(&wrong).unwrap());
        super::file::write_private(&file, value.to_string().as_bytes()).unwrap();
        let error = Stored::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains("hunter2"), "{field}: {error}");
        value[field] = kept;
    }
    value.as_object_mut().unwrap().remove("jwt");
    super::file::write_private(&file, value.to_string().as_bytes()).unwrap();
    assert!(Stored::load(dir.path()).unwrap_err().to_string().contains("missing field `jwt`"));
}

#[tokio::test]
async fn nobody_connects_with_an_identity_that_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::new(dir.path().to_owned(), stored());
    identity.may_connect().await;
    identity.end();
    let waits = tokio::time::timeout(Duration::from_millis(20), identity.may_connect()).await;
    assert!(waits.is_err());
    identity.replace(stored());
    identity.may_connect().await;
}
