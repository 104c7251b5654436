//! Brings the lanes of every pool to what its record and its agents' capabilities say: at the start, whenever a pool's record changes or
//! an agent with a new capability appears, and every half minute, so that a lane that somebody removed comes back.
//!
//! A reconciler: what it is told is only a hint of where to look first, and losing one costs half a minute. How a lane is made is known to
//! `muster_broker_config::provision`, which the gateway uses too. Only the active dispatcher does this.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use muster_broker_config::provision;
use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::{
    names::{ExecutorName, PoolName},
    records::PoolRecord,
};
use tokio::sync::Notify;

use crate::{fixed::Fixed, intake::KnownPools, lease::keeper::Leadership};

/// How often all pools are looked at.
pub(crate) const EVERY: Duration = Duration::from_secs(30);
/// How long one pool may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells the reconciler which lanes are wanted; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lanes {
    hints: Arc<Hints>,
}

#[derive(Debug, Default)]
struct Hints {
    /// By pool, so that hints that wait do not add up.
    wanted: Mutex<Wanted>,
    some: Notify,
}

type Wanted = BTreeMap<PoolName, BTreeSet<ExecutorName>>;

impl Lanes {
    /// Lanes of these executors are wanted in a pool.
    pub(crate) fn want(&self, pool: PoolName, executors: BTreeSet<ExecutorName>) {
        self.want_later(pool, executors);
        self.hints.some.notify_one();
    }

    /// As [`Lanes::want`], but it is enough when all pools are looked at again.
    fn want_later(&self, pool: PoolName, executors: BTreeSet<ExecutorName>) {
        self.hints.wanted.lock().unwrap_or_else(PoisonError::into_inner).entry(pool).or_default().extend(executors);
    }

    fn take(&self) -> Wanted {
        std::mem::take(&mut *self.hints.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The task that makes lanes.
#[derive(Debug)]
pub(crate) struct Reconciler {
    pub(crate) broker: Broker,
    pub(crate) fixed: Arc<Fixed>,
    pub(crate) leadership: Leadership,
    pub(crate) lanes: Lanes,
    pub(crate) pools: KnownPools,
}

impl Reconciler {
    /// Runs until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let (mut led, mut all_at, mut seen) = (false, Instant::now(), Arc::default());
        loop {
            let all = tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = self.lanes.hints.some.notified() => false,
                Ok(()) = self.pools.changed() => {
                    self.look_for_changes(&mut seen);
                    false
                }
                () = tokio::time::sleep_until(all_at.into()) => true,
                () = self.leadership.changed() => !led && self.leadership.is_mine(),
            };
            led = self.leadership.is_mine();
            if all {
                all_at = Instant::now() + EVERY;
            }
            if !led {
                continue;
            }
            tokio::select! {
                () = self.reconcile(all) => {}
                () = shutdown.requested() => return Ok(()),
            }
        }
    }

    /// Asks for the lanes of pools whose record is new or has changed.
    fn look_for_changes(&mut self, seen: &mut Arc<BTreeMap<PoolName, PoolRecord>>) {
        let pools = Arc::clone(&self.pools.borrow_and_update());
        for (name, _) in pools.iter().filter(|(name, record)| seen.get(*name) != Some(record)) {
            self.lanes.want_later(name.clone(), BTreeSet::new());
        }
        *seen = pools;
    }

    async fn reconcile(&self, all: bool) {
        let mut wanted = self.lanes.take();
        if all {
            self.fixed.ensure(&self.broker).await;
            for pool in self.pools.borrow().keys() {
                wanted.entry(pool.clone()).or_default();
            }
        }
        for (pool, executors) in wanted {
            let made = provision::ensure_lanes(self.broker.client(), &pool, &executors);
            match tokio::time::timeout(PATIENCE, made).await {
                Ok(Ok(_)) => {}
                Ok(Err(provision::Error::NoPool(_))) => tracing::debug!(%pool, "an agent's pool has no record"),
                Ok(Err(error)) => {
                    tracing::warn!(%pool, error = &error as &dyn std::error::Error, "could not make the lanes of a pool; trying again");
                    self.lanes.want_later(pool, executors);
                }
                Err(_) => {
                    tracing::warn!(%pool, patience = ?PATIENCE, "making the lanes of a pool took too long; trying again");
                    self.lanes.want_later(pool, executors);
                }
            }
        }
    }
}
