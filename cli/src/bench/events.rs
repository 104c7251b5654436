//! What the events cost that the history is made of: jobs per second with the broker's copy of each queued job in `EVENTS`, and without.
//!
//! Without is a queue that the broker does not republish from, in the bench's own pool. The dispatcher puts the settings of all queues right
//! twice a minute, so a round in which it did is done again. What agents publish to `EVENTS` stays: for a job of microseconds that is nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream;
use clap::Args;
use muster_broker_config::provision;
use muster_schemas::topology::{self, EVENTS, Stream};
use serde_json::json;

use super::{
    crew::Crew,
    report::{Report, Row, median, progress},
    rig::{Pool, Rig},
    throughput,
};

/// How often a round without events is tried.
const TRIES: usize = 5;
/// One message for so many jobs does not make it a round with events: the machine has other pools.
const CRUMBS: u64 = 100;
/// What has not come for so long has come before.
const STILL: Duration = Duration::from_millis(300);
/// Jobs before the first round, not counted.
const WARM_UP: usize = 1000;

const HELP: &str = "The history is made of messages in the stream EVENTS. Without them is a queue that the broker copies no jobs from; such jobs are not in the
history. The first row checks that: it is 1 with and 0 without as long as no agent tells of jobs that short.";

/// What to measure.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// Jobs in each round
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    #[command(flatten)]
    crew: Crew,
    /// Rounds with events, in turn with as many without; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Rates and messages of the rounds on one side.
#[derive(Debug, Default)]
struct Side {
    rates: Vec<f64>,
    messages: u64,
}

/// Runs it.
///
/// # Errors
/// When a part cannot be started or a round does not end.
pub(super) async fn run(rig: &Rig, options: &Options) -> Result<Report> {
    let Crew { agents, slots } = options.crew;
    let core = rig.core().await?;
    let context = jetstream::new(core.clone());
    let pool = rig.pool(agents, slots).await?;
    let with = topology::jobs(&pool.name, [&"probe".parse()?], topology::QUEUED_DEFAULT);
    let without = Stream { republish: None, ..with.clone() };
    throughput::round(&pool, options.jobs.min(WARM_UP)).await?;
    let (mut told, mut silent) = (Side::default(), Side::default());
    for number in 1..=options.rounds {
        progress(&format!("round {number} of {}: {} jobs without events, and as many with", options.rounds, options.jobs));
        let mut tries = 0..TRIES;
        loop {
            ensure!(tries.next().is_some(), "the dispatcher turned the events on again in each of {TRIES} rounds; try fewer --jobs");
            provision::ensure_stream(&core, &without).await?;
            let (rate, messages) = round(&context, &pool, options.jobs).await?;
            if messages * CRUMBS <= options.jobs as u64 {
                silent.add(rate, messages);
                break;
            }
        }
        provision::ensure_stream(&core, &with).await?;
        let (rate, messages) = round(&context, &pool, options.jobs).await?;
        told.add(rate, messages);
    }
    pool.close().await?;
    let each = |side: &Side| side.messages as f64 / (options.jobs * options.rounds.max(1)) as f64;
    Ok(Report {
        name: "events",
        setting: json!({"jobs": options.jobs, "agents": agents, "slots": slots, "rounds": options.rounds, "type": "probe.ping"}),
        rows: vec![
            Row {
                what: "messages in EVENTS for each job, against without".into(),
                unit: "",
                ours: each(&told),
                floor: Some(each(&silent)),
                bar: None,
            },
            Row {
                what: "jobs, against without events".into(),
                unit: "/s",
                ours: median(told.rates),
                floor: Some(median(silent.rates)),
                bar: Some("≥ 0.90"),
            },
        ],
    })
}

impl Side {
    fn add(&mut self, rate: f64, messages: u64) {
        self.rates.push(rate);
        self.messages += messages;
    }
}

/// Jobs per second, and the messages that came to `EVENTS` meanwhile.
async fn round(context: &jetstream::Context, pool: &Pool, jobs: usize) -> Result<(f64, u64)> {
    let before = settled(context).await?;
    let rate = throughput::round(pool, jobs).await?;
    Ok((rate, settled(context).await?.saturating_sub(before)))
}

/// The last sequence of `EVENTS` once all has arrived there, which may be later than a job's result. Messages that have gone by age or number
/// count as well.
async fn settled(context: &jetstream::Context) -> Result<u64> {
    let mut last = None;
    loop {
        let now = context.get_stream(EVENTS).await?.cached_info().state.last_sequence;
        if last.replace(now) == Some(now) {
            return Ok(now);
        }
        tokio::time::sleep(STILL).await;
    }
}
