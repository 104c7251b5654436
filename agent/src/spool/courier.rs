//! Takes results from the spool to the broker: after each reconnect, after a restart, and whenever one was put in; oldest first.

use std::time::Duration;

use muster_runtime::shutdown::Shutdown;
use muster_schemas::names::PoolName;
use tokio::sync::watch;

use super::Spool;
use crate::{
    figures::Figures,
    finish::{Ending, Received},
    js::Js,
    link::Link,
};

/// First and longest wait after a failed try.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What delivering takes.
#[derive(Debug)]
pub(crate) struct Courier {
    pub(crate) spool: Spool,
    pub(crate) js: Js,
    pub(crate) pool: PoolName,
    pub(crate) figures: Figures,
    pub(crate) link: watch::Receiver<Link>,
    /// Told after each round: whether all was delivered.
    pub(crate) empty: watch::Sender<bool>,
}

impl Courier {
    /// Delivers for ever.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut wait = RETRY.0;
        loop {
            let connected = self.link.borrow_and_update().up;
            let done = if connected { self.round().await } else { self.spool.count() == 0 };
            self.empty.send_replace(done);
            wait = if done { RETRY.0 } else { (wait * 2).min(RETRY.1) };
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                changed = self.link.changed() => {
                    changed?;
                    wait = RETRY.0;
                }
                () = self.spool.0.filled.notified() => {
                    // The try that put it there has just failed; at once would be too soon.
                    tokio::time::sleep(RETRY.0).await;
                }
                () = tokio::time::sleep(wait), if connected && !done => {}
            }
        }
    }

    /// Delivers what is there; true when nothing is left.
    async fn round(&self) -> bool {
        let (mut from, mut left) = (0, false);
        loop {
            let (place, ending) = match self.spool.next(from).await {
                Ok(Some(next)) => next,
                Ok(None) => return !left,
                Err(error) => {
                    tracing::error!(error = %muster_runtime::process::chain(&error.into()), "can't read the spool");
                    return false;
                }
            };
            from = place.saturating_add(1);
            if !ending.is_of(&self.pool) {
                tracing::warn!(job_id = %ending.job_id, "dropped a result from the spool: this agent has left the pool of its job, which another agent runs");
                self.remove(place, &ending).await;
                continue;
            }
            match ending.store(&self.js, &self.pool).await {
                Ok(received) => {
                    ending.ack(&self.js).await;
                    tracing::info!(job_id = %ending.job_id, superseded = received == Received::Superseded, "delivered a result from the spool");
                    if received == Received::Superseded {
                        self.figures.superseded.inc();
                    }
                    self.remove(place, &ending).await;
                }
                Err(error) => {
                    tracing::warn!(job_id = %ending.job_id, %error, "a result stays in the spool");
                    left = true;
                    if !self.js.is_connected() {
                        return false;
                    }
                }
            }
        }
    }

    async fn remove(&self, place: u64, ending: &Ending) {
        if let Err(error) = self.spool.remove(place, &ending.job_id).await {
            // It is sent once more at the next start, which does no harm.
            tracing::error!(error = %muster_runtime::process::chain(&error.into()), "can't remove a result from the spool");
        }
    }
}
