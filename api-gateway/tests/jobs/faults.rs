//! When the broker goes away, and when gateways do.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::{World, eventually, job};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_a_request_is_refused_and_does_not_hang() {
    let mut world = World::start().await;
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    world.server.kill().await.unwrap();
    let begun = Instant::now();
    let submitted = world.rest().submit(json!({})).await;
    assert_eq!(submitted.code(503), "broker_unavailable");
    assert!(submitted.headers.contains_key("retry-after"));
    assert_eq!(world.rest().post("/jobs?wait=30s", &job(json!({"id": "own"}))).await.code(503), "broker_unavailable");
    assert_eq!(world.rest().get(&format!("/jobs/{id}")).await.code(503), "broker_unavailable");
    assert_eq!(world.rest().cancel(&id).await.code(503), "broker_unavailable");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    world.server.restart().await.unwrap();
    let state = eventually("the gateway is back", async || {
        let answer = world.rest().get(&format!("/jobs/{id}")).await;
        (answer.status == 200).then(|| answer.data(200)["state"].clone())
    })
    .await;
    assert_eq!(state, "pending", "nothing was lost");
    assert_eq!(world.rest().get("/jobs/own").await.code(404), "job_not_found", "what was refused was not stored later");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_survives_a_restart_of_the_broker() {
    let mut world = World::start().await;
    let agent = world.agent("default").await;
    let rest = world.rest().clone();
    let waiting = muster_runtime::tasks::Group::new("waiting").spawn(async move { rest.post("/jobs?wait=60s", &job(json!({}))).await });
    let taken = agent.take().await;
    world.server.kill().await.unwrap();
    world.server.restart().await.unwrap();
    let stored = eventually("the agent's result is stored", async || {
        let body = muster_schemas::wire::encode(&agent.result(&taken, "after"));
        let subject = muster_schemas::subjects::About::Result.job(&agent.pool, &taken.id);
        tokio::time::timeout(Duration::from_secs(1), agent.client.request(subject, body.into())).await.ok()?.ok()
    })
    .await;
    assert!(!stored.payload.is_empty());
    let done = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap().data(200);
    assert_eq!(done["result"]["stdout"], "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_answers_its_waiters_with_the_job_as_it_is() {
    let mut world = World::with_gateways(2).await;
    let rest = world.rest().clone();
    let waiting =
        muster_runtime::tasks::Group::new("waiting").spawn(async move { rest.post("/jobs?wait=60s", &job(json!({"id": "kept"}))).await });
    eventually("the job is stored", async || (world.gateways[1].rest.get("/jobs/kept").await.status == 200).then_some(())).await;
    let begun = Instant::now();
    world.gateways.remove(0).stop().await;
    assert_eq!(waiting.await.unwrap().data(202)["state"], "pending");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(world.rest().state("kept").await, "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_waiters_each_get_their_own_result() {
    let world = World::with_gateways(2).await;
    let _work = [world.agent("default").await.work(), world.agent("default").await.work()];
    let submits = (0..100).map(|n| {
        let rest = world.gateways[n % 2].rest.clone();
        async move { rest.post("/jobs?wait=30s", &job(json!({"labels": {"n": n.to_string()}}))).await.data(200) }
    });
    for (n, done) in futures_util::future::join_all(submits).await.into_iter().enumerate() {
        assert_eq!((&done["state"], &done["labels"]["n"]), (&json!("succeeded"), &json!(n.to_string())));
    }
}
