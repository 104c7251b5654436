//! The agent's figures: metrics for `/metrics`, and what its heartbeats say of its slots.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use muster_runtime::metrics::{Counter, Counters, Gauge, Histogram, JOB_BUCKETS, Metrics, MetricsError};
use muster_schemas::{heartbeat::Slots, result::Outcome};

/// The figures; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    /// Jobs that have a slot.
    running: Gauge,
    /// Jobs that wait for one here.
    held: Gauge,
    /// Attempts by how they ended.
    outcomes: Counters<1>,
    /// How long attempts ran, in seconds.
    pub(crate) duration: Histogram,
    /// Jobs given back.
    pub(crate) releases: Counter,
    /// Results that came after another one was stored.
    pub(crate) superseded: Counter,
    /// Results that wait in the spool.
    pub(crate) spooled: Gauge,
    /// Pull requests sent.
    pub(crate) pulls: Counter,
    /// Inboxes drained.
    pub(crate) drains: Counter,
    /// Bytes of output that did not reach the log.
    pub(crate) log_dropped: Counter,
    slots: Arc<SlotsNow>,
    last_error: Arc<Mutex<Option<String>>>,
}

#[derive(Debug, Default)]
struct SlotsNow {
    running: AtomicU32,
    held: AtomicU32,
}

impl Figures {
    pub(crate) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            running: metrics.gauge("muster_agent_jobs_running", "Jobs that have a slot.")?,
            held: metrics.gauge("muster_agent_jobs_held", "Jobs that wait on the agent for a slot.")?,
            outcomes: metrics.counters("muster_agent_attempts_total", "Attempts by how they ended.", ["outcome"])?,
            duration: metrics.histogram("muster_agent_attempt_seconds", "How long attempts ran.", JOB_BUCKETS)?,
            releases: metrics.counter("muster_agent_releases_total", "Jobs given back without an attempt.")?,
            superseded: metrics.counter("muster_agent_leases_lost_total", "Results that came after another one was stored.")?,
            spooled: metrics.gauge("muster_agent_results_spooled", "Results that wait for the broker.")?,
            pulls: metrics.counter("muster_agent_pulls_total", "Pull requests sent.")?,
            drains: metrics.counter("muster_agent_drains_total", "Inboxes drained.")?,
            log_dropped: metrics.counter("muster_agent_log_dropped_bytes", "Bytes of output that did not reach the log.")?,
            slots: Arc::default(),
            last_error: Arc::default(),
        })
    }

    /// An attempt has ended.
    pub(crate) fn ended(&self, outcome: Outcome) {
        self.outcomes.with([outcome.as_str()]).inc();
    }

    pub(crate) fn set_slots(&self, running: u32, held: u32) {
        self.running.set(running.into());
        self.held.set(held.into());
        self.slots.running.store(running, Ordering::Relaxed);
        self.slots.held.store(held, Ordering::Relaxed);
    }

    pub(crate) fn slots(&self, total: u32) -> Slots {
        Slots { total, running: self.slots.running.load(Ordering::Relaxed), held: self.slots.held.load(Ordering::Relaxed) }
    }

    /// Remembers an error for the next heartbeats.
    pub(crate) fn error(&self, error: impl Into<String>) {
        let text: String = error.into();
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.chars().take(500).collect());
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
