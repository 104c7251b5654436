//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn stored() -> Stored {
    Stored {
        agent_id: AgentId::generate(),
        pool: "p".parse().unwrap(),
        api_key: "mst_agent_hunter2".into(),
        seed: KeyPair::new_user().seed().unwrap(),
        jwt: "a.b.c".into(),
        issued_at: Timestamp::from_secs(1_800_000_000),
        nats_urls: vec!["nats://127.0.0.1:4222".into()],
        heartbeat_interval_s: Some(30),
        labels: [("zone".to_owned(), "north".to_owned())].into(),
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

#[test]
fn a_registration_never_changes_who_a_running_agent_is() {
    let dir = tempfile::tempdir().unwrap();
    let before = stored();
    let identity = Identity::new(dir.path().to_owned(), before.clone());
    identity.registered(
        Registered {
            agent_id: AgentId::generate(),
            pool: "other".parse().unwrap(),
            api_key: None,
            jwt: "d.e.f".into(),
            nats_urls: vec![],
            config: muster_schemas::api::RegisteredConfig { heartbeat_interval_s: 10, log_level: "INFO".into() },
            name: "n".parse().unwrap(),
            now: Timestamp::from_secs(1_800_000_100),
            signers: None,
            certificate: None,
        },
        &Register::default(),
        Timestamp::from_secs(1_800_000_100),
    );
    let after = Stored::load(dir.path()).unwrap().unwrap();
    assert_eq!((after.agent_id, after.pool, after.api_key), (before.agent_id, before.pool, before.api_key));
    assert_eq!((after.jwt.as_str(), after.heartbeat_interval_s), ("d.e.f", Some(10)));
}
