//! What an agent or a service may try against the broker, and that it gets nowhere.

use std::time::Duration;

use muster_schemas::{
    headers,
    subjects::{
        broker::{ConsumerApi, StreamApi},
        js,
    },
};
use serde_json::json;

use crate::support::{Peer, World, eventually, next, next_job, pull};

/// How many jobs of the lane are out with agents.
async fn out(gateway: &Peer, stream: &str) -> u64 {
    gateway.api(ConsumerApi::Info.subject(stream, "normal_shell"), json!({})).await["num_ack_pending"].as_u64().unwrap()
}

#[tokio::test]
async fn a_pull_whose_reply_subject_lies_elsewhere_stores_nothing_there() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    let targets = [
        "jobs.q.normal.shell.evil".to_owned(),
        "results.p.victim".into(),
        "$JS.API.STREAM.DELETE.JOBS_q".into(),
        js::key("standings", &format!("p.{}", agent.id)),
        "events.p.victim".into(),
        js::key("api_keys", "x"),
    ];
    let streams = ["JOBS_q", "RESULTS", "KV_standings", "EVENTS", "KV_api_keys"];
    let counts = async || {
        let mut counts = Vec::new();
        for stream in streams {
            counts.push(gateway.messages(stream).await);
        }
        counts
    };
    let inbox = agent.inbox("honest");
    let mut honest = agent.peer.subscribe(&inbox).await;
    for target in &targets {
        let events = gateway.messages("EVENTS").await;
        gateway.store("jobs.p.normal.shell.bait", "payload").await;
        eventually("the job's event", async || gateway.messages("EVENTS").await == events + 1).await;
        let before = counts().await;
        agent.pull(target, 1, Duration::from_secs(1)).await;
        // Pulls are served in turn: once this one is answered, that one was served, or dropped because nobody listens there.
        let body = json!({"batch": 1, "no_wait": true, "group": "standing", "priority": 9}).to_string();
        agent.peer.client.publish_with_reply(js::next("JOBS_p", "normal_shell"), inbox.clone(), body.into()).await.unwrap();
        next(&mut honest).await;
        assert_eq!(counts().await, before, "after a pull to {target}");
        gateway.api(StreamApi::Purge.subject("JOBS_p"), json!({})).await;
    }
}

#[tokio::test]
async fn the_acknowledgement_of_a_result_cannot_be_sent_into_a_queue() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    agent.peer.client.publish_with_reply("results.p.j", "jobs.q.normal.shell.puback", "r".into()).await.unwrap();
    eventually("the result is stored", async || gateway.messages("RESULTS").await == 1).await;
    agent.peer.store("results.p.k", "r").await;
    assert_eq!(gateway.messages("JOBS_q").await, 0);
}

#[tokio::test]
async fn a_renewal_or_direct_get_cannot_be_answered_into_a_queue() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    let mut renewals = gateway.subscribe("identity.renew.*").await;
    let subject = muster_schemas::subjects::renew(&agent.id);
    agent.peer.client.publish_with_reply(subject, "jobs.q.normal.shell.renewed", "x".into()).await.unwrap();
    let reply = next(&mut renewals).await.reply.unwrap();
    assert!(reply.starts_with("_R_."), "{reply}");
    gateway.client.publish(reply, "jwt".into()).await.unwrap();
    gateway.store("results.p.j", "evil").await;
    agent.peer.client.publish_with_reply(js::direct_get("RESULTS", "results.p.j"), "jobs.q.normal.shell.got", "".into()).await.unwrap();
    // Direct gets of one connection are served in turn.
    agent.peer.client.request(js::direct_get("RESULTS", "results.p.j"), "".into()).await.unwrap();
    assert_eq!(gateway.messages("JOBS_q").await, 0);
}

#[tokio::test]
async fn an_agent_cannot_acknowledge_another_pools_jobs_in_any_form() {
    let (world, gateway) = World::provisioned().await;
    let (thief, owner) = (world.agent("p").await, world.agent("q").await);
    gateway.store("jobs.q.normal.shell.j", "{}").await;
    let mut jobs = owner.peer.subscribe(&owner.inbox("x")).await;
    owner.pull(&owner.inbox("x"), 1, Duration::from_secs(5)).await;
    let job = next_job(&mut jobs, Duration::from_secs(5)).await.unwrap();
    let reply = job.reply.unwrap().to_string();
    let tokens: Vec<_> = reply.split('.').collect();
    let mut forged = tokens.clone();
    // Token 4 is the number of deliveries, which the broker does not check.
    forged[4] = "JOBS_p";
    for subject in [reply.clone(), forged.join("."), format!("$JS.ACK._.JOBS_p.{}", tokens[2..].join("."))] {
        thief.peer.cannot_publish(&subject).await;
    }
    assert_eq!((gateway.messages("JOBS_q").await, out(&gateway, "JOBS_q").await), (1, 1));
}

#[tokio::test]
async fn headers_that_steer_the_broker_do_nothing_for_an_agent() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    gateway.store("results.q.victim", "r").await;
    for value in ["all", "sub"] {
        let mut rollup = async_nats::HeaderMap::new();
        rollup.insert("Nats-Rollup", value);
        for subject in ["results.p.roll", "events.p.roll"] {
            let answer = agent.peer.client.request_with_headers(subject, rollup.clone(), "r".into()).await.unwrap();
            assert!(String::from_utf8_lossy(&answer.payload).contains("rollup not permitted"), "{subject}: {answer:?}");
        }
    }
    let mut schedule = async_nats::HeaderMap::new();
    schedule.insert("Nats-Schedule", "@every 1s");
    schedule.insert("Nats-Schedule-Target", "results.q.scheduled");
    let answer = agent.peer.client.request_with_headers("results.p.schedule", schedule, "r".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
    assert_eq!(gateway.messages("RESULTS").await, 1);
}

/// A known limit, and why nothing but the caller's own choice of an id ever sets `Nats-Msg-Id`: the broker remembers ids stream-wide.
#[tokio::test]
async fn a_result_without_an_id_header_is_not_suppressed_by_one_with_it() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("q").await;
    let mut id = async_nats::HeaderMap::new();
    id.insert(headers::MSG_ID, "job1");
    agent.peer.client.request_with_headers("results.q.x", id, "r".into()).await.unwrap();
    let honest = world.agent("p").await;
    assert!(honest.peer.store("results.p.job1", "r").await.get("error").is_none());
    assert_eq!(gateway.messages("RESULTS").await, 2);
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_subscriptions() {
    let (world, _gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    let mut kept = Vec::new();
    for n in 0..300 {
        kept.push(agent.peer.client.subscribe(agent.inbox(&format!("s{n}"))).await.unwrap());
    }
    eventually("refusal of too many subscriptions", async || {
        agent.peer.refusals.lock().unwrap().iter().any(|text| text.to_lowercase().contains("maximum subscriptions"))
    })
    .await;
}

#[tokio::test]
async fn a_pull_that_asks_for_too_much_is_refused() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    let inbox = agent.inbox("x");
    let mut answers = agent.peer.subscribe(&inbox).await;
    gateway.store("jobs.p.normal.shell.j", "{}").await;
    for (batch, expires) in [(65, Duration::from_secs(1)), (1, Duration::from_secs(600))] {
        agent.peer.client.publish_with_reply(js::next("JOBS_p", "normal_shell"), inbox.clone(), pull(batch, expires).into()).await.unwrap();
        let answer = next(&mut answers).await;
        assert_eq!(answer.status.map(|status| status.as_u16()), Some(409), "{answer:?}");
    }
    // Nor one without the group, which would not wait its turn.
    agent.peer.client.publish_with_reply(js::next("JOBS_p", "normal_shell"), inbox, r#"{"batch":1}"#.into()).await.unwrap();
    let answer = next(&mut answers).await;
    assert_eq!(answer.status.map(|status| status.as_u16()), Some(400), "{answer:?}");
}
