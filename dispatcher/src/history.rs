//! The searchable history of jobs: a projection of EVENTS and RESULTS, kept on this dispatcher's own disk, and the ledger of what the broker
//! was once known to hold.
//!
//! Every dispatcher keeps its own, active or not, and answers alike. No job waits for it, nothing in it is the truth: a folder that is
//! deleted is built anew from the streams, as far as they reach back.
//!
//! | to find | look in |
//! |---|---|
//! | what is known of a job, and how it is shown | [`row`], made from messages by [`decode`] |
//! | the disk | [`store`], under keys of [`key`] |
//! | filters and pages | [`page`], over the entries of [`catalogue`] |
//! | figures of a pool, and of a group | [`stats`], [`members`] |
//! | following the streams | [`feed`] and [`projection`], the one writer |
//! | answering gateways, and tasks beside it | [`answer`], [`past`] |
//! | alarms | [`ledger`], and [`audit`] for jobs that are nowhere |

mod answer;
mod audit;
mod catalogue;
mod decode;
mod feed;
mod key;
mod ledger;
mod members;
mod page;
mod past;
mod projection;
mod row;
mod stats;
mod store;

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use anyhow::Context as _;
use muster_runtime::{
    http::Readiness,
    metrics::Metrics,
    shutdown::Shutdown,
    tasks::{OnFailure, Tasks},
};
use muster_schemas::{subjects::About, time::Timestamp, topology};
use tokio::sync::{mpsc, watch};

use crate::{
    config::Config,
    intake::follow::{Follower, Position, Range, Source},
    keyring::Keyring,
};
use answer::Answers;
use audit::Audit;
use feed::{Decode, Feed};
use ledger::Ledger;
use projection::Projection;
use store::{HistoryError, Limits, Store};

pub(crate) use catalogue::Spot;
pub(crate) use members::{Fate, Followed};
pub(crate) use past::{Late, Past};

/// The folder within the dispatcher's data folder.
const FOLDER: &str = "history";
/// How long to wait before a folder that could not be used is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// The longest time that a job which has ended may be kept.
pub(crate) const AGE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Starts the history, and answers what other tasks may ask. Scores do not depend on it: while its folder cannot be used, it is tried again beside them.
///
/// # Errors
/// When its metrics cannot be made.
pub(crate) fn start(
    tasks: &Tasks,
    source: &Source,
    keyring: &Keyring,
    config: &Config,
    metrics: &Metrics,
    readiness: &Readiness,
) -> anyhow::Result<Past> {
    let ledger = Arc::new(Ledger::new(metrics, readiness.clone(), source.figures.clone())?);
    // Names of consumers are made of it, and another task follows RESULTS too.
    let source = Source { instance: format!("{}_history", source.instance), ..source.clone() };
    let (read, past) = Past::new();
    let history = History { source, keyring: keyring.clone(), config: config.clone(), ledger, read };
    let shutdown = tasks.shutdown().clone();
    tasks.start("history", OnFailure::Restart { delay: AGAIN_AFTER }, move || {
        let (history, shutdown) = (history.clone(), shutdown.clone());
        async move { history.run(shutdown).await.inspect_err(|error| history.ledger.unusable(format!("{error:#}"))) }
    });
    Ok(past)
}

/// All that the history is made of.
#[derive(Clone)]
struct History {
    source: Source,
    /// Marks results.
    keyring: Keyring,
    config: Config,
    ledger: Arc<Ledger>,
    /// Told what can be asked, once it is read.
    read: watch::Sender<Weak<Store>>,
}

impl History {
    /// Opens the history and keeps it until the shutdown.
    async fn run(&self, shutdown: Shutdown) -> anyhow::Result<()> {
        let (folder, _temporary) = folder(&self.config)?;
        let jobs = usize::try_from(self.config.history_max_jobs).unwrap_or(usize::MAX);
        let limits = Limits { jobs, age: self.config.history_max_age.get() };
        let store = Arc::new(blocking(move || Store::open(&folder, limits)).await?);
        let watch = store.watch()?;
        self.ledger.gaps(&watch.gaps);

        let (sender, inputs) = mpsc::channel(projection::QUEUE);
        let (caught_up, done) = watch::channel(false);
        let follow = |stream: &'static str, about: About, decode: Decode| {
            let position = store.reached(stream)?.map(|reached| Position {
                created: Timestamp::from_micros(reached.created),
                sequence: reached.sequence,
                stored: Timestamp::from_micros(reached.stored),
            });
            let follower = Follower::new(self.source.clone(), stream.to_owned(), about.all(), Range::Whole).behind(position);
            Ok::<_, HistoryError>(follower.run(Feed::new(stream, decode, sender.clone())))
        };
        let events = follow(topology::EVENTS, About::Event, Decode::Events)?;
        let results = follow(topology::RESULTS, About::Result, Decode::Results(self.keyring.clone()))?;
        let (broker, after) = (self.source.broker.clone(), self.config.ledger_after.get());
        let answers = Answers { store: Arc::clone(&store), broker: broker.clone() };
        let ledger = Arc::clone(&self.ledger);
        let audit = Audit { store: Arc::clone(&store), broker, ledger: Arc::clone(&ledger), inputs: sender.clone(), after };
        let (reader, mut read) = (Arc::downgrade(&store), done.clone());
        let offer = async {
            // Refused only when the projection has ended, and then this is dropped.
            let _ = read.wait_for(|done| *done).await;
            self.read.send_replace(reader);
            std::future::pending::<()>().await;
        };
        let projection = Projection { store, inputs, ledger, caught_up, watch };
        tokio::select! {
            // The followers and the audit end only when they are dropped, after the projection has written what it had.
            written = projection.run(shutdown) => written,
            answered = answers.run(done.clone()) => answered,
            () = events => Ok(()),
            () = results => Ok(()),
            () = audit.run(done) => Ok(()),
            () = offer => Ok(()),
        }
    }
}

/// Where the history is kept: as set, or for as long as this process runs.
fn folder(config: &Config) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(data) = &config.data_dir {
        return Ok((data.join(FOLDER), None));
    }
    let temporary = tempfile::Builder::new().prefix("muster-dispatcher-").tempdir().context("cannot make a folder for the history")?;
    tracing::warn!(folder = %temporary.path().display(), "no data_dir is set: the history of jobs is kept in a temporary folder, and read anew at each start");
    Ok((temporary.path().join(FOLDER), Some(temporary)))
}

/// Runs work that blocks beside the tasks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, HistoryError> + Send + 'static) -> Result<T, HistoryError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(HistoryError::Failed(error.to_string())))
}
