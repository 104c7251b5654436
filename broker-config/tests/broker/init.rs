//! Making a deployment, again and at once.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

use muster_broker_config::{
    init::{InitError, init},
    layout::{Account, Layout},
};
use muster_schemas::records::secret::{Kind, Parts};

use crate::support::{World, options, pool};

/// Every file below a directory: content and mode.
fn snapshot(dir: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, mode) = (entry.path(), entry.metadata().unwrap().permissions().mode() & 0o777);
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{}", path.display());
            all.extend(snapshot(&path));
        } else {
            assert_eq!(mode, 0o600, "{}", path.display());
            all.insert(path.display().to_string(), (mode, fs::read(&path).unwrap()));
        }
    }
    all
}

#[test]
fn a_second_init_changes_no_byte_and_every_file_is_its_owners_only() {
    let dir = tempfile::tempdir().unwrap();
    let (root, options) = (dir.path().join("d"), options(&dir));
    let first = init(&root, &options).unwrap();
    let before = snapshot(&root);
    assert!(before.len() >= 18, "{:?}", before.keys());
    let second = init(&root, &options).unwrap();
    assert_eq!(before, snapshot(&root));
    assert_eq!((first.core, first.fleet, first.admin_key), (second.core, second.fleet, second.admin_key));
}

#[test]
fn other_settings_change_the_config_and_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let (root, mut options) = (dir.path().join("d"), options(&dir));
    init(&root, &options).unwrap();
    let config = Layout::new(&root).server_config().display().to_string();
    let mut before = snapshot(&root);
    options.broker.host = "0.0.0.0".into();
    options.broker.port = Some(4222);
    options.broker.store_dir = "/data".into();
    init(&root, &options).unwrap();
    let mut after = snapshot(&root);
    let text = String::from_utf8(after.remove(&config).unwrap().1).unwrap();
    assert!(text.contains("host: \"0.0.0.0\"\nport: 4222\n") && text.contains("store_dir: \"/data\""), "{text}");
    before.remove(&config);
    assert_eq!(before, after);
}

#[test]
fn concurrent_inits_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (root, options) = (dir.path().join("d"), options(&dir));
    let made = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| init(&root, &options).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let same = |one: &muster_broker_config::init::Deployment| (one.core.clone(), one.fleet.clone(), one.bootstrap.clone());
    assert!(made.iter().all(|one| same(one) == same(&made[0])));
}

#[test]
fn what_is_missing_is_made_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (root, options) = (dir.path().join("d"), options(&dir));
    let first = init(&root, &options).unwrap();
    let layout = &first.layout;
    fs::remove_file(layout.dispatcher_creds()).unwrap();
    fs::remove_file(layout.signing_key(Account::Fleet)).unwrap();
    let kept = fs::read(layout.gateway_creds()).unwrap();
    let second = init(&root, &options).unwrap();
    assert!(layout.dispatcher_creds().exists());
    assert_eq!(second.fleet.account, first.fleet.account);
    assert_ne!(second.fleet.signing, first.fleet.signing);
    assert_eq!(fs::read(layout.gateway_creds()).unwrap(), kept);
}

#[test]
fn a_damaged_file_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (root, options) = (dir.path().join("d"), options(&dir));
    let layout = init(&root, &options).unwrap().layout;
    let files = [
        layout.operator_key(),
        layout.account_key(Account::Core),
        layout.signing_key(Account::Fleet),
        layout.gateway_creds(),
        layout.bootstrap(),
        layout.admin_key(),
        layout.join_token(),
        layout.account_jwt(Account::Fleet),
    ];
    for path in files {
        let good = fs::read(&path).unwrap();
        // Also with a user's seed where an account's belongs, and cut short.
        for bad in [&b"garbage"[..], &b""[..], &good[..good.len() / 2]] {
            fs::write(&path, bad).unwrap();
            let error = init(&root, &options).unwrap_err();
            assert!(matches!(&error, InitError::Damaged { .. }), "{}: {error}", path.display());
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
        fs::write(&path, good).unwrap();
    }
    fs::copy(layout.operator_key(), layout.account_key(Account::Core)).unwrap();
    let error = init(&root, &options).unwrap_err().to_string();
    assert!(error.contains("core.nk") && error.contains("Operator"), "{error}");
}

#[test]
fn the_admin_key_is_hashed_in_its_record_and_not_made_again_once_it_is_put_away() {
    let dir = tempfile::tempdir().unwrap();
    let (root, options) = (dir.path().join("d"), options(&dir));
    let first = init(&root, &options).unwrap();
    let key = first.admin_key.unwrap();
    let parts = Parts::parse(&key).unwrap();
    assert_eq!(parts.kind, Kind::Api);
    assert!(bcrypt::verify(&parts.secret, &first.bootstrap.admin_key.hash).unwrap());
    let token = Parts::parse(&first.join_token.unwrap()).unwrap();
    assert_eq!(first.bootstrap.join_token.hash, muster_broker_config::init::secrets::join_token_hash(&token.secret));
    assert_eq!((first.bootstrap.join_token.pool, first.bootstrap.join_token.uses_left), (pool("default"), None));
    let bootstrap = fs::read_to_string(first.layout.bootstrap()).unwrap();
    assert!(!bootstrap.contains(&parts.secret) && !bootstrap.contains(&token.secret));

    fs::remove_file(first.layout.admin_key()).unwrap();
    let second = init(&root, &options).unwrap();
    assert!(second.admin_key.is_none() && !first.layout.admin_key().exists());
    assert_eq!(second.bootstrap.admin_key, first.bootstrap.admin_key);
}

#[tokio::test]
async fn the_server_takes_the_config_and_flushes_each_write() {
    let world = World::start_with(|broker| {
        broker.monitoring = Some(muster_broker_config::init::config::Endpoint { host: "127.0.0.1".into(), port: None });
        broker.websocket = Some(muster_broker_config::init::config::Endpoint { host: "127.0.0.1".into(), port: None });
    })
    .await;
    assert!(world.server.websocket_url().is_some() && world.server.monitoring_url().is_some());
    let system = world.system().await;
    let varz = system.api("$SYS.REQ.SERVER.PING.VARZ".into(), serde_json::json!({})).await;
    assert_eq!(varz["data"]["jetstream"]["config"]["sync_always"], true, "{varz}");
    assert_eq!(varz["data"]["max_payload"], 1_048_576);
}
