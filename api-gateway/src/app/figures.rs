//! The gateway's own metrics.

use muster_runtime::metrics::{Counter, Counters, Gauge, Histograms, LATENCY_BUCKETS, Metrics, MetricsError};

/// What the gateway counts.
pub(crate) struct Figures {
    /// By method, route template and status.
    pub(crate) requests: Counters<3>,
    /// By route template.
    pub(crate) seconds: Histograms<1>,
    /// Requests under way.
    pub(crate) running: Gauge,
    /// Refused keys and tokens, by reason.
    pub(crate) refused: Counters<1>,
    /// Password hashes computed.
    pub(crate) hashes: Counter,
    /// Password hashes that are being computed.
    pub(crate) hashing: Gauge,
    /// Requests refused at the door, by what they were too many or too large of.
    pub(crate) limited: Counters<1>,
}

impl Figures {
    pub(crate) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            requests: metrics.counters("muster_gateway_requests_total", "Requests answered.", ["method", "route", "status"])?,
            seconds: metrics.histograms("muster_gateway_request_seconds", "Time to answer a request.", ["route"], LATENCY_BUCKETS)?,
            running: metrics.gauge("muster_gateway_requests_running", "Requests under way.")?,
            refused: metrics.counters("muster_gateway_refused_total", "Keys and tokens refused.", ["reason"])?,
            hashing: metrics.gauge("muster_gateway_key_hashes_running", "Password hashes being computed.")?,
            limited: metrics.counters("muster_gateway_limited_total", "Requests refused at the door.", ["limit"])?,
            hashes: metrics.counter("muster_gateway_key_hashes_total", "Password hashes computed to check keys.")?,
        })
    }
}
