//! What a job costs in flushes to disk: ours and the floor's, by stream, one job at a time and many at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use muster_broker_config::server::{Places, find_binary};
use serde_json::json;

use super::{
    crew::Crew,
    floor::{Bare, Floor},
    latency,
    report::{Report, Row, histogram, progress},
    stage::Stage,
    throughput,
};

pub(super) mod trace;
use trace::Trace;

/// A job of the floor that takes longer than this has failed.
const JOB_MAX: Duration = Duration::from_secs(30);
/// Jobs that make what is made but once, not counted.
const WARM_UP: usize = 100;
/// What is less than this for each job is left out.
const TELLING: f64 = 0.005;

const HELP: &str = "Needs strace. The broker of a stack of the bench's own and the floor's run under it. Each row is flushes for each job: all of them, and then
by what was flushed: messages of the pool's queue (submits and acks), of RESULTS, states of consumers, the staging of shared commits.";

/// What to measure.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// Jobs one after the other
    #[arg(long, default_value_t = 500)]
    alone: usize,
    /// Jobs at once
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    #[command(flatten)]
    crew: Crew,
}

/// Runs it, on a stack whose broker is traced.
///
/// # Errors
/// When a part cannot be started or traced, or a job does not end.
pub(super) async fn run(stage: &Stage, options: &Options) -> Result<Report> {
    let (rig, Crew { agents, slots }) = (&stage.rig, options.crew);
    let ours = stage.trace.as_ref().context("the stack's broker is not traced")?;
    let bare = trace::wrap(rig.scratch(), "floor", &find_binary(&Places::from_env()).await?)?;
    let floor = Floor::start(Bare { nats_server: Some(bare.program.clone()), ..rig.bare() }, agents, slots).await?;
    let pool = rig.pool(agents, slots).await?;
    throughput::round(&pool, WARM_UP).await?;
    floor.throughput(WARM_UP, throughput::IN_FLIGHT, throughput::ROUND_MAX).await?;

    let mut rows = Vec::new();
    progress(&format!("{} jobs one after the other", options.alone));
    let counted = counted(ours, async { latency::over_nats(&pool, options.alone, &mut histogram()?).await }).await?;
    let beside = self::counted(&bare, async { floor.latency(options.alone, JOB_MAX, &mut histogram()?).await }).await?;
    rows.extend(self::rows("one at a time", options.alone, &counted, &beside));
    progress(&format!("{} jobs at once", options.jobs));
    let counted = self::counted(ours, async { throughput::round(&pool, options.jobs).await.map(drop) }).await?;
    let beside =
        self::counted(&bare, async { floor.throughput(options.jobs, throughput::IN_FLIGHT, throughput::ROUND_MAX).await.map(drop) });
    rows.extend(self::rows("many at once", options.jobs, &counted, &beside.await?));

    floor.stop().await;
    pool.leave().await?;
    Ok(Report {
        name: "flushes",
        setting: json!({"alone": options.alone, "jobs": options.jobs, "agents": agents, "slots": slots, "type": "probe.ping"}),
        rows,
    })
}

/// What a broker flushes during some work, and for it afterwards.
async fn counted(trace: &Trace, work: impl Future<Output = Result<()>>) -> Result<BTreeMap<String, u64>> {
    let mark = trace.mark().await?;
    work.await?;
    trace.mark().await?;
    trace.since(mark)
}

/// All of it first, then each part by its size.
fn rows(load: &str, jobs: usize, ours: &BTreeMap<String, u64>, floor: &BTreeMap<String, u64>) -> Vec<Row> {
    let each = |count: u64| count as f64 / jobs.max(1) as f64;
    let of = |side: &BTreeMap<String, u64>, part: &String| each(side.get(part).copied().unwrap_or(0));
    let row = |what: &str, ours, floor| Row { what: format!("{load}: {what}"), unit: "a job", ours, floor: Some(floor), bar: None };
    let parts: BTreeSet<&String> = ours.keys().chain(floor.keys()).collect();
    let mut parts: Vec<_> = parts.into_iter().map(|part| (part, of(ours, part), of(floor, part))).collect();
    parts.retain(|(_, ours, floor)| ours.max(*floor) >= TELLING);
    parts.sort_by(|a, b| b.1.max(b.2).total_cmp(&a.1.max(a.2)));
    let all = row("all flushes", each(ours.values().sum()), each(floor.values().sum()));
    [all].into_iter().chain(parts.into_iter().map(|(part, ours, floor)| row(part, ours, floor))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_comes_first_and_the_rest_by_size_without_crumbs() {
        let side = |counts: &[(&str, u64)]| counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect();
        let ours = side(&[("RESULTS", 100), ("the queue", 210), ("AUDIT", 1)]);
        let rows = rows("x", 1000, &ours, &side(&[("RESULTS", 1000), ("odd", 5)]));
        let found: Vec<_> = rows.iter().map(|row| (row.what.as_str(), row.ours, row.floor)).collect();
        let expected = [
            ("x: all flushes", 0.311, Some(1.005)),
            ("x: RESULTS", 0.1, Some(1.0)),
            ("x: the queue", 0.21, Some(0.0)),
            ("x: odd", 0.0, Some(0.005)),
        ];
        assert_eq!(found, expected);
    }
}
