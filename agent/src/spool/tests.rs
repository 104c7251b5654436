//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
use muster_schemas::{
    code::Code,
    result::{ErrorInfo, JobResult, Outcome},
    time::Timestamp,
};

use super::*;

fn ending(id: &str) -> Ending {
    let at = Timestamp::from_secs(1_800_000_000);
    let result = JobResult::never_ran(Outcome::Rejected, ErrorInfo::new(Code::BodyMalformed, "hunter2"), at, at);
    Ending::new(id.parse().unwrap(), "p".parse().unwrap(), "$JS.ACK.S.c.1.1.1.1.0", &result, 60, "00-a-b-01".into(), None)
}

fn store(dir: &Path, key: &str, entries: usize) -> Store {
    Store::open(dir, key, Limits { entries, ..Limits::default() }).unwrap()
}

fn ids(store: &Store) -> Vec<String> {
    let (mut ids, mut from) = (Vec::new(), 0);
    while let Some((place, ending)) = store.next(from).unwrap() {
        ids.push(ending.job_id.to_string());
        from = place + 1;
    }
    ids
}

#[test]
fn results_come_back_in_order_after_a_restart_and_nothing_is_readable_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path(), "key", 100);
    for id in ["a", "b", "c"] {
        first.put(&ending(id)).unwrap();
    }
    first.remove(1).unwrap();
    drop(first);
    let again = store(dir.path(), "key", 100);
    assert_eq!(again.check().unwrap().len(), 2);
    again.put(&ending("d")).unwrap();
    assert_eq!(ids(&again), ["a", "c", "d"]);
    drop(again);
    for entry in std::fs::read_dir(dir.path().join("spool")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            assert!(!std::fs::read(&path).unwrap().windows(7).any(|window| window == b"hunter2"), "{}", path.display());
        }
    }
}

#[test]
fn a_damaged_entry_is_moved_aside_and_stops_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), "key", 100);
    for id in ["a", "b", "c"] {
        store.put(&ending(id)).unwrap();
    }
    let (entries, aside) = store.raw();
    let mut damaged = entries.get(1_u64.to_be_bytes()).unwrap().unwrap().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    entries.insert(1_u64.to_be_bytes(), damaged).unwrap();
    entries.insert("odd key", b"rubbish").unwrap();
    let jobs = store.check().unwrap();
    assert_eq!(jobs.len(), 2);
    assert_eq!(ids(&store), ["a", "c"]);
    assert_eq!((store.count(), aside.len()), (2, 2));
}

#[test]
fn another_api_key_reads_nothing_and_breaks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path(), "key", 100);
    first.put(&ending("a")).unwrap();
    drop(first);
    let other = store(dir.path(), "other", 100);
    assert!(other.check().unwrap().is_empty());
    other.put(&ending("b")).unwrap();
    assert_eq!(ids(&other), ["b"]);
}

#[test]
fn a_full_spool_says_so_and_takes_again_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), "key", 2);
    store.put(&ending("a")).unwrap();
    store.put(&ending("b")).unwrap();
    assert!(store.is_full());
    assert!(matches!(store.put(&ending("c")), Err(SpoolError::Full { entries: 2, .. })));
    store.remove(0).unwrap();
    store.put(&ending("c")).unwrap();
    assert_eq!(ids(&store), ["b", "c"]);
}

#[tokio::test]
async fn the_spool_knows_whose_results_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let gauge = muster_runtime::metrics::Metrics::new().gauge("muster_test_results", "Test.").unwrap();
    let spool = Spool::open(dir.path(), &AgentId::generate(), Secret::new("key"), Limits::default(), gauge.clone()).await.unwrap();
    spool.put(ending("a")).await.unwrap();
    let id: JobId = "a".parse().unwrap();
    assert!(spool.holds(&id) && !spool.is_full());
    assert_eq!((spool.count(), gauge.get() as u32), (1, 1));
    let (place, _) = spool.next(0).await.unwrap().unwrap();
    spool.remove(place, &id).await.unwrap();
    assert!(!spool.holds(&id));
    assert_eq!(gauge.get() as u32, 0);
}

#[test]
fn what_another_owner_left_is_dropped_and_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    // One of a build that noted no owner is ours.
    let first = store(dir.path(), "key", 100);
    first.put(&ending("a")).unwrap();
    assert_eq!(first.claim("agt_1 aaaa").unwrap(), 0);
    assert_eq!(ids(&first), ["a"]);
    drop(first);
    let again = store(dir.path(), "key", 100);
    assert_eq!((again.claim("agt_1 aaaa").unwrap(), ids(&again).len()), (0, 1));
    drop(again);
    let other = store(dir.path(), "another key", 100);
    assert_eq!((other.claim("agt_1 bbbb").unwrap(), other.check().unwrap().len()), (1, 0));
    assert_eq!(other.claim("agt_1 bbbb").unwrap(), 0);
    other.put(&ending("b")).unwrap();
    assert_eq!(ids(&other), ["b"]);
}
