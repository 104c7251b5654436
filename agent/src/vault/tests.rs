//! Tests of [`super`] without a broker.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
use std::{collections::BTreeSet, path::Path};

use muster_runtime::{config::Secret, metrics::Metrics};
use muster_schemas::wire::V;
use tempfile::tempdir;

use super::*;
use crate::figures::Figures;

async fn opened(path: &Path, masks: &Masks, readiness: &Readiness) -> Vault {
    let figures = Figures::new(&Metrics::new()).unwrap();
    Vault::open(path.to_owned(), Secret::new("key"), masks.clone(), readiness.clone(), &figures).await
}

fn name(text: &str) -> ConnectionName {
    text.parse().unwrap()
}

fn credentials(password: &str) -> Credentials {
    Credentials {
        v: V,
        fields: [("password".into(), password.into()), ("username".into(), "root".into())].into(),
        shared: true,
        bound: None,
    }
}

#[tokio::test]
async fn what_is_kept_comes_back_with_its_revision_and_is_masked_as_long_as_it_is_there() {
    let dir = tempdir().unwrap();
    let (masks, readiness) = (Masks::default(), Readiness::new([CHECK]));
    let vault = opened(&dir.path().join("vault"), &masks, &readiness).await;
    assert!(readiness.is_ready());
    let key = vault.opening_key().unwrap().as_bytes().to_vec();
    vault.put_credentials(&name("db"), 3, credentials("hunter2")).await.unwrap();
    vault.put_credentials(&name("web"), 0, credentials("hunter3")).await.unwrap();
    // The change was told: there was one since nobody listened.
    vault.changed().await;
    assert_eq!(vault.credentials(&name("db")).await.unwrap(), Some((3, credentials("hunter2"))));
    assert_eq!(vault.credentials(&name("none")).await.unwrap(), None);
    assert_eq!(masks.now().text("root hunter2 hunter3"), "root *** ***");
    let mark = vault.mark().unwrap();
    assert_eq!((mark.counter, vault.held()), (3, [(name("db"), 3), (name("web"), 0)].into()));
    assert!(vault.remove(&name("db")).await.unwrap() && !vault.remove(&name("db")).await.unwrap());
    assert_eq!(masks.now().text("root hunter2 hunter3"), "root hunter2 ***");
    assert!(!format!("{vault:?}").contains("hunter"));
    vault.end().await;
    assert!(matches!(vault.credentials(&name("web")).await, Err(VaultError::Closed(_))));
    assert!(readiness.is_ready(), "nothing is wrong with it");

    // The lock went with the end, and not with the last clone.
    let masks = Masks::default();
    let again = opened(&dir.path().join("vault"), &masks, &readiness).await;
    assert_eq!(again.opening_key().unwrap().as_bytes(), key, "what was sealed to it can still be opened");
    assert_eq!((again.held(), masks.now().text("hunter3")), ([(name("web"), 0)].into(), "***".to_owned()));
}

#[tokio::test]
async fn there_is_room_for_so_many_connections_and_so_much_of_each() {
    let dir = tempdir().unwrap();
    let vault = opened(&dir.path().join("vault"), &Masks::default(), &Readiness::new([CHECK])).await;
    let large = credentials(&"x".repeat(muster_schemas::connection::CREDENTIALS_LIMIT));
    let refused = vault.put_credentials(&name("db"), 1, large).await.unwrap_err();
    assert!(matches!(refused, VaultError::Content { .. }), "{refused}");
    for n in 0..CONNECTIONS_MAX {
        vault.put_credentials(&name(&format!("c{n}")), 1, credentials("hunter2")).await.unwrap();
    }
    assert!(matches!(vault.put_credentials(&name("more"), 1, credentials("hunter2")).await, Err(VaultError::Full)));
    vault.put_credentials(&name("c0"), 2, credentials("hunter2")).await.unwrap();
    assert_eq!(vault.held().len(), CONNECTIONS_MAX);
}

#[tokio::test]
async fn changes_at_the_same_time_are_all_kept() {
    let dir = tempdir().unwrap();
    let vault = opened(&dir.path().join("vault"), &Masks::default(), &Readiness::new([CHECK])).await;
    let db = name("db");
    let add = async |n: u32| {
        let add = move |held: Option<Held>| {
            let mut credentials = held.map(|held| held.credentials).unwrap_or_default();
            credentials.fields.insert(format!("f{n}"), "hunter2".into());
            Held { revision: 0, over: 0, credentials }
        };
        vault.change(&db, add).await.unwrap();
    };
    futures_util::future::join_all((0..10).map(add)).await;
    let (_, kept) = vault.credentials(&db).await.unwrap().unwrap();
    assert_eq!(kept.fields.keys().cloned().collect::<BTreeSet<_>>(), (0..10).map(|n| format!("f{n}")).collect());
}

#[tokio::test]
async fn only_an_older_state_of_the_same_vault_closes_it() {
    let dir = tempdir().unwrap();
    let readiness = Readiness::new([CHECK]);
    let vault = opened(&dir.path().join("vault"), &Masks::default(), &readiness).await;
    vault.put_credentials(&name("db"), 1, credentials("hunter2")).await.unwrap();
    let mark = vault.mark().unwrap();
    for seen in [
        mark.clone(),
        VaultMark { counter: mark.counter - 1, ..mark.clone() },
        VaultMark { id: "another".into(), counter: mark.counter + 1 },
    ] {
        vault.must_reach(&seen);
        assert_eq!(vault.fault(), None, "{seen:?}");
    }
    vault.must_reach(&VaultMark { counter: mark.counter + 1, ..mark.clone() });
    assert!(vault.fault().unwrap().contains("rolled back"));
    assert!(!readiness.is_ready() && vault.mark().is_none() && vault.held().is_empty() && vault.opening_key().is_none());
    assert!(matches!(vault.credentials(&name("db")).await, Err(VaultError::Closed(_))));
    // Its lock is free: whoever puts it right can look at it.
    let again = opened(&dir.path().join("vault"), &Masks::default(), &readiness).await;
    assert_eq!((again.fault(), again.mark()), (None, Some(mark)));
}
