//! Part of the full load for a long time, and whether memory, open files or disk of any process grow meanwhile.
//!
//! The stack is the bench's own and keeps little: results for a minute, the last 64 MiB of events, a history of 20 000 jobs. So all that may
//! grow up to a limit has reached it in the first tenth of an hour, and whatever grows after that has none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures_util::StreamExt as _;
use muster_broker_config::provision;
use muster_runtime::{config::Period, shutdown::Shutdown, tasks::Group};
use muster_schemas::{
    subjects::About,
    topology::{self, EVENTS, Stream},
};
use serde_json::json;
use tokio::{sync::Semaphore, time::MissedTickBehavior};

use super::{
    crew::Crew,
    report::{Report, Row, progress},
    rig::{Pool, Rig},
    throughput::{self, IN_FLIGHT},
};
use crate::text;

mod readings;
mod trend;
use readings::Readings;

/// Jobs in the dispatcher's history.
pub(super) const HISTORY: u64 = 20_000;
/// How long a result is kept.
const RESULT_TTL: Duration = Duration::from_secs(60);
/// All events together, in bytes.
const EVENT_BYTES: i64 = 64 << 20;
/// How often jobs go out that are due: small groups, as from many callers.
const BEAT: Duration = Duration::from_millis(10);
/// How long the last jobs may take.
const LAST_MAX: Duration = Duration::from_secs(60);

const HELP: &str = "On a stack of the bench's own that keeps little, so that limits are reached within the first tenth, which does not count. Each process and each
folder has a row: what is added in an hour, as the median slope after the first tenth, and whether that is more than noise. Ctrl-C ends it, and
it reports what it has until then.";

/// What to measure.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Options {
    /// How long; what it says is worth something from some 30 minutes on
    #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
    lasting: Period,
    /// The load, as a share of the jobs per second that a short round finds
    #[arg(long, default_value_t = 0.5)]
    load: f64,
    /// How often to look and to tell
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    every: Period,
    /// Jobs of the round that finds the full load
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    #[command(flatten)]
    crew: Crew,
}

/// How many jobs there were.
#[derive(Debug, Default)]
struct Counts {
    taken: AtomicU64,
    refused: AtomicU64,
    stored: AtomicU64,
}

impl Counts {
    fn add(to: &AtomicU64) {
        to.fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self) -> [u64; 3] {
        [&self.taken, &self.refused, &self.stored].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Runs it, on a stack that ends with it, until the time is over or the process is told to stop; then it reports what it has.
///
/// # Errors
/// When a part cannot be started, or the connection to the broker ends.
pub(super) async fn run(rig: &Rig, options: &Options, shutdown: &Shutdown) -> Result<Report> {
    ensure!(options.load > 0.0 && options.load <= 1.0, "--load takes a share above 0 and up to 1");
    let Crew { agents, slots } = options.crew;
    let core = rig.core().await?;
    let pool = rig.pool(agents, slots).await?;
    progress("looking for the full load");
    let full = throughput::round(&pool, options.jobs).await?;
    let rate = full * options.load;
    progress(&format!(
        "{full:.0} jobs a second at most; {rate:.0} a second for {} from now on (Ctrl-C ends it with what it has)",
        options.lasting
    ));

    let counts = Arc::new(Counts::default());
    let mut readings = Readings::of(rig, &pool);
    let submits = Group::new("submits of the soak");
    let mut stored = pool.client.nats().subscribe(About::Done.pool(&pool.name)).await?;
    pool.client.nats().flush().await?;
    let stored = async {
        while stored.next().await.is_some() {
            Counts::add(&counts.stored);
        }
        anyhow::bail!("the connection to the broker ended")
    };
    let watched = async {
        tokio::select! {
            never = submit(&pool, rate, &counts, &submits) => match never {},
            read = watch(&core, &mut readings, options.every.get(), &counts) => read?,
            () = tokio::time::sleep(options.lasting.get()) => {}
            () = shutdown.requested() => {}
        }
        let took = readings.elapsed();
        keep_little(&core).await?;
        readings.read()?;
        settle(&submits, &counts).await;
        anyhow::Ok(took)
    };
    let took: Duration = tokio::select! {
        took = watched => took?,
        lost = stored => lost?,
    };
    pool.leave().await?;
    let [taken, refused, stored] = counts.of();
    let count = |what: &str, ours: u64| Row { what: what.into(), unit: "", ours: ours as f64, floor: None, bar: Some("0") };
    let achieved = stored as f64 / took.as_secs_f64();
    let mut rows = vec![
        Row { what: "jobs, against what was meant".into(), unit: "/s", ours: achieved, floor: Some(rate), bar: None },
        count("submits refused", refused),
        count("jobs without a result", taken.saturating_sub(stored)),
    ];
    rows.extend(readings.rows());
    Ok(Report {
        name: "soak",
        setting: json!({"seconds": took.as_secs(), "load": options.load, "full": full.round(), "agents": agents, "slots": slots}),
        rows,
    })
}

/// Submits so many jobs a second, whatever becomes of those before, but never more than a thousand at once.
async fn submit(pool: &Pool, rate: f64, counts: &Arc<Counts>, group: &Group) -> std::convert::Infallible {
    let (room, start) = (Arc::new(Semaphore::new(IN_FLIGHT)), Instant::now());
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = 0.0;
    loop {
        beat.tick().await;
        let due = start.elapsed().as_secs_f64() * rate;
        while sent < due {
            sent += 1.0;
            // What finds no room is not made up for: it would be more than the load that was asked for.
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                Counts::add(&counts.refused);
                continue;
            };
            let (client, name, counts) = (pool.client.clone(), pool.name.clone(), Arc::clone(counts));
            group.spawn(async move {
                let _held = permit;
                match client.submit(&name, throughput::ping().result_ttl(RESULT_TTL)).await {
                    Ok(_) => Counts::add(&counts.taken),
                    Err(_) => Counts::add(&counts.refused),
                }
            });
        }
    }
}

/// Reads again and again, and tells.
async fn watch(core: &async_nats::Client, readings: &mut Readings, every: Duration, counts: &Counts) -> Result<()> {
    let mut beat = tokio::time::interval(every.max(BEAT));
    let mut before = 0;
    let mut at = Instant::now();
    loop {
        beat.tick().await;
        keep_little(core).await?;
        let line = readings.read().context("the stack is gone")?;
        let [taken, refused, stored] = counts.of();
        let rate = (stored - before) as f64 / at.elapsed().as_secs_f64().max(0.001);
        (before, at) = (stored, Instant::now());
        let so_far = text::duration(Duration::from_secs(readings.elapsed().as_secs()));
        progress(&format!("{so_far}: {rate:.0} jobs/s, {} wait, {refused} refused; {line}", taken.saturating_sub(stored)));
    }
}

/// Caps the events. The dispatcher puts the settings of streams right twice a minute, so this is done before each reading.
async fn keep_little(core: &async_nats::Client) -> Result<()> {
    for events in topology::fixed_streams().into_iter().filter(|stream| stream.name == EVENTS) {
        provision::ensure_stream(core, &Stream { max_bytes: EVENT_BYTES, ..events }).await?;
    }
    Ok(())
}

/// Waits for the results of what has been taken.
async fn settle(submits: &Group, counts: &Counts) {
    let start = Instant::now();
    loop {
        let [taken, _, stored] = counts.of();
        if (submits.count() == 0 && stored >= taken) || start.elapsed() > LAST_MAX {
            return;
        }
        tokio::time::sleep(BEAT).await;
    }
}
