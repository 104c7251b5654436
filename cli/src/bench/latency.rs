//! The time from a submit to its stored result as the submitter sees it, one job at a time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use super::{
    floor::Floor,
    report::{Report, Row, histogram, progress},
    rig::{Pool, Rig},
    throughput::ping,
};

/// A job that takes longer than this has failed.
const JOB_MAX: Duration = Duration::from_secs(30);
/// Slots of each agent.
const SLOTS: usize = 10;
/// Jobs that warm connections and caches up, not counted.
const WARM_UP: usize = 50;
/// Jobs in a row before the other side has its turn, so that both see the same moods of the machine.
const TURN: usize = 100;

/// A twentieth more than before commits were shared: 2.13 ms beside 1.40 ms **[measured]**.
const P50: &str = "≤ 1.59";
/// The bar that was set first; before commits were shared it was 1.68 **[measured]**.
const P99: &str = "≤ 2";

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Jobs on each side
    #[arg(long, default_value_t = 1000)]
    jobs: usize,
    /// Agents, started for the bench in a pool of its own
    #[arg(long, default_value_t = 2)]
    agents: usize,
}

/// Runs it.
///
/// # Errors
/// When a part cannot be started or a job does not end.
pub(super) async fn run(rig: &Rig, options: &Options) -> Result<Report> {
    let floor = Floor::start(rig.bare(), options.agents, SLOTS).await?;
    let pool = rig.pool(options.agents, SLOTS).await?;
    let (mut ours, mut rest, mut bare) = (histogram()?, histogram()?, histogram()?);
    over_nats(&pool, WARM_UP, &mut histogram()?).await?;
    over_rest(rig, &pool, WARM_UP, &mut histogram()?).await?;
    floor.latency(WARM_UP, JOB_MAX, &mut histogram()?).await?;
    progress(&format!("{} jobs one after the other, on three ways in turn", options.jobs));
    for turn in 0..options.jobs.div_ceil(TURN) {
        let jobs = TURN.min(options.jobs - turn * TURN);
        floor.latency(jobs, JOB_MAX, &mut bare).await?;
        over_nats(&pool, jobs, &mut ours).await?;
        over_rest(rig, &pool, jobs, &mut rest).await?;
    }
    floor.stop().await;
    pool.close().await?;
    let mut rows = Row::latencies("over NATS", &ours, Some(&bare), [rig.flush.bar(P50, None), rig.flush.bar(P99, None)]);
    rows.extend(Row::latencies("over REST", &rest, None, [Some("≤ 3 ms"), None]));
    Ok(Report { name: "latency", setting: json!({"jobs": options.jobs, "agents": options.agents, "type": "probe.ping"}), rows })
}

/// Submits and waits with the client library.
pub(super) async fn over_nats(pool: &Pool, jobs: usize, times: &mut hdrhistogram::Histogram<u64>) -> Result<()> {
    for _ in 0..jobs {
        let start = Instant::now();
        pool.client.run(&pool.name, ping(), JOB_MAX).await?;
        times.record(u64::try_from(start.elapsed().as_micros())?)?;
    }
    Ok(())
}

/// Submits and waits in one request.
async fn over_rest(rig: &Rig, pool: &Pool, jobs: usize, times: &mut hdrhistogram::Histogram<u64>) -> Result<()> {
    let job = json!({"pool": pool.name, "type": "probe.ping", "labels": {"pad": "x".repeat(150)}});
    for _ in 0..jobs {
        let start = Instant::now();
        let status = rig.post("/jobs?wait=30s", &job).await?;
        ensure!(status == 200, "the gateway answered {status}");
        times.record(u64::try_from(start.elapsed().as_micros())?)?;
    }
    Ok(())
}
