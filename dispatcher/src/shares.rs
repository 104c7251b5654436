//! Makes the limits on running jobs hold for whole pools: divides each over the pool's lanes, again whenever a lane goes short.
//!
//! How is known to `muster_broker_config::provision`. Only the active dispatcher does this; while there is none, the last division stays.
//! Pools whose limit is not divided cost nothing, those without jobs one look.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use muster_broker_config::provision::{Divider, Error};
use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::names::PoolName;

use crate::{intake::KnownPools, lease::keeper::Leadership};

/// How often a pool's lanes are looked at: this long a lane may have to wait for its share.
const EVERY: Duration = Duration::from_millis(250);
/// After a round that took long, the next one begins after so many times as long: at most a fifth of the time is spent looking.
const REST: u32 = 4;
/// How long one pool may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The task that divides.
#[derive(Debug)]
pub(crate) struct Shares {
    pub(crate) broker: Broker,
    pub(crate) leadership: Leadership,
    pub(crate) pools: KnownPools,
}

impl Shares {
    /// Runs until the shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut dividers = BTreeMap::new();
        loop {
            let began = Instant::now();
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = self.look(&mut dividers) => {}
            }
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = tokio::time::sleep(EVERY.max(began.elapsed() * REST)) => {}
            }
        }
    }

    async fn look(&self, dividers: &mut BTreeMap<PoolName, Divider>) {
        if !self.leadership.is_mine() {
            dividers.clear();
            return;
        }
        let pools = self.pools.borrow().clone();
        let divided = |name: &PoolName| pools.get(name).is_some_and(|record| record.limits.is_divided());
        dividers.retain(|name, _| divided(name));
        for name in pools.keys().filter(|name| divided(name)) {
            let divider = dividers.entry(name.clone()).or_default();
            let done = divider.divide(self.broker.client(), name, || self.leadership.is_mine());
            match tokio::time::timeout(PATIENCE, done).await {
                Ok(Ok(()) | Err(Error::NoPool(_))) => {}
                Ok(Err(error)) => {
                    tracing::warn!(pool = %name, error = &error as &dyn std::error::Error, "could not divide a pool's limit; trying again");
                }
                Err(_) => tracing::warn!(pool = %name, patience = ?PATIENCE, "dividing a pool's limit took too long; trying again"),
            }
        }
    }
}
