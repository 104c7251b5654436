//! Acks that wait, and results that are stored together.

use std::{path::PathBuf, time::Duration};

use async_nats::Message;
use muster_schemas::{
    headers::{BATCH_ID, QUEUE_PLACE, SEQUENCE, STORED_AT, TTL},
    lane::Priority,
    names::{AgentId, JobId},
    queue::{Place, Queue},
    result::Outcome,
    standing::{ACK_DELAY_MAX_MS, Standing},
    subjects::About,
    time::Timestamp,
    topology,
};
use serde_json::json;

use crate::bench::{Agent, Bench, eventually};

/// An identity whose acks may wait, as long as any may.
async fn patient(bench: &Bench) -> (AgentId, PathBuf) {
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    let standing = Standing { ack_delay_ms: ACK_DELAY_MAX_MS, ..Standing::first(Timestamp::now()) };
    bench.tell(&id, &standing).await;
    (id, state_dir)
}

async fn patient_agent(bench: &Bench) -> Agent {
    let (id, state_dir) = patient(bench).await;
    // It takes nothing before it has looked its standing up.
    let agent = bench.agent_in(id, state_dir, 2, &[("shutdown_grace", "0")]).await;
    agent.ready().await;
    agent
}

/// A job that keeps others company: it ends the second time it is run. It is running when this returns.
async fn company(bench: &Bench) -> JobId {
    let marker = bench.dir.path().join(bench.id().to_string());
    let command = format!("if [ ! -e {0} ]; then touch {0}; exec sleep 600; fi", marker.display());
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": command}})).await;
    eventually("it runs", async || marker.exists()).await;
    id
}

/// How long a result has been stored.
fn age(result: &Message) -> Duration {
    Timestamp::now().since(header(result, STORED_AT).unwrap().parse().unwrap())
}

/// The stored result as the broker has it.
async fn stored(bench: &Bench, id: &JobId) -> Message {
    bench.result(id).await;
    bench.last(topology::RESULTS, &About::Result.job(&bench.pool, id)).await.unwrap()
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get_last(name).map(|value| value.as_str())
}

/// A job that runs until a file is there; it is running when this returns.
async fn waits_for(bench: &Bench, file: &std::path::Path) -> JobId {
    let command = format!("while [ ! -e {} ]; do sleep 0.02; done", file.display());
    let id = bench.submit(json!({"type": "shell.run", "params": {"command": command}})).await;
    eventually("it runs", async || !bench.events(&id).await.is_empty()).await;
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_job_stays_in_its_queue_for_a_moment_and_its_result_says_where() {
    let bench = Bench::start().await;
    let _agent = patient_agent(&bench).await;
    company(&bench).await;
    let id = bench.id();
    bench.submit_as(&id, Priority::Normal, json!({"type": "probe.ping"})).await;
    let result = stored(&bench, &id).await;
    let subject = bench.subject(Priority::Normal, "probe", &id);
    let queued = bench.last(&topology::jobs_stream(&bench.pool), &subject).await.expect("it is still there");
    let expected = Place {
        sequence: header(&queued, SEQUENCE).unwrap().parse().unwrap(),
        stored_at: header(&queued, STORED_AT).unwrap().parse().unwrap(),
    };
    assert_eq!(header(&result, QUEUE_PLACE).unwrap().parse(), Ok(expected));
    eventually("it is acked", async || bench.queued().await == 1).await;
    let waited = age(&result);
    assert!(waited >= Duration::from_millis(700), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ack_of_a_job_that_is_alone_on_its_agent_goes_at_once() {
    let bench = Bench::start().await;
    let _agent = patient_agent(&bench).await;
    let id = bench.submit(json!({"type": "probe.ping"})).await;
    let result = stored(&bench, &id).await;
    eventually("it is acked", async || bench.queued().await == 0).await;
    let waited = age(&result);
    assert!(waited < Duration::from_millis(700), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_waits_only_where_the_dispatcher_says_so_for_jobs_of_a_lane_whose_results_are_kept_long() {
    let bench = Bench::start().await;
    let agent = patient_agent(&bench).await;
    let short = bench.submit(json!({"type": "probe.ping", "result_ttl_s": 60})).await;
    assert_eq!(header(&stored(&bench, &short).await, QUEUE_PLACE), None, "it may be forgotten before its job comes again");
    let command = bench.id();
    let subject = Queue::Agent(agent.id.clone()).subject(&bench.pool, &command);
    bench.publish(subject, None, br#"{"type":"probe.ping"}"#.to_vec()).await;
    bench.reach(&agent.id).await;
    assert_eq!(header(&stored(&bench, &command).await, QUEUE_PLACE), None, "its own queue");
    agent.stop().await.unwrap();
    let _prompt = bench.agent(1).await;
    let id = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(header(&stored(&bench, &id).await, QUEUE_PLACE), None, "nobody said that it may wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_goes_out_when_the_agent_ends() {
    let bench = Bench::start().await;
    let agent = patient_agent(&bench).await;
    company(&bench).await;
    let ids = [bench.submit(json!({"type": "probe.ping"})).await, bench.submit(json!({"type": "probe.ping"})).await];
    for id in &ids {
        assert!(header(&stored(&bench, id).await, QUEUE_PLACE).is_some());
    }
    agent.stop().await.unwrap();
    // Long before their leases run out, and there is nobody to take them.
    eventually("they are acked", async || bench.queued().await == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_delivered_over_another_connection_says_no_place_and_is_acked_at_once() {
    let mut bench = Bench::start().await;
    let agent = patient_agent(&bench).await;
    let (go, late) = (bench.dir.path().join("go"), bench.dir.path().join("late"));
    let (reconnected, spooled) = (waits_for(&bench, &go).await, waits_for(&bench, &late).await);
    bench.server.kill().await.unwrap();
    std::fs::write(&late, "").unwrap();
    eventually("one result is in the spool", async || agent.figure("muster_agent_results_spooled").await == 1.0).await;
    bench.server.restart().await.unwrap();
    assert_eq!(header(&stored(&bench, &spooled).await, QUEUE_PLACE), None, "from the spool");
    std::fs::write(&go, "").unwrap();
    assert_eq!(header(&stored(&bench, &reconnected).await, QUEUE_PLACE), None, "over the next connection");
    eventually("both are acked", async || bench.queued().await == 0).await;
    // And those after them have places again.
    let next = bench.submit(json!({"type": "probe.ping"})).await;
    assert!(header(&stored(&bench, &next).await, QUEUE_PLACE).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_agent_is_killed_between_its_stored_result_and_its_ack_does_not_run_again() {
    let bench = Bench::start().await;
    bench.lease(Priority::Normal, "shell", Duration::from_secs(3)).await;
    let (id, state_dir) = patient(&bench).await;
    let ran = bench.dir.path().join("ran");
    let body = json!({"type": "shell.run", "params": {"command": format!("echo x >> {}", ran.display())}});
    for same in [true, false] {
        let _ = std::fs::remove_file(&ran);
        let mut agent = bench.process_in(id.clone(), &state_dir, 2).await;
        company(&bench).await;
        let job = bench.submit(body.clone()).await;
        let result = bench.result(&job).await;
        agent.kill().await;
        assert_eq!((result.outcome, bench.queued().await), (Outcome::Succeeded, 2), "its ack waited");
        let others =
            if same { (Some(bench.process_in(id.clone(), &state_dir, 1).await), None) } else { (None, Some(bench.agent(1).await)) };
        eventually("it is forgotten, and the other one runs again", async || bench.queued().await == 0).await;
        assert_eq!(bench.result(&job).await, result);
        assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n", "it ran once");
        drop(others);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_come_together_are_stored_in_one_commit_and_kept_as_long_as_they_should() {
    let bench = Bench::start().await;
    let mut done = bench.done().await;
    let mut ids = Vec::new();
    for _ in 0..150 {
        ids.push(bench.submit(json!({"type": "probe.ping", "result_ttl_s": 7200})).await);
    }
    let _agent = bench.agent(50).await;
    let mut together = 0;
    for id in &ids {
        let result = stored(&bench, id).await;
        together += usize::from(header(&result, BATCH_ID).is_some());
        assert_eq!(header(&result, TTL), Some("7200s"));
    }
    assert!(together > 12, "{together} of {}", ids.len());
    // Each is told of, as if it had been stored alone.
    for _ in &ids {
        crate::bench::next_message(&mut done).await;
    }
    eventually("they are acked", async || bench.queued().await == 0).await;
}
