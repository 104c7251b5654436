//! Jobs per second, from the first submit to the last stored result, with submits and agents working at once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_client::NewJob;
use muster_schemas::{api::BATCH_MAX, subjects::About};
use serde_json::{Value, json};

use super::{
    crew::Crew,
    floor::Floor,
    report::{Report, Row, median, progress},
    rig::{Pool, Rig},
    work::Work,
};

/// Submits that wait for the broker's acknowledgement at once.
pub(super) const IN_FLIGHT: usize = 1000;
/// Batches that wait for the gateway's answer at once.
const BATCHES: usize = 4;
/// A round that takes longer than this has failed.
pub(super) const ROUND_MAX: Duration = Duration::from_secs(300);

const HELP: &str =
    "Two rows beside the same floor, in which a service publishes one by one and agents store each result and ack it by itself: jobs that a
service publishes over NATS, up to 1 000 at once, and jobs that a caller puts in with POST /jobs/batch, 1 000 in each, four at a time. The
clock runs from the first submit to the last stored result. The other rows are the processor time for each job of the second way; the floor's
agents are in the bench's own process.";

/// What to measure.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// Jobs in each round
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    #[command(flatten)]
    crew: Crew,
    /// Rounds, in turn with the floor; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Runs it.
///
/// # Errors
/// When a part cannot be started or a round does not end.
pub(super) async fn run(rig: &Rig, options: &Options) -> Result<Report> {
    let Crew { agents, slots } = options.crew;
    let floor = Floor::start(rig.bare(), agents, slots).await?;
    let pool = rig.pool(agents, slots).await?;
    let (mut ours, mut batched, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let (mut our_work, mut bare_work) = (Work::default(), Work::default());
    for number in 1..=options.rounds {
        progress(&format!("round {number} of {}: {} jobs on three ways", options.rounds, options.jobs));
        let before = Work::floor(&floor)?;
        bare.push(floor.throughput(options.jobs, IN_FLIGHT, ROUND_MAX).await?);
        bare_work.add(&before, &Work::floor(&floor)?);
        ours.push(round(&pool, options.jobs).await?);
        let before = Work::ours(rig, &pool)?;
        batched.push(rate(&pool, options.jobs, batches(rig, &pool, options.jobs, |_| ())).await?);
        our_work.add(&before, &Work::ours(rig, &pool)?);
    }
    floor.stop().await;
    pool.close().await?;
    let (bar, bare) = (rig.flush.bar("≥ 2.0", Some("≥ 0.85")), Some(median(bare)));
    let rate = |what: String, rates| Row { what, unit: "/s", ours: median(rates), floor: bare, bar };
    let mut rows = vec![
        rate("jobs put in over NATS, one by one".into(), ours),
        rate(format!("jobs put in with POST /jobs/batch of {BATCH_MAX}"), batched),
    ];
    rows.extend(our_work.rows(&bare_work, options.jobs * options.rounds));
    Ok(Report {
        name: "throughput",
        setting: json!({"jobs": options.jobs, "agents": agents, "slots": slots, "rounds": options.rounds, "type": "probe.ping"}),
        rows,
    })
}

/// One round with jobs that a service publishes.
pub(super) async fn round(pool: &Pool, jobs: usize) -> Result<f64> {
    rate(pool, jobs, publish(pool, jobs)).await
}

/// Jobs per second while `submits` puts them in: their stored results are counted as the broker republishes them.
async fn rate(pool: &Pool, jobs: usize, submits: impl Future<Output = Result<()>>) -> Result<f64> {
    let mut stored = pool.client.nats().subscribe(About::Done.pool(&pool.name)).await?;
    pool.client.nats().flush().await?;
    let start = Instant::now();
    let results = async {
        for _ in 0..jobs {
            ensure!(stored.next().await.is_some(), "the connection ended");
        }
        Ok(())
    };
    tokio::time::timeout(ROUND_MAX, async { tokio::try_join!(submits, results) }).await.context("the round did not end")??;
    Ok(jobs as f64 / start.elapsed().as_secs_f64())
}

/// Publishes jobs as a service does.
///
/// # Errors
/// When one is not taken.
pub(super) async fn publish(pool: &Pool, jobs: usize) -> Result<()> {
    let mut submits = stream::iter(0..jobs).map(|_| pool.client.submit(&pool.name, ping())).buffer_unordered(IN_FLIGHT);
    while let Some(submitted) = submits.next().await {
        submitted?;
    }
    Ok(())
}

/// Puts jobs in by batches. `done` is told how many are in.
///
/// # Errors
/// When one is not taken.
pub(super) async fn batches(rig: &Rig, pool: &Pool, jobs: usize, mut done: impl FnMut(usize)) -> Result<()> {
    let mut batches = stream::iter((0..jobs).step_by(BATCH_MAX))
        .map(async |first| batch(rig, pool, BATCH_MAX.min(jobs - first)).await)
        .buffer_unordered(BATCHES);
    let mut taken = 0;
    while let Some(more) = batches.try_next().await? {
        taken += more;
        done(taken);
    }
    Ok(())
}

/// Puts one batch in.
///
/// # Errors
/// When one of its jobs is not taken.
pub(super) async fn batch(rig: &Rig, pool: &Pool, jobs: usize) -> Result<usize> {
    let body = json!({"jobs": vec![body(pool); jobs]});
    let answer = rig.call(reqwest::Method::POST, "/jobs/batch", &body).await?;
    let entries = answer.get("data").and_then(Value::as_array).context("no entries in the answer")?;
    let taken = entries.iter().filter(|entry| entry.get("job").is_some()).count();
    ensure!(taken == jobs, "the gateway took {taken} jobs of {jobs}");
    Ok(taken)
}

/// A job whose body has about 200 bytes.
pub(super) fn ping() -> NewJob {
    NewJob::new("probe.ping", json!({})).label("pad", "x".repeat(150))
}

/// The same over REST.
pub(super) fn body(pool: &Pool) -> Value {
    json!({"pool": pool.name, "type": "probe.ping", "labels": {"pad": "x".repeat(150)}})
}
