//! The active dispatcher divides a pool's limit on running jobs, and what it has divided outlives it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use muster_broker_config::provision;
use muster_schemas::{
    lane::{Lane, Priority},
    names::JobId,
    subjects::{self, broker::ConsumerApi},
    time::Timestamp,
    topology::{LanePause, jobs_stream},
};
use serde_json::Value;

use crate::support::{POOL, SOON, Stack, eventually};

async fn shares(stack: &Stack) -> Vec<(Lane, u64)> {
    let mut shares = Vec::new();
    for lane in ["http", "probe", "shell"].iter().flat_map(|name| Lane::of(&name.parse().unwrap())) {
        let subject = ConsumerApi::Info.subject(&jobs_stream(&POOL.parse().unwrap()), &lane.consumer());
        let info: Value = serde_json::from_slice(&stack.gateway.request(subject, "".into()).await.unwrap().payload).unwrap();
        let closed = info["config"]["pause_until"] == LanePause::NoShare.until().to_string();
        shares.push((lane, if closed { 0 } else { info["config"]["max_ack_pending"].as_u64().unwrap() }));
    }
    shares
}

async fn submit(stack: &Stack, lane: &Lane, count: usize) {
    let pool = POOL.parse().unwrap();
    for _ in 0..count {
        stack.gateway.request(subjects::job(&pool, lane, &JobId::generate(&pool)), "{}".into()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_with_jobs_get_their_shares_and_keep_them_when_the_dispatcher_dies() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let mut record = provision::default_pool(POOL.parse().unwrap(), Timestamp::now());
    record.limits.max_running = 3;
    provision::ensure_pool(&stack.gateway, &record).await.unwrap();
    let low = Lane { priority: Priority::Low, executor: "http".parse().unwrap() };
    let high = Lane { priority: Priority::High, executor: "shell".parse().unwrap() };
    let wait_for = async |what: &str, wanted: &[(&Lane, u64)]| {
        eventually(what, SOON, async || {
            let shares = shares(&stack).await;
            assert!(shares.iter().map(|(_, share)| share).sum::<u64>() <= 3, "{shares:?}");
            wanted.iter().all(|(lane, share)| shares.contains(&((*lane).clone(), *share))).then_some(shares)
        })
        .await
    };
    submit(&stack, &low, 5).await;
    wait_for("the one lane with jobs has all", &[(&low, 3)]).await;
    submit(&stack, &high, 5).await;
    let divided = wait_for("the higher one has more", &[(&low, 1), (&high, 2)]).await;
    dispatcher.kill();
    // A start of another gateway looks at all lanes, too.
    provision::provision(&stack.gateway, &stack.deployment.bootstrap).await.unwrap();
    assert_eq!(shares(&stack).await, divided);
}
