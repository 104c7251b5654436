//! `muster bench`: figures of the running stack beside those of the bare broker, taken in the same run.
//!
//! The floor (`bench/floor.rs`) is a second broker with the same accounts, the same streams and the same flush to disk, and nothing of ours on
//! it: what no dispatcher of jobs on this broker could beat on this machine at this moment. Only ratios mean anything; absolute figures
//! vary with the machine. How each figure is taken: `docs/performance.md`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

mod fleet;
mod floor;
mod idle;
mod latency;
mod pullers;
mod report;
mod rig;
mod submit;
mod throughput;

use rig::Rig;

/// Arguments of `muster bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  muster up &                           the stack to measure
  muster bench throughput               jobs per second, 2 agents of 10 slots
  muster bench latency --jobs 2000      submit to stored result, one at a time
  muster bench submit --connections 32  POST /jobs
  muster bench fleet --agents 1000      a job's latency beside many idle agents
  muster bench idle                     memory and processor time of idle processes")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
    /// Data folder of the `muster up` to measure.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Jobs per second from the first submit to the last stored result.
    Throughput(throughput::Options),
    /// Time from submit to result, one job at a time, over NATS and over REST.
    Latency(latency::Options),
    /// Submits per second over REST, beside as many bare publishers.
    Submit(submit::Options),
    /// A job's latency with a fleet of idle agents, and who was served.
    Fleet(fleet::Options),
    /// Memory and processor time of the stack's idle processes.
    Idle(idle::Options),
}

/// Runs a bench and prints its report.
///
/// # Errors
/// When the stack cannot be reached, or the floor's broker cannot be started.
pub(crate) async fn run(args: BenchArgs, json: bool) -> Result<()> {
    let data_dir = args.data_dir.map_or_else(crate::profile::data_dir, Ok)?;
    let report = match args.what {
        What::Throughput(options) => throughput::run(&Rig::open(&data_dir).await?, &options).await?,
        What::Latency(options) => latency::run(&Rig::open(&data_dir).await?, &options).await?,
        What::Submit(options) => submit::run(&Rig::open(&data_dir).await?, &options).await?,
        What::Fleet(options) => fleet::run(&Rig::open(&data_dir).await?, &options).await?,
        What::Idle(options) => idle::run(&data_dir, &options).await?,
    };
    report.print(json)
}
