//! Jobs that come more than once: retries, lost agents, ids used again, cancels.

use std::time::Duration;

use async_nats::HeaderMap;
use muster_schemas::{
    code::Code,
    control::{Order, Pong, What},
    event::{DeadLetter, EventKind},
    headers::{BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, REPUBLISHED_SUBJECT},
    lane::Priority,
    result::{JobResult, Outcome},
    subjects::{self, About},
    topology,
    wire::{self, V},
};
use serde_json::json;

use crate::bench::{Bench, SOON, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_attempt_is_retried_and_the_last_one_becomes_a_dead_letter() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let body = json!({"type": "probe.fail", "params": {"message": "no"}, "retry": {"max_attempts": 3, "initial_ms": 10, "max_ms": 20}});
    let id = bench.submit(body.clone()).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.attempt, result.history.len()), (Outcome::Failed, 3, 2));
    assert_eq!(result.error.as_ref().unwrap().code, Code::ProbeFailed);
    assert!(result.history.iter().all(|record| record.outcome == Some(Outcome::Failed) && record.agent_id.as_ref() == Some(&agent.id)));
    let kinds: Vec<_> = bench.events(&id).await.iter().map(|event| (event.kind, event.attempt)).collect();
    assert_eq!(kinds.iter().filter(|(kind, _)| *kind == EventKind::Retrying).map(|(_, attempt)| *attempt).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(kinds.last().unwrap(), &(EventKind::Dead, 3));
    let letter = bench.last(topology::DEAD, &About::Dead.job(&bench.pool, &id)).await.unwrap();
    let letter: DeadLetter = wire::decode(&letter.payload).unwrap();
    assert_eq!((letter.attempts.len(), letter.body), (3, body.to_string().into_bytes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_agent_is_killed_runs_elsewhere_after_its_lease() {
    let bench = Bench::start().await;
    bench.lease(Priority::Normal, "shell", Duration::from_secs(2)).await;
    let mut first = bench.process(1).await;
    let marker = bench.dir.path().join("ran");
    let command = format!("if [ -e {0} ]; then echo again; else touch {0}; sleep 600; fi", marker.display());
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": command}})).await;
    eventually("it says that it started", async || !bench.events(&id).await.is_empty()).await;
    first.kill().await;
    let second = bench.agent(1).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.attempt, result.stdout.as_bytes()), (Outcome::Succeeded, 2, &b"again\n"[..]));
    assert_eq!((result.agent_id.as_ref(), result.history[0].agent_id.as_ref()), (Some(&second.id), Some(&first.id)));
    assert_eq!(result.history[0].outcome, None);
    eventually("nothing is left", async || bench.queued().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_loses_too_many_agents_becomes_a_dead_letter() {
    let bench = Bench::start().await;
    let (id, client) = bench.fake_agent().await;
    let job = bench.submit(json!({"type": "probe.ping"})).await;
    for attempt in 1..=topology::LOST_ATTEMPTS_MAX {
        let message = bench.take(&client, Priority::Normal, "probe").await;
        let event = json!({"kind": "started", "at": "2026-01-01T00:00:00Z", "agent_id": id, "attempt": attempt});
        client.request(About::Event.job(&bench.pool, &job), event.to_string().into()).await.unwrap();
        client.publish(message.reply.unwrap(), "-NAK".into()).await.unwrap();
    }
    let _agent = bench.agent(1).await;
    let result = bench.result(&job).await;
    assert_eq!((result.outcome, result.attempt, result.error.unwrap().code), (Outcome::Failed, 5, Code::AgentLost));
    assert!(bench.last(topology::DEAD, &About::Dead.job(&bench.pool, &job)).await.is_some());
    eventually("nothing is left", async || bench.queued().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_that_nobody_saw_use_up_no_attempt() {
    let bench = Bench::start().await;
    let (_, client) = bench.fake_agent().await;
    let once = bench.submit(json!({"type": "probe.ping", "retry": {"max_attempts": 1}})).await;
    for _ in 0..3 {
        let message = bench.take(&client, Priority::Normal, "probe").await;
        client.publish(message.reply.unwrap(), "-NAK".into()).await.unwrap();
    }
    let _agent = bench.agent(1).await;
    let result = bench.result(&once).await;
    assert_eq!((result.outcome, result.attempt), (Outcome::Succeeded, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_attempt_of_a_job_is_not_repeated_though_the_copy_of_its_batch_covers_its_announcement() {
    let bench = Bench::start().await;
    let (agent_id, client) = bench.fake_agent().await;
    let id = "invoice-8".parse().unwrap();
    let (subject, events) = (bench.subject(Priority::Normal, "probe", &id), About::Event.job(&bench.pool, &id));
    let body = json!({"type": "probe.ping", "retry": {"max_attempts": 1}}).to_string().into_bytes();
    let headers = |pairs: &[(&str, &str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, *value);
        }
        Some(headers)
    };
    bench.publish(subject.clone(), headers(&[(BATCH_ID, "b"), (BATCH_SEQUENCE, "1"), (BATCH_COMMIT, "1")]), body.clone()).await;
    let taken = bench.take(&client, Priority::Normal, "probe").await;
    let started = json!({"kind": "started", "at": "2026-01-01T00:00:00Z", "agent_id": agent_id, "attempt": 1});
    client.request(events.clone(), started.to_string().into()).await.unwrap();
    bench.publish(events, headers(&[(REPUBLISHED_SUBJECT, &subject)]), body).await;
    // Its lease runs out.
    client.publish(taken.reply.unwrap(), "-NAK".into()).await.unwrap();
    let _agent = bench.agent(1).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.attempt, result.error.unwrap().code), (Outcome::Failed, 1, Code::AgentLost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_used_again_after_its_result_is_stored_does_not_run_again() {
    let bench = Bench::start().await;
    let _agent = bench.agent(1).await;
    let marker = bench.dir.path().join("ran");
    let body = json!({"type": "shell.run", "params": {"command": format!("echo x >> {}", marker.display())}});
    let id = "invoice-7".parse().unwrap();
    bench.submit_as(&id, Priority::Normal, body.clone()).await;
    let first = bench.result(&id).await;
    eventually("the first is acked", async || bench.queued().await == 0).await;
    bench.submit_as(&id, Priority::High, body).await;
    eventually("the second is acked", async || bench.queued().await == 0).await;
    assert_eq!(bench.result(&id).await, first);
    assert_eq!(std::fs::read_to_string(marker).unwrap(), "x\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_is_stopped_with_everything_it_started() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": "sleep 600 & echo $!; wait"}})).await;
    eventually("it runs", async || !bench.events(&id).await.is_empty()).await;
    let order = Order { v: V, what: What::Cancel { job_id: id.clone() } };
    bench.gateway.publish(subjects::control(&agent.id), wire::encode(&order).into()).await.unwrap();
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.error.unwrap().code), (Outcome::Cancelled, Code::Cancelled));
    let child = result.stdout.to_text().trim().to_owned();
    eventually("its child is gone", async || !std::path::Path::new(&format!("/proc/{child}")).exists()).await;
    eventually("nothing is left", async || bench.queued().await == 0).await;
    // Under the same id, within the next minute: dropped.
    bench.submit_as(&id, Priority::Normal, json!({"type": "probe.ping"})).await;
    eventually("it is dropped", async || bench.queued().await == 0).await;
    assert_eq!(bench.result(&id).await.outcome, Outcome::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_comes_second_is_noted_and_does_not_count() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let id = bench.submit(json!({"type": "probe.sleep", "params": {"ms": 400}})).await;
    eventually("it runs", async || !bench.events(&id).await.is_empty()).await;
    let other = json!({"outcome": "failed", "attempt": 9, "queued_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:00Z"});
    bench.publish(About::Result.job(&bench.pool, &id), None, other.to_string().into_bytes()).await;
    eventually("it is noted", async || bench.events(&id).await.iter().any(|event| event.kind == EventKind::Superseded)).await;
    let stored: JobResult = bench.result(&id).await;
    assert_eq!(stored.attempt, 9);
    eventually("nothing is left", async || bench.queued().await == 0).await;
    assert_eq!(agent.figure("muster_agent_leases_lost_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_answers_a_ping_across_accounts() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let answer = bench.gateway.request(subjects::rpc(&agent.id, "ping"), "".into());
    let answer = tokio::time::timeout(SOON, answer).await.unwrap().unwrap();
    let pong: Pong = wire::decode(&answer.payload).unwrap();
    let beat = bench.heartbeat_of(&agent.id, |_| true).await;
    assert_eq!((pong.agent_id, pong.instance), (agent.id.clone(), beat.instance));
}
