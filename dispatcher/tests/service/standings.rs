//! What agents do and what operators decide becomes standings.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use async_nats::jetstream;
use muster_schemas::{
    lane::Lane,
    names::{AgentId, JobId},
    records::{AgentState, keys},
    result::Outcome,
    standing::Status,
    subjects::{self, About},
    topology::{AGENTS, jobs_stream},
};

use crate::support::{POOL, SOON, Stack, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn standings_appear_with_the_record_and_follow_heartbeats_results_and_a_goodbye() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let (mut one, mut two) = (stack.agent(POOL).await, stack.agent(POOL).await);
    let standing = stack.standing(&one, "there is one", |_| true).await;
    assert_eq!((standing.status, standing.accepting, standing.reason.as_deref()), (Status::Offline, false, Some("no heartbeat yet")));

    one.beats(|_| {}).await;
    two.beats(|_| {}).await;
    for agent in [&one, &two] {
        let standing = stack.standing(agent, "online", |standing| standing.status == Status::Online).await;
        assert_eq!((standing.score, standing.rank, standing.pull_priority, standing.accepting), (100.0, 0, 0, true));
    }

    one.finishes(Outcome::Succeeded).await;
    one.finishes(Outcome::Failed).await;
    let standing = stack.standing(&one, "half of its jobs failed", |standing| standing.success_part == 25.0).await;
    assert_eq!((standing.score, standing.rank, standing.pull_priority), (75.0, 1, 1));
    one.finishes(Outcome::Cancelled).await;
    for _ in 0..3 {
        one.finishes(Outcome::TimedOut).await;
    }
    let standing = stack.standing(&one, "degraded", |standing| standing.success_part == 10.0).await;
    assert_eq!((standing.status, standing.accepting), (Status::Degraded, true));

    let said = Instant::now();
    two.beats(|beat| beat.goodbye = true).await;
    stack.standing(&two, "offline", |standing| standing.status == Status::Offline && !standing.accepting).await;
    assert!(said.elapsed() < Duration::from_secs(2), "{:?}", said.elapsed());
    stack.standing(&one, "first in the pool again", |standing| standing.pull_priority == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_is_offline_after_three_of_its_own_intervals() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let mut agent = stack.agent(POOL).await;
    let started = Instant::now();
    // What the agent's own clock says does not matter.
    agent.beats(|beat| (beat.interval_s, beat.at) = (1, "2040-01-01T00:00:00Z".parse().unwrap())).await;
    stack.standing(&agent, "online", |standing| standing.status == Status::Online).await;
    let standing = stack.standing(&agent, "offline", |standing| standing.status == Status::Offline).await;
    let took = started.elapsed();
    assert!((Duration::from_millis(2900)..Duration::from_millis(4500)).contains(&took), "{took:?}");
    assert_eq!((standing.score, standing.reason.as_deref()), (50.0, Some("no heartbeat for three intervals")));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_decide_and_a_deleted_agent_has_no_standing() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let mut agent = stack.agent(POOL).await;
    agent.beats(|_| {}).await;
    stack.standing(&agent, "accepting", |standing| standing.accepting).await;
    for (state, reason) in [(AgentState::Disabled, "disabled"), (AgentState::Draining, "draining"), (AgentState::Revoked, "revoked")] {
        stack.record(POOL, &agent.id, |record| record.state = state).await;
        let standing = stack.standing(&agent, reason, |standing| standing.reason.as_deref() == Some(reason)).await;
        assert_eq!((standing.accepting, standing.status), (false, Status::Online));
    }
    stack.record(POOL, &agent.id, |_| {}).await;
    stack.standing(&agent, "accepting again", |standing| standing.accepting).await;

    stack.bucket(AGENTS).await.delete(keys::agent(&agent.id)).await.unwrap();
    eventually("the standing is gone", SOON, async || stack.entry(POOL, &agent.id).await.is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_does_no_harm_and_is_counted() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    let mut agent = stack.agent(POOL).await;
    agent.beats(|_| {}).await;
    stack.standing(&agent, "online", |standing| standing.status == Status::Online).await;

    let deep = [vec![0x81, 0xa1, b'v'], vec![0x91; 100], vec![0xc0]].concat();
    let garbage =
        [vec![], b"hello".to_vec(), vec![0xdf, 0xff, 0xff, 0xff, 0xff], b"{\"v\":2}".to_vec(), b"{}".to_vec(), deep, vec![0; 20_000]];
    for body in &garbage {
        agent.says(subjects::heartbeat(&agent.pool, &agent.id), body.clone()).await;
        agent.says(About::Result.job(&agent.pool, &JobId::generate(&agent.pool)), body.clone()).await;
    }
    for key in ["id.x", "id.agt_01J0000000000000000000000"] {
        stack.bucket(AGENTS).await.put(key, "garbage".into()).await.unwrap();
    }
    let ignored = async |why: &str| dispatcher.figure(&format!("muster_inputs_ignored_total{{why=\"{why}\"}}")).await;
    eventually("all is counted", SOON, async || {
        let (beats, results) = (ignored("heartbeat_undecodable").await, ignored("result_undecodable").await);
        ((beats, results) == (7.0, 7.0)).then_some(())
    })
    .await;

    agent.finishes(Outcome::Failed).await;
    stack.standing(&agent, "it goes on", |standing| standing.score == 50.0 && standing.status == Status::Online).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_counts_only_for_the_agent_that_has_signed_it() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    let (mut victim, mut liar) = (stack.agent(POOL).await, stack.agent("other").await);
    for agent in [&mut victim, &mut liar] {
        agent.beats(|_| {}).await;
        stack.standing(agent, "online", |standing| standing.status == Status::Online).await;
    }
    for _ in 0..5 {
        liar.says_of(&victim.id, Outcome::Failed).await;
    }
    liar.says_of(&AgentId::generate(), Outcome::Failed).await;
    liar.finishes(Outcome::Failed).await;
    stack.standing(&liar, "its own result counts", |standing| standing.success_part == 0.0).await;
    assert_eq!(dispatcher.figure("muster_results_signed_total{signature=\"wrong\"}").await, 6.0);
    let standing = stack.standing(&victim, "untouched", |_| true).await;
    assert_eq!((standing.score, standing.status), (100.0, Status::Online));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_identity_are_told_apart_from_a_restart() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let mut agent = stack.agent(POOL).await;
    agent.beats(|_| {}).await;
    agent.beats(|beat| beat.instance = "second".into()).await;
    let standing = stack.standing(&agent, "online", |standing| standing.accepting).await;
    assert_eq!(standing.status, Status::Online);
    // In turn, as two live processes do: the broker keeps only the last heartbeat, so a busy dispatcher may miss some.
    let standing = eventually("degraded", SOON, async || {
        agent.beats(|_| {}).await;
        agent.beats(|beat| beat.instance = "second".into()).await;
        let (standing, _) = stack.entry(agent.pool.as_str(), &agent.id).await?;
        (standing.status == Status::Degraded).then_some(standing)
    })
    .await;
    assert_eq!((standing.accepting, standing.reason.as_deref()), (true, Some("two processes use this identity")));
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_follow_the_capabilities_of_agents_and_a_missing_one_comes_back_at_a_start() {
    let stack = Stack::start().await;
    let sql: Lane = Lane::of(&"sql".parse().unwrap())[0].clone();
    let pool = POOL.parse().unwrap();
    let context = jetstream::new(stack.gateway.clone());
    let has_lane = async || match context.get_stream(jobs_stream(&pool)).await {
        Ok(stream) => stream.consumer_info(sql.consumer()).await.is_ok(),
        Err(_) => false,
    };

    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    assert!(!has_lane().await);
    stack.record(POOL, &AgentId::generate(), |record| record.capabilities = ["sql".parse().unwrap()].into()).await;
    eventually("the lane is there", SOON, async || has_lane().await.then_some(())).await;
    dispatcher.stop().await;

    context.delete_stream(jobs_stream(&pool)).await.unwrap();
    assert!(!has_lane().await);
    let _dispatcher = stack.dispatcher().await;
    eventually("the lane is there again", SOON, async || has_lane().await.then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_active_dispatcher_tells_how_jobs_and_agents_are() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let mut agent = stack.agent(POOL).await;
    agent.beats(|_| {}).await;
    stack.standing(&agent, "online", |standing| standing.accepting).await;
    let pool = POOL.parse().unwrap();
    let lane = Lane::of(&"probe".parse().unwrap())[0].clone();
    for _ in 0..3 {
        let subject = subjects::job(&pool, &lane, &JobId::generate(&pool));
        stack.gateway.request(subject, "{\"type\":\"probe.ping\"}".into()).await.unwrap();
    }
    agent.finishes(Outcome::Succeeded).await;
    let wanted = [
        format!("muster_jobs_queued{{pool=\"{POOL}\"}} 3"),
        format!("muster_jobs_running{{pool=\"{POOL}\"}} 0"),
        format!("muster_jobs_finished_total{{outcome=\"succeeded\",pool=\"{POOL}\"}} 1"),
        format!("muster_job_wait_seconds_count{{pool=\"{POOL}\"}} 1"),
        format!("muster_agent_score{{agent=\"{}\",pool=\"{POOL}\"}} 100", agent.id),
        format!("muster_pool_agents{{pool=\"{POOL}\",status=\"online\"}} 1"),
        "muster_dispatcher_active 1".to_owned(),
    ];
    let mut text = String::new();
    let told = async || {
        text = dispatcher.get("/metrics").await.unwrap();
        wanted.iter().all(|line| text.lines().any(|have| have == line)).then_some(())
    };
    eventually("the figures are there", Duration::from_secs(15), told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_agents_than_fit_into_one_pull_all_get_a_standing() {
    let stack = Stack::start().await;
    for _ in 0..600 {
        stack.record(POOL, &AgentId::generate(), |_| {}).await;
    }
    let dispatcher = stack.dispatcher().await;
    for _ in 0..3 {
        let mut late = stack.agent(POOL).await;
        late.beats(|_| {}).await;
        stack.standing(&late, "online", |standing| standing.status == Status::Online).await;
    }
    assert_eq!(dispatcher.figure("muster_streams_interrupted_total{stream=\"KV_agents\"}").await, 0.0);
}
