//! Jobs per second, from the first submit to the last stored result, with submits and agents working at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use futures_util::{StreamExt, stream};
use muster_client::NewJob;
use muster_schemas::subjects::About;
use serde_json::json;

use super::{
    floor::Floor,
    report::{Report, Row, median},
    rig::Rig,
};

/// Submits that wait for the broker's acknowledgement at once.
const IN_FLIGHT: usize = 1000;
/// A round that takes longer than this has failed.
const ROUND_MAX: Duration = Duration::from_secs(300);

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Jobs in each round
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    /// Agents, started for the bench in a pool of its own
    #[arg(long, default_value_t = 2)]
    agents: usize,
    /// Slots of each agent
    #[arg(long, default_value_t = 10)]
    slots: usize,
    /// Rounds, in turn with the floor; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Runs it.
///
/// # Errors
/// When a part cannot be started or a round does not end.
pub(super) async fn run(rig: &Rig, options: &Options) -> Result<Report> {
    let floor = Floor::start(options.agents, options.slots).await?;
    let pool = rig.pool(options.agents, options.slots).await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        bare.push(floor.throughput(options.jobs, IN_FLIGHT, ROUND_MAX).await?);
        ours.push(round(&pool, options.jobs).await?);
    }
    floor.stop().await;
    pool.close().await?;
    Ok(Report {
        name: "throughput",
        setting: json!({"jobs": options.jobs, "agents": options.agents, "slots": options.slots, "rounds": options.rounds, "type": "probe.ping"}),
        rows: vec![Row { what: "jobs".into(), unit: "/s", ours: median(ours), floor: Some(median(bare)), bar: Some("≥ 0.80") }],
    })
}

/// One round: the jobs' stored results are counted as the broker republishes them.
async fn round(pool: &super::rig::Pool, jobs: usize) -> Result<f64> {
    let mut stored = pool.client.nats().subscribe(About::Done.pool(&pool.name)).await?;
    pool.client.nats().flush().await?;
    let start = Instant::now();
    let submits = async {
        let mut submits = stream::iter(0..jobs).map(|_| pool.client.submit(&pool.name, ping())).buffer_unordered(IN_FLIGHT);
        while let Some(submitted) = submits.next().await {
            submitted?;
        }
        anyhow::Ok(())
    };
    let results = async {
        for _ in 0..jobs {
            ensure!(stored.next().await.is_some(), "the connection ended");
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(ROUND_MAX, async { tokio::try_join!(submits, results) }).await??;
    Ok(jobs as f64 / start.elapsed().as_secs_f64())
}

/// A job whose body has about 200 bytes.
pub(super) fn ping() -> NewJob {
    NewJob::new("probe.ping", json!({})).label("pad", "x".repeat(150))
}
