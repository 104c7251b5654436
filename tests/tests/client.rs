//! The client library against the real gateway and real agents: what its own tests play, done for real.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and their tasks end with the test"
)]

use std::time::Duration;

use muster_client::{
    Error, NewJob, Update,
    schemas::{event::EventKind, names::JobId, names::PoolName, result::Outcome},
};
use muster_tests::{Stack, StackOptions, stack::POOL, within};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

fn pool() -> PoolName {
    POOL.parse().unwrap()
}

fn own(id: &str) -> JobId {
    id.parse().unwrap()
}

fn echo(text: &str) -> NewJob {
    NewJob::new("probe.echo", json!({"text": text}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_id_used_twice_answers_the_first_job_while_it_waits_and_after_it_ended() {
    let mut stack = Stack::start(StackOptions { agents: 1, ..StackOptions::default() }).await;
    let client = stack.service().await;
    stack.agents[0].freeze();
    let first = client.submit(&pool(), echo("first").id(own("mine"))).await.unwrap();
    let second = client.submit(&pool(), echo("second").id(own("mine"))).await.unwrap();
    assert_eq!((first.already, second.already), (false, true));
    assert_eq!(client.result(&pool(), &own("mine")).await.unwrap(), None);
    stack.agents[0].thaw();
    let result = client.wait(&pool(), &own("mine"), SOON).await.unwrap();
    assert_eq!(result.data.unwrap()["text"], "first");
    let third = client.run(&pool(), echo("third").id(own("mine")), SOON).await.unwrap();
    assert_eq!(third.data.unwrap()["text"], "first");
    stack.agents.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_a_running_job_and_a_finished_one_says_how_it_ended() {
    let stack = Stack::usual().await;
    let client = stack.service().await;
    let id = own("long");
    let mut watch = client.watch(&pool(), &id).await.unwrap();
    client.submit(&pool(), NewJob::new("probe.sleep", json!({"seconds": 600})).id(id.clone())).await.unwrap();
    loop {
        let update = within("the start of the job", SOON, watch.next()).await.unwrap().unwrap();
        if matches!(&update, Update::Event(event) if event.kind == EventKind::Started) {
            break;
        }
        assert!(matches!(update, Update::Queued | Update::Log(_) | Update::Progress { .. }), "{update:?}");
    }
    assert_eq!(client.cancel(&pool(), &id).await.unwrap().outcome, Outcome::Cancelled);
    assert_eq!(client.wait(&pool(), &id, SOON).await.unwrap().outcome, Outcome::Cancelled);
    let last = within("the end of the job", SOON, async {
        let mut last = None;
        while let Some(update) = watch.next().await {
            last = Some(update.unwrap());
        }
        last
    });
    assert!(matches!(last.await, Some(Update::Done(result)) if result.outcome == Outcome::Cancelled));

    client.run(&pool(), echo("done").id(own("done")), SOON).await.unwrap();
    match client.cancel(&pool(), &own("done")).await {
        Err(Error::AlreadyFinished { result, .. }) => assert_eq!(result.outcome, Outcome::Succeeded),
        other => panic!("{other:?}"),
    }
    assert!(matches!(client.cancel(&pool(), &own("nobody")).await, Err(Error::NotFound { .. })));
    assert!(matches!(client.wait(&pool(), &own("nobody"), SOON).await, Err(Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_writes_is_told_while_it_runs() {
    let stack = Stack::start(StackOptions { agent_env: vec![("EXECUTORS", "shell,http".into())], ..StackOptions::default() }).await;
    let client = stack.service().await;
    let id = own("talks");
    let mut watch = client.watch(&pool(), &id).await.unwrap();
    let job = NewJob::new("shell.run", json!({"command": "echo one; sleep 1; echo two"}));
    client.submit(&pool(), job.id(id)).await.unwrap();
    let (mut written, mut done) = (String::new(), None);
    while let Some(update) = within("an update", SOON, watch.next()).await {
        match update.unwrap() {
            Update::Log(chunk) => written.push_str(&chunk.data.to_text()),
            Update::Done(result) => done = Some(result),
            Update::Queued | Update::Event(_) | Update::Progress { .. } => {}
        }
    }
    assert_eq!((written.as_str(), done.unwrap().stdout.to_text().as_ref()), ("one\ntwo\n", "one\ntwo\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_outlives_the_gateway_and_the_broker() {
    let mut stack = Stack::usual().await;
    let client = stack.service().await;
    let job = client.submit(&pool(), NewJob::new("probe.sleep", json!({"seconds": 3}))).await.unwrap();
    let waiter = {
        let client = client.clone();
        tokio::spawn(async move { client.wait(&job.pool, &job.id, SOON).await })
    };
    stack.gateways[0].kill9();
    stack.broker.kill().await.unwrap();
    stack.broker.restart().await.unwrap();
    stack.gateways[0] = stack.gateway(0);
    let result = within("the result", SOON * 2, waiter).await.unwrap().unwrap();
    assert_eq!(result.outcome, Outcome::Succeeded);
}
