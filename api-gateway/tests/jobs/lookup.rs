//! Where a job is, as any gateway sees it.

use async_nats::HeaderMap;
use muster_schemas::{control::QueryAnswer, event::EventKind, names::JobId, result::Outcome, subjects::Query, wire};
use reqwest::Method;
use serde_json::json;

use crate::world::{World, eventually, pool};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_followed_from_pending_to_its_result_and_two_gateways_answer_alike() {
    let world = World::with_gateways(2).await;
    let (one, two) = (world.rest(), &world.gateways[1].rest);
    let agent = world.agent("default").await;
    let id = one.submit(json!({"labels": {"k": "v"}})).await.data(202)["id"].as_str().unwrap().to_owned();
    let path = format!("/jobs/{id}");
    let same = async || {
        let (first, second) = (one.get(&path).await.data(200), two.get(&path).await.data(200));
        assert_eq!(first, second);
        first
    };
    let pending = same().await;
    assert_eq!((&pending["state"], &pending["type"], &pending["labels"]["k"]), (&json!("pending"), &json!("shell.run"), &json!("v")));
    assert!(pending["queued_at"].is_string());
    let taken = agent.take().await;
    agent.tell(&taken.id, EventKind::Started, 1).await;
    let running = same().await;
    assert_eq!((&running["state"], &running["attempt"], &running["agent_id"]), (&json!("running"), &json!(1), &json!(agent.id)));
    agent.tell(&taken.id, EventKind::Retrying, 1).await;
    let retrying = same().await;
    assert_eq!((&retrying["state"], &retrying["reason"]), (&json!("retrying"), &json!("told by a test")));
    assert!(agent.finish(&taken, "ok").await);
    let done = same().await;
    assert_eq!((&done["state"], &done["result"]["stdout"]), (&json!("succeeded"), &json!("ok")));
    assert_eq!(two.get(&format!("{path}?wait=5s")).await.data(200), done);
    assert_eq!(one.get(&format!("{path}?pool=other")).await.code(404), "job_not_found");
    assert_eq!(one.get(&format!("{path}?pool=a.b")).await.code(400), "name_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_running_job_ends_with_its_result() {
    let world = World::with_gateways(2).await;
    let agent = world.agent("default").await;
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    let taken = agent.take().await;
    let waiting = world.gateways[1].rest.clone();
    let path = format!("/jobs/{id}?wait=20s");
    let (answer, stored) = tokio::join!(waiting.get(&path), agent.finish(&taken, "x"));
    assert!(stored);
    assert_eq!(answer.data(200)["state"], "succeeded");
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    assert_eq!(world.rest().get(&format!("/jobs/{id}?wait=20ms")).await.data(200)["state"], "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_ended_has_ended_for_everybody_though_it_is_still_in_its_queue() {
    let world = World::start().await;
    let (rest, agent, service) = (world.rest(), world.agent("other").await, world.service(&["other"]).await);
    rest.submit(json!({"id": "a", "pool": "other"})).await.data(202);
    let taken = agent.take().await;
    assert!(agent.end(&taken, "out").await);
    let queue = async || rest.get("/pools/other").await.data(200)["queue"].clone();
    assert_eq!((&queue().await["pending"], &queue().await["running"]), (&json!(0), &json!(1)), "its ack waits");
    for path in ["/jobs/a", "/jobs/a?pool=other", "/jobs/a?wait=20s"] {
        assert_eq!(rest.get(path).await.data(200)["state"], "succeeded", "{path}");
    }
    assert_eq!(rest.get("/jobs/a/why").await.data(200)["reason"], "finished");
    assert_eq!(rest.cancel("a").await.code(409), "job_finished");
    let again = rest.submit(json!({"id": "a", "pool": "other"})).await;
    assert_eq!(again.data(200)["result"]["stdout"], "out", "a repeated submit");
    let asked = service.request(Query::Result.subject(&pool("other"), &taken.id), "".into()).await.unwrap();
    let asked: QueryAnswer = wire::decode(&asked.payload).unwrap();
    assert_eq!((asked.result.unwrap().outcome, asked.queued), (Outcome::Succeeded, false));
    let retried = rest.send(Method::POST, "/jobs/a/retry?pool=other", &[], None).await.data(202);
    assert_eq!(retried["parent"], "a");
    // It keeps nobody from removing its pool; one that has not ended does.
    assert_eq!(rest.delete("/pools/other").await.code(409), "pool_not_empty");
    let next = agent.take().await;
    assert!(agent.end(&next, "out").await);
    assert_eq!(rest.delete("/pools/other").await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_has_is_not_found() {
    let world = World::start().await;
    let unknown = JobId::generate(&pool("default"));
    for id in [unknown.as_str(), "nobody", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
        assert_eq!(world.rest().get(&format!("/jobs/{id}")).await.code(404), "job_not_found");
        assert_eq!(world.rest().get(&format!("/jobs/{id}?wait=1s")).await.code(404), "job_not_found");
        assert_eq!(world.rest().cancel(id).await.code(404), "job_not_found");
        assert_eq!(world.rest().get(&format!("/jobs/{id}/logs")).await.code(404), "job_not_found");
    }
    for id in ["a.b", "*", "%3E", "a%20b", "a%0d%0a"] {
        assert_eq!(world.rest().get(&format!("/jobs/{id}")).await.code(400), "name_invalid", "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_forged_under_another_pool_changes_nothing() {
    let world = World::start().await;
    let (agent, forger) = (world.agent("default").await, world.agent("other").await);
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    let taken = agent.take().await;
    let forged = wire::encode(&agent.result(&taken, "forged"));
    assert!(forger.store(&forger.pool, &taken.id, forged, HeaderMap::new()).await, "the broker cannot know");
    forger.tell(&taken.id, EventKind::Started, 9).await;
    let seen = world.rest().get(&format!("/jobs/{id}")).await.data(200);
    assert_eq!((&seen["state"], &seen["pool"], &seen["attempt"]), (&json!("pending"), &json!("default"), &json!(0)));
    assert_eq!(world.rest().get(&format!("/jobs/{id}?pool=other")).await.code(404), "job_not_found");
    assert!(agent.finish(&taken, "real").await);
    assert_eq!(world.rest().get(&format!("/jobs/{id}")).await.data(200)["result"]["stdout"], "real");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_id_in_two_pools_needs_the_pool() {
    let world = World::start().await;
    let rest = world.rest();
    for pool in ["default", "other"] {
        rest.submit(json!({"id": "twin", "pool": pool})).await.data(202);
    }
    let ambiguous = rest.get("/jobs/twin").await;
    assert_eq!(ambiguous.code(409), "job_ambiguous");
    assert!(ambiguous.body["detail"].as_str().unwrap().contains("?pool="));
    assert_eq!(rest.cancel("twin").await.code(409), "job_ambiguous");
    assert_eq!(rest.get("/jobs/twin?pool=other").await.data(200)["pool"], "other");
    let cancel = async |pool: &str| rest.send(reqwest::Method::POST, &format!("/jobs/twin/cancel?pool={pool}"), &[], None).await;
    assert_eq!(cancel("nowhere").await.code(404), "job_not_found");
    assert_eq!(cancel("other").await.data(200)["pool"], "other");
    assert_eq!(rest.get("/jobs/twin?pool=default").await.data(200)["state"], "pending", "only the other one was cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_stored_that_is_no_result_is_shown_as_a_failure() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    let taken = agent.take().await;
    assert!(agent.store(&agent.pool, &taken.id, b"hello".to_vec(), HeaderMap::new()).await);
    agent.ack(&taken).await;
    let seen = world.rest().get(&format!("/jobs/{id}")).await.data(200);
    assert_eq!((&seen["state"], &seen["result"]["error"]["code"]), (&json!("failed"), &json!("body_malformed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_published_straight_onto_nats_is_found_like_any_other() {
    let world = World::start().await;
    let service = world.service(&["other"]).await;
    let lane = &muster_schemas::lane::Lane::of(&"shell".parse().unwrap())[1];
    for (id, body) in [("bare", r#"{"type":"shell.run"}"#), ("garbage", "hello")] {
        let subject = muster_schemas::subjects::job(&pool("other"), lane, &id.parse().unwrap());
        service.publish(subject, body.into()).await.unwrap();
        service.flush().await.unwrap();
        let seen = eventually("the job is stored", async || {
            let answer = world.rest().get(&format!("/jobs/{id}")).await;
            (answer.status == 200).then(|| answer.data(200))
        })
        .await;
        assert_eq!((&seen["state"], &seen["pool"]), (&json!("pending"), &json!("other")));
    }
}
