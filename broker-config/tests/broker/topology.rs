//! The streams do on a real broker what the design relies on.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use muster_schemas::{
    headers,
    names::JobId,
    subjects::{About, js},
};

use crate::support::{World, eventually, next, next_job, pool};

#[tokio::test]
async fn a_job_for_an_unknown_executor_or_priority_is_refused_at_once() {
    let (_world, gateway) = World::provisioned().await;
    for subject in ["jobs.p.normal.docker.j", "jobs.p.urgent.shell.j", "jobs.nowhere.normal.shell.j", "jobs.p.normal.shell.j.more"] {
        let error = gateway.client.request(subject, "{}".into()).await.unwrap_err();
        assert_eq!(error.kind(), RequestErrorKind::NoResponders, "{subject}");
    }
    assert_eq!(gateway.messages("JOBS_p").await, 0);
}

#[tokio::test]
async fn a_second_job_under_the_same_subject_is_refused_while_the_first_waits() {
    let (_world, gateway) = World::provisioned().await;
    assert!(gateway.store("jobs.p.normal.shell.j", "1").await.get("error").is_none());
    let refusal = gateway.store("jobs.p.normal.shell.j", "2").await;
    assert_eq!(refusal["error"]["err_code"], 10077, "{refusal}");
    // A full queue has the same code: only the words tell.
    assert!(refusal["error"]["description"].as_str().unwrap().contains("per subject"), "{refusal}");
    assert_eq!(gateway.messages("JOBS_p").await, 1);
}

#[tokio::test]
async fn a_stored_result_is_republished_once_and_a_refused_one_is_not() {
    let (world, gateway) = World::provisioned().await;
    let service = world.service(&["p"]).await;
    let mut done = service.subscribe(&About::Done.pool(&pool("p"))).await;
    let id: JobId = "j".parse().unwrap();
    let subject = About::Result.job(&pool("p"), &id);
    let agent = world.agent("p").await;
    assert!(agent.peer.store(&subject, "first").await.get("error").is_none());
    assert_eq!(agent.peer.store(&subject, "second").await["error"]["err_code"], 10077);
    agent.peer.store(&About::Result.job(&pool("p"), &"k".parse().unwrap()), "marker").await;
    let first = next(&mut done).await;
    assert_eq!((first.subject.as_str(), &first.payload[..]), (About::Done.job(&pool("p"), &id).as_str(), &b"first"[..]));
    assert_eq!(first.headers.unwrap().get(headers::REPUBLISHED_SUBJECT).unwrap().as_str(), subject);
    // Republishing is in the order of storing, so nothing came in between.
    assert_eq!(&next(&mut done).await.payload[..], b"marker");
    let stored = gateway.client.request(js::direct_get("RESULTS", &subject), "".into()).await.unwrap();
    assert_eq!(&stored.payload[..], b"first");
}

#[tokio::test]
async fn a_queued_job_shows_in_its_events_with_its_body() {
    let (world, gateway) = World::provisioned().await;
    let service = world.service(&["p"]).await;
    let mut events = service.subscribe(&About::Event.pool(&pool("p"))).await;
    service.store("jobs.p.high.http.j", "the body").await;
    let event = next(&mut events).await;
    assert_eq!((event.subject.as_str(), &event.payload[..]), ("events.p.j", &b"the body"[..]));
    assert_eq!(event.headers.unwrap().get(headers::REPUBLISHED_SUBJECT).unwrap().as_str(), "jobs.p.high.http.j");
    eventually("the event is stored", async || gateway.messages("EVENTS").await == 1).await;
}

#[tokio::test]
async fn a_result_lives_as_long_as_its_header_says() {
    let (_world, gateway) = World::provisioned().await;
    let mut ttl = async_nats::HeaderMap::new();
    ttl.insert(headers::TTL, "1s");
    let answer = gateway.client.request_with_headers("results.p.j", ttl, "x".into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer.payload).contains("error"));
    assert_eq!(gateway.messages("RESULTS").await, 1);
    eventually("the result is gone", async || gateway.messages("RESULTS").await == 0).await;
}

#[tokio::test]
async fn a_job_above_its_cap_is_refused() {
    let (_world, gateway) = World::provisioned().await;
    let body = "x".repeat(muster_schemas::job::LIMIT + topology_room() + 1);
    assert_eq!(gateway.store("jobs.p.normal.shell.j", &body).await["error"]["err_code"], 10054);
}

fn topology_room() -> usize {
    muster_schemas::topology::HEADER_ROOM
}

#[tokio::test]
async fn a_full_pool_refuses_more_and_says_so() {
    let (_world, gateway) = World::provisioned().await;
    let mut record = muster_broker_config::provision::default_pool(pool("p"), muster_schemas::time::Timestamp::now());
    record.limits.max_queued = 2;
    muster_broker_config::provision::ensure_pool(&gateway.client, &record).await.unwrap();
    for id in ["a", "b"] {
        assert!(gateway.store(&format!("jobs.p.normal.shell.{id}"), "{}").await.get("error").is_none());
    }
    let refusal = gateway.store("jobs.p.normal.shell.c", "{}").await;
    assert_eq!(refusal["error"]["err_code"], 10077, "{refusal}");
    assert!(refusal["error"]["description"].as_str().unwrap().contains("maximum messages exceeded"), "{refusal}");
}

#[tokio::test]
async fn a_delivered_job_names_its_stream_in_its_ack_subject_which_the_agent_may_use() {
    let (world, gateway) = World::provisioned().await;
    let agent = world.agent("p").await;
    let inbox = agent.inbox("lane");
    let mut jobs = agent.peer.subscribe(&inbox).await;
    gateway.store("jobs.p.normal.shell.j", "{}").await;
    agent.pull(&inbox, 1, Duration::from_secs(5)).await;
    let job = next_job(&mut jobs, Duration::from_secs(5)).await.unwrap();
    assert_eq!(job.subject.as_str(), "jobs.p.normal.shell.j");
    assert!(job.reply.as_ref().unwrap().starts_with("$JS.ACK.JOBS_p.normal_shell."), "the long form is not the default on 2.15.1");
    agent.peer.client.publish(job.reply.unwrap(), "+ACK".into()).await.unwrap();
    eventually("the job is gone", async || gateway.messages("JOBS_p").await == 0).await;
    assert!(!agent.peer.refused_more_than_round_trips());
}
