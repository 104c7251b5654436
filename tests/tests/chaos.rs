//! The set test: 5 000 jobs while random parts are killed every second for a minute. Afterwards the books must balance.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and this one tells its counts"
)]

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use muster_tests::{Stack, StackOptions, eventually, ledger::Ledger, rest::Rest, stack::POOL};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

const JOBS: usize = 5000;
/// So many are submitted at once: enough that gateways store them in groups.
const BURST: usize = 64;
const STORM: Duration = Duration::from_secs(60);
/// Jobs that were running on a killed agent come back after the lease, and may be unlucky more than once.
const CALM: Duration = Duration::from_secs(240);

/// Submits job `number` until somebody acknowledges it or the storm is over.
async fn submit(rests: &[Rest], number: usize, notes: &Path, until: Instant) -> Option<String> {
    let id = format!("job-{number}");
    let command = format!("echo {id} >> {}", notes.display());
    let job = json!({"pool": POOL, "type": "shell.run", "params": {"command": command}, "id": id});
    loop {
        let rest = &rests[number % rests.len()];
        if let Some(answer) = rest.try_send(rest.request(reqwest::Method::POST, "/jobs").json(&job).timeout(Duration::from_secs(10))).await
            && answer.status.is_success()
        {
            return Some(id);
        }
        if Instant::now() > until {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(100)).await; // poll: a dead gateway refuses at once
    }
}

/// Kills one random part and starts it again.
async fn strike(stack: &mut Stack, random: &mut StdRng, kills: &mut BTreeMap<&'static str, u32>) {
    let part = match random.random_range(0..10) {
        0..5 => "agent",
        5..7 => "dispatcher",
        7..9 => "gateway",
        _ => "broker",
    };
    *kills.entry(part).or_default() += 1;
    match part {
        "agent" => {
            let number = random.random_range(0..stack.agents.len());
            stack.kill_agent(number);
            stack.revive_agent(number);
        }
        "dispatcher" => {
            let number = random.random_range(0..stack.dispatchers.len());
            stack.dispatchers[number].kill9();
            stack.dispatchers[number] = stack.dispatcher(number);
        }
        "gateway" => {
            let number = random.random_range(0..stack.gateways.len());
            stack.gateways[number].kill9();
            stack.gateways[number] = stack.gateway(number);
        }
        _ => {
            stack.broker.kill().await.unwrap();
            stack.broker.restart().await.unwrap();
        }
    }
}

/// How many results each job has, as the stream counts them.
async fn results(stack: &Stack) -> BTreeMap<String, u32> {
    let context = async_nats::jetstream::new(stack.core().await);
    let stream = context.get_stream("RESULTS").await.unwrap();
    let subjects: Vec<(String, usize)> = stream.info_with_subjects(format!("results.{POOL}.>")).await.unwrap().try_collect().await.unwrap();
    subjects.into_iter().map(|(subject, count)| (subject.rsplit('.').next().unwrap().to_string(), u32::try_from(count).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_jobs_survive_a_minute_of_kills_with_exactly_one_result_each() {
    let options = StackOptions { agents: 3, slots: 10, gateways: 2, dispatchers: 2, ..Default::default() };
    let mut stack = Stack::start(options).await;
    let rests = [stack.rest.clone(), stack.rest_of(1)];
    let notes = stack.folder().join("runs");
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut kills = BTreeMap::new();

    let start = Instant::now();
    let pace = STORM / u32::try_from(JOBS).unwrap();
    let submits = stream::iter(0..JOBS)
        .map(|number| {
            let (rests, notes) = (&rests, &notes);
            async move {
                let due = start + pace * u32::try_from(number / BURST * BURST).unwrap();
                tokio::time::sleep_until(due.into()).await; // poll: the pace of the submits
                submit(rests, number, notes, start + STORM + Duration::from_secs(60)).await
            }
        })
        .buffer_unordered(2 * BURST)
        .filter_map(std::future::ready)
        .collect::<Vec<String>>();
    let storm = async {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        while start.elapsed() < STORM {
            every.tick().await;
            strike(&mut stack, &mut random, &mut kills).await;
        }
    };
    let (acknowledged, ()) = tokio::join!(submits, storm);

    stack.gateway_ready(0).await;
    let acknowledged: std::collections::BTreeSet<String> = acknowledged.into_iter().collect();
    let mut ledger = eventually("the end of the books", CALM, || async {
        let ledger = Ledger { acknowledged: acknowledged.clone(), results: results(&stack).await, ..Default::default() };
        // What is still missing when time runs out is lost, and the audit below says which.
        (ledger.audit().lost.is_empty() || start.elapsed() > STORM + CALM / 2).then_some(ledger)
    })
    .await;
    for line in std::fs::read_to_string(&notes).unwrap().lines() {
        *ledger.runs.entry(line.to_string()).or_default() += 1;
    }
    let audit = ledger.audit();
    println!(
        "{} of {JOBS} acknowledged, kills {kills:?}; {} jobs ran more than once, {} ended without an acknowledged submit",
        ledger.acknowledged.len(),
        audit.reran,
        audit.unacknowledged
    );
    assert!(ledger.acknowledged.len() > JOBS / 2, "too few submits were acknowledged to prove anything");
    assert_eq!((audit.lost, audit.doubled), (vec![], vec![]));
}
