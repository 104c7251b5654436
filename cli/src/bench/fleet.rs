//! A job's latency while many idle agents wait, who was served, what the fleet costs while nothing happens, and how soon one that stands by
//! is called up.
//!
//! The idle agents are simulated ([`agent`]), everything else is real. One failed result in its past gives each of them a lower score than the
//! pool's two real agents have, so that it shows who is served first.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use muster_client::NewJob;
use muster_runtime::{config::Period, process};
use serde_json::json;

use super::{
    latency, processes,
    report::{MIB, Report, Row, histogram, progress},
    rig::{Pool, Rig},
};
use crowd::Crowd;

mod agent;
mod crowd;

/// Jobs that warm connections and caches up, not counted.
const WARM_UP: usize = 50;
/// Files that the bench and the broker have open beside the connections of the fleet.
const FILES_BESIDE: u64 = 150;
/// Jobs for which an agent has to be called up each.
const CALLS: usize = 20;
/// How long a job may wait for an agent that is called up.
const CALL_MAX: Duration = Duration::from_secs(10);
/// How long the stack may take to come to rest once the fleet is there.
const REST_MAX: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Simulated idle agents
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// Jobs, with and without them
    #[arg(long, default_value_t = 500)]
    jobs: usize,
    /// How long to watch what the idle fleet costs
    #[arg(long, default_value = "30s")]
    idle: Period,
}

/// Runs it.
///
/// # Errors
/// When a part cannot be started, a job does not end, or so many connections cannot be had.
pub(super) async fn run(rig: &Rig, options: &Options) -> Result<Report> {
    let files = process::raise_open_files()?;
    let most = files.saturating_sub(FILES_BESIDE);
    ensure!(
        u64::try_from(options.agents)? <= most,
        "a process may have {files} files open here, which is enough for {most} agents; raise the hard limit, see `ulimit -Hn`"
    );
    let pool = rig.pool(2, 10).await?;
    let (mut alone, mut beside, mut called) = (histogram()?, histogram()?, histogram()?);
    latency::over_nats(&pool, WARM_UP, &mut histogram()?).await?;
    latency::over_nats(&pool, options.jobs, &mut alone).await?;
    let before = processes::of_stack(&rig.data_dir)?;
    let began = Instant::now();
    let crowd = Crowd::start(rig, &pool, options.agents).await?;
    let took = began.elapsed();
    processes::quiet(&rig.data_dir, REST_MAX).await?;
    progress(&format!("the fleet is there after {took:.0?}; watching it for {}", options.idle));
    let mut rows = idle(rig, &before, options).await?;
    progress(&format!("{} jobs beside it, one after the other", options.jobs));
    latency::over_nats(&pool, WARM_UP, &mut histogram()?).await?;
    latency::over_nats(&pool, options.jobs, &mut beside).await?;
    if crowd.stands_by() {
        calls(&pool, &mut called).await?;
    }
    let told = &crowd.told;
    let (astray, lost) = (told.served.load(Ordering::Relaxed), told.lost.load(Ordering::Relaxed));
    // What was measured counts all the same.
    if let Err(error) = crowd.stop().await {
        progress(&format!("a part of the fleet is left behind: {error:#}"));
    }
    if let Err(error) = pool.close().await {
        progress(&format!("{error:#}"));
    }
    let mut all = Row::latencies("beside the fleet, against two agents alone:", &beside, Some(&alone), [Some("≤ 2"), Some("≤ 20 ms")]);
    if !called.is_empty() {
        let worst =
            Row { what: "the longest".into(), unit: "ms", ours: called.max() as f64 / 1000.0, floor: None, bar: Some("≤ 100 + p50") };
        all.extend(Row::latencies("jobs that call an agent up", &called, None, [None, None]));
        all.push(worst);
    }
    all.push(Row { what: "jobs served by a lower score".into(), unit: "", ours: astray as f64, floor: None, bar: Some("0") });
    all.push(Row { what: "simulated agents that failed".into(), unit: "", ours: lost as f64, floor: None, bar: Some("0") });
    all.push(Row { what: "until all had their standings".into(), unit: "s", ours: took.as_secs_f64(), floor: None, bar: None });
    all.append(&mut rows);
    Ok(Report { name: "fleet", setting: json!({"agents": options.agents, "jobs": options.jobs}), rows: all })
}

/// What the stack costs with an idle fleet: memory beside that of before, and processor time.
async fn idle(rig: &Rig, before: &[(String, u32, processes::Usage)], options: &Options) -> Result<Vec<Row>> {
    let over = options.idle.get();
    let then = processes::of_stack(&rig.data_dir)?;
    tokio::time::sleep(over).await;
    let mut rows = Vec::new();
    for (name, pid, now) in processes::of_stack(&rig.data_dir)? {
        let known = |all: &[(String, u32, processes::Usage)]| all.iter().find(|(_, known, _)| *known == pid).map(|(.., usage)| *usage);
        let (Some(alone), Some(then)) = (known(before), known(&then)) else { continue };
        let bar = (name == "broker").then_some("≤ 30");
        let share = (now.seconds - then.seconds) / over.as_secs_f64() * 100.0;
        rows.push(Row { what: format!("{name} with the idle fleet"), unit: "% of a core", ours: share, floor: None, bar });
        let (ours, floor) = (now.resident / MIB, Some(alone.resident / MIB));
        rows.push(Row { what: format!("{name} resident, against before"), unit: "MiB", ours, floor, bar: None });
    }
    Ok(rows)
}

/// Jobs of an executor that nobody pulls who has a place: each is for somebody who is called up.
async fn calls(pool: &Pool, times: &mut hdrhistogram::Histogram<u64>) -> Result<()> {
    progress("jobs for which somebody has to be called up");
    for _ in 0..CALLS {
        let job = NewJob::new("http.request", json!({}));
        let start = Instant::now();
        pool.client.run(&pool.name, job, CALL_MAX).await?;
        times.record(u64::try_from(start.elapsed().as_micros())?)?;
    }
    Ok(())
}
