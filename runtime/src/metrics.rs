//! Metrics: labelled counters, gauges and histograms that are registered without panics.
//!
//! Names are `muster_<what>_<unit>` (`_total` for counters). Labels have few values: pools,
//! outcomes, kinds; never job ids. Text output and process figures are in [`crate::http`].

use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, core::Collector};

pub use prometheus::{Counter, Gauge, Histogram};

/// Buckets in seconds for what takes from half a millisecond (one hop over the broker) to a minute.
pub const LATENCY_BUCKETS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Buckets in seconds for how long jobs run or wait: from 10 ms to a day.
pub const JOB_BUCKETS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0];

/// A metric that can't be registered.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The name is not `muster_<what>_<unit>`.
    #[error("metric {0:?} is not named muster_<what>_<unit>")]
    Name(String),
    /// The name is taken, or a label is not a valid name.
    #[error("can't register metric {name}")]
    Register {
        /// Which metric.
        name: String,
        /// Why.
        source: prometheus::Error,
    },
}

/// Makes and registers metrics; clones share the registry.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// An empty registry of its own (never the global one, so that tests don't share figures).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The registry behind it.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A counter without labels.
    ///
    /// # Errors
    /// When the name is wrong or taken; so for all of these.
    pub fn counter(&self, name: &str, help: &str) -> Result<Counter, MetricsError> {
        self.register(name, Counter::new(name, help))
    }

    /// A gauge without labels.
    ///
    /// # Errors
    /// As [`Metrics::counter`].
    pub fn gauge(&self, name: &str, help: &str) -> Result<Gauge, MetricsError> {
        self.register(name, Gauge::new(name, help))
    }

    /// A histogram without labels.
    ///
    /// # Errors
    /// As [`Metrics::counter`].
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, MetricsError> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(name, Histogram::with_opts(options))
    }

    /// Counters with labels.
    ///
    /// # Errors
    /// As [`Metrics::counter`].
    pub fn counters<const N: usize>(&self, name: &str, help: &str, labels: [&str; N]) -> Result<Counters<N>, MetricsError> {
        Ok(Counters {
            vector: self.register(name, CounterVec::new(Opts::new(name, help), &labels))?,
            spare: named(name, Counter::new(name, help))?,
        })
    }

    /// Gauges with labels.
    ///
    /// # Errors
    /// As [`Metrics::counter`].
    pub fn gauges<const N: usize>(&self, name: &str, help: &str, labels: [&str; N]) -> Result<Gauges<N>, MetricsError> {
        Ok(Gauges {
            vector: self.register(name, GaugeVec::new(Opts::new(name, help), &labels))?,
            spare: named(name, Gauge::new(name, help))?,
        })
    }

    /// Histograms with labels.
    ///
    /// # Errors
    /// As [`Metrics::counter`].
    pub fn histograms<const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        buckets: &[f64],
    ) -> Result<Histograms<N>, MetricsError> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        Ok(Histograms {
            vector: self.register(name, HistogramVec::new(options.clone(), &labels))?,
            spare: named(name, Histogram::with_opts(options))?,
        })
    }

    fn register<C: Collector + Clone + 'static>(&self, name: &str, metric: prometheus::Result<C>) -> Result<C, MetricsError> {
        let well_named = name.strip_prefix("muster_").is_some_and(|rest| rest.split('_').filter(|word| !word.is_empty()).count() >= 2);
        if !well_named {
            return Err(MetricsError::Name(name.to_owned()));
        }
        let registered = metric.and_then(|metric| {
            self.registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        });
        named(name, registered)
    }
}

fn named<M>(name: &str, metric: prometheus::Result<M>) -> Result<M, MetricsError> {
    metric.map_err(|source| MetricsError::Register { name: name.to_owned(), source })
}

// The number of labels is part of the type, so a look-up can't fail. Should it fail all the same,
// the answer is a spare that nobody reads: figures must never stop the work they count.
macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident, $vector:ty, $metric:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name<const N: usize> {
            vector: $vector,
            spare: $metric,
        }

        impl<const N: usize> $name<N> {
            /// The one with these label values, in the order of the labels.
            #[must_use]
            pub fn with(&self, values: [&str; N]) -> $metric {
                self.vector
                    .get_metric_with_label_values(&values)
                    .unwrap_or_else(|_| self.spare.clone())
            }

            /// Forgets the one with these label values, for what is gone for good.
            pub fn remove(&self, values: [&str; N]) {
                // An error only says that there was none.
                let _ = self.vector.remove_label_values(&values);
            }

            /// Forgets all of them.
            pub fn clear(&self) {
                self.vector.reset();
            }
        }
    };
}

labelled!(
    /// Counters with `N` labels.
    Counters, CounterVec, Counter
);
labelled!(
    /// Gauges with `N` labels.
    Gauges, GaugeVec, Gauge
);
labelled!(
    /// Histograms with `N` labels.
    Histograms, HistogramVec, Histogram
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn labelled_metrics_count_per_label_and_can_be_forgotten() {
        let metrics = Metrics::new();
        let finished = metrics.counters("muster_jobs_finished_total", "Jobs.", ["pool", "outcome"]).unwrap();
        finished.with(["p", "succeeded"]).inc();
        finished.with(["p", "succeeded"]).inc();
        finished.with(["p", "failed"]).inc();
        assert_eq!(finished.with(["p", "succeeded"]).get(), 2.0);
        finished.remove(["p", "succeeded"]);
        finished.remove(["never", "seen"]);
        assert_eq!(finished.with(["p", "succeeded"]).get(), 0.0);
    }

    #[test]
    fn a_wrong_or_taken_name_is_an_error() {
        let metrics = Metrics::new();
        for name in ["jobs_total", "muster_jobs", "muster__jobs", "muster_a b_total"] {
            assert!(metrics.counter(name, "Help.").is_err(), "{name}");
        }
        assert!(metrics.gauge("muster_jobs_running", "Help.").is_ok());
        assert!(metrics.gauge("muster_jobs_running", "Help.").is_err());
        assert!(metrics.gauges("muster_jobs_waiting", "Help.", ["bad label"]).is_err());
    }
}
