//! The disk: what is written as one comes back as one, and the bounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use muster_schemas::{api::JobState, lane::Priority, result::Outcome, signature::Mark};

use super::*;
use crate::history::row::{Ended, Place, Queued};

const LIMITS: Limits = Limits { jobs: 1_000, age: Duration::from_secs(3600) };

fn pool() -> PoolName {
    "p".parse().unwrap()
}

fn queued(number: u32, at: Timestamp) -> (PoolName, JobId, Change) {
    let part = Queued {
        place: Place(at.micros(), number.into()),
        at: at.micros(),
        priority: Priority::Normal,
        job_type: Some("shell.run".parse().unwrap()),
        labels: BTreeMap::new(),
        parent: None,
        not_before: None,
        expires_at: None,
        to: None,
        ttl_s: 60,
    };
    (pool(), format!("j{number}").parse().unwrap(), Change::Queued(part))
}

fn ended(number: u32, at: Timestamp) -> (PoolName, JobId, Change) {
    let part = Ended {
        signature: Mark::Valid,
        place: Place(at.micros(), number.into()),
        outcome: Outcome::Succeeded,
        agent: None,
        attempt: 1,
        queued_at: at.micros(),
        started_at: None,
        finished_at: at.micros(),
        exit_code: None,
        error: None,
        priority: Priority::Normal,
        job_type: None,
        labels: BTreeMap::new(),
    };
    (pool(), format!("j{number}").parse().unwrap(), Change::Ended(part))
}

fn step(changes: Vec<(PoolName, JobId, Change)>, sequence: u64) -> Step {
    Step { changes, reached: [("EVENTS", Reached { created: 7, sequence, stored: 8 })].into(), watch: None }
}

fn ids(store: &Store) -> Vec<String> {
    let keys: Vec<RowKey> = store.catalogue().oldest_first().map(|entry| entry.key).collect();
    keys.into_iter().map(|key| store.row(key).unwrap().unwrap().id.to_string()).collect()
}

#[test]
fn rows_and_positions_are_there_after_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let store = Store::open(dir.path(), LIMITS).unwrap();
    assert_eq!((store.reached("EVENTS").unwrap(), store.watch().unwrap()), (None, Watch::default()));
    let watch = Watch { alive: Some(5), gaps: vec![(1, 2)] };
    store.commit(&Step { watch: Some(watch.clone()), ..step(vec![queued(1, now), queued(2, now + Duration::from_secs(1))], 2) }).unwrap();
    store.commit(&step(vec![ended(1, now + Duration::from_secs(2))], 3)).unwrap();
    drop(store);
    let store = Store::open(dir.path(), LIMITS).unwrap();
    assert_eq!(store.reached("EVENTS").unwrap(), Some(Reached { created: 7, sequence: 3, stored: 8 }));
    assert_eq!((store.reached("RESULTS").unwrap(), store.watch().unwrap()), (None, watch));
    assert_eq!(ids(&store), ["j1", "j2"]);
    let phases: Vec<_> = store.catalogue().oldest_first().map(|entry| entry.phase).collect();
    assert_eq!(phases, [JobState::Succeeded, JobState::Pending]);
}

#[test]
fn a_step_that_comes_twice_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), LIMITS).unwrap();
    let now = Timestamp::now();
    let step = step(vec![queued(1, now), ended(1, now), queued(2, now)], 3);
    store.commit(&step).unwrap();
    let entries: Vec<Entry> = store.catalogue().oldest_first().copied().collect();
    store.commit(&step).unwrap();
    assert_eq!(store.catalogue().oldest_first().copied().collect::<Vec<_>>(), entries);
}

#[test]
fn above_the_limit_the_oldest_jobs_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits { jobs: 3, ..LIMITS }).unwrap();
    let now = Timestamp::now();
    let jobs = [3, 1, 5, 2, 4].map(|number| queued(number, now + Duration::from_secs(number.into())));
    store.commit(&step(jobs.to_vec(), 5)).unwrap();
    assert_eq!(ids(&store), ["j3", "j4", "j5"]);
    // One that is older than all goes at once.
    store.commit(&step(vec![queued(0, now)], 6)).unwrap();
    assert_eq!(ids(&store), ["j3", "j4", "j5"]);
    drop(store);
    assert_eq!(ids(&Store::open(dir.path(), LIMITS).unwrap()), ["j3", "j4", "j5"]);
}

#[test]
fn a_job_goes_when_it_ended_too_long_ago_and_never_while_it_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), LIMITS).unwrap();
    let (now, old) = (Timestamp::now(), Timestamp::now() - Duration::from_secs(4000));
    store.commit(&step(vec![queued(1, old), queued(2, old), ended(2, old), queued(3, old), ended(3, now)], 5)).unwrap();
    assert_eq!(store.expire(now).unwrap(), 1);
    assert_eq!(ids(&store), ["j1", "j3"]);
}

#[test]
fn a_folder_that_another_one_uses_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let _store = Store::open(dir.path(), LIMITS).unwrap();
    let error = Store::open(dir.path(), LIMITS).unwrap_err();
    assert!(matches!(error, HistoryError::Taken(_)), "{error}");
}

#[test]
fn a_history_of_another_form_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), LIMITS).unwrap();
    store.commit(&step(vec![queued(1, Timestamp::now())], 1)).unwrap();
    store.rows.insert(FORM_KEY, b"0").unwrap();
    drop(store);
    let store = Store::open(dir.path(), LIMITS).unwrap();
    assert_eq!((store.catalogue().len(), store.reached("EVENTS").unwrap()), (0, None));
}

#[tokio::test]
async fn jobs_that_were_put_to_an_end_come_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let (now, store) = (Timestamp::now(), Store::open(dir.path(), LIMITS).unwrap());
    let with = |number: u32, outcome, started: bool, at: Timestamp| {
        let (pool, id, Change::Ended(part)) = ended(number, at) else { panic!() };
        (pool, id, Change::Ended(Ended { outcome, started_at: started.then(|| at.micros()), ..part }))
    };
    let at = |secs| now + Duration::from_secs(secs);
    let old = now - Duration::from_secs(60);
    let changes = vec![
        with(1, Outcome::Cancelled, false, at(1)),
        with(2, Outcome::Cancelled, true, at(2)),
        with(3, Outcome::Expired, false, at(3)),
        with(4, Outcome::Cancelled, false, at(4)),
        with(5, Outcome::Cancelled, false, at(5)),
        // An agent ran it, it ended otherwise, or before that.
        with(6, Outcome::Expired, true, at(6)),
        with(7, Outcome::Succeeded, true, at(7)),
        with(8, Outcome::Cancelled, false, old),
    ];
    store.commit(&step(changes, 1)).unwrap();
    let (sender, past) = crate::history::Past::new();
    let store = std::sync::Arc::new(store);
    sender.send_replace(std::sync::Arc::downgrade(&store));
    let (mut pages, mut from) = (Vec::new(), None);
    loop {
        let (page, next) = past.put_to_an_end(now, from, 2).await.unwrap();
        pages.push(page.into_iter().map(|late| late.id.to_string()).collect::<Vec<_>>());
        from = next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec!["j1", "j2"], vec!["j3", "j4"], vec!["j5"]]);
}
