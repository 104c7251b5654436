//! Jobs that expire while no agent takes them are ended, and no other ones are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::Duration;

use futures_util::StreamExt as _;
use muster_schemas::{
    code::Code,
    control::{Order, What},
    names::AgentId,
    result::{ErrorInfo, JobResult, Outcome},
    subjects::{self, About},
    time::Timestamp,
    topology::COMMANDS,
    wire,
};

use crate::{
    history::{dispatcher_in, pool, starts},
    support::{POOL, SOON, Stack, eventually},
};

const EXPIRED: &str = "muster_jobs_expired_total";

fn body(expires_at: Timestamp) -> String {
    format!(r#"{{"type":"probe.echo","labels":{{"team":"a"}},"expires_at":"{expires_at}"}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_took_expires_and_one_that_runs_or_has_time_does_not() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let (mut agent, gone) = (stack.agent(POOL).await, stack.agent(POOL).await);
    agent.beats(|_| {}).await;
    let (past, future) = (Timestamp::now() - Duration::from_secs(5), Timestamp::now() + Duration::from_secs(3600));
    for (id, at) in [("late", past), ("runs", past), ("has-time", future)] {
        stack.queue("high.probe", id, &body(at)).await;
    }
    let away = AgentId::generate();
    stack.command(&away, "command", &body(past)).await;
    stack.command(&away, "waits", r#"{"type":"probe.echo"}"#).await;
    starts(&agent, "runs").await;
    // Begun by an agent of which nothing is heard.
    stack.queue("high.probe", "left", &body(past)).await;
    starts(&gone, "left").await;
    let dispatcher = dispatcher_in(&stack, folder.path(), &[("expire_after", "1s".into())]).await;
    for id in ["late", "command"] {
        let result = eventually(&format!("{id} expires"), SOON, async || stack.result(id).await).await;
        assert_eq!((result.outcome, result.attempt, result.agent_id, result.labels["team"].as_str()), (Outcome::Expired, 0, None, "a"));
        let error = result.error.unwrap();
        assert_eq!(error.code, Code::Expired);
        assert!(error.message.contains(&past.to_string()), "{}", error.message);
        eventually("it is counted", SOON, async || (stack.row(id, |_| true).await.state.is_final()).then_some(())).await;
    }
    let left = eventually("the one that was begun expires", SOON, async || stack.result("left").await).await;
    assert_eq!((left.outcome, left.attempt, left.agent_id, left.started_at), (Outcome::Expired, 1, Some(gone.id), None));
    eventually("they have left their queues", SOON, async || {
        let waiting = [stack.subjects("JOBS_default").await.into_keys(), stack.subjects(COMMANDS).await.into_keys()];
        let ids: Vec<String> = waiting.into_iter().flatten().filter_map(|subject| Some(subject.rsplit('.').next()?.to_owned())).collect();
        (ids == ["has-time", "runs", "waits"]).then_some(())
    })
    .await;
    // Two more looks, which a job that expires now shows.
    stack.queue("low.probe", "later", &body(Timestamp::now() + Duration::from_millis(500))).await;
    eventually("it expires", SOON, async || stack.result("later").await).await;
    for id in ["runs", "has-time", "waits"] {
        assert_eq!(stack.result(id).await, None, "{id}");
    }
    eventually("all are counted", SOON, async || (dispatcher.figure(EXPIRED).await == 4.0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_cancelled_leaves_its_queue_although_a_gateway_died_before_it_saw_to_that() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let agent = stack.agent(POOL).await;
    let mut orders = agent.client.subscribe(subjects::control(&agent.id)).await.unwrap();
    agent.client.flush().await.unwrap();
    let fence = async |id: &str, outcome| {
        let (now, code) = (Timestamp::now(), Code::Cancelled);
        let result = JobResult::never_ran(outcome, ErrorInfo::new(code, "x"), now, now);
        stack.gateway.request(About::Result.job(&pool(), &id.parse().unwrap()), wire::encode(&result).into()).await.unwrap();
    };
    let left = async |wanted: &[&str]| {
        eventually(&format!("only {wanted:?} wait"), SOON, async || {
            let waiting = [stack.subjects("JOBS_default").await.into_keys(), stack.subjects(COMMANDS).await.into_keys()];
            let ids = waiting.into_iter().flatten().filter_map(|subject| Some(subject.rsplit('.').next()?.to_owned()));
            (ids.collect::<Vec<_>>() == wanted).then_some(())
        })
        .await;
    };
    let body = r#"{"type":"probe.echo"}"#;
    for id in ["before", "ended", "later", "waits"] {
        stack.queue("low.probe", id, body).await;
    }
    stack.command(&agent.id, "command", body).await;
    fence("before", Outcome::Cancelled).await;
    // An agent's own; it takes it out itself.
    fence("ended", Outcome::Succeeded).await;
    let _dispatcher = dispatcher_in(&stack, folder.path(), &[("expire_after", "1s".into())]).await;
    left(&["ended", "later", "waits", "command"]).await;
    // While it is active.
    fence("later", Outcome::Cancelled).await;
    fence("command", Outcome::Cancelled).await;
    left(&["ended", "waits"]).await;
    // Who runs it is told to stop it.
    loop {
        let order = tokio::time::timeout(SOON, orders.next()).await.expect("an order").unwrap();
        match wire::decode::<Order>(&order.payload).unwrap().what {
            What::Cancel { job_id } if job_id.as_str() == "command" => break,
            What::Cancel { .. } | What::AskQueue => {}
            other => panic!("another order: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_expired_leaves_its_queue_although_a_dispatcher_died_before_it_saw_to_that() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let now = Timestamp::now();
    stack.queue("low.probe", "half", &body(now - Duration::from_secs(5))).await;
    let result = JobResult::never_ran(Outcome::Expired, ErrorInfo::new(Code::Expired, "x"), now, Timestamp::now());
    stack.gateway.request(About::Result.job(&pool(), &"half".parse().unwrap()), wire::encode(&result).into()).await.unwrap();
    let _dispatcher = dispatcher_in(&stack, folder.path(), &[("expire_after", "1s".into())]).await;
    // The broker's list is empty too as long as it does not answer.
    stack.queue("low.probe", "other", r#"{"type":"probe.echo"}"#).await;
    eventually("it has left its queue", SOON, async || {
        let waiting: Vec<String> = stack.subjects("JOBS_default").await.into_keys().collect();
        (waiting == ["jobs.default.low.probe.other"]).then_some(())
    })
    .await;
}
