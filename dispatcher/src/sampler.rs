//! Looks every few seconds at how much waits and runs in each pool, for the metrics. Only the active dispatcher does this, and nothing
//! depends on it.

use std::time::Duration;

use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::{lane::Lane, names::PoolName, records::PoolRecord, topology};

use crate::{
    broker::{self, BrokerError},
    figures::{Figures, Load},
    intake::KnownPools,
    lease::keeper::Leadership,
};

/// How often.
const EVERY: Duration = Duration::from_secs(5);

/// The task that looks.
#[derive(Debug)]
pub(crate) struct Sampler {
    pub(crate) broker: Broker,
    pub(crate) leadership: Leadership,
    pub(crate) pools: KnownPools,
    pub(crate) figures: Figures,
}

impl Sampler {
    /// Runs until the shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                _ = ticks.tick() => {}
            }
            if !self.leadership.is_mine() {
                continue;
            }
            let loads = tokio::select! {
                () = shutdown.requested() => return Ok(()),
                loads = self.loads() => loads,
            };
            if self.leadership.is_mine() {
                self.figures.loads(loads.into_iter());
            }
        }
    }

    async fn loads(&self) -> Vec<(PoolName, Load)> {
        let pools = self.pools.borrow().clone();
        let mut loads = Vec::with_capacity(pools.len());
        for (name, record) in pools.iter() {
            match self.load(name, record).await {
                Ok(load) => loads.push((name.clone(), load)),
                Err(error) => tracing::debug!(pool = %name, error = &error as &dyn std::error::Error, "can't tell the load of a pool"),
            }
        }
        loads
    }

    async fn load(&self, pool: &PoolName, record: &PoolRecord) -> Result<Load, BrokerError> {
        let stream = topology::jobs_stream(pool);
        let messages = broker::stream_info(self.broker.client(), &stream).await?.state.messages;
        let mut load = Load::default();
        // A job that is out stays in the stream until it is acked, so an empty stream says it all, and an idle pool costs one request.
        if messages == 0 {
            return Ok(load);
        }
        for lane in record.executors.iter().flat_map(Lane::of) {
            let lane = broker::consumer_info(self.broker.client(), &stream, &lane.consumer()).await?;
            load.running += lane.num_ack_pending;
            load.redelivered += lane.num_redelivered;
        }
        load.queued = messages.saturating_sub(load.running);
        Ok(load)
    }
}
