//! A queue with very many jobs: how fast jobs get in and out of it, beside the same with an empty one, and what each takes in memory.
//!
//! The empty queue is measured before and after, in pools of their own on the same stack, since filling the deep one takes minutes in which the
//! machine may change its mood; its figure is the mean of both.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures_util::StreamExt as _;
use muster_schemas::{api::BATCH_MAX, subjects::About};
use serde_json::json;

use super::{
    crew::Crew,
    processes::{self, Usage},
    report::{Report, Row, progress},
    rig::{Pool, Rig},
    throughput,
};

/// How long the stack may take to work off what it was given, such as for the history, before its memory is looked at.
const CATCH_UP: Duration = Duration::from_secs(120);
/// Which part of the jobs that are given out is not counted: agents begin one after the other.
const RUN_UP: usize = 20;
/// How often progress is told while the queue fills: each time so many hundredths more are in.
const TELL: usize = 10;
/// The parts of the stack whose memory grows with a queue.
const PARTS: [&str; 3] = ["broker", "dispatcher", "gateway"];

const HELP: &str = "Fills a queue by batches, on a stack of the bench's own, then puts --sample jobs in over NATS and has as many given out; before and after that
the same with an empty queue. The memory of a process is what it has more than before the filling, divided by --jobs. A million jobs take some
minutes and 3 GB on the disk of --data-dir.";

/// What to measure.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// Jobs that wait in the deep queue
    #[arg(long, default_value_t = 1_000_000)]
    jobs: usize,
    /// Jobs that are put in and given out to measure how fast that goes
    #[arg(long, default_value_t = 20_000)]
    sample: usize,
    #[command(flatten)]
    crew: Crew,
}

/// Jobs per second into a queue and out of it.
struct Rates {
    submit: f64,
    dispatch: f64,
}

/// Runs it, on a stack that ends with it.
///
/// # Errors
/// When a part cannot be started, a job is refused, or none is given out any more.
pub(super) async fn run(rig: &Rig, options: &Options) -> Result<Report> {
    let Crew { agents, slots } = options.crew;
    progress(&format!("{} jobs through an empty queue", options.sample));
    let before = rates(rig, rig.queue("-before", None).await?, options).await?;
    processes::quiet(&rig.data_dir, CATCH_UP).await?;
    let empty = memory(rig)?;
    let pool = rig.queue("-deep", Some(options.jobs + 2 * options.sample)).await?;
    let filling = fill(rig, &pool, options.jobs).await?;
    progress("looking at what that takes");
    processes::quiet(&rig.data_dir, CATCH_UP).await?;
    let full = memory(rig)?;
    progress(&format!("{} jobs through the deep queue", options.sample));
    let deep = rates(rig, pool, options).await?;
    progress("the same with an empty queue once more");
    let after = rates(rig, rig.queue("-after", None).await?, options).await?;

    let row = |what: &str, ours, floor, bar| Row { what: what.into(), unit: "/s", ours, floor: Some(floor), bar };
    let mean = |rate: fn(&Rates) -> f64| (rate(&before) + rate(&after)) / 2.0;
    let mut rows = vec![
        row("submits, against an empty queue", deep.submit, mean(|rates| rates.submit), Some("≥ 0.8")),
        row("jobs given out and stored, against an empty queue", deep.dispatch, mean(|rates| rates.dispatch), Some("≥ 0.8")),
    ];
    rows.extend(
        filling.map(|(first, last)| row("the last tenth of the filling, by batches, against the first", last, first, Some("≥ 0.8"))),
    );
    for ((part, empty), (_, full)) in empty.iter().zip(&full) {
        let (what, ours) = (format!("memory for each queued job, {part}"), (full.resident - empty.resident) / options.jobs as f64);
        rows.push(Row { what, unit: "bytes", ours, floor: None, bar: None });
    }
    Ok(Report {
        name: "deep",
        setting: json!({"jobs": options.jobs, "sample": options.sample, "agents": agents, "slots": slots, "type": "probe.ping"}),
        rows,
    })
}

/// Puts jobs in, and then has as many given out.
async fn rates(rig: &Rig, mut pool: Pool, options: &Options) -> Result<Rates> {
    let start = Instant::now();
    throughput::publish(&pool, options.sample).await?;
    let submit = options.sample as f64 / start.elapsed().as_secs_f64();
    let mut stored = pool.client.nats().subscribe(About::Done.pool(&pool.name)).await?;
    pool.client.nats().flush().await?;
    pool.join(rig, options.crew.agents, options.crew.slots).await?;
    let run_up = options.sample / RUN_UP;
    let counted = async {
        let mut begin = Instant::now();
        for number in 0..options.sample {
            ensure!(stored.next().await.is_some(), "the connection ended");
            if number == run_up {
                begin = Instant::now();
            }
        }
        Ok(begin.elapsed())
    };
    let took = tokio::time::timeout(throughput::ROUND_MAX, counted).await.context("jobs are not given out any more")??;
    drop(stored);
    pool.leave().await?;
    Ok(Rates { submit, dispatch: (options.sample - run_up).saturating_sub(1) as f64 / took.as_secs_f64() })
}

/// Fills a queue; gives back the rates of the first and the last tenth, when they are long enough to have any.
async fn fill(rig: &Rig, pool: &Pool, jobs: usize) -> Result<Option<(f64, f64)>> {
    let start = Instant::now();
    let (mut told, mut first, mut last) = (0, None, None);
    let (tenth, ninth) = (jobs / 10, jobs - jobs / 10);
    throughput::batches(rig, pool, jobs, |taken| {
        let (at, hundredths) = (start.elapsed(), taken * 100 / jobs.max(1));
        if taken >= tenth && first.is_none() {
            first = Some((taken, at));
        }
        if taken >= ninth && last.is_none() {
            last = Some((taken, at));
        }
        if hundredths >= told + TELL {
            told = hundredths;
            progress(&format!("{taken} jobs wait, {:.0} a second", taken as f64 / at.as_secs_f64()));
        }
    })
    .await?;
    let (took, rate) = (start.elapsed(), |jobs: usize, took: Duration| jobs as f64 / took.as_secs_f64());
    let enough = tenth >= 10 * BATCH_MAX;
    Ok(first.zip(last).filter(|_| enough).map(|((until, begin), (from, at))| (rate(until, begin), rate(jobs - from, took - at))))
}

fn memory(rig: &Rig) -> Result<Vec<(String, Usage)>> {
    let found = processes::of_stack(&rig.data_dir)?.into_iter();
    Ok(found.filter(|(name, ..)| PARTS.contains(&name.as_str())).map(|(name, _, usage)| (name, usage)).collect())
}
