//! The ledger: what the broker has lost is noticed and told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::path::PathBuf;

use async_nats::jetstream;
use muster_schemas::{api::JobState, result::Outcome, subjects, topology};

use crate::{
    history::{dispatcher_in, pool},
    support::{POOL, SOON, Stack, eventually},
};

const LOST: &str = "muster_jobs_lost_total";

/// Takes a job out of its queue behind everybody's back.
async fn vanishes(stack: &Stack, id: &str) {
    let queue = jetstream::new(stack.gateway.clone()).get_stream(topology::jobs_stream(&pool())).await.unwrap();
    let purged = queue.purge().filter(subjects::job_in_any_lane(&pool(), &id.parse().unwrap())).await.unwrap();
    assert_eq!(purged.purged, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_neither_queued_nor_ended_is_alarmed_once_and_no_other_one_is() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let dispatcher = dispatcher_in(&stack, folder.path(), &[("ledger_after", "1s".into())]).await;
    let agent = stack.agent(POOL).await;
    for id in ["waits", "lost", "brief"] {
        let ttl = if id == "brief" { r#","result_ttl_s":1"# } else { "" };
        stack.queue("normal.probe", id, &format!(r#"{{"type":"probe.ok"{ttl}}}"#)).await;
    }
    stack.command(&agent.id, "command", r#"{"type":"probe.ok"}"#).await;
    agent.finishes(Outcome::Succeeded).await;
    vanishes(&stack, "lost").await;
    vanishes(&stack, "brief").await;
    let lost = stack.row("lost", |row| row.reason.is_some()).await;
    assert!(lost.reason.unwrap().starts_with("lost"));
    // Its result may have come and gone, so it says that and no more.
    let brief = stack.row("brief", |row| row.reason.is_some()).await;
    assert!(!brief.reason.unwrap().starts_with("lost"));
    let ready = dispatcher.get("/readyz").await.unwrap();
    assert!(
        ready.starts_with("HTTP/1.1 200") && ready.contains("ALARM: 1 acknowledged jobs are lost, the last one lost of pool"),
        "{ready}"
    );
    // Two more rounds, which a job that vanishes now shows, change nothing about the others.
    stack.queue("normal.probe", "too", r#"{"type":"probe.ok"}"#).await;
    vanishes(&stack, "too").await;
    stack.row("too", |row| row.reason.is_some()).await;
    assert_eq!(dispatcher.figure(LOST).await, 2.0);
    for id in ["waits", "command"] {
        assert_eq!(stack.row(id, |_| true).await.reason, None);
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// Where the broker keeps a stream.
fn place(root: &std::path::Path, stream: &str) -> PathBuf {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
            if path.ends_with(format!("streams/{stream}")) {
                return path;
            }
            folders.push(path);
        }
    }
    panic!("the broker has no {stream}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_lost_its_end_is_alarmed_even_when_its_sequences_were_used_again() {
    let (mut stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let agent = stack.agent(POOL).await;
    agent.finishes(Outcome::Succeeded).await;
    // The state that the broker will fall back to.
    stack.server.kill().await.unwrap();
    let results = place(&stack.store(), topology::RESULTS);
    copy(&results, &folder.path().join("copy"));
    stack.server.restart().await.unwrap();
    let data = folder.path().join("data");
    let dispatcher = dispatcher_in(&stack, &data, &[]).await;
    let before: Vec<_> = async {
        for _ in 0..3 {
            agent.finishes(Outcome::Failed).await;
        }
        stack.when_there_are(4).await
    }
    .await;
    dispatcher.stop().await;
    let fall_back = async |stack: &mut Stack| {
        stack.server.kill().await.unwrap();
        std::fs::remove_dir_all(&results).unwrap();
        copy(&folder.path().join("copy"), &results);
        stack.server.restart().await.unwrap();
    };
    let metric = "muster_streams_rewound_total{stream=\"RESULTS\"}";

    fall_back(&mut stack).await;
    let dispatcher = dispatcher_in(&stack, &data, &[]).await;
    eventually("it is noticed", SOON, async || (dispatcher.figure(metric).await == 1.0).then_some(())).await;
    let ready = eventually("it is told", SOON, async || dispatcher.get("/readyz").await.filter(|text| text.contains("ALARM"))).await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("RESULTS went back from message 4 to 1"), "{ready}");
    // The history still has what the broker has lost.
    assert_eq!(stack.when_there_are(4).await, before);
    agent.finishes(Outcome::Succeeded).await;
    assert_eq!(stack.when_there_are(5).await[0].state, JobState::Succeeded);
    dispatcher.stop().await;

    // Once more, and by the time that anybody looks there are as many messages as before, and more.
    fall_back(&mut stack).await;
    for _ in 0..6 {
        agent.finishes(Outcome::Succeeded).await;
    }
    let dispatcher = dispatcher_in(&stack, &data, &[]).await;
    eventually("it is noticed", SOON, async || (dispatcher.figure(metric).await == 1.0).then_some(())).await;
    stack.when_there_are(11).await;
    assert!(dispatcher.get("/readyz").await.unwrap().contains("RESULTS went back from message 2 to 1"));
}
