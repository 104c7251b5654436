//! A paused pool on a real broker: what a pause does to pulls that wait, to jobs that are out, to lanes that come later, and that the
//! record is what counts.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{Message, Subscriber};
use muster_broker_config::provision;
use muster_schemas::{
    records::{Paused, PoolRecord},
    subjects::broker::{self, ConsumerApi},
    time::Timestamp,
    topology::{LanePause, OUT_MAX},
};
use serde_json::{Value, json};

use crate::support::{Agent, Peer, SOON, World, eventually, next_job, pool};

/// Long enough for the broker to give out a job, had it any to give.
const MOMENT: Duration = Duration::from_millis(300);

async fn set(peer: &Peer, paused: bool) -> PoolRecord {
    let paused = paused.then(|| Paused { by: "ci".into(), key_id: "key_1".into(), note: Some("why".into()), at: Timestamp::now() });
    let record = PoolRecord { paused, ..provision::default_pool(pool("p"), Timestamp::now()) };
    provision::ensure_pool(&peer.client, &record).await.unwrap()
}

async fn lane(peer: &Peer, consumer: &str) -> Value {
    peer.api(ConsumerApi::Info.subject("JOBS_p", consumer), json!({})).await
}

fn is_paused(info: &Value) -> bool {
    info["paused"] == true
}

/// A pull that waits in the lane `normal_shell`.
async fn pulling(agent: &Agent) -> Subscriber {
    let inbox = agent.inbox("lane");
    let jobs = agent.peer.subscribe(&inbox).await;
    agent.pull(&inbox, 10, Duration::from_secs(60)).await;
    jobs
}

async fn acked(agent: &Agent, message: &Message, word: &str) {
    agent.peer.client.publish(message.reply.clone().unwrap(), word.to_owned().into()).await.unwrap();
    agent.peer.client.flush().await.unwrap();
}

#[tokio::test]
async fn a_paused_pool_gives_out_nothing_and_the_pulls_that_waited_are_served_when_it_goes_on() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    let mut jobs = pulling(&agent).await;
    gateway.store("jobs.p.normal.shell.first", "{}").await;
    let first = next_job(&mut jobs, SOON).await.unwrap();
    assert!(set(&gateway, true).await.paused.is_some());
    // The pull still waits; it has room for nine more.
    assert_eq!(lane(&gateway, "normal_shell").await["num_waiting"], 1);
    assert!(gateway.store("jobs.p.normal.shell.second", "{}").await.get("error").is_none(), "a submit is still taken");
    assert!(next_job(&mut jobs, MOMENT).await.is_none());
    // What runs may say so, and end.
    acked(&agent, &first, "+WPI").await;
    acked(&agent, &first, "+ACK").await;
    eventually("the first is gone", async || gateway.messages("JOBS_p").await == 1).await;
    assert!(set(&gateway, false).await.paused.is_none());
    let second = next_job(&mut jobs, SOON).await.unwrap();
    assert_eq!(second.subject.as_str(), "jobs.p.normal.shell.second");
}

#[tokio::test]
async fn a_job_that_is_given_back_while_the_pool_is_paused_waits_and_comes_again_when_it_goes_on() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    let mut jobs = pulling(&agent).await;
    for id in ["now", "later"] {
        gateway.store(&format!("jobs.p.normal.shell.{id}"), "{}").await;
    }
    let (now, later) = (next_job(&mut jobs, SOON).await.unwrap(), next_job(&mut jobs, SOON).await.unwrap());
    set(&gateway, true).await;
    acked(&agent, &now, "-NAK").await;
    acked(&agent, &later, r#"-NAK {"delay": 50000000}"#).await;
    assert!(next_job(&mut jobs, MOMENT).await.is_none());
    assert_eq!(lane(&gateway, "normal_shell").await["num_ack_pending"], 2, "they count as out all the while");
    set(&gateway, false).await;
    let mut again = BTreeSet::new();
    for _ in 0..2 {
        let message = next_job(&mut jobs, SOON).await.unwrap();
        again.insert(message.subject.to_string());
        acked(&agent, &message, "+ACK").await;
    }
    assert_eq!(again.len(), 2, "{again:?}");
}

#[tokio::test]
async fn a_job_whose_lease_runs_out_while_the_pool_is_paused_waits_too() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    let mut jobs = pulling(&agent).await;
    gateway.store("jobs.p.normal.shell.j", "{}").await;
    next_job(&mut jobs, SOON).await.unwrap();
    set(&gateway, true).await;
    // An update of the settings leaves the pause as it is.
    let mut config = lane(&gateway, "normal_shell").await["config"].clone();
    config["ack_wait"] = json!(100_000_000);
    config.as_object_mut().unwrap().remove("pause_until");
    let subject = broker::consumer_create("JOBS_p", "normal_shell", "jobs.p.normal.shell.*");
    let answer = gateway.api(subject, json!({"stream_name": "JOBS_p", "config": config, "action": ""})).await;
    assert!(answer.get("error").is_none(), "{answer}");
    assert!(next_job(&mut jobs, 5 * MOMENT).await.is_none());
    set(&gateway, false).await;
    assert!(next_job(&mut jobs, SOON).await.is_some());
}

#[tokio::test]
async fn a_pause_that_is_merely_taken_back_leaves_pulls_waiting_which_is_why_it_runs_out_instead() {
    // Something else may wake the lane in that moment, so now and then a job is served.
    for _ in 0..5 {
        let (world, gateway) = World::provisioned().await;
        let agent = world.agent("p").await;
        let mut jobs = pulling(&agent).await;
        set(&gateway, true).await;
        gateway.store("jobs.p.normal.shell.first", "{}").await;
        gateway.api(ConsumerApi::Pause.subject("JOBS_p", "normal_shell"), json!({})).await;
        assert!(!is_paused(&lane(&gateway, "normal_shell").await));
        if next_job(&mut jobs, MOMENT).await.is_none() {
            gateway.store("jobs.p.normal.shell.second", "{}").await;
            assert_eq!(next_job(&mut jobs, SOON).await.unwrap().subject.as_str(), "jobs.p.normal.shell.first");
            return;
        }
    }
    panic!("the broker serves them now: `go_on` can be simpler");
}

#[tokio::test]
async fn a_pause_outlives_the_broker_and_lanes_of_a_paused_pool_are_born_paused() {
    let (mut world, gateway) = World::provisioned().await;
    set(&gateway, true).await;
    provision::ensure_lanes(&gateway.client, &pool("p"), &["ssh".parse().unwrap()].into()).await.unwrap();
    world.server.kill().await.unwrap();
    world.server.restart().await.unwrap();
    let gateway = world.gateway().await;
    let agent = world.agent("p").await;
    for name in ["normal_shell", "high_ssh", "low_ssh"] {
        let info = lane(&gateway, name).await;
        assert!(is_paused(&info), "{info}");
        assert_eq!(info["config"]["pause_until"], LanePause::Pool.until().to_string());
    }
    gateway.store("jobs.p.normal.shell.j", "{}").await;
    let mut jobs = pulling(&agent).await;
    assert!(next_job(&mut jobs, MOMENT).await.is_none());
    set(&gateway, false).await;
    assert!(next_job(&mut jobs, SOON).await.is_some());
    eventually("all lanes go on", async || !is_paused(&lane(&gateway, "high_ssh").await)).await;
}

#[tokio::test]
async fn a_start_brings_lanes_to_the_record_both_ways() {
    let (world, gateway) = World::provisioned().await;
    let pause = |until: Value| gateway.api(ConsumerApi::Pause.subject("JOBS_p", "low_http"), until);
    pause(json!({"pause_until": "2100-01-01T00:00:00Z"})).await;
    assert!(is_paused(&lane(&gateway, "low_http").await));
    provision::provision(&gateway.client, &world.deployment.bootstrap).await.unwrap();
    // Paused by hand, and the record says nothing of it.
    eventually("it goes on", async || !is_paused(&lane(&gateway, "low_http").await)).await;
    set(&gateway, true).await;
    pause(json!({})).await;
    assert!(!is_paused(&lane(&gateway, "low_http").await));
    provision::provision(&gateway.client, &world.deployment.bootstrap).await.unwrap();
    assert!(is_paused(&lane(&gateway, "low_http").await), "let go by hand, and the record says paused");
    // A change of something else keeps the pause.
    let mut record = set(&gateway, true).await;
    record.limits.max_running = 20_000;
    provision::ensure_pool(&gateway.client, &record).await.unwrap();
    let info = lane(&gateway, "low_http").await;
    assert_eq!((is_paused(&info), &info["config"]["max_ack_pending"]), (true, &json!(OUT_MAX)));
}

#[tokio::test]
async fn the_dispatcher_may_pause_lanes_and_agents_and_services_may_not() {
    let (world, gateway) = World::provisioned().await;
    let (dispatcher, service, agent) = (world.dispatcher().await, world.service(&["p"]).await, world.agent("p").await);
    let subject = ConsumerApi::Pause.subject("JOBS_p", "low_http");
    service.cannot_publish(&subject).await;
    agent.peer.cannot_publish(&subject).await;
    assert!(!is_paused(&lane(&gateway, "low_http").await));
    dispatcher.api(subject, json!({"pause_until": LanePause::Pool.until()})).await;
    assert!(is_paused(&lane(&gateway, "low_http").await));
}
