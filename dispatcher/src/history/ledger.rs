//! What is wrong with the broker's memory, as the history knows it: told in the log, as metrics, and as a line of `/readyz`.
//!
//! A single flipped bit makes a lone broker lose the end of a stream and say that all is well. The history is outside the streams, so
//! it notices. Alarms stay in `/readyz` until the process ends; they do not make it unready.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use muster_runtime::{
    http::Readiness,
    metrics::{Counter, Gauge, Metrics, MetricsError},
};
use muster_schemas::{
    names::{JobId, PoolName},
    time::Timestamp,
    topology,
};

use super::{projection::GAP, row::Row};
use crate::figures::Figures;

/// The name of the line in `/readyz`.
pub(crate) const CHECK: &str = "history";

/// The alarms.
pub(crate) struct Ledger {
    readiness: Readiness,
    figures: Figures,
    jobs: Gauge,
    bytes: Gauge,
    lost: Counter,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    reading: bool,
    unusable: Option<String>,
    rewound: BTreeMap<&'static str, String>,
    lost: u64,
    last_lost: String,
    gaps: Vec<(i64, i64)>,
}

impl Ledger {
    pub(crate) fn new(metrics: &Metrics, readiness: Readiness, figures: Figures) -> Result<Self, MetricsError> {
        let ledger = Self {
            jobs: metrics.gauge("muster_history_jobs", "Jobs in this dispatcher's history.")?,
            bytes: metrics.gauge("muster_history_bytes", "Bytes of this dispatcher's history on its disk.")?,
            lost: metrics.counter("muster_jobs_lost_total", "Acknowledged jobs that are neither in their queue nor have a result.")?,
            known: Mutex::new(Known { reading: true, ..Known::default() }),
            readiness,
            figures,
        };
        ledger.readiness.set(CHECK, Ok(()));
        ledger.show(&ledger.known());
        Ok(ledger)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, known: &Known) {
        let mut lines = Vec::new();
        if known.reading {
            lines.push("still reading events and results".to_owned());
        }
        lines.extend(known.unusable.clone());
        lines.extend(known.rewound.values().cloned());
        if known.lost > 0 {
            lines.push(format!("ALARM: {} acknowledged jobs are lost, the last one {}", known.lost, known.last_lost));
        }
        self.readiness.note(CHECK, if lines.is_empty() { "up to date".to_owned() } else { lines.join("; ") });
    }

    /// Both streams have been read once.
    #[allow(clippy::cast_precision_loss, reason = "a metric is a float, exact up to 2^53")]
    pub(crate) fn caught_up(&self, jobs: usize) {
        self.jobs.set(jobs as f64);
        let mut known = self.known();
        known.reading = false;
        self.show(&known);
    }

    /// The disk does not do its part.
    pub(crate) fn unusable(&self, why: String) {
        let mut known = self.known();
        known.unusable = Some(why);
        self.show(&known);
    }

    #[allow(clippy::cast_precision_loss, reason = "a metric is a float, exact up to 2^53")]
    pub(crate) fn written(&self, jobs: usize) {
        self.jobs.set(jobs as f64);
        let mut known = self.known();
        if known.unusable.take().is_some() {
            self.show(&known);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a metric is a float, exact up to 2^53")]
    pub(crate) fn size(&self, bytes: u64) {
        self.bytes.set(bytes as f64);
    }

    /// A stream's sequence went backwards.
    pub(crate) fn rewound(&self, stream: &'static str, anew: bool, seen: u64, now: u64) {
        self.figures.rewound(stream);
        let at = Timestamp::now();
        let text = if stream == topology::EVENTS && !anew {
            // It is written without waiting for the disk, and no promise rests on it.
            tracing::warn!(stream, seen, now, "the broker has lost the last state changes, as it may when it is killed");
            format!("{stream} went back from message {seen} to {now} at {at}, as it may when the broker is killed")
        } else {
            tracing::error!(stream, seen, now, anew, "the broker has lost messages: a stream's sequence went backwards");
            format!("ALARM: {stream} went back from message {seen} to {now} at {at}: the broker has lost messages")
        };
        let mut known = self.known();
        known.rewound.insert(stream, text);
        self.show(&known);
    }

    /// An acknowledged job is nowhere.
    pub(crate) fn lost(&self, pool: &PoolName, id: &JobId) {
        tracing::error!(%pool, job_id = %id, "an acknowledged job is neither in its queue nor has it a result: the broker has lost it");
        self.lost.inc();
        let mut known = self.known();
        known.lost += 1;
        known.last_lost = format!("{id} of pool {pool}");
        self.show(&known);
    }

    /// When results were not followed.
    pub(crate) fn gaps(&self, gaps: &[(i64, i64)]) {
        self.known().gaps = gaps.to_vec();
    }

    /// Whether a job may have ended, and its result have gone, without our having seen it.
    pub(crate) fn may_have_ended_unseen(&self, row: &Row) -> bool {
        let Some(ttl) = row.ttl_s() else { return true };
        if ttl <= GAP.as_secs() {
            return true;
        }
        let kept = i64::try_from(ttl).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let queued = row.queued_at();
        self.known().gaps.iter().any(|(from, until)| queued < *until && queued.max(*from).saturating_add(kept) < *until)
    }
}
