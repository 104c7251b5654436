//! Restarts, of the dispatcher and of the broker.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use muster_schemas::{
    result::Outcome,
    standing::{Standing, Status},
};

use crate::support::{Dispatcher, POOL, Proxy, SOON, Stack, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_the_same_standings_and_writes_nothing() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    let mut agents = Vec::new();
    for n in 0..3 {
        let mut agent = stack.agent(POOL).await;
        agent.beats(|_| {}).await;
        for _ in 0..n {
            agent.finishes(Outcome::Failed).await;
        }
        agent.finishes(Outcome::Succeeded).await;
        agents.push(agent);
    }
    for (n, agent) in agents.iter().enumerate() {
        let success = 50.0 / (1.0 + n as f64);
        let wanted = |standing: &Standing| (standing.success_part - success).abs() < 0.01 && standing.rank == n as u32;
        stack.standing(agent, "all results count", wanted).await;
    }
    let mut before = Vec::new();
    for agent in &agents {
        before.push(stack.entry(POOL, &agent.id).await.unwrap().0);
    }

    dispatcher.kill();
    let next = stack.dispatcher().await;
    next.becomes_active().await;
    // One more change, of one agent only, shows that it is at work.
    agents[0].beats(|beat| beat.goodbye = true).await;
    stack.standing(&agents[0], "offline", |standing| standing.status == Status::Offline).await;
    for (agent, before) in agents.iter().zip(before).skip(1) {
        let now = stack.standing(agent, "one place up", |now| now.rank + 1 == before.rank).await;
        assert_eq!((now.success_part, now.score), (before.success_part, before.score));
    }
    assert_eq!(next.figure("muster_standings_written_total").await, 3.0, "the goodbye, and two places that moved up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_and_results_from_while_no_dispatcher_ran_count() {
    let stack = Stack::start().await;
    let (mut well, mut gone) = (stack.agent(POOL).await, stack.agent(POOL).await);
    well.beats(|_| {}).await;
    well.finishes(Outcome::Failed).await;
    well.finishes(Outcome::Succeeded).await;
    gone.beats(|beat| beat.interval_s = 1).await;
    gone.beats(|beat| beat.goodbye = true).await;
    let _dispatcher = stack.dispatcher().await;
    let standing = stack.standing(&well, "judged", |_| true).await;
    assert_eq!((standing.status, standing.score), (Status::Online, 75.0), "the first thing written is already right");
    assert_eq!(stack.standing(&gone, "judged", |_| true).await.reason.as_deref(), Some("said goodbye"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_comes_back_finds_the_dispatcher_at_work_and_nothing_counts_twice() {
    let mut stack = Stack::start().await;
    let first = stack.dispatcher().await;
    let second = stack.dispatcher().await;
    let mut agent = stack.agent(POOL).await;
    agent.beats(|_| {}).await;
    agent.finishes(Outcome::Failed).await;
    agent.finishes(Outcome::Succeeded).await;
    stack.standing(&agent, "both results count", |standing| standing.score == 75.0).await;

    for round in 1..=3_u64 {
        stack.server.kill().await.unwrap();
        stack.server.restart().await.unwrap();
        agent.finishes(Outcome::Failed).await;
        agent.beats(|_| {}).await;
        let success = 50.0 / (2.0 + round as f64);
        let standing = stack
            .standing_within(&agent, "the new result counts once", Duration::from_secs(20), |standing| {
                (standing.success_part - success).abs() < 0.01
            })
            .await;
        assert!(standing.accepting && standing.status != Status::Offline, "{standing:?}");
        eventually("one is active", SOON, async || {
            let active = (first.is_active().await, second.is_active().await);
            assert_ne!(active, (true, true));
            (active.0 || active.1).then_some(())
        })
        .await;
    }
    for dispatcher in [&first, &second] {
        assert_eq!(dispatcher.figure("muster_streams_rewound_total{stream=\"RESULTS\"}").await, 0.0);
    }
    agent.beats(|beat| beat.goodbye = true).await;
    stack.standing(&agent, "offline", |standing| standing.status == Status::Offline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_waits_for_a_broker_that_is_away() {
    let mut stack = Stack::start().await;
    let mut agent = stack.agent(POOL).await;
    stack.server.kill().await.unwrap();
    let dispatcher = Dispatcher::start(stack.deployment.layout.root().display().to_string(), &stack.server.url());
    let answers = eventually("it answers", SOON, async || dispatcher.get("/readyz").await).await;
    assert!(answers.starts_with("HTTP/1.1 503"), "{answers}");
    assert!(dispatcher.get("/healthz").await.unwrap().starts_with("HTTP/1.1 200"));

    stack.server.restart().await.unwrap();
    agent.beats(|_| {}).await;
    stack.standing_within(&agent, "online", Duration::from_secs(20), |standing| standing.status == Status::Online).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_while_the_connection_was_lost_counts_once() {
    let stack = Stack::start().await;
    let proxy = Proxy::to(stack.server.port()).await;
    let dispatcher = stack.dispatcher_at(&proxy.url).await;
    let (mut one, mut two) = (stack.agent(POOL).await, stack.agent(POOL).await);
    for agent in [&mut one, &mut two] {
        agent.beats(|_| {}).await;
        agent.finishes(Outcome::Failed).await;
        agent.finishes(Outcome::Succeeded).await;
        stack.standing(agent, "both results count", |standing| standing.score == 75.0).await;
    }
    for round in 1..=3_u64 {
        // The way is closed before the connection is, so that there is time in which nothing is heard.
        proxy.cut(true);
        proxy.sever();
        one.finishes(Outcome::Failed).await;
        one.beats(|_| {}).await;
        proxy.cut(false);
        let success = 50.0 / (2.0 + round as f64);
        stack.standing(&one, "the new result counts once", |standing| (standing.success_part - success).abs() < 0.01).await;
        let standing = stack.standing(&two, "nothing new", |_| true).await;
        assert_eq!((standing.score, standing.status), (75.0, Status::Online));
    }
    assert_eq!(dispatcher.figure("muster_inputs_ignored_total{why=\"heartbeat_replayed\"}").await, 0.0);
    proxy.cut(true);
    proxy.sever();
    two.beats(|beat| beat.goodbye = true).await;
    proxy.cut(false);
    stack.standing(&two, "offline", |standing| standing.status == Status::Offline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_agents_has_its_lanes_again_after_a_start() {
    let stack = Stack::start().await;
    let context = async_nats::jetstream::new(stack.gateway.clone());
    let queue = muster_schemas::topology::jobs_stream(&POOL.parse().unwrap());
    context.delete_stream(&queue).await.unwrap();
    let _dispatcher = stack.dispatcher().await;
    eventually("all lanes are there", SOON, async || {
        let mut stream = context.get_stream(&queue).await.ok()?;
        (stream.info().await.unwrap().state.consumer_count == 9).then_some(())
    })
    .await;
}
