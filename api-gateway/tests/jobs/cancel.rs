//! Cancelling a job wherever it is.

use async_nats::HeaderMap;
use futures_util::StreamExt as _;
use muster_schemas::{
    code::Code,
    control::{Order, What},
    event::EventKind,
    result::{ErrorInfo, JobResult, Outcome},
    subjects::{self, About},
    time::Timestamp,
    wire,
};
use serde_json::json;

use crate::world::{SOON, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_job_that_is_cancelled_never_runs() {
    let world = World::with_gateways(2).await;
    let agent = world.agent("default").await;
    let id = world.rest().submit(json!({"labels": {"a": "b"}, "priority": "normal"})).await.data(202)["id"].as_str().unwrap().to_owned();
    let cancelled = world.gateways[1].rest.cancel(&id).await.data(200);
    assert_eq!((&cancelled["state"], &cancelled["labels"]["a"], &cancelled["attempt"]), (&json!("cancelled"), &json!("b"), &json!(0)));
    assert_eq!(cancelled["result"]["error"]["code"], "cancelled");
    assert!(agent.finds_nothing().await);
    assert_eq!(world.rest().get(&format!("/jobs/{id}")).await.data(200), cancelled);
    assert_eq!(world.rest().cancel(&id).await.data(200), cancelled, "again is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_fenced_and_its_agent_told_to_stop_it() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let mut orders = agent.client.subscribe(subjects::control(&agent.id)).await.unwrap();
    agent.client.flush().await.unwrap();
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    let taken = agent.take().await;
    agent.tell(&taken.id, EventKind::Started, 1).await;
    let cancelled = world.rest().cancel(&id).await.data(200);
    assert_eq!((&cancelled["state"], &cancelled["agent_id"], &cancelled["attempt"]), (&json!("cancelled"), &json!(agent.id), &json!(1)));
    let order = tokio::time::timeout(SOON, orders.next()).await.unwrap().unwrap();
    assert_eq!(wire::decode::<Order>(&order.payload).unwrap().what, What::Cancel { job_id: taken.id.clone() });
    assert!(!agent.finish(&taken, "late").await, "the first result stands");
    assert_eq!(world.rest().get(&format!("/jobs/{id}")).await.data(200), cancelled);
    assert!(agent.finds_nothing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_answered_once_agents_have_heard_of_it() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    world.enlist(&agent, "one", |_| {}).await;
    let mut orders = agent.client.subscribe(subjects::control(&agent.id)).await.unwrap();
    let mut asked = agent.client.subscribe(subjects::rpc_of(&agent.id)).await.unwrap();
    agent.client.flush().await.unwrap();
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    let cancel = world.rest().cancel(&id);
    tokio::pin!(cancel);
    let request = tokio::select! {
        _ = &mut cancel => panic!("answered, and its agent may be about to start it"),
        request = asked.next() => request.unwrap(),
    };
    // What it answers comes behind the order, which is on its way before.
    assert!(tokio::time::timeout(SOON, orders.next()).await.is_ok());
    agent.client.publish(request.reply.unwrap(), "".into()).await.unwrap();
    assert_eq!(cancel.await.data(200)["state"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_holds_up_no_other_job_that_is_due_again() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let mut left = std::collections::BTreeSet::new();
    for _ in 0..30 {
        left.insert(world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned());
    }
    // All are due to be given out again, and nobody asks for them yet.
    for _ in 0..30 {
        let taken = agent.take().await;
        agent.client.publish(taken.message.reply.clone().unwrap(), r#"-NAK {"delay": 1000000}"#.into()).await.unwrap();
    }
    for id in left.iter().step_by(3).cloned().collect::<Vec<_>>() {
        world.rest().cancel(&id).await.data(200);
        left.remove(&id);
    }
    while !left.is_empty() {
        let taken = agent.take().await;
        assert!(left.remove(taken.id.as_str()), "{} was cancelled", taken.id);
        assert!(agent.finish(&taken, "").await);
    }
    assert!(agent.finds_nothing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_is_not_cancelled() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    let taken = agent.take().await;
    // Its result is stored and its message still in the queue: what a cancel in the last moment finds.
    assert!(agent.store(&agent.pool, &taken.id, wire::encode(&agent.result(&taken, "won")), HeaderMap::new()).await);
    for _ in 0..2 {
        let refused = world.rest().cancel(&id).await;
        assert_eq!(refused.code(409), "job_finished");
        assert!(refused.body["detail"].as_str().unwrap().contains("succeeded"), "{}", refused.body);
        agent.ack(&taken).await;
    }
    assert_eq!(world.rest().get(&format!("/jobs/{id}")).await.data(200)["result"]["stdout"], "won");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_and_a_finish_at_the_same_moment_leave_one_result_that_both_saw() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    for _ in 0..30 {
        let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
        let taken = agent.take().await;
        let (cancelled, finished) = tokio::join!(world.rest().cancel(&id), agent.finish(&taken, "x"));
        let state = world.rest().state(&id).await;
        match state.as_str() {
            "cancelled" => assert!(cancelled.status == 200 && !finished, "{cancelled:?}"),
            "succeeded" => assert!(cancelled.status == 409 && finished, "{cancelled:?}"),
            other => panic!("{other}"),
        }
    }
    assert!(agent.finds_nothing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_stays_cancelled_when_its_id_is_submitted_again() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    world.rest().submit(json!({"id": "mine", "result_ttl_s": 600})).await.data(202);
    world.rest().cancel("mine").await.data(200);
    assert_eq!(world.rest().submit(json!({"id": "mine"})).await.data(200)["state"], "cancelled");
    assert!(agent.finds_nothing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_the_job_is_cancelled() {
    let world = World::with_gateways(2).await;
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    let waiting = world.gateways[1].rest.clone();
    let path = format!("/jobs/{id}?wait=20s");
    let (seen, _) = tokio::join!(waiting.get(&path), world.rest().cancel(&id));
    assert_eq!(seen.data(200)["state"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_stopped_half_way_is_finished_by_the_next_one() {
    let world = World::start().await;
    let (agent, core) = (world.agent("default").await, world.core().await);
    let queued = world.rest().submit(json!({"id": "half"})).await.data(202);
    // The fence of a gateway that died before it took the job out of the queue.
    let (at, error) = (Timestamp::now(), ErrorInfo::new(Code::Cancelled, "fence"));
    let fence = JobResult::never_ran(Outcome::Cancelled, error, at, at);
    let subject = About::Result.job(&agent.pool, &"half".parse().unwrap());
    core.request(subject, wire::encode(&fence).into()).await.unwrap();
    assert_eq!((&queued["state"], world.rest().state("half").await.as_str()), (&json!("pending"), "cancelled"));
    let again = world.rest().cancel("half").await.data(200);
    assert_eq!((&again["state"], &again["result"]["error"]["message"]), (&json!("cancelled"), &json!("fence")));
    assert_eq!(world.rest().get("/pools/default").await.data(200)["queue"]["pending"], 0);
    assert!(agent.finds_nothing().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_result_is_kept_as_long_as_its_job_says() {
    let world = World::start().await;
    world.rest().submit(json!({"id": "brief", "result_ttl_s": 1})).await.data(202);
    world.rest().cancel("brief").await.data(200);
    eventually("the result is forgotten", async || (world.rest().get("/jobs/brief").await.status == 404).then_some(())).await;
    assert_eq!(world.rest().submit(json!({"id": "brief"})).await.data(202)["state"], "pending", "its id is free again");
}
