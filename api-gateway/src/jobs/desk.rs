//! What job and pool code shares between requests: metrics, and the tasks that must outlive the request that began them.

use muster_runtime::{
    metrics::{Counters, Gauge, Gauges, Histogram, LATENCY_BUCKETS, Metrics, MetricsError},
    tasks::Group,
};

use super::watch;

/// Shared by all requests; clones share it.
#[derive(Clone)]
pub(crate) struct Desk {
    /// Submits by what became of them: `accepted`, `repeated`, or the code of the refusal.
    pub(crate) submits: Counters<1>,
    /// Cancels by what became of them: `cancelled` or the code of the refusal.
    pub(crate) cancels: Counters<1>,
    /// Requests that waited for a result, by whether it came: `finished` or `elapsed`.
    pub(crate) waits: Counters<1>,
    /// Requests that wait now.
    pub(crate) waiting: Gauge,
    /// From a submit to the broker's acknowledgement.
    pub(crate) store_seconds: Histogram,
    /// Jobs in a pool's queue, waiting or running.
    pub(crate) queued: Gauges<1>,
    /// What services asked over NATS, by verb and outcome.
    pub(crate) queries: Counters<2>,
    /// Results forwarded to where their submitters wanted them.
    pub(crate) forwarded: Counters<1>,
    /// Who watches jobs.
    pub(crate) watching: watch::Hub,
    group: Group,
}

impl Desk {
    pub(crate) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            submits: metrics.counters("muster_gateway_submits_total", "Jobs submitted, by what became of them.", ["outcome"])?,
            cancels: metrics.counters("muster_gateway_cancels_total", "Cancels, by what became of them.", ["outcome"])?,
            waits: metrics.counters("muster_gateway_waits_total", "Requests that waited for a result.", ["outcome"])?,
            waiting: metrics.gauge("muster_gateway_waiting_requests", "Requests that wait for a result now.")?,
            store_seconds: metrics.histogram("muster_gateway_store_seconds", "Time for the broker to store a job.", LATENCY_BUCKETS)?,
            queued: metrics.gauges(
                "muster_pool_queued_jobs",
                "Jobs in a pool's queue, waiting or running. One that has ended counts for up to a second more.",
                ["pool"],
            )?,
            queries: metrics.counters("muster_gateway_queries_total", "Queries of services over NATS.", ["verb", "outcome"])?,
            forwarded: metrics.counters("muster_gateway_forwarded_results_total", "Results sent to a reply_to.", ["outcome"])?,
            watching: watch::Hub::new(metrics)?,
            group: Group::new("jobs"),
        })
    }

    /// Tasks that finish what a request began, even if its caller hangs up.
    pub(crate) fn group(&self) -> &Group {
        &self.group
    }
}
