//! The last step of a delivery: a result stored, a job given back, or nothing at all.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use muster_executor::Afterwards;
use muster_schemas::{event::Event, names::JobId, time::Timestamp};

use super::{Arrived, delivery};
use crate::{
    core::Core,
    finish::{Ending, Received, events},
    js::StoreError,
};

/// What becomes of a delivery.
#[derive(Debug)]
pub(super) enum Step {
    /// Store what ends the job, then ack, then do what was to wait for that.
    Store(Box<Ending>, Option<Afterwards>),
    /// Record that another attempt follows, then give it back for later.
    Retry { id: JobId, event: Event, delay: Duration },
    /// Record that it is given back without an attempt, then do so.
    Release { id: JobId, event: Event, delay: Duration },
    /// The job ended elsewhere while it ran here: tell, and ack.
    Superseded { id: JobId, event: Event },
    /// The job has ended: ack.
    Forget,
    /// Leave it to its lease: the broker gives it out again.
    Abandon,
    /// It is no job: never again.
    Terminate,
}

/// How long an attempt waits for room in a full spool before it looks again.
const FULL_WAIT: Duration = Duration::from_secs(1);

pub(super) async fn perform(core: &Core, arrived: &Arrived, step: Step) {
    if core.halted.load(Ordering::SeqCst) {
        // The job is left to its lease.
        return std::future::pending().await;
    }
    if core.ended.is_over() {
        // Nothing of it would count. The lease runs out, and another agent runs the job.
        return tracing::debug!("left to its lease: this agent's identity has ended");
    }
    let answer = |word: Vec<u8>| core.js.answer(arrived.reply.clone(), word);
    match step {
        Step::Store(ending, afterwards) => {
            if store(core, arrived, *ending, afterwards.is_some()).await
                && let Some(afterwards) = afterwards
            {
                afterwards.run().await;
            }
        }
        Step::Retry { id, event, delay } => {
            // Not recorded: the lease runs out, and whoever gets the job next counts this attempt by its deliveries.
            if recorded(core, &id, &event).await {
                answer(delivery::nak(delay)).await;
            }
        }
        Step::Release { id, event, delay } => {
            if recorded(core, &id, &event).await {
                core.figures.releases.inc();
                answer(delivery::nak(delay)).await;
            }
        }
        Step::Superseded { id, event } => {
            core.figures.superseded.inc();
            events::tell(&core.js, &core.pool, &id, &event).await;
            answer(delivery::ACK.to_vec()).await;
        }
        Step::Forget => answer(delivery::ACK.to_vec()).await,
        Step::Abandon => {}
        Step::Terminate => answer(delivery::TERM.to_vec()).await,
    }
}

async fn recorded(core: &Core, id: &JobId, event: &Event) -> bool {
    let recorded = events::record(&core.js, &core.pool, id, event).await;
    if let Err(error) = &recorded {
        tracing::warn!(job_id = %id, %error, kind = ?event.kind, "can't record an event; leaving the job to its lease");
    }
    recorded.is_ok()
}

/// Stores the result at the broker, or in the spool. The lease is kept until one of them has it. Says whether the result counts, as far as is known.
/// `at_once`: the ack is not to wait.
async fn store(core: &Core, arrived: &Arrived, mut ending: Ending, at_once: bool) -> bool {
    // Where it is in its queue is true on the connection over which it came.
    if at_once || ending.waits_on() != Some(core.js.connects()) {
        ending.set_place(None);
    }
    match ending.store(&core.js, &core.pool).await {
        Ok(Received::Stored) => {
            // The ack of a lone job goes at once, as its result did: there is nothing to save, and little else for the broker to do.
            let alone = core.live.count() <= 1;
            let keep = |connection| core.acks.keep(&arrived.reply, connection, Instant::now());
            if alone || !ending.waits_on().is_some_and(keep) {
                ending.ack(&core.js).await;
            }
            return true;
        }
        Ok(Received::Superseded) => {
            ending.ack(&core.js).await;
            core.figures.superseded.inc();
            tracing::warn!("another result of this job was stored first; this one does not count");
            return false;
        }
        Err(error) => {
            core.figures.error(format!("a result was not stored: {error}"));
            tracing::warn!(%error, "the broker did not take a result; it goes to the spool");
        }
    }
    ending.set_place(None);
    // It is this agent's word also if it has another key by the time at which it can be sent.
    ending.sign(&core.signer, Timestamp::now());
    while let Err(error) = core.spool.put(ending.clone()).await {
        core.figures.error(format!("a result was not kept: {error}"));
        tracing::error!(error = %muster_runtime::process::chain(&error.into()), "can't keep a result in the spool; trying both again");
        tokio::time::sleep(FULL_WAIT).await;
        match ending.store(&core.js, &core.pool).await {
            Ok(received) => {
                ending.ack(&core.js).await;
                return received == Received::Stored;
            }
            Err(StoreError::Invalid(_)) => return false,
            Err(_) => {}
        }
    }
    true
}
