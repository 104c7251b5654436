//! What a service can rely on, with its own credentials on a real broker. Agent and gateway are played by the test, with the
//! permissions that the real ones have.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and their helpers end with the runtime of the test"
)]

#[path = "service/atomic.rs"]
mod atomic;
#[path = "service/commits.rs"]
mod commits;
#[path = "service/last.rs"]
mod last;
#[path = "service/stage.rs"]
mod stage;

use std::time::{Duration, Instant};

use muster_client::{
    Client, Error, NewJob, Update,
    schemas::{
        event::EventKind,
        headers,
        names::JobId,
        result::{JobResult, Outcome},
    },
};
use serde_json::json;
use stage::{Cut, PATIENCE, Stage, eventually};

fn echo(text: &str) -> NewJob {
    NewJob::new("probe.echo", json!({"text": text}))
}

fn text(result: &JobResult) -> &str {
    result.data.as_ref().unwrap()["text"].as_str().unwrap()
}

fn own(id: &str) -> JobId {
    id.parse().unwrap()
}

#[tokio::test]
async fn running_a_job_gives_its_result_without_asking_a_gateway() {
    let stage = Stage::set(100).await;
    let mut agent = stage.play_agent().await;
    let client = stage.service().await;
    let result = client.run(&stage.pool, echo("hello"), PATIENCE).await.unwrap();
    assert_eq!((result.outcome, text(&result)), (Outcome::Succeeded, "hello"));
    let (id, seen) = agent.jobs.recv().await.unwrap();
    assert_eq!(own(&id).belongs_to(&stage.pool), Some(true));
    assert_eq!(seen.get(headers::FRESH).unwrap().as_str(), "1");
    assert!(seen.get(headers::MSG_ID).is_none());
}

#[tokio::test]
async fn many_jobs_at_once_each_get_their_own_result() {
    let stage = Stage::set(1000).await;
    let _agent = stage.play_agent().await;
    let client = stage.service().await;
    let runs = (0..200).map(|number| {
        let (client, pool) = (client.clone(), stage.pool.clone());
        tokio::task::spawn(async move { (number, client.run(&pool, echo(&number.to_string()), PATIENCE).await.unwrap()) })
    });
    for run in runs.collect::<Vec<_>>() {
        let (number, result) = run.await.unwrap();
        assert_eq!(text(&result), number.to_string());
    }
}

#[tokio::test]
async fn a_second_submit_under_an_own_id_answers_the_first_job_while_it_is_queued_and_when_it_has_ended() {
    let stage = Stage::set(100).await;
    stage.play_gateway().await;
    let client = stage.service().await;
    let first = client.submit(&stage.pool, echo("first").id(own("mine"))).await.unwrap();
    let again = client.submit(&stage.pool, echo("second").id(own("mine"))).await.unwrap();
    assert_eq!((first.already, again.already, again.id), (false, true, own("mine")));
    let _agent = stage.play_agent().await;
    assert_eq!(text(&client.wait(&stage.pool, &own("mine"), PATIENCE).await.unwrap()), "first");
    let third = client.run(&stage.pool, echo("third").id(own("mine")), PATIENCE).await.unwrap();
    assert_eq!(text(&third), "first");
    assert!(client.submit(&stage.pool, echo("fourth").id(own("mine"))).await.unwrap().already);
}

#[tokio::test]
async fn two_waiters_for_one_job_both_get_its_result() {
    let stage = Stage::set(100).await;
    stage.play_gateway().await;
    let client = stage.service().await;
    let job = client.submit(&stage.pool, echo("x")).await.unwrap();
    let wait = || client.wait(&stage.pool, &job.id, PATIENCE);
    let (one, two, _agent) = tokio::join!(wait(), wait(), stage.play_agent());
    assert_eq!(one.unwrap(), two.unwrap());
}

#[tokio::test]
async fn a_job_for_an_executor_that_nobody_has_is_refused_at_once_by_name() {
    let stage = Stage::set(100).await;
    let client = stage.service().await;
    let began = Instant::now();
    let error = client.submit(&stage.pool, NewJob::new("telepathy.send", json!({}))).await.unwrap_err();
    assert!(matches!(error, Error::NoLane { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("`p`") && text.contains("`telepathy`") && text.contains("normal"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_pool_that_the_credentials_do_not_name_is_forbidden_at_once() {
    let stage = Stage::set(100).await;
    let client = stage.service().await;
    let other = "q".parse().unwrap();
    let began = Instant::now();
    let refused = [
        client.submit(&other, echo("x")).await.unwrap_err(),
        client.run(&other, echo("x"), PATIENCE).await.unwrap_err(),
        client.wait(&other, &own("x"), PATIENCE).await.unwrap_err(),
        client.cancel(&other, &own("x")).await.unwrap_err(),
        client.watch(&other, &own("x")).await.unwrap().next().await.unwrap().unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_full_queue_is_told_apart_from_a_repeated_id() {
    let stage = Stage::set(1).await;
    let client = stage.service().await;
    client.submit(&stage.pool, echo("1").id(own("one"))).await.unwrap();
    assert!(client.submit(&stage.pool, echo("1").id(own("one"))).await.unwrap().already);
    let error = client.submit(&stage.pool, echo("2")).await.unwrap_err();
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
    assert!(error.is_temporary());
}

#[tokio::test]
async fn a_job_that_nobody_knows_is_not_waited_for() {
    let stage = Stage::set(100).await;
    stage.play_gateway().await;
    let client = stage.service().await;
    let error = client.wait(&stage.pool, &own("nobody"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(matches!(client.result(&stage.pool, &own("nobody")).await, Err(Error::NotFound { .. })));
    let of_another_pool = JobId::generate(&"q".parse().unwrap());
    assert!(matches!(client.wait(&stage.pool, &of_another_pool, PATIENCE).await, Err(Error::NotFound { .. })));
    let watched = client.watch(&stage.pool, &own("nobody")).await.unwrap().next().await.unwrap();
    assert!(matches!(watched, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_wait_that_is_over_says_so_and_the_job_goes_on() {
    let stage = Stage::set(100).await;
    let client = stage.service().await;
    let error = client.run(&stage.pool, echo("late").id(own("late")), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(&error, Error::WaitTimedOut { id, .. } if *id == own("late")), "{error}");
    let id = own("late");
    let (result, _agent) = tokio::join!(client.wait(&stage.pool, &id, PATIENCE), stage.play_agent());
    assert_eq!(text(&result.unwrap()), "late");
}

#[tokio::test]
async fn a_result_that_was_stored_while_the_connection_was_lost_is_found() {
    let stage = Stage::set(100).await;
    stage.play_gateway().await;
    let cut = Cut::before(&stage.broker).await;
    let client = Client::connect(&cut.url, stage.creds()).await.unwrap();
    let job = client.submit(&stage.pool, echo("missed")).await.unwrap();
    let waiter = {
        let (client, pool, id) = (client.clone(), stage.pool.clone(), job.id.clone());
        tokio::task::spawn(async move { client.wait(&pool, &id, PATIENCE).await })
    };
    // The first look of the wait is over once a second one would be answered.
    eventually("the waiter is in place", async || client.nats().flush().await.is_ok()).await;
    cut.cut();
    let witness = stage.service().await;
    let _agent = stage.play_agent().await;
    eventually("the result is stored", async || witness.result(&stage.pool, &job.id).await.is_ok_and(|found| found.is_some())).await;
    assert!(!waiter.is_finished());
    let began = Instant::now();
    cut.mend();
    assert_eq!(text(&waiter.await.unwrap().unwrap()), "missed");
    assert!(began.elapsed() < Duration::from_secs(10), "took {:?}", began.elapsed());
}

#[tokio::test]
async fn a_submit_while_the_broker_restarts_is_stored_once() {
    let mut stage = Stage::set(100).await;
    let client = stage.service().await;
    stage.broker.kill().await.unwrap();
    let submit = {
        let (client, pool) = (client.clone(), stage.pool.clone());
        tokio::task::spawn(async move { client.submit(&pool, echo("through")).await })
    };
    stage.broker.restart().await.unwrap();
    let job = submit.await.unwrap().unwrap();
    let mut agent = stage.play_agent().await;
    assert_eq!(text(&client.wait(&stage.pool, &job.id, PATIENCE).await.unwrap()), "through");
    client.run(&stage.pool, echo("after").id(own("after")), PATIENCE).await.unwrap();
    let order = [agent.jobs.recv().await.unwrap().0, agent.jobs.recv().await.unwrap().0];
    assert_eq!(order, [job.id.to_string(), "after".to_owned()]);
}

#[tokio::test]
async fn watching_a_job_tells_its_life_in_order() {
    let stage = Stage::set(100).await;
    let client = stage.service().await;
    let mut watch = client.watch(&stage.pool, &own("seen")).await.unwrap();
    let job = NewJob::new("probe.echo", json!({"say": "hello", "text": "t"})).id(own("seen"));
    client.submit(&stage.pool, job).await.unwrap();
    let _agent = stage.play_agent().await;
    let mut told = Vec::new();
    while let Some(update) = watch.next().await {
        told.push(match update.unwrap() {
            Update::Queued => "queued".to_owned(),
            Update::Event(event) => {
                assert_eq!(event.kind, EventKind::Started);
                "started".to_owned()
            }
            Update::Log(chunk) => chunk.data.to_text().into_owned(),
            Update::Progress { attempt, progress, .. } => format!("{attempt}: {} % {}", progress.percent, progress.message),
            Update::Done(result) => result.outcome.to_string(),
        });
    }
    assert_eq!(told, ["queued", "started", "hello", "1: 50 % half", "succeeded"]);
}

#[tokio::test]
async fn what_a_gateway_says_to_a_cancel_is_passed_on() {
    let stage = Stage::set(100).await;
    let client = stage.service().await;
    let error = client.cancel(&stage.pool, &own("x")).await.unwrap_err();
    assert!(matches!(error, Error::NoGateway), "{error}");
    stage.play_gateway().await;
    let error = client.cancel(&stage.pool, &own("x")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let _agent = stage.play_agent().await;
    client.run(&stage.pool, echo("done").id(own("x")), PATIENCE).await.unwrap();
    match client.cancel(&stage.pool, &own("x")).await {
        Err(Error::AlreadyFinished { result, .. }) => assert_eq!(text(&result), "done"),
        other => panic!("{other:?}"),
    }
}
