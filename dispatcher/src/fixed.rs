//! Makes sure of the streams and buckets that exist whatever pools there are.
//!
//! Two of them (`HEARTBEATS`, `leases`) are in memory and are gone after a restart of a lone broker; whoever misses one first makes them
//! all. What they are is said in `muster_schemas::topology`; how they are made, in `muster_broker_config::provision`.

use std::time::{Duration, Instant};

use muster_broker_config::provision;
use muster_runtime::nats::Broker;
use tokio::sync::Mutex;

/// Several tasks miss a stream in the same moment, and one call serves them all.
const FRESH: Duration = Duration::from_secs(1);
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The fixed part of the topology.
#[derive(Debug, Default)]
pub(crate) struct Fixed {
    made: Mutex<Option<Instant>>,
}

impl Fixed {
    /// Makes what is missing. A failure is logged; whoever needs it finds it missing again and calls again.
    pub(crate) async fn ensure(&self, broker: &Broker) {
        let mut made = self.made.lock().await;
        if made.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        match tokio::time::timeout(PATIENCE, provision::provision_fixed(broker.client())).await {
            Ok(Ok(())) => *made = Some(Instant::now()),
            Ok(Err(error)) if error.is_transient() => {
                tracing::debug!(error = &error as &dyn std::error::Error, "could not make the streams yet");
            }
            Ok(Err(error)) => tracing::error!(error = &error as &dyn std::error::Error, "can't make the streams that are needed"),
            Err(_) => tracing::warn!(patience = ?PATIENCE, "making the streams took too long"),
        }
    }
}
