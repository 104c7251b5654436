//! What the server refuses stays refused over another init.

use std::{collections::BTreeMap, fs, time::Duration};

use muster_broker_config::{
    accounts,
    init::{Deployment, init},
    jwt::{self, AccountClaims},
    layout::Account,
};
use muster_schemas::time::Timestamp;
use nkeys::KeyPair;
use tempfile::TempDir;

use crate::support::options;

struct World {
    dir: TempDir,
    made: Deployment,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = init(&dir.path().join("d"), &options(&dir)).unwrap();
        fs::create_dir_all(dir.path().join("store/accounts")).unwrap();
        Self { dir, made }
    }

    fn again(&self) -> String {
        init(&self.dir.path().join("d"), &options(&self.dir)).unwrap();
        self.ours()
    }

    fn ours(&self) -> String {
        fs::read_to_string(self.made.layout.account_jwt(Account::Fleet)).unwrap().trim().to_owned()
    }

    /// The server's copy, as the dispatcher left it.
    fn theirs(&self, jwt: &str) {
        fs::write(self.dir.path().join(format!("store/accounts/{}.jwt", self.made.fleet.account)), jwt).unwrap();
    }

    fn revoke(&self, jwt: &str, keys: &[(&str, i64)], after: Duration) -> String {
        let signing = fs::read_to_string(self.made.layout.operator_signing_key()).unwrap();
        let key = jwt::key_pair(&signing, "key").unwrap();
        jwt::with_revocations(jwt, &revoked(keys), &key, Timestamp::now() + after).unwrap().unwrap()
    }

    /// As an older version had it.
    fn older(&self, keys: &[(&str, i64)], at: Timestamp) -> String {
        let claims = accounts::fleet(&self.made.fleet, &self.made.core, revoked(keys));
        let operator = jwt::key_pair(&fs::read_to_string(self.made.layout.operator_key()).unwrap(), "key").unwrap();
        jwt::encode(&AccountClaims { imports: Vec::new(), ..claims }, &operator, at).unwrap()
    }
}

fn revoked(keys: &[(&str, i64)]) -> BTreeMap<String, i64> {
    keys.iter().map(|(key, until)| ((*key).to_owned(), *until)).collect()
}

fn issued(jwt: &str) -> Timestamp {
    jwt::decode(jwt).unwrap().issued_at
}

#[test]
fn another_init_leaves_the_servers_newer_copy_to_count() {
    let world = World::new();
    let ours = world.ours();
    world.theirs(&world.revoke(&ours, &[("UA", 7)], Duration::from_secs(5)));
    assert_eq!(world.again(), ours);
    // Without a readable copy too.
    world.theirs("garbage");
    assert_eq!(world.again(), ours);
}

#[test]
fn an_upgrade_carries_over_what_the_server_refuses_and_is_younger_than_its_copy() {
    let world = World::new();
    let before = world.older(&[("UA", 7), ("UB", 9)], Timestamp::now() - Duration::from_secs(3600));
    fs::write(world.made.layout.account_jwt(Account::Fleet), &before).unwrap();
    let theirs = world.revoke(&before, &[("UB", 11), ("UC", 5)], Duration::from_secs(60));
    world.theirs(&theirs);
    let after = world.again();
    assert_eq!(jwt::revocations(&after).unwrap(), revoked(&[("UA", 7), ("UB", 11), ("UC", 5)]));
    assert!(issued(&after) > issued(&theirs), "or the server would not take it");
    let config = fs::read_to_string(world.made.layout.server_config()).unwrap();
    assert!(config.contains(&after) && !after.contains(&before));
    world.theirs(&theirs);
    assert_eq!(world.again(), after);
}

#[test]
fn a_copy_that_the_dispatcher_made_of_an_older_one_does_not_stand_in_the_way_of_an_upgrade() {
    let world = World::new();
    let ours = world.ours();
    // Revoked after the new one was signed, and before the server had it.
    let theirs = world.revoke(&world.older(&[], issued(&ours)), &[("UA", 7)], Duration::from_secs(60));
    world.theirs(&theirs);
    let after = world.again();
    assert!(issued(&after) > issued(&theirs));
    assert_eq!(jwt::revocations(&after).unwrap(), revoked(&[("UA", 7)]));
}

#[test]
fn a_copy_older_than_ours_is_carried_over_where_it_refuses_more() {
    let world = World::new();
    let ours = world.ours();
    let hour_ago = issued(&ours) - Duration::from_secs(3600);
    world.theirs(&world.older(&[("UA", 7)], hour_ago));
    let after = world.again();
    assert_eq!(jwt::revocations(&after).unwrap(), revoked(&[("UA", 7)]));
    assert_eq!(world.again(), after);
}

#[test]
fn a_copy_of_another_operator_is_not_ours_to_keep() {
    let world = World::new();
    let stranger = KeyPair::new_operator();
    let claims = accounts::fleet(&world.made.fleet, &world.made.core, BTreeMap::new());
    let theirs = jwt::encode(&claims, &stranger, Timestamp::now() + Duration::from_secs(60)).unwrap();
    world.theirs(&theirs);
    assert!(issued(&world.again()) > issued(&theirs));
}
