//! The list of jobs over REST, from a dispatcher that is killed while jobs run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{collections::BTreeSet, time::Duration};

use muster_schemas::time::Timestamp;
use muster_tests::{Stack, eventually, stack::POOL};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// Batches of a hundred jobs, with a killed dispatcher between each two.
const BATCHES: usize = 5;

/// All jobs of the list, newest first, page by page. `None` while no dispatcher answers.
async fn list(stack: &Stack, filter: &str) -> Option<Vec<Value>> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = stack.rest.get(&format!("/jobs?limit=200{filter}{cursor}")).await;
        if answer.status != 200 {
            assert_eq!(answer.code(), "history_unavailable");
            return None;
        }
        rows.extend(answer.data().as_array().unwrap().iter().cloned());
        match answer.body["meta"]["page"]["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Some(rows),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_is_killed_again_and_again_lists_every_job_once_with_its_outcome() {
    let mut stack = Stack::usual().await;
    let mut submitted = BTreeSet::new();
    for batch in 0..BATCHES {
        let jobs: Vec<_> = (0..100)
            .map(|number| json!({"pool": POOL, "type": "probe.echo", "labels": {"batch": batch.to_string(), "even": (number % 2 == 0).to_string()}}))
            .collect();
        let answer = stack.rest.post("/jobs/batch", &json!({ "jobs": jobs })).await;
        submitted.extend(answer.data().as_array().unwrap().iter().map(|entry| entry["job"]["id"].as_str().unwrap().to_owned()));
        stack.dispatchers[0].kill9();
        assert_eq!(stack.rest.get("/jobs").await.code(), "history_unavailable");
        stack.dispatchers[0] = stack.dispatcher(0);
    }
    assert_eq!(submitted.len(), BATCHES * 100);
    let rows = eventually("all jobs are in the list with their outcome", SOON, || async {
        let done = |rows: &Vec<Value>| rows.len() >= BATCHES * 100 && rows.iter().all(|row| row["state"] == "succeeded");
        list(&stack, "").await.filter(done)
    })
    .await;
    let ids: BTreeSet<_> = rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((ids == submitted, rows.len()), (true, BATCHES * 100), "each job once");
    // As times: as texts they are not in order, since fractions are written without their last zeros.
    let times: Vec<Timestamp> = rows.iter().map(|row| row["queued_at"].as_str().unwrap().parse().unwrap()).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "newest first");
    assert_eq!(list(&stack, "&label=batch:3&type=probe.echo&status=succeeded").await.unwrap().len(), 100);
    assert_eq!(list(&stack, "&label=even:true").await.unwrap().len(), BATCHES * 50);
    let agents = stack.rest.get("/agents?limit=500").await;
    let mut by_agent = 0;
    for agent in agents.data().as_array().unwrap() {
        by_agent += list(&stack, &format!("&agent={}", agent["id"].as_str().unwrap())).await.unwrap().len();
    }
    assert_eq!(by_agent, BATCHES * 100);
    let stats = stack.rest.get(&format!("/pools/{POOL}/stats")).await;
    assert_eq!((stats.data()["counts"]["succeeded"].as_u64(), stats.data()["finished_last_hour"].as_u64()), (Some(500), Some(500)));
    assert!(stats.data()["running_s"]["p99"].as_f64().is_some());
}
