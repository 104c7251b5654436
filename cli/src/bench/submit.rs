//! Submits per second: `POST /jobs` over many connections, beside as many publishers on the bare broker.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use futures_util::future::try_join_all;
use serde_json::json;

use super::{
    floor::Floor,
    report::{Report, Row, median},
    rig::{Pool, Rig},
};

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Submits in each round
    #[arg(long, default_value_t = 6400)]
    jobs: usize,
    /// Rounds, in turn with the floor; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Runs it. The jobs wait in a pool without agents, which is removed with them.
///
/// # Errors
/// When a part cannot be started or a submit is refused.
pub(super) async fn run(rig: &Rig, options: &Options) -> Result<Report> {
    let floor = Floor::start(0, 0).await?;
    let pool = rig.pool(0, 0).await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        bare.push(floor.publish(options.jobs, options.connections).await?);
        ours.push(round(rig, &pool, options).await?);
    }
    floor.stop().await;
    pool.close().await?;
    Ok(Report {
        name: "submit",
        setting: json!({"jobs": options.jobs, "connections": options.connections, "rounds": options.rounds}),
        rows: vec![Row { what: "POST /jobs".into(), unit: "/s", ours: median(ours), floor: Some(median(bare)), bar: Some("≥ 0.5") }],
    })
}

async fn round(rig: &Rig, pool: &Pool, options: &Options) -> Result<f64> {
    let job = json!({"pool": pool.name, "type": "probe.ping", "labels": {"pad": "x".repeat(150)}});
    let each = options.jobs / options.connections.max(1);
    let start = Instant::now();
    try_join_all((0..options.connections).map(async |_| {
        for _ in 0..each {
            let status = rig.post("/jobs", &job).await?;
            ensure!(status == 202, "the gateway answered {status}");
        }
        anyhow::Ok(())
    }))
    .await?;
    Ok((each * options.connections) as f64 / start.elapsed().as_secs_f64())
}
