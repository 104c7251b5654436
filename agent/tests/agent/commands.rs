//! Commands: jobs for one agent, which wait for it alone and come before all others.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use muster_broker_config::provision::{self, Retired};
use muster_schemas::{
    code::Code,
    control::{Order, What},
    event::{DeadLetter, EventKind},
    lane::Priority,
    names::{AgentId, JobId},
    queue,
    result::{ErrorInfo, JobResult, Outcome},
    subjects::{self, About, broker},
    time::Timestamp,
    topology::{self, COMMANDS},
    wire::{self, V},
};
use serde_json::{Value, json};

use crate::bench::{Bench, eventually, next_message};

/// Commands in the queue, waiting or running.
async fn waiting(bench: &Bench) -> u64 {
    bench.api(broker::StreamApi::Info.subject(COMMANDS), json!({})).await["state"]["messages"].as_u64().unwrap()
}

/// Stores a command, and leaves it at that.
async fn store(bench: &Bench, agent: &AgentId, id: &JobId, body: Value) {
    bench.publish(subjects::command(&bench.pool, agent, id), None, body.to_string().into_bytes()).await;
}

/// As whoever sends commands does.
async fn send_as(bench: &Bench, agent: &AgentId, id: &JobId, body: Value) {
    store(bench, agent, id, body).await;
    bench.reach(agent).await;
}

async fn send(bench: &Bench, agent: &AgentId, body: Value) -> JobId {
    let id = bench.id();
    send_as(bench, agent, &id, body).await;
    id
}

async fn none_left(bench: &Bench) {
    eventually("no command is left", async || waiting(bench).await == 0).await;
}

async fn cancel(bench: &Bench, agent: &AgentId, id: &JobId) {
    let order = Order { v: V, what: What::Cancel { job_id: id.clone() } };
    bench.gateway.publish(subjects::control(agent), wire::encode(&order).into()).await.unwrap();
    // Answered by the task that obeys.
    bench.gateway.request(subjects::rpc(agent, "ping"), "".into()).await.unwrap();
}

async fn runs(bench: &Bench, id: &JobId) {
    eventually("it runs", async || bench.events(id).await.iter().any(|event| event.kind == EventKind::Started)).await;
}

/// A command that notes that it ran, and does not end the first time.
fn once_for_ever(bench: &Bench) -> (PathBuf, Value) {
    let marker = bench.dir.path().join("ran");
    let command = format!("if [ -e {0} ]; then echo again; else touch {0}; sleep 600; fi", marker.display());
    (marker, json!({"type": "shell.run", "params": {"command": command}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_on_the_agent_that_it_names_and_on_no_other() {
    let bench = Bench::start().await;
    let (one, two) = (bench.agent(2).await, bench.agent(2).await);
    // Whoever is served first by the pool makes no difference.
    bench.standing(&one.id, true, 0).await;
    bench.standing(&two.id, true, 9).await;
    let mut sent = Vec::new();
    for _ in 0..20 {
        for agent in [&one, &two] {
            sent.push((&agent.id, send(&bench, &agent.id, json!({"type": "probe.ping", "labels": {"a": "b"}})).await));
        }
    }
    for (agent, id) in sent {
        let result = bench.result(&id).await;
        assert_eq!((result.outcome, result.attempt, result.agent_id.as_ref()), (Outcome::Succeeded, 1, Some(agent)));
        assert_eq!((result.priority, result.labels.len(), result.job_type.unwrap().as_str()), (Priority::High, 1, "probe.ping"));
    }
    none_left(&bench).await;
    assert_eq!(one.figure("muster_agent_releases_total").await + two.figure("muster_agent_releases_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_waits_for_its_agent_while_another_one_is_there_and_an_expired_one_is_not_run() {
    let bench = Bench::start().await;
    let _other = bench.agent(2).await;
    let (id, state_dir) = bench.enrolled(Duration::from_secs(3600)).await;
    let marker = bench.dir.path().join("ran");
    let touch = json!({"type": "shell.run", "params": {"command": format!("touch {}", marker.display())}});
    let mut late = touch.clone();
    late["expires_at"] = json!(Timestamp::now());
    let waits = send(&bench, &id, json!({"type": "probe.ping"})).await;
    let expired = send(&bench, &id, late).await;
    let put_off = send(&bench, &id, json!({"type": "probe.ping", "not_before": Timestamp::now() + Duration::from_millis(1500)})).await;
    // The other one has had its chance by now.
    let done = bench.submit(json!({"type": "probe.ping"})).await;
    bench.result(&done).await;
    assert_eq!(waiting(&bench).await, 3);
    let _agent = bench.agent_in(id.clone(), state_dir, 1, &[]).await;
    let result = bench.result(&waits).await;
    assert_eq!((result.outcome, result.agent_id), (Outcome::Succeeded, Some(id)));
    let result = bench.result(&expired).await;
    assert_eq!((result.outcome, result.error.unwrap().code, result.attempt), (Outcome::Expired, Code::Expired, 0));
    assert!(!marker.exists());
    let result = bench.result(&put_off).await;
    assert_eq!((result.outcome, result.attempt), (Outcome::Succeeded, 1));
    none_left(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_a_command_is_never_left_to_others_and_the_last_one_becomes_a_dead_letter() {
    let bench = Bench::start().await;
    let (agent, other) = (bench.agent(1).await, bench.agent(1).await);
    for agent in [&agent, &other] {
        bench.standing_among(&agent.id, true, 1, 2).await;
        bench.gateway.request(subjects::rpc(&agent.id, "ping"), "".into()).await.unwrap();
    }
    let retry = json!({"max_attempts": 3, "initial_ms": 200, "max_ms": 200, "jitter": 0});
    let body = json!({"type": "shell.run", "params": {"command": "echo out; exit 3"}, "retry": retry});
    let id = send(&bench, &agent.id, body.clone()).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.attempt, result.history.len()), (Outcome::Failed, 3, 2));
    assert!(result.history.iter().all(|record| record.agent_id.as_ref() == Some(&agent.id)), "{:?}", result.history);
    let begun = |at: usize| result.history[at].started_at.unwrap();
    assert!(begun(1).since(result.history[0].finished_at.unwrap()) >= Duration::from_millis(150), "it waited before its second attempt");
    let kinds: Vec<_> = bench.events(&id).await.iter().map(|event| event.kind).filter(|kind| *kind != EventKind::Started).collect();
    assert_eq!(kinds, [EventKind::Retrying, EventKind::Retrying, EventKind::Dead]);
    let letter = bench.last(topology::DEAD, &About::Dead.job(&bench.pool, &id)).await.unwrap();
    let letter: DeadLetter = wire::decode(&letter.payload).unwrap();
    assert_eq!((letter.subject, letter.body), (subjects::command(&bench.pool, &agent.id, &id), body.to_string().into_bytes()));
    none_left(&bench).await;
    assert!(bench.last(topology::LOGS, &About::Log.job(&bench.pool, &id)).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_agent_is_killed_is_its_second_attempt_once_the_agent_is_back() {
    let bench = Bench::start().await;
    let mut agent = bench.process(1).await;
    let (marker, body) = once_for_ever(&bench);
    let id = bench.id();
    store(&bench, &agent.id, &id, body).await;
    lease(&bench, &agent.id, Duration::from_secs(2)).await;
    bench.order(&agent.id).await;
    eventually("it runs", async || marker.exists()).await;
    runs(&bench, &id).await;
    let state_dir = agent.state_dir.clone();
    agent.kill().await;
    let again = bench.process_in(agent.id.clone(), &state_dir, 1).await;
    let result = bench.result(&id).await;
    assert_eq!((result.outcome, result.attempt, result.stdout.as_bytes()), (Outcome::Succeeded, 2, &b"again\n"[..]));
    assert_eq!((result.agent_id.as_ref(), result.history[0].agent_id.as_ref()), (Some(&again.id), Some(&again.id)));
    assert_eq!(result.history[0].outcome, None);
    none_left(&bench).await;
}

/// Makes the consumer of an agent's commands, with a short lease.
async fn lease(bench: &Bench, agent: &AgentId, lease: Duration) {
    let consumer = topology::command_consumer(&bench.pool, agent);
    let consumer = topology::Consumer { ack_wait: lease.into(), ..consumer };
    provision::ensure_consumer(&bench.gateway, COMMANDS, &consumer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_cancelled_stops_or_never_runs() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let running = send(&bench, &agent.id, json!({"type": "shell.run", "params": {"command": "sleep 600"}})).await;
    runs(&bench, &running).await;
    // Waiting behind it: as a gateway cancels, out of the queue first, wherever the job waits.
    let marker = bench.dir.path().join("ran");
    let touch = json!({"type": "shell.run", "params": {"command": format!("touch {}", marker.display())}});
    let queued = send(&bench, &agent.id, touch.clone()).await;
    let mut purged = 0;
    for (stream, filter) in queue::places(&bench.pool, &queued) {
        purged += bench.api(broker::StreamApi::Purge.subject(&stream), json!({"filter": filter})).await["purged"].as_u64().unwrap();
    }
    assert_eq!(purged, 1);
    cancel(&bench, &agent.id, &queued).await;
    // And one that the agent hears of before it gets it; its result is there by then.
    let early = bench.id();
    let now = Timestamp::now();
    let fence = JobResult::never_ran(Outcome::Cancelled, ErrorInfo::new(Code::Cancelled, "cancelled"), now, now);
    bench.publish(About::Result.job(&bench.pool, &early), None, wire::encode(&fence)).await;
    cancel(&bench, &agent.id, &early).await;
    send_as(&bench, &agent.id, &early, touch).await;
    // Without a result it is another job, later, of an id that was cancelled.
    let again = bench.id();
    cancel(&bench, &agent.id, &again).await;
    send_as(&bench, &agent.id, &again, json!({"type": "probe.ping"})).await;

    cancel(&bench, &agent.id, &running).await;
    let result = bench.result(&running).await;
    assert_eq!((result.outcome, result.error.unwrap().code), (Outcome::Cancelled, Code::Cancelled));
    none_left(&bench).await;
    let after = send(&bench, &agent.id, json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&after).await.outcome, Outcome::Succeeded);
    assert_eq!(bench.result(&again).await.outcome, Outcome::Succeeded);
    assert!(!marker.exists());
    assert_eq!(bench.result(&early).await, fence);
    let stored = bench.last(topology::RESULTS, &About::Result.job(&bench.pool, &queued)).await;
    assert!(stored.is_none(), "who cancels stores the result");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_go_before_a_backlog_of_the_pool_when_a_slot_frees() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let slow = json!({"type": "probe.sleep", "params": {"ms": 20}});
    let go = bench.dir.path().join("go");
    let wait = format!("while [ ! -e {} ]; do sleep 0.02; done", go.display());
    let first = send(&bench, &agent.id, json!({"type": "shell.run", "params": {"command": wait}})).await;
    runs(&bench, &first).await;
    for _ in 0..20 {
        bench.submit_as(&bench.id(), Priority::High, slow.clone()).await;
    }
    let mut done = bench.done().await;
    let mut commands = Vec::new();
    for _ in 0..5 {
        commands.push(send(&bench, &agent.id, slow.clone()).await);
    }
    std::fs::write(&go, "").unwrap();
    let mut order = Vec::new();
    for _ in 0..26 {
        let subject = next_message(&mut done).await.subject;
        let (_, id) = About::Done.parse(subject.as_str()).unwrap();
        order.push(if id == first {
            'f'
        } else if commands.contains(&id) {
            'c'
        } else {
            'j'
        });
    }
    // Each time the broker is silent for longer than the agent's patience, which a busy machine makes it, a job may come in between. But no
    // command waits until the backlog is through.
    assert_eq!(order.last(), Some(&'j'), "{order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_may_take_nothing_new_takes_no_command_until_it_may() {
    let bench = Bench::start().await;
    let agent = bench.agent(2).await;
    let first = send(&bench, &agent.id, json!({"type": "probe.ping"})).await;
    bench.result(&first).await;
    asks(&bench, &agent.id).await;
    bench.standing(&agent.id, false, 0).await;
    bench.gateway.request(subjects::rpc(&agent.id, "ping"), "".into()).await.unwrap();
    let id = send(&bench, &agent.id, json!({"type": "probe.ping"})).await;
    // What it had asked for before that comes, and is given back.
    eventually("it is given back", async || bench.events(&id).await.iter().any(|event| event.kind == EventKind::Released)).await;
    let more = send(&bench, &agent.id, json!({"type": "probe.ping"})).await;
    assert_eq!(waiting(&bench).await, 2);
    bench.standing(&agent.id, true, 0).await;
    for id in [&id, &more] {
        let result = bench.result(id).await;
        assert_eq!((result.outcome, result.attempt, result.agent_id.as_ref()), (Outcome::Succeeded, 1, Some(&agent.id)));
    }
    none_left(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_shuts_down_gives_its_command_back_takes_no_other_and_goes_on_when_it_is_back() {
    let bench = Bench::start().await;
    let agent = bench.agent_with(2, &[("shutdown_grace", "1")]).await;
    let (marker, body) = once_for_ever(&bench);
    let id = send(&bench, &agent.id, body).await;
    eventually("it runs", async || marker.exists()).await;
    let (agent_id, state_dir) = (agent.id.clone(), agent.state_dir.clone());
    let (ended, late) = tokio::join!(agent.stop(), async {
        bench.heartbeat_of(&agent_id, |beat| beat.draining).await;
        send(&bench, &agent_id, json!({"type": "probe.ping"})).await
    });
    ended.unwrap();
    assert!(bench.events(&id).await.iter().any(|event| event.kind == EventKind::Released && event.attempt == 0));
    assert_eq!(waiting(&bench).await, 2);
    let _agent = bench.agent_in(agent_id.clone(), state_dir, 2, &[]).await;
    for id in [&id, &late] {
        let result = bench.result(id).await;
        assert_eq!((result.outcome, result.attempt, result.agent_id.as_ref()), (Outcome::Succeeded, 1, Some(&agent_id)));
    }
    none_left(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commands_result_waits_in_the_spool_while_the_broker_is_down_and_one_that_ended_meanwhile_is_stopped() {
    let mut bench = Bench::start().await;
    let agent = bench.agent(2).await;
    let go = bench.dir.path().join("go");
    let wait = format!("while [ ! -e {} ]; do sleep 0.02; done; echo done", go.display());
    let spooled = send(&bench, &agent.id, json!({"type": "shell.run", "params": {"command": wait}})).await;
    let ended = send(&bench, &agent.id, json!({"type": "shell.run", "params": {"command": "sleep 600"}})).await;
    for id in [&spooled, &ended] {
        runs(&bench, id).await;
    }
    let other = json!({"outcome": "cancelled", "attempt": 1, "queued_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:00Z"});
    bench.publish(About::Result.job(&bench.pool, &ended), None, other.to_string().into_bytes()).await;
    bench.server.kill().await.unwrap();
    std::fs::write(&go, "").unwrap();
    eventually("the result is in the spool", async || agent.figure("muster_agent_results_spooled").await == 1.0).await;
    bench.server.restart().await.unwrap();
    let result: JobResult = bench.result(&spooled).await;
    assert_eq!((result.outcome, result.attempt, result.stdout.as_bytes()), (Outcome::Succeeded, 1, &b"done\n"[..]));
    eventually("the other is stopped", async || agent.figure("muster_agent_jobs_running").await == 0.0).await;
    none_left(&bench).await;
    let next = send(&bench, &agent.id, json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&next).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_job_or_has_no_valid_id_is_rejected_and_the_queue_goes_on() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let mut done = bench.done().await;
    let sane = subjects::command(&bench.pool, &agent.id, &"x".parse().unwrap());
    bench.publish(sane.replace(".x", &format!(".{}", "x".repeat(65))), None, br#"{"type":"probe.ping"}"#.to_vec()).await;
    bench.reach(&agent.id).await;
    let message = next_message(&mut done).await;
    assert!(message.subject.contains(".rejected-"), "{}", message.subject);
    let result: JobResult = wire::decode(&message.payload).unwrap();
    assert_eq!((result.outcome, result.error.unwrap().code), (Outcome::Rejected, Code::NameInvalid));
    for (body, code) in [(json!("hello"), Code::BodyMalformed), (json!({"type": "telepathy.send"}), Code::TypeUnknown)] {
        let result = bench.result(&send(&bench, &agent.id, body).await).await;
        assert_eq!((result.outcome, result.error.unwrap().code, result.priority), (Outcome::Rejected, code, Priority::High));
    }
    none_left(&bench).await;
}

/// How many agents have a consumer for commands.
async fn consumers(bench: &Bench) -> u64 {
    bench.api(broker::StreamApi::Info.subject(COMMANDS), json!({})).await["state"]["consumer_count"].as_u64().unwrap()
}

/// Waits until it is known at the broker that the agent asks its own queue.
async fn asks(bench: &Bench, agent: &AgentId) {
    let info = broker::ConsumerApi::Info.subject(COMMANDS, agent.as_str());
    eventually("it asks its own queue", async || bench.api(info.clone(), json!({})).await["num_waiting"] == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_command_to_an_agent_without_a_consumer_begins_at_once_and_so_do_those_after_it() {
    let bench = Bench::start().await;
    let (agent, idle) = (bench.agent(2).await, bench.agent(2).await);
    let job = bench.submit(json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result(&job).await.outcome, Outcome::Succeeded);
    assert_eq!(consumers(&bench).await, 0, "nobody makes one before there is a command");
    let mut took = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let id = send(&bench, &agent.id, json!({"type": "probe.ping"})).await;
        let result = bench.result_within(&id, Duration::from_secs(2)).await;
        took.push(began.elapsed());
        assert_eq!((result.outcome, result.attempt, result.agent_id.as_ref()), (Outcome::Succeeded, 1, Some(&agent.id)));
    }
    tracing::info!(?took, "from before the command was stored until its result is seen");
    // It asks on, so that the next ones need no order.
    let unordered = bench.id();
    store(&bench, &agent.id, &unordered, json!({"type": "probe.ping"})).await;
    assert_eq!(bench.result_within(&unordered, Duration::from_secs(2)).await.outcome, Outcome::Succeeded);
    assert_eq!(consumers(&bench).await, 1, "the other agent has none");
    drop(idle);
    none_left(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_consumer_goes_waits_for_an_order_and_one_that_comes_back_asks_by_itself() {
    let mut bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let ping = json!({"type": "probe.ping"});
    for _ in 0..3 {
        let id = send(&bench, &agent.id, ping.clone()).await;
        assert_eq!(bench.result(&id).await.outcome, Outcome::Succeeded);
        asks(&bench, &agent.id).await;
        provision::remove_commands(&bench.gateway, &agent.id).await.unwrap();
    }
    let missed = bench.id();
    store(&bench, &agent.id, &missed, ping.clone()).await;
    provision::ensure_commands(&bench.gateway, &bench.pool, &agent.id).await.unwrap();
    let job = bench.submit(ping.clone()).await;
    assert_eq!(bench.result(&job).await.outcome, Outcome::Succeeded);
    assert_eq!(waiting(&bench).await, 1, "nobody told it");
    bench.server.kill().await.unwrap();
    bench.server.restart().await.unwrap();
    assert_eq!(bench.result(&missed).await.outcome, Outcome::Succeeded);
    none_left(&bench).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_sent_while_the_consumer_is_removed_runs_at_once_and_once() {
    let bench = Bench::start().await;
    let agent = bench.agent(1).await;
    let dispatcher = bench.dispatcher().await;
    for round in 0..100_u32 {
        let id = bench.id();
        let send = || send_as(&bench, &agent.id, &id, json!({"type": "probe.ping"}));
        // In every fourth round just before the consumer goes, when it is too late to keep it and its sender still finds it.
        let late = round % 4 == 0;
        if late {
            bench.reach(&agent.id).await;
        }
        let publish = async {
            for _ in 0..round % 13 {
                bench.queued().await;
            }
            if !late {
                send().await;
            }
        };
        let may = || {
            if late {
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(send()));
            }
            true
        };
        // As the dispatcher does it.
        let retire = async {
            let retired = provision::retire_commands(&dispatcher, &agent.id, Duration::ZERO, may).await.unwrap();
            if let Retired::Overtaken(pool) = &retired {
                provision::ensure_commands(&dispatcher, pool, &agent.id).await.unwrap();
                bench.order(&agent.id).await;
            }
            retired
        };
        let ((), retired) = tokio::join!(publish, retire);
        assert!(!late || matches!(retired, Retired::Overtaken(_)), "round {round}: {retired:?}");
        let result = bench.result_within(&id, Duration::from_secs(2)).await;
        assert_eq!((result.outcome, result.attempt), (Outcome::Succeeded, 1), "round {round}, {retired:?}");
        none_left(&bench).await;
    }
    assert_eq!((agent.figure("muster_agent_attempts_total").await, agent.figure("muster_agent_releases_total").await), (100.0, 0.0));
}
