//! The end of an agent, contract row A9: take nothing new, let running jobs end, give back what is left, say goodbye.
//!
//! A second signal ends the process at once, running commands with it; that is the runtime's business.
//!
//! An agent whose identity is over has nothing to say to anybody any more: [`cut`].

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use crate::{attempt::live::Stop, core::Core, heartbeat::Pulse, intake::Event};

/// How long stopped jobs have to end, be recorded and given back: TERM, 5 s, KILL, and a broker that may be slow.
const GIVE_BACK: Duration = Duration::from_secs(12);

/// How long the inboxes have to be drained: a round trip, or the puller's own patience with it.
const QUIET: Duration = Duration::from_secs(6);

/// Ends the work of this agent in good order. `quiet` is the puller's word that no job can come any more.
pub(crate) async fn drain(
    core: &Arc<Core>,
    pulse: &Pulse,
    events: &mpsc::Sender<Event>,
    mut quiet: watch::Receiver<bool>,
    grace: Duration,
) {
    pulse.draining();
    core.acks.close(&core.js).await;
    // Nobody listens any more: the puller has failed, which is why we are here.
    let _ = events.send(Event::Shutdown).await;
    if core.js.is_connected() && !matches!(tokio::time::timeout(QUIET, quiet.wait_for(|quiet| *quiet)).await, Ok(Ok(_))) {
        tracing::warn!("the inboxes could not be drained in time");
    }
    let running = core.live.count();
    if running > 0 {
        tracing::info!(running, ?grace, "waiting for running jobs");
    }
    if tokio::time::timeout(grace, core.live.none()).await.is_err() {
        tracing::warn!(left = core.live.count(), "the grace is over; giving back what still runs");
        core.live.stop_all(Stop::Released);
        if tokio::time::timeout(GIVE_BACK, core.live.none()).await.is_err() {
            tracing::error!(left = core.live.count(), "some jobs could not be given back; their leases run out");
        }
    }
    pulse.goodbye(core).await;
    // What was sent without waiting for an answer, acks above all, must leave this process before it ends.
    if core.js.is_connected() {
        let _ = tokio::time::timeout(Duration::from_secs(1), core.js.client().flush()).await;
    }
}

/// Stops everything at once, reporting nothing: the leases of the jobs run out, and other agents run them.
pub(crate) async fn cut(core: &Arc<Core>, events: &mpsc::Sender<Event>) {
    // Their results count, and were stored before.
    core.acks.close(&core.js).await;
    // Nothing is pulled any more; what waits for a slot is dropped.
    let _ = events.try_send(Event::Shutdown);
    let running = core.live.count();
    core.live.stop_all(Stop::Ended);
    if tokio::time::timeout(GIVE_BACK, core.live.none()).await.is_err() {
        tracing::error!(left = core.live.count(), "some jobs did not stop in time; killing what is left of them");
    } else if running > 0 {
        tracing::warn!(running, "stopped what ran here");
    }
    core.group.abort_all();
    let _ = tokio::time::timeout(Duration::from_secs(1), core.group.idle()).await;
}
