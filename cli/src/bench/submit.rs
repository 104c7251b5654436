//! Submits per second: `POST /jobs` over many connections, beside as many publishers on the bare broker; and `POST /jobs/batch` over one
//! connection, beside those.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use futures_util::future::try_join_all;
use muster_schemas::api::BATCH_MAX;
use serde_json::json;

use super::{
    floor::Floor,
    processes,
    report::{Report, Row, median, progress},
    rig::{Pool, Rig},
    throughput,
};

const HELP: &str = "The floor are as many publishers on the bare broker, each of which waits for its acknowledgement. No agent takes the jobs. The last row is
what the bench itself spends on a submit, on cores that it shares with the stack: the part of the figures that is not the stack's.";

/// What to measure.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Submits in each round
    #[arg(long, default_value_t = 6400)]
    jobs: usize,
    /// Batches of 1 000 jobs in each round, one after the other
    #[arg(long, default_value_t = 4)]
    batches: usize,
    /// Rounds, in turn with the floor; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Runs it. The jobs wait in a pool without agents, which is removed with them.
///
/// # Errors
/// When a part cannot be started or a submit is refused.
pub(super) async fn run(rig: &Rig, options: &Options) -> Result<Report> {
    let floor = Floor::start(rig.bare(), 0, 0).await?;
    let pool = rig.pool(0, 0).await?;
    let (mut ours, mut bare, mut batched) = (Vec::new(), Vec::new(), Vec::new());
    let (mut our_work, mut bare_work) = (Vec::new(), Vec::new());
    for number in 1..=options.rounds {
        progress(&format!("round {number} of {}", options.rounds));
        let begin = processes::own_seconds()?;
        bare.push(floor.publish(options.jobs, options.connections).await?);
        let middle = processes::own_seconds()?;
        ours.push(round(rig, &pool, options).await?);
        let end = processes::own_seconds()?;
        bare_work.push((middle - begin) / options.jobs as f64 * 1e6);
        our_work.push((end - middle) / options.jobs as f64 * 1e6);
        batched.push(batches(rig, &pool, options.batches).await?);
    }
    floor.stop().await;
    progress("removing the jobs");
    pool.close().await?;
    let (ours, bare) = (median(ours), median(bare));
    let row = |what: String, unit, ours, floor, bar| Row { what, unit, ours, floor: Some(floor), bar };
    let of_batches = format!("jobs of POST /jobs/batch, {BATCH_MAX} each over one connection, against POST /jobs");
    Ok(Report {
        name: "submit",
        setting: json!({"jobs": options.jobs, "connections": options.connections, "batches": options.batches, "rounds": options.rounds}),
        rows: vec![
            row("POST /jobs".into(), "/s", ours, bare, rig.flush.bar("≥ 1.5", None)),
            row(of_batches, "/s", median(batched), ours, None),
            row("the bench's own processor time for each submit".into(), "µs", median(our_work), median(bare_work), None),
        ],
    })
}

async fn batches(rig: &Rig, pool: &Pool, count: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..count {
        throughput::batch(rig, pool, BATCH_MAX).await?;
    }
    Ok((count * BATCH_MAX) as f64 / start.elapsed().as_secs_f64())
}

async fn round(rig: &Rig, pool: &Pool, options: &Options) -> Result<f64> {
    let job = throughput::body(pool);
    let lines = try_join_all((0..options.connections).map(|_| rig.line("/jobs", &job))).await?;
    let each = options.jobs / options.connections.max(1);
    let start = Instant::now();
    try_join_all(lines.into_iter().map(async |mut line| {
        for _ in 0..each {
            let status = line.post().await?;
            ensure!(status == 202, "the gateway answered {status}");
        }
        anyhow::Ok(())
    }))
    .await?;
    Ok((each * options.connections) as f64 / start.elapsed().as_secs_f64())
}
