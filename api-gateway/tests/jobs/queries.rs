//! What services ask over NATS.

use std::time::Duration;

use async_nats::Client;
use muster_schemas::{
    control::QueryAnswer,
    lane::Lane,
    names::JobId,
    result::Outcome,
    subjects::{self, Query},
    wire,
};
use serde_json::json;

use crate::world::{World, eventually, pool};

async fn ask(client: &Client, verb: Query, pool_name: &str, id: &str) -> QueryAnswer {
    let subject = verb.subject(&pool(pool_name), &id.parse().unwrap());
    let answer = client.request(subject, "".into()).await.unwrap();
    wire::decode(&answer.payload).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_asks_for_results_and_cancels_without_the_brokers_interface() {
    let world = World::with_gateways(2).await;
    let (service, agent) = (world.service(&["default"]).await, world.agent("default").await);
    let unknown = JobId::generate(&pool("default"));
    let none = ask(&service, Query::Result, "default", unknown.as_str()).await;
    assert_eq!((none.result, none.queued, none.error.unwrap().code.as_str()), (None, false, "job_not_found"));
    world.rest().submit(json!({"id": "a"})).await.data(202);
    let queued = ask(&service, Query::Result, "default", "a").await;
    assert!(queued.queued && queued.result.is_none() && queued.error.is_none());
    let taken = agent.take().await;
    assert!(agent.finish(&taken, "out").await);
    let done = ask(&service, Query::Result, "default", "a").await;
    assert_eq!(done.result.unwrap().stdout.to_text(), "out");
    assert_eq!(ask(&service, Query::Cancel, "default", "a").await.error.unwrap().code.as_str(), "job_finished");
    world.rest().submit(json!({"id": "b"})).await.data(202);
    let cancelled = ask(&service, Query::Cancel, "default", "b").await;
    assert_eq!(cancelled.result.unwrap().outcome, Outcome::Cancelled);
    assert_eq!(world.rest().state("b").await, "cancelled");
    assert!(agent.finds_nothing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_answer_would_go_into_a_queue_is_ignored() {
    let world = World::start().await;
    let (service, agent) = (world.service(&["default"]).await, world.agent("default").await);
    world.rest().submit(json!({"id": "victim"})).await.data(202);
    let lane = &Lane::of(&"shell".parse().unwrap())[1];
    for target in
        [subjects::job(&pool("other"), lane, &"evil".parse().unwrap()), subjects::job(&pool("default"), lane, &"evil".parse().unwrap())]
    {
        for verb in Query::ALL {
            let subject = verb.subject(&pool("default"), &"victim".parse().unwrap());
            service.publish_with_reply(subject, target.clone(), "".into()).await.unwrap();
        }
    }
    service.flush().await.unwrap();
    // A query that is answered shows that the ones before it were read.
    assert!(ask(&service, Query::Result, "default", "victim").await.queued, "the cancels without an inbox were not done");
    for name in ["default", "other"] {
        assert_eq!(world.rest().get("/jobs/evil").await.code(404), "job_not_found", "{name}");
    }
    assert_eq!(agent.take().await.id.as_str(), "victim");
    assert!(agent.finds_nothing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_cannot_ask_about_another_pool() {
    let world = World::start().await;
    let service = world.service(&["other"]).await;
    world.rest().submit(json!({"id": "secret"})).await.data(202);
    let subject = Query::Cancel.subject(&pool("default"), &"secret".parse().unwrap());
    let refused = tokio::time::timeout(Duration::from_millis(300), service.request(subject, "".into())).await;
    assert!(!matches!(refused, Ok(Ok(_))), "the broker lets nothing through");
    assert_eq!(ask(&service, Query::Cancel, "other", "secret").await.error.unwrap().code.as_str(), "job_not_found");
    assert_eq!(world.rest().state("secret").await, "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_query_is_answered_by_one_gateway() {
    let world = World::with_gateways(2).await;
    let service = world.service(&["default"]).await;
    world.rest().submit(json!({"id": "a"})).await.data(202);
    let inbox = service.new_inbox();
    let mut answers = service.subscribe(inbox.clone()).await.unwrap();
    for _ in 0..20 {
        service.publish_with_reply(Query::Result.subject(&pool("default"), &"a".parse().unwrap()), inbox.clone(), "".into()).await.unwrap();
    }
    let mut count = 0;
    eventually("twenty answers", async || {
        while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(50), futures_util::StreamExt::next(&mut answers)).await {
            count += 1;
        }
        (count >= 20).then_some(())
    })
    .await;
    assert_eq!(count, 20);
}
