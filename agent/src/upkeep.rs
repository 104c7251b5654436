//! The small lasting tasks of an agent: leases kept, jobs taken only when they may be, the broker shown on `/readyz`.

use std::{sync::Arc, time::Duration};

use muster_runtime::{http::Readiness, nats::Broker, shutdown::Shutdown};
use muster_schemas::topology::ACK_WAIT;
use tokio::sync::{mpsc, watch};

use crate::{
    attempt::{self, delivery},
    core::Core,
    intake::Event,
    link::Link,
};

/// The name of the check that fails while the broker can't be reached.
pub(crate) const BROKER: &str = "broker";
/// How long results of an earlier run and the look-up of the standing have before new jobs are taken.
const FIRST: Duration = Duration::from_secs(2);

/// Keeps the leases of all jobs: a sign of life at a third of the lease.
pub(crate) async fn leases(core: Arc<Core>, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut interval = tokio::time::interval(ACK_WAIT / 3);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            now = interval.tick() => {
                for reply in core.live.replies() {
                    core.js.send(reply, delivery::IN_PROGRESS.into()).await;
                }
                let slept = tokio::time::Instant::now().duration_since(last);
                last = now.max(tokio::time::Instant::now());
                if slept > ACK_WAIT {
                    tracing::warn!(?slept, "this agent slept past its leases; looking which jobs have ended elsewhere");
                    attempt::stop_finished(&core).await;
                }
            }
        }
    }
}

/// Tells the intake when it may take jobs: not before results of an earlier run had their chance, the standing was looked up and it is known
/// whose jobs are run, and not while the spool is full. `first` says that the spool is empty, and that the standing is known.
pub(crate) async fn gate(
    core: Arc<Core>,
    events: mpsc::Sender<Event>,
    first: (watch::Receiver<bool>, watch::Receiver<bool>),
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let (mut empty, mut known) = first;
    let mut link = core.link.clone();
    tokio::select! {
        () = shutdown.requested() => return Ok(()),
        up = link.wait_for(|link| link.up) => { up?; }
    }
    let both = async { empty.wait_for(|empty| *empty).await.is_ok() && known.wait_for(|known| *known).await.is_ok() };
    let in_time = tokio::time::timeout(FIRST, both).await.is_ok();
    if !in_time {
        tracing::warn!("results in the spool were not taken, or the standing is not known yet; going on with new jobs");
    }
    tokio::select! {
        () = shutdown.requested() => return Ok(()),
        () = core.trust.known() => {}
    }
    let mut blocked = false;
    events.send(Event::Blocked(blocked)).await?;
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            () = tokio::time::sleep(SPOOL_LOOK) => {}
        }
        let full = core.spool.is_full();
        if full != blocked {
            blocked = full;
            tracing::warn!(full, "the spool is full, or has room again; jobs are taken accordingly");
            events.send(Event::Blocked(blocked)).await?;
        }
    }
}

/// How often it is looked whether the spool is full; it fills slowly, and takes no more by itself when it is.
const SPOOL_LOOK: Duration = Duration::from_secs(5);

/// Shows on `/readyz` whether the broker can be reached.
pub(crate) async fn show(broker: Broker, mut link: watch::Receiver<Link>, readiness: Readiness, shutdown: Shutdown) -> anyhow::Result<()> {
    loop {
        let up = link.borrow_and_update().up;
        let why = || broker.status().last_refusal.unwrap_or_else(|| "can't reach the broker".to_owned());
        readiness.set(BROKER, if up { Ok(()) } else { Err(why()) });
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            changed = link.changed() => changed?,
        }
    }
}
