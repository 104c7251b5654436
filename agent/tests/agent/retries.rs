//! Which agent gets the next attempt, and jobs that kill whoever runs them.

use std::time::Duration;

use muster_schemas::{
    code::Code,
    event::{DeadLetter, EventKind},
    lane::Priority,
    log::LogChunk,
    names::JobId,
    result::Outcome,
    subjects::About,
    topology, wire,
};
use serde_json::json;

use crate::bench::{Agent, Bench, eventually};

/// Tells an agent its pull priority and how many agents accept, and waits until it knows.
async fn told(bench: &Bench, agent: &Agent, priority: u8, accepting_agents: u32) {
    let pulls = agent.figure("muster_agent_pulls_total").await;
    bench.standing_among(&agent.id, true, priority, accepting_agents).await;
    if priority < 5 {
        // A better priority than the one it began with is pulled with at once.
        eventually("it pulls with its priority", async || agent.figure("muster_agent_pulls_total").await > pulls).await;
    }
}

async fn releases(bench: &Bench, id: &JobId) -> usize {
    bench.events(id).await.iter().filter(|event| event.kind == EventKind::Released).count()
}

fn failing(max_attempts: u32) -> serde_json::Value {
    json!({"type": "probe.fail", "params": {"message": "no"}, "retry": {"max_attempts": max_attempts, "initial_ms": 10, "max_ms": 20}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_goes_to_an_agent_that_has_not_failed_it_even_if_that_one_is_served_last() {
    let bench = Bench::start().await;
    for slots in [1, 4] {
        let (first, second) = (bench.agent(slots).await, bench.agent(slots).await);
        told(&bench, &second, 9, 2).await;
        told(&bench, &first, 0, 2).await;
        let id = bench.submit(failing(2)).await;
        let result = bench.result(&id).await;
        assert_eq!((result.outcome, result.attempt), (Outcome::Failed, 2));
        assert_eq!((result.history[0].agent_id.as_ref(), result.agent_id.as_ref()), (Some(&first.id), Some(&second.id)), "{slots} slots");
        assert!(result.history[0].tail.is_none(), "a result has no room for the output of earlier attempts");
        first.stop().await.unwrap();
        second.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_nobody_else_takes_runs_where_it_failed_and_releases_use_up_no_attempt() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    // The other one that accepts is busy for ever: it is not there at all.
    told(&bench, &agent, 0, 2).await;
    let id = bench.submit(failing(2)).await;
    let result = bench.result(&id).await;
    assert_eq!((result.attempt, result.history.len(), result.agent_id.as_ref()), (2, 1, Some(&agent.id)));
    assert_eq!(releases(&bench, &id).await, 6);
    let told = bench.events(&id).await.into_iter().filter(|event| event.kind == EventKind::Released);
    assert!(told.into_iter().all(|event| event.attempt == 1 && event.next_at.is_some() && event.reason.unwrap().contains("has failed it")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_agent_that_accepts_gives_nothing_back() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    told(&bench, &agent, 0, 1).await;
    let id = bench.submit(failing(3)).await;
    assert_eq!(bench.result(&id).await.attempt, 3);
    assert_eq!(releases(&bench, &id).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_kills_its_agent_on_every_attempt_ends_in_the_dead_letters_with_its_agents_and_times() {
    let bench = Bench::start().await;
    bench.lease(Priority::Normal, "shell", Duration::from_secs(2)).await;
    let command = "echo attempt $MUSTER_ATTEMPT; sleep 0.5; kill -9 $PPID";
    let id =
        bench.submit(json!({"type": "shell.run", "params": {"command": command}, "retry": {"max_attempts": 2, "initial_ms": 10}})).await;
    let mut agents = Vec::new();
    for attempt in 1..=2 {
        let mut victim = bench.process(1).await;
        eventually("it is told that the attempt runs", async || {
            bench.events(&id).await.iter().any(|event| event.kind == EventKind::Started && event.attempt == attempt)
        })
        .await;
        tokio::time::timeout(crate::bench::SOON, victim.child.wait()).await.expect("the job kills its agent").unwrap();
        agents.push(victim.id.clone());
    }
    let _third = bench.agent(1).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.attempt, result.error.unwrap().code), (Outcome::Failed, 2, Code::AgentLost));
    let letter = bench.last(topology::DEAD, &About::Dead.job(&bench.pool, &id)).await.unwrap();
    let letter: DeadLetter = wire::decode(&letter.payload).unwrap();
    assert_eq!(letter.attempts.iter().map(|record| record.agent_id.clone().unwrap()).collect::<Vec<_>>(), agents);
    let started: Vec<_> = letter.attempts.iter().map(|record| record.started_at.unwrap()).collect();
    assert!(letter.queued_at <= started[0] && started[0] < started[1] && started[1] < letter.died_at);
    assert!(letter.attempts.iter().all(|record| record.outcome.is_none() && record.finished_at.is_none()), "they were lost");
    // What it wrote before is in the log, attempt by attempt.
    let chunk = bench.last(topology::LOGS, &About::Log.job(&bench.pool, &id)).await.unwrap();
    let chunk: LogChunk = wire::decode(&chunk.payload).unwrap();
    assert_eq!((chunk.attempt, chunk.data.as_bytes()), (2, &b"attempt 2\n"[..]));
    eventually("nothing is left", async || bench.queued().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_has_the_end_of_each_attempts_output() {
    let bench = Bench::start().await;
    let _agent = bench.agent(1).await;
    let command = "echo attempt $MUSTER_ATTEMPT; echo oops >&2; exit 3";
    let id =
        bench.submit(json!({"type": "shell.run", "params": {"command": command}, "retry": {"max_attempts": 2, "initial_ms": 10}})).await;
    assert_eq!(bench.result(&id).await.exit_code, Some(3));
    let letter = bench.last(topology::DEAD, &About::Dead.job(&bench.pool, &id)).await.unwrap();
    let letter: DeadLetter = wire::decode(&letter.payload).unwrap();
    for (record, expected) in letter.attempts.iter().zip(["attempt 1\noops\n", "attempt 2\noops\n"]) {
        assert_eq!((record.exit_code, record.tail.as_ref().unwrap().to_text().as_ref()), (Some(3), expected));
        assert!(record.started_at.unwrap() <= record.finished_at.unwrap());
    }
}
