//! The one writer of the history: takes in what the feeds tell, in steps of rows and positions that are written as one.
//!
//! While the disk does not take a step, it is tried again, and the streams wait. Nothing is acknowledged to the broker, so a process that is
//! killed at any point goes on from what is on its disk.

use std::{sync::Arc, time::Duration};

use muster_runtime::shutdown::Shutdown;
use muster_schemas::{
    names::{JobId, PoolName},
    time::Timestamp,
    topology,
};
use tokio::sync::{mpsc, watch};

use super::{
    blocking,
    decode::Decoded,
    ledger::Ledger,
    row::{Change, Missing},
    store::{Reached, Step, Store, Watch},
};
use crate::channel;

/// Inputs that may wait. While the disk is behind, the streams are read more slowly.
pub(crate) const QUEUE: usize = 1024;
/// The most inputs in a step.
const STEP: usize = 512;
/// For so long a step waits for more. Written one by one as they come, a busy hundred steps a second cost more than what is in them.
const STEP_LASTS: Duration = Duration::from_millis(50);
/// How long to wait after a step that was not written.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often jobs that are too old are removed.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// How often it is noted that results are being followed.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// A shorter time without a look at the results is no gap.
pub(crate) const GAP: Duration = Duration::from_secs(30);
/// Gaps that are remembered. Older ones are joined into one.
const GAPS_MAX: usize = 16;

/// What the projection is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// A message, and the position behind it.
    Message { stream: &'static str, reached: Reached, decoded: Decoded },
    /// A stream has nothing more now.
    Looked(&'static str),
    /// All that was there when reading began has been told.
    CaughtUp(&'static str),
    /// A stream has lost its end, or all of it and was made anew, and is read on from there.
    Rewound { stream: &'static str, anew: bool, seen: u64, now: Reached },
    /// A job is nowhere.
    Missing(PoolName, JobId, Missing),
}

/// The writer.
pub(crate) struct Projection {
    pub(crate) store: Arc<Store>,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) ledger: Arc<Ledger>,
    /// Told when both streams have been read once.
    pub(crate) caught_up: watch::Sender<bool>,
    pub(crate) watch: Watch,
}

impl Projection {
    /// Runs until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut expire = tokio::time::interval(EXPIRE_EVERY);
        expire.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut inputs = Vec::with_capacity(STEP);
        let mut behind: Vec<&str> = vec![topology::EVENTS, topology::RESULTS];
        loop {
            tokio::select! {
                () = shutdown.requested() => break,
                _ = expire.tick() => self.expire().await,
                taken = channel::gather(&mut self.inputs, &mut inputs, STEP, STEP_LASTS, &shutdown) => taken?,
            }
            let mut step = Step::default();
            let mut caught_up = false;
            for input in inputs.drain(..) {
                match input {
                    Input::Message { stream, reached, decoded } => {
                        step.reached.insert(stream, reached);
                        step.changes.extend(decoded);
                    }
                    Input::Looked(topology::RESULTS) => step.watch = self.look(Timestamp::now()).or(step.watch),
                    Input::Looked(_) => {}
                    Input::CaughtUp(stream) => {
                        behind.retain(|behind| *behind != stream);
                        caught_up = behind.is_empty();
                    }
                    Input::Rewound { stream, anew, seen, now } => {
                        step.reached.insert(stream, now);
                        self.ledger.rewound(stream, anew, seen, now.sequence);
                    }
                    Input::Missing(pool, id, why) => step.changes.push((pool, id, Change::Missing(why))),
                }
            }
            tokio::select! {
                () = shutdown.requested() => break,
                () = self.write(step) => {}
            }
            if caught_up && !self.caught_up.send_replace(true) {
                let jobs = self.store.catalogue().len();
                self.ledger.caught_up(jobs);
                tracing::info!(jobs, "the history of jobs is read");
            }
        }
        // What is not on the disk is read from the streams again.
        let store = Arc::clone(&self.store);
        blocking(move || store.flush()).await.map_err(Into::into)
    }

    async fn write(&self, step: Step) {
        if step.changes.is_empty() && step.reached.is_empty() && step.watch.is_none() {
            return;
        }
        let step = Arc::new(step);
        loop {
            let (store, writing) = (Arc::clone(&self.store), Arc::clone(&step));
            match blocking(move || store.commit(&writing)).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot write the history of jobs; trying again");
                    self.ledger.unusable(error.to_string());
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
        self.ledger.written(self.store.catalogue().len());
    }

    async fn expire(&self) {
        let store = Arc::clone(&self.store);
        let expired = blocking(move || {
            let count = store.expire(Timestamp::now())?;
            Ok((count, store.size()))
        });
        match expired.await {
            Ok((count, size)) => {
                tracing::debug!(count, "jobs that are too old for the history were removed");
                self.ledger.size(size);
            }
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot remove old jobs from the history"),
        }
    }

    /// Notes that results are followed now. Answers what is to be kept, if it is time.
    fn look(&mut self, now: Timestamp) -> Option<Watch> {
        let last = self.watch.alive.unwrap_or(i64::MIN);
        let passed = self.watch.alive.map_or(Duration::MAX, |alive| now.since(Timestamp::from_micros(alive)));
        if passed > GAP {
            self.watch.gaps.push((last, now.micros()));
            if let [(from, _), (_, until), rest @ ..] = &*self.watch.gaps
                && self.watch.gaps.len() > GAPS_MAX
            {
                self.watch.gaps = [&[(*from, *until)], rest].concat();
            }
            self.ledger.gaps(&self.watch.gaps);
        }
        // Between two notes the last one stands: a gap is then taken as a little longer than it was.
        if passed < ALIVE_EVERY {
            return None;
        }
        self.watch.alive = Some(now.micros());
        Some(self.watch.clone())
    }
}
