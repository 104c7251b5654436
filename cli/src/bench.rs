//! `muster bench`: figures of a stack beside those of the bare broker, taken in the same run.
//!
//! The floor (`bench/floor.rs`) is a second broker with the same accounts, the same streams and the same flush to disk, and nothing of ours on
//! it: what no dispatcher of jobs on this broker could beat on this machine at this moment. Only ratios mean anything; absolute figures
//! vary with the machine. How each figure is taken: `docs/performance.md`. On which stack: `bench/stage.rs`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use muster_runtime::shutdown::Shutdown;

mod crew;
mod deep;
mod events;
mod fleet;
mod floor;
mod flushes;
mod idle;
mod latency;
mod line;
mod processes;
mod pullers;
mod report;
mod rig;
mod soak;
mod stage;
mod submit;
mod throughput;
mod work;

use report::Report;
use stage::{Flush, Fsync, Own, Stage};

use crate::failure::{EXIT_INTERRUPTED, Failure};

const HELP: &str = "Examples:
  muster up &                           the stack to measure
  muster bench throughput               jobs per second, 2 agents of 10 slots
  muster bench latency --jobs 2000      submit to stored result, one at a time
  muster bench submit --connections 32  POST /jobs
  muster bench fleet --agents 1000      a job's latency beside many idle agents
  muster bench idle                     memory and processor time of idle processes
  muster bench events                   what the history of jobs costs
  muster bench flushes                  flushes to disk for each job, counted with strace
  muster bench deep --jobs 1000000      a queue that is that deep
  muster bench soak --for 1h            half the load for an hour: does anything grow?
  muster bench throughput --fsync both  with each message on disk before its acknowledgement, and without";

const LONG_HELP: &str = "\
What is measured is the `muster up` that runs on --data-dir. `deep`, `flushes` and `soak`, and everything with `--fsync off`, start a stack of their
own and remove it afterwards: they would fill the history of the one that runs, need its broker started in another way, or cost it its
durability. Each bench has a pool and agents of its own.

How to read it: MUSTER is ours, BARE BROKER the same work on a broker with nothing of ours on it, in the same run and with the same flush to
disk (or, where the row says so, ours without the burden), RATIO one divided by the other, BAR what the project holds itself to. Compare ratios:
a figure alone says more about the machine and what else it does. Everything is kept on the disk of --data-dir. Ctrl-C ends a bench.";

/// Arguments of `muster bench`.
#[derive(Debug, Args)]
#[command(after_help = HELP, after_long_help = format!("{HELP}\n\n{LONG_HELP}"))]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
    /// Data folder of the `muster up` to measure.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
    /// Whether brokers flush each message before they acknowledge it: `always` as in use, `off` on a stack of the bench's own, `both` in turn
    #[arg(long, global = true, value_enum, default_value_t = Fsync::Always)]
    fsync: Fsync,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Jobs per second from the first submit to the last stored result, put in over NATS and in batches over REST.
    Throughput(throughput::Options),
    /// Time from submit to result, one job at a time, over NATS and over REST.
    Latency(latency::Options),
    /// Submits per second over REST, beside as many bare publishers.
    Submit(submit::Options),
    /// A job's latency with a fleet of idle agents, and who was served.
    Fleet(fleet::Options),
    /// Memory and processor time of the stack's idle processes.
    Idle(idle::Options),
    /// What the events that make up the history cost in jobs per second.
    Events(events::Options),
    /// What a job costs in flushes to disk, by stream, counted with strace.
    Flushes(flushes::Options),
    /// Rates and memory with very many jobs waiting in one pool.
    Deep(deep::Options),
    /// Part of the full load for a long time: whether memory, open files or disk grow.
    Soak(soak::Options),
}

/// Runs a bench, once for each setting of the flush, and prints its reports.
///
/// # Errors
/// When the stack cannot be reached, or the floor's broker cannot be started.
pub(crate) async fn run(args: BenchArgs, json: bool) -> Result<()> {
    let data_dir = args.data_dir.map_or_else(crate::profile::data_dir, Ok)?;
    let shutdown = Shutdown::on_signals()?;
    for flush in args.fsync.each() {
        let own = args.what.own().or_else(|| (flush == Flush::Off).then(Own::default));
        let ready = async {
            match &own {
                Some(own) => Stage::own(&data_dir, flush, own).await,
                None => Stage::open(&data_dir),
            }
        };
        let stage = tokio::select! {
            stage = ready => stage?,
            () = shutdown.requested() => return Err(interrupted()),
        };
        let outcome = tokio::select! {
            outcome = measure(&args.what, &stage, &shutdown) => outcome,
            () = shutdown.requested(), if !args.what.ends_when_told() => Err(interrupted()),
        };
        stage.close().await;
        outcome?.print(flush, json)?;
    }
    Ok(())
}

async fn measure(what: &What, stage: &Stage, shutdown: &Shutdown) -> Result<Report> {
    let rig = &stage.rig;
    match what {
        What::Throughput(options) => throughput::run(rig, options).await,
        What::Latency(options) => latency::run(rig, options).await,
        What::Submit(options) => submit::run(rig, options).await,
        What::Fleet(options) => fleet::run(rig, options).await,
        What::Idle(options) => idle::run(rig, options).await,
        What::Events(options) => events::run(rig, options).await,
        What::Flushes(options) => flushes::run(stage, options).await,
        What::Deep(options) => deep::run(rig, options).await,
        What::Soak(options) => soak::run(rig, options, shutdown).await,
    }
}

impl What {
    /// What the stack must have that this is measured on; `None` when the one that runs will do.
    fn own(&self) -> Option<Own> {
        match self {
            Self::Flushes(_) => Some(Own { traced: true, ..Own::default() }),
            Self::Deep(_) => Some(Own::default()),
            Self::Soak(_) => Some(Own { history_max_jobs: Some(soak::HISTORY), ..Own::default() }),
            _ => None,
        }
    }

    /// Whether it reports what it has so far when it is interrupted.
    fn ends_when_told(&self) -> bool {
        matches!(self, Self::Soak(_))
    }
}

fn interrupted() -> anyhow::Error {
    let hint = "on a stack that goes on, the bench's pool is left: see `muster pools list`, and `muster pools delete --force`";
    Failure::new("interrupted").hint(hint).exit(EXIT_INTERRUPTED).into()
}
