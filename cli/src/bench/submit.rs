//! Submits per second: `POST /jobs` over many connections, beside as many publishers on the bare broker; and `POST /jobs/batch` over one
//! connection, beside those.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use futures_util::future::try_join_all;
use muster_schemas::api::BATCH_MAX;
use reqwest::Method;
use serde_json::{Value, json};

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
    let floor = Floor::start(0, 0).await?;
    let pool = rig.pool(0, 0).await?;
    let (mut ours, mut bare, mut batched) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        bare.push(floor.publish(options.jobs, options.connections).await?);
        ours.push(round(rig, &pool, options).await?);
        batched.push(batches(rig, &pool, options.batches).await?);
    }
    floor.stop().await;
    pool.close().await?;
    let (ours, bare) = (median(ours), median(bare));
    let what = format!("jobs of POST /jobs/batch, {BATCH_MAX} each over one connection, against POST /jobs");
    Ok(Report {
        name: "submit",
        setting: json!({"jobs": options.jobs, "connections": options.connections, "batches": options.batches, "rounds": options.rounds}),
        rows: vec![
            Row { what: "POST /jobs".into(), unit: "/s", ours, floor: Some(bare), bar: Some("≥ 0.5") },
            Row { what, unit: "/s", ours: median(batched), floor: Some(ours), bar: Some("≥ 3") },
        ],
    })
}

fn job(pool: &Pool) -> Value {
    json!({"pool": pool.name, "type": "probe.ping", "labels": {"pad": "x".repeat(150)}})
}

async fn batches(rig: &Rig, pool: &Pool, count: usize) -> Result<f64> {
    let body = json!({"jobs": vec![job(pool); BATCH_MAX]});
    let start = Instant::now();
    for _ in 0..count {
        let answer = rig.call(Method::POST, "/jobs/batch", &body).await?;
        let accepted = answer
            .get("data")
            .and_then(Value::as_array)
            .map_or(0, |entries| entries.iter().filter(|entry| entry.get("job").is_some()).count());
        ensure!(accepted == BATCH_MAX, "the gateway accepted {accepted} jobs of {BATCH_MAX}");
    }
    Ok((count * BATCH_MAX) as f64 / start.elapsed().as_secs_f64())
}

async fn round(rig: &Rig, pool: &Pool, options: &Options) -> Result<f64> {
    let job = job(pool);
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
