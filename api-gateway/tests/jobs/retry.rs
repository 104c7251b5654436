//! Running a finished job again.

use muster_schemas::{event::EventKind, job::Job, lane::Lane, subjects};
use reqwest::Method;
use serde_json::json;

use crate::world::{Answer, Rest, World, eventually, pool};

async fn retry(rest: &Rest, id: &str, query: &str) -> Answer {
    rest.send(Method::POST, &format!("/jobs/{id}/retry{query}"), &[], None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_runs_again_as_a_new_one_that_names_its_first_parent() {
    let world = World::start().await;
    let (rest, agent) = (world.rest(), world.agent("default").await);
    let fields = json!({"id": "mine", "params": {"command": "date"}, "labels": {"k": "v"}, "timeout_s": 7, "priority": "normal"});
    rest.submit(fields).await.data(202);
    let first = agent.take().await;
    assert_eq!(retry(rest, "mine", "").await.code(409), "job_not_finished");
    agent.tell(&first.id, EventKind::Started, 1).await;
    assert_eq!(retry(rest, "mine", "").await.code(409), "job_not_finished");
    assert!(agent.finish(&first, "ok").await);
    let mut parent = "mine".to_owned();
    for _ in 0..2 {
        let again = retry(rest, &parent, "").await;
        assert!(again.headers["location"].to_str().unwrap().starts_with("/api/v1/jobs/job_"));
        let again = again.data(202);
        assert_eq!(
            (&again["parent"], &rest.get(&format!("/jobs/{}", again["id"].as_str().unwrap())).await.data(200)["parent"]),
            (&json!("mine"), &json!("mine"))
        );
        assert_eq!((&again["state"], &again["pool"], &again["labels"]["k"]), (&json!("pending"), &json!("default"), &json!("v")));
        let taken = agent.take().await;
        assert_eq!(taken.id.as_str(), again["id"]);
        let job = Job::decode(&taken.message.payload).unwrap();
        assert_eq!((job.parent.unwrap().as_str(), job.timeout.unwrap().as_secs(), job.params), ("mine", 7, json!({"command": "date"})));
        assert!(agent.finish(&taken, "ok").await);
        parent = taken.id.to_string();
    }
    assert!(rest.submit(json!({})).await.data(202).get("parent").is_none());
    assert_eq!(retry(rest, "nobody", "").await.code(404), "job_not_found");
    assert_eq!(retry(rest, "mine", "?pool=other").await.code(404), "job_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_repeated_with_its_key_makes_one_job() {
    let world = World::start().await;
    let (rest, agent) = (world.rest(), world.agent("default").await);
    for id in ["one", "two"] {
        rest.submit(json!({"id": id, "params": {"command": "date"}})).await.data(202);
        let taken = agent.take().await;
        assert!(agent.finish(&taken, "ok").await);
    }
    let keyed = async |id: &str, key: &str| rest.send(Method::POST, &format!("/jobs/{id}/retry"), &[("Idempotency-Key", key)], None).await;
    // Also when both are under way at once.
    let (first, second) = tokio::join!(keyed("one", "k"), keyed("one", "k"));
    let (first, second) = (first.data(202), second.data(202));
    assert_eq!((&first["id"], &first["parent"]), (&second["id"], &json!("one")));
    let taken = agent.take().await;
    assert_eq!(taken.id.as_str(), first["id"]);
    assert!(agent.finds_nothing().await, "one job");
    assert!(agent.finish(&taken, "ok").await);
    let ended = keyed("one", "k").await.data(200);
    assert_eq!((&ended["id"], &ended["state"]), (&first["id"], &json!("succeeded")));
    assert!(agent.finds_nothing().await, "it has run");
    let others = [keyed("one", "l").await.data(202)["id"].clone(), keyed("two", "k").await.data(202)["id"].clone()];
    assert!(!others.contains(&first["id"]) && others[0] != others[1], "{others:?}");
    assert_eq!(keyed("one", "a b").await.code(400), "header_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_bare_client_runs_again_in_its_lane() {
    let world = World::start().await;
    let (rest, agent, service) = (world.rest(), world.agent("default").await, world.service(&["default"]).await);
    rest.put("/pools/default", &json!({"executors": ["shell"]})).await;
    let lane = &Lane::of(&"shell".parse().unwrap())[0];
    let subject = subjects::job(&pool("default"), lane, &"bare".parse().unwrap());
    service.publish(subject, r#"{"type":"shell.run","params":{"command":"date"}}"#.into()).await.unwrap();
    let taken = agent.take_of(lane.priority).await;
    assert!(agent.finish(&taken, "ok").await);
    let again = retry(rest, "bare", "").await.data(202);
    assert_eq!(again["priority"], "high");
    assert_eq!(agent.take_of(lane.priority).await.id.as_str(), again["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_body_is_not_kept_any_more_says_so() {
    let world = World::start().await;
    let (rest, agent) = (world.rest(), world.agent("default").await);
    let id = rest.submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    let taken = agent.take().await;
    // As many events as are kept push out the one that has the body.
    for attempt in 1..=64 {
        agent.tell(&taken.id, EventKind::Retrying, attempt).await;
    }
    assert!(agent.finish(&taken, "ok").await);
    assert_eq!(retry(rest, &id, "").await.code(409), "body_not_kept");
    // A job that was none: rejected, and no better the second time.
    let service = world.service(&["default"]).await;
    let lane = &Lane::of(&"shell".parse().unwrap())[1];
    service.publish(subjects::job(&pool("default"), lane, &"odd".parse().unwrap()), "hello".into()).await.unwrap();
    let taken = agent.take().await;
    assert!(agent.finish(&taken, "").await);
    let answer = eventually("its event is stored", async || {
        let answer = retry(rest, "odd", "").await;
        answer.body["detail"].as_str().unwrap_or_default().contains("can't run again").then_some(answer)
    })
    .await;
    assert_eq!(answer.code(409), "body_not_kept");
}
