//! Results that are sent to where their submitters wanted them.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use futures_util::StreamExt as _;
use muster_schemas::{
    headers::{JOB_ID, REPLY_TO},
    lane::Lane,
    result::{JobResult, Outcome},
    subjects, wire,
};
use serde_json::json;

use crate::world::{SOON, World, eventually, pool};

async fn publish(service: &Client, id: &str, reply_to: &str) {
    let lane = &Lane::of(&"shell".parse().unwrap())[1];
    let mut headers = HeaderMap::new();
    headers.insert(REPLY_TO, reply_to);
    let subject = subjects::job(&pool("default"), lane, &id.parse().unwrap());
    service.publish_with_headers(subject, headers, r#"{"type":"shell.run"}"#.into()).await.unwrap();
    service.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_goes_to_the_inbox_that_its_job_names_once_and_nowhere_else() {
    let world = World::with_gateways(2).await;
    let (service, agent) = (world.service(&["default"]).await, world.agent("default").await);
    let inbox = service.new_inbox();
    let mut answers = service.subscribe(inbox.clone()).await.unwrap();
    let evil = subjects::job(&pool("other"), &Lane::of(&"shell".parse().unwrap())[1], &"evil".parse().unwrap());
    for (id, reply_to) in [("evil-1", evil.as_str()), ("evil-2", "_INBOX.>"), ("good", &inbox)] {
        publish(&service, id, reply_to).await;
        let taken = agent.take().await;
        assert!(agent.finish(&taken, id).await);
    }
    let answer = tokio::time::timeout(SOON, answers.next()).await.unwrap().unwrap();
    assert_eq!(answer.headers.as_ref().unwrap().get(JOB_ID).unwrap().as_str(), "good");
    assert_eq!(wire::decode::<JobResult>(&answer.payload).unwrap().stdout.to_text(), "good");
    assert!(tokio::time::timeout(Duration::from_millis(200), answers.next()).await.is_err(), "once");
    assert_eq!(world.rest().get("/jobs/evil").await.code(404), "job_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_is_answered_too() {
    let world = World::start().await;
    let service = world.service(&["default"]).await;
    let inbox = service.new_inbox();
    let mut answers = service.subscribe(inbox.clone()).await.unwrap();
    publish(&service, "mine", &inbox).await;
    eventually("the job is stored", async || (world.rest().get("/jobs/mine").await.status == 200).then_some(())).await;
    assert_eq!(world.rest().cancel("mine").await.data(200)["state"], json!("cancelled"));
    let answer = tokio::time::timeout(SOON, answers.next()).await.unwrap().unwrap();
    assert_eq!(wire::decode::<JobResult>(&answer.payload).unwrap().outcome, Outcome::Cancelled);
}
