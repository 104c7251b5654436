//! A limit on running jobs that holds for the pool: jobs that are out, counted at the broker, whatever lanes they come from.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_nats::{Message, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use muster_broker_config::provision::{self, Divider};
use muster_schemas::{
    lane::{Lane, Priority},
    records::{PoolLimits, PoolRecord},
    subjects::{self, broker::ConsumerApi, js},
    time::Timestamp,
    topology::{LanePause, OUT_MAX, RUNNING_DEFAULT},
};
use serde_json::{Value, json};

use crate::support::{Agent, Peer, SOON, World, pool, pull};

fn lanes(executors: &[&str]) -> Vec<Lane> {
    executors.iter().flat_map(|name| Lane::of(&name.parse().unwrap())).collect()
}

async fn limit(peer: &Peer, max_running: u64) -> PoolRecord {
    let record = provision::default_pool(pool("p"), Timestamp::now());
    let record = PoolRecord { limits: PoolLimits { max_running, ..record.limits }, ..record };
    provision::ensure_pool(&peer.client, &record).await.unwrap()
}

async fn info(peer: &Peer, lane: &Lane) -> Value {
    peer.api(ConsumerApi::Info.subject("JOBS_p", &lane.consumer()), json!({})).await
}

/// What a lane may have out, and what it has.
async fn share(peer: &Peer, lane: &Lane) -> (u64, u64) {
    let info = info(peer, lane).await;
    let closed = info["paused"] == true && info["config"]["pause_until"] == LanePause::NoShare.until().to_string();
    let share = if closed { 0 } else { info["config"]["max_ack_pending"].as_u64().unwrap() };
    (share, info["num_ack_pending"].as_u64().unwrap())
}

async fn total(peer: &Peer, lanes: &[Lane]) -> u64 {
    let mut total = 0;
    for lane in lanes {
        total += share(peer, lane).await.0;
    }
    total
}

/// Pulls that wait in each lane, more than any limit here.
async fn pulling(agent: &Agent, lanes: &[Lane]) -> Subscriber {
    let inbox = agent.inbox("all");
    let jobs = agent.peer.subscribe(&inbox).await;
    for lane in lanes {
        let next = js::next("JOBS_p", &lane.consumer());
        agent.peer.client.publish_with_reply(next, inbox.clone(), pull(50, Duration::from_secs(100)).into()).await.unwrap();
    }
    agent.peer.round_trip().await;
    jobs
}

fn arrived(jobs: &mut Subscriber, out: &mut Vec<Message>) {
    while let Some(Some(message)) = jobs.next().now_or_never() {
        assert!(message.status.is_none(), "{message:?}");
        out.push(message);
    }
}

/// Runs everything that is queued, one job at a time, and returns how many were out at most and how many ran, by lane.
async fn run(world: &World, peer: &Peer, agent: &Agent, lanes: &[Lane], limit: u64) -> (usize, BTreeMap<String, usize>) {
    let dispatcher = world.dispatcher().await;
    let (mut divider, mut jobs) = (Divider::default(), pulling(agent, lanes).await);
    let (mut out, mut most, mut ran) = (Vec::new(), 0, BTreeMap::new());
    let end = Instant::now() + 3 * SOON;
    while peer.messages("JOBS_p").await > 0 {
        assert!(Instant::now() < end, "not in time; so far {ran:?}, out {}", out.len());
        divider.divide(&dispatcher.client, &pool("p"), || true).await.unwrap();
        let (mut used, mut held) = (0, 0);
        for lane in lanes {
            let (share, out) = share(peer, lane).await;
            (used, held) = (used + share.max(out), held + out);
        }
        assert!(used <= limit && held <= limit, "{used} are used and {held} out, of {limit}");
        arrived(&mut jobs, &mut out);
        most = most.max(out.len());
        if !out.is_empty() {
            let message: Message = out.remove(0);
            let lane = subjects::parse_job(&message.subject).unwrap().queue.lane().unwrap().clone();
            *ran.entry(lane.consumer()).or_default() += 1;
            agent.peer.client.publish(message.reply.unwrap(), "+ACK".into()).await.unwrap();
            agent.peer.round_trip().await;
        }
    }
    (most, ran)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_three_holds_over_nine_lanes_and_every_job_runs() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    limit(&gateway, 3).await;
    let lanes = lanes(&["http", "probe", "shell"]);
    assert!(total(&gateway, &lanes).await <= 3, "as soon as it is set");
    for number in 0..20 {
        let (priority, executor) = (Priority::ALL[number % 3], ["http", "shell"][number % 2]);
        gateway.store(&format!("jobs.p.{priority}.{executor}.j{number}"), "{}").await;
    }
    let (most, ran) = run(&world, &gateway, &agent, &lanes, 3).await;
    assert_eq!((most, ran.len(), ran.values().sum::<usize>()), (3, 6, 20), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_take_turns_where_one_job_at_a_time_may_run() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    limit(&gateway, 1).await;
    let lanes = lanes(&["http", "probe", "shell"]);
    for number in 0..4 {
        for executor in ["http", "shell"] {
            gateway.store(&format!("jobs.p.normal.{executor}.j{number}"), "{}").await;
        }
    }
    let (most, ran) = run(&world, &gateway, &agent, &lanes, 1).await;
    assert_eq!((most, &ran["normal_http"], &ran["normal_shell"]), (1, &4, &4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_put_off_counts_and_comes_back_within_the_limit() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    limit(&gateway, 1).await;
    let lanes = lanes(&["shell", "http", "probe"]);
    let (mut divider, mut jobs) = (Divider::default(), pulling(&agent, &lanes).await);
    gateway.store("jobs.p.normal.shell.late", "{}").await;
    let divide = async |divider: &mut Divider| divider.divide(&gateway.client, &pool("p"), || true).await.unwrap();
    divide(&mut divider).await;
    let late = tokio::time::timeout(SOON, jobs.next()).await.unwrap().unwrap();
    agent.peer.client.publish(late.reply.unwrap(), r#"-NAK {"delay": 1500000000}"#.into()).await.unwrap();
    gateway.store("jobs.p.high.http.other", "{}").await;
    divide(&mut divider).await;
    divide(&mut divider).await;
    assert_eq!(share(&gateway, &lanes[0]).await, (0, 0));
    assert_eq!(share(&gateway, &lanes[1]).await.1, 1, "put off is out");
    let mut order = Vec::new();
    while order.len() < 2 {
        divide(&mut divider).await;
        if let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(50), jobs.next()).await {
            assert!(message.status.is_none(), "{message:?}");
            order.push(subjects::parse_job(&message.subject).unwrap().id.to_owned());
            agent.peer.client.publish(message.reply.unwrap(), "+ACK".into()).await.unwrap();
        }
    }
    assert_eq!(order, ["late", "other"]);
}

#[tokio::test]
async fn shares_survive_a_start_and_a_pause_and_end_with_the_limit() {
    let (world, gateway) = World::provisioned().await;
    let nine = lanes(&["http", "probe", "shell"]);
    limit(&gateway, 12).await;
    gateway.store("jobs.p.low.shell.j", "{}").await;
    let before: Vec<_> = shares(&gateway, &nine).await;
    assert_eq!(before.iter().sum::<u64>(), 12);
    provision::provision(&gateway.client, &world.deployment.bootstrap).await.unwrap();
    // A lane that joins the others has nothing until they give up something.
    provision::ensure_lanes(&gateway.client, &pool("p"), &["ssh".parse().unwrap()].into()).await.unwrap();
    assert_eq!(shares(&gateway, &nine).await, before);
    assert_eq!(shares(&gateway, &lanes(&["ssh"])).await, [0, 0, 0]);
    let mut record = limit(&gateway, 4).await;
    assert_eq!(total(&gateway, &lanes(&["http", "probe", "shell", "ssh"])).await, 4);
    record.paused = Some(muster_schemas::records::Paused { by: "ci".into(), key_id: "key_1".into(), note: None, at: Timestamp::now() });
    provision::ensure_pool(&gateway.client, &record).await.unwrap();
    for lane in &nine {
        assert_eq!(info(&gateway, lane).await["paused"], true, "{lane:?}");
    }
    record.paused = None;
    provision::ensure_pool(&gateway.client, &record).await.unwrap();
    assert_eq!(total(&gateway, &lanes(&["http", "probe", "shell", "ssh"])).await, 4);
    limit(&gateway, RUNNING_DEFAULT).await;
    for lane in &nine {
        assert_eq!(share(&gateway, lane).await.0, OUT_MAX, "{lane:?}");
    }
}

async fn shares(peer: &Peer, lanes: &[Lane]) -> Vec<u64> {
    let mut shares = Vec::new();
    for lane in lanes {
        shares.push(share(peer, lane).await.0);
    }
    shares
}

#[tokio::test]
async fn whoever_does_not_lead_makes_no_lane_have_more() {
    let (_world, gateway) = World::provisioned().await;
    limit(&gateway, 1).await;
    let lanes = lanes(&["http", "probe", "shell"]);
    gateway.store("jobs.p.low.shell.j", "{}").await;
    let before = shares(&gateway, &lanes).await;
    Divider::default().divide(&gateway.client, &pool("p"), || false).await.unwrap();
    assert_eq!(shares(&gateway, &lanes).await, before);
    Divider::default().divide(&gateway.client, &pool("p"), || true).await.unwrap();
    assert_eq!(share(&gateway, &lanes[8]).await.0, 1);
}
