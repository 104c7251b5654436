//! The dispatcher's metrics, all in one place.
//!
//! What is about jobs, pools and agents is told by the active dispatcher only, so that the figures of several may be added up. It counts,
//! and never decides.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use muster_runtime::metrics::{
    Counter, Counters, Gauge, Gauges, Histogram, Histograms, JOB_BUCKETS, LATENCY_BUCKETS, Metrics, MetricsError,
};
use muster_schemas::{
    names::{AgentId, PoolName},
    signature::Mark,
    standing::{Standing, Status},
};

use crate::intake::results::Ended;

/// The pool of results whose pool is not known: a label must not be what a stranger chose.
const NO_POOL: &str = "unknown";

/// Why something that came in has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ignored {
    /// A heartbeat that can't be decoded.
    Heartbeat,
    /// A result that can't be decoded.
    Result,
    /// A record or standing that can't be decoded.
    Record,
    /// A heartbeat that was seen before.
    Replay,
    /// A heartbeat of an agent without a record in that pool.
    Stranger,
    /// A result that names an agent without a record in that pool.
    Unattributed,
}

impl Ignored {
    fn label(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat_undecodable",
            Self::Result => "result_undecodable",
            Self::Record => "record_undecodable",
            Self::Replay => "heartbeat_replayed",
            Self::Stranger => "heartbeat_of_stranger",
            Self::Unattributed => "result_of_stranger",
        }
    }
}

/// What became of a firing of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firing {
    /// A job.
    Made,
    /// Nothing: its pool did not take the job.
    Refused,
    /// Nothing, as the schedule has it.
    Skipped,
}

impl Firing {
    fn label(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Refused => "refused",
            Self::Skipped => "skipped",
        }
    }
}

/// How much of a pool's work waits and runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    pub(crate) queued: u64,
    pub(crate) running: u64,
    pub(crate) redelivered: u64,
}

/// The metrics; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    finished: Counters<2>,
    waited: Histograms<1>,
    ran: Histograms<1>,
    leases_lost: Counters<1>,
    queued: Gauges<1>,
    running: Gauges<1>,
    redelivered: Gauges<1>,
    score: Gauges<2>,
    agents: Gauges<2>,
    active: Gauge,
    written: Counter,
    refused: Counter,
    ignored: Counters<1>,
    interrupted: Counters<1>,
    rewound: Counters<1>,
    signatures: Counters<1>,
    groups: Gauge,
    waves: Counter,
    expired: Counter,
    called: Counter,
    swept: Counter,
    sweeps: Histogram,
    firings: Counters<1>,
    told: Arc<Mutex<Told>>,
}

/// Labels of gauges that are set, so that those of agents and pools that are no more can be taken away.
#[derive(Debug, Default)]
struct Told {
    agents: BTreeSet<(PoolName, AgentId)>,
    pools: BTreeSet<PoolName>,
    loads: BTreeSet<PoolName>,
}

impl Figures {
    pub(crate) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            finished: metrics.counters("muster_jobs_finished_total", "Jobs whose result was stored.", ["pool", "outcome"])?,
            waited: metrics.histograms(
                "muster_job_wait_seconds",
                "From the moment the broker stored a job to the start of its last attempt.",
                ["pool"],
                LATENCY_BUCKETS,
            )?,
            ran: metrics.histograms("muster_job_run_seconds", "How long the last attempt of a job ran.", ["pool"], JOB_BUCKETS)?,
            leases_lost: metrics.counters(
                "muster_leases_lost_total",
                "Attempts whose agent was lost, counted when the job's result is stored.",
                ["pool"],
            )?,
            queued: metrics.gauges("muster_jobs_queued", "Jobs that wait.", ["pool"])?,
            running: metrics.gauges(
                "muster_jobs_running",
                "Jobs that agents have. One that has ended counts for up to a second more.",
                ["pool"],
            )?,
            redelivered: metrics.gauges("muster_jobs_redelivered", "Jobs that agents have not for the first time.", ["pool"])?,
            score: metrics.gauges("muster_agent_score", "Score of an agent, 0 to 100.", ["pool", "agent"])?,
            agents: metrics.gauges("muster_pool_agents", "Agents by status.", ["pool", "status"])?,
            active: metrics.gauge("muster_dispatcher_active", "1 on the dispatcher that writes standings, 0 on the others.")?,
            written: metrics.counter("muster_standings_written_total", "Standings written or deleted.")?,
            refused: metrics.counter("muster_standings_refused_total", "Writes of standings that the broker refused or did not answer.")?,
            ignored: metrics.counters("muster_inputs_ignored_total", "Messages without an effect.", ["why"])?,
            interrupted: metrics.counters(
                "muster_streams_interrupted_total",
                "Times that reading a stream was interrupted.",
                ["stream"],
            )?,
            rewound: metrics.counters(
                "muster_streams_rewound_total",
                "Times that a stream's sequence went backwards: the broker has lost messages.",
                ["stream"],
            )?,
            signatures: metrics.counters(
                "muster_results_signed_total",
                "Stored results by what is known of their signatures: valid, missing or wrong.",
                ["signature"],
            )?,
            groups: metrics.gauge("muster_groups_open", "Groups whose jobs are being sent, run or cancelled.")?,
            waves: metrics.counter("muster_group_waves_sent_total", "Waves of groups that were sent.")?,
            expired: metrics.counter("muster_jobs_expired_total", "Jobs that expired and that no agent had taken.")?,
            called: metrics.counter("muster_agents_called_total", "Calls to agents on standby to pull.")?,
            swept: metrics.counter("muster_jobs_swept_total", "Finished jobs that were removed from their queues together.")?,
            sweeps: metrics.histogram(
                "muster_sweep_seconds",
                "How long the broker took to remove finished jobs together.",
                LATENCY_BUCKETS,
            )?,
            firings: metrics.counters("muster_schedule_firings_total", "Firings of schedules by what became of them.", ["became"])?,
            told: Arc::default(),
        })
    }

    /// A job of a pool ended.
    pub(crate) fn ended(&self, pool: Option<&PoolName>, ended: &Ended) {
        let pool = pool.map_or(NO_POOL, PoolName::as_str);
        self.finished.with([pool, ended.outcome.as_str()]).inc();
        if let Some(started) = ended.started_at {
            self.waited.with([pool]).observe(started.since(ended.queued_at).as_secs_f64());
            self.ran.with([pool]).observe(ended.finished_at.since(started).as_secs_f64());
        }
        let lost = u32::try_from(ended.leases_lost()).unwrap_or(u32::MAX);
        if lost > 0 {
            self.leases_lost.with([pool]).inc_by(lost.into());
        }
    }

    pub(crate) fn ignored(&self, why: Ignored) {
        self.ignored.with([why.label()]).inc();
    }

    /// The signature of a result that was stored.
    pub(crate) fn signed(&self, mark: Mark) {
        self.signatures.with([mark.as_str()]).inc();
    }

    pub(crate) fn interrupted(&self, stream: &str) {
        self.interrupted.with([stream]).inc();
    }

    pub(crate) fn rewound(&self, stream: &str) {
        self.rewound.with([stream]).inc();
    }

    /// So many groups are not over.
    #[allow(clippy::cast_precision_loss, reason = "a metric is a float, exact up to 2^53")]
    pub(crate) fn groups(&self, open: usize) {
        self.groups.set(open as f64);
    }

    pub(crate) fn wave_sent(&self) {
        self.waves.inc();
    }

    /// A job was ended that no agent had taken.
    pub(crate) fn expired(&self) {
        self.expired.inc();
    }

    /// So many agents were called up.
    pub(crate) fn called(&self, agents: usize) {
        self.called.inc_by(u32::try_from(agents).unwrap_or(u32::MAX).into());
    }

    /// So many finished jobs were removed together, which took so long.
    pub(crate) fn swept(&self, jobs: u64, took: Duration) {
        self.swept.inc_by(u32::try_from(jobs).unwrap_or(u32::MAX).into());
        self.sweeps.observe(took.as_secs_f64());
    }

    /// A firing of a schedule was dealt with.
    pub(crate) fn fired(&self, became: Firing) {
        self.firings.with([became.label()]).inc();
    }

    /// A write of a standing ended.
    pub(crate) fn written(&self, stored: bool) {
        if stored { self.written.inc() } else { self.refused.inc() }
    }

    /// Whether this process leads. One that does not tells nothing of pools and agents.
    pub(crate) fn lead(&self, lead: bool) {
        self.active.set(lead.into());
        if !lead {
            self.agents(std::iter::empty());
            self.loads([].into_iter());
        }
    }

    /// All agents as they are judged.
    pub(crate) fn agents<'a>(&self, agents: impl Iterator<Item = (&'a PoolName, &'a AgentId, Option<&'a Standing>)>) {
        let mut counts = std::collections::BTreeMap::<PoolName, [u32; 3]>::new();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = BTreeSet::new();
        for (pool, agent, standing) in agents {
            let Some(standing) = standing else { continue };
            self.score.with([pool.as_str(), agent.as_str()]).set(standing.score);
            seen.insert((pool.clone(), agent.clone()));
            let count = counts.entry(pool.clone()).or_default();
            let [online, degraded, offline] = count;
            *match standing.status {
                Status::Online => online,
                Status::Degraded => degraded,
                Status::Offline => offline,
            } += 1;
        }
        for (pool, agent) in told.agents.difference(&seen) {
            self.score.remove([pool.as_str(), agent.as_str()]);
        }
        told.agents = seen;
        for (pool, count) in &counts {
            for (status, count) in STATUSES.into_iter().zip(count) {
                self.agents.with([pool.as_str(), status]).set((*count).into());
            }
        }
        let pools: BTreeSet<_> = counts.into_keys().collect();
        for pool in told.pools.difference(&pools) {
            STATUSES.into_iter().for_each(|status| self.agents.remove([pool.as_str(), status]));
        }
        told.pools = pools;
    }

    /// How much waits and runs in each pool.
    pub(crate) fn loads(&self, loads: impl Iterator<Item = (PoolName, Load)>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = BTreeSet::new();
        for (pool, load) in loads {
            for (gauges, value) in [(&self.queued, load.queued), (&self.running, load.running), (&self.redelivered, load.redelivered)] {
                #[allow(clippy::cast_precision_loss, reason = "a metric is a float, exact up to 2^53")]
                gauges.with([pool.as_str()]).set(value as f64);
            }
            seen.insert(pool);
        }
        for pool in told.loads.difference(&seen) {
            [&self.queued, &self.running, &self.redelivered].into_iter().for_each(|gauges| gauges.remove([pool.as_str()]));
        }
        told.loads = seen;
    }
}

/// In the order of the counts above.
const STATUSES: [&str; 3] = ["online", "degraded", "offline"];
