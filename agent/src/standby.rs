//! Standing by: executors whose lanes others pull, and whether there is a dispatcher that would call this agent up for them.
//!
//! The dispatcher's lease tells: it vanishes within seconds of its holder. It is looked at with every second heartbeat and after each connect, and only
//! by agents that stand by for something. Without a lease the agent pulls all its lanes, as if it stood by for none, until there is one again. What
//! that means to the lanes is for [`crate::intake`]; orders come through [`crate::control`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_nats::RequestErrorKind;
use muster_client::last::{self, Unread};
use muster_runtime::shutdown::Shutdown;
use muster_schemas::{
    headers::KV_OPERATION,
    names::ExecutorName,
    subjects::js,
    topology::{DISPATCHER_LEASE, LEASES, bucket_stream},
};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

use crate::{core::Core, intake::Event, js::Js};

/// A lease that is not there must be missing for so long: another dispatcher takes over within a second, and after a restart of the broker the first
/// one may take a little longer to come back.
const SETTLE: Duration = Duration::from_secs(2);

/// Intervals between heartbeats from one look to the next: a look costs the broker as much as a heartbeat, and those who pull go on pulling meanwhile.
const LOOK_EVERY: u32 = 2;

/// For which executors this agent stands by, as its standing told it last.
#[derive(Debug, Default)]
pub(crate) struct Standby(watch::Sender<BTreeSet<ExecutorName>>);

impl Standby {
    /// Takes in what the standing says.
    pub(crate) fn told(&self, executors: BTreeSet<ExecutorName>) {
        self.0.send_if_modified(|known| {
            let changed = *known != executors;
            *known = executors;
            changed
        });
    }

    /// Whether it stands by for this executor.
    pub(crate) fn has(&self, executor: &ExecutorName) -> bool {
        self.0.borrow().contains(executor)
    }

    fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// What a look at the lease shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    Held,
    Vacant,
    /// The broker has not answered: it has enough to do, without a whole fleet that begins to pull.
    Unknown,
}

/// Watches for ever whether there is somebody who could call this agent up; `interval` is the time between heartbeats.
pub(crate) async fn watch(core: Arc<Core>, intake: mpsc::Sender<Event>, interval: Duration, shutdown: Shutdown) -> anyhow::Result<()> {
    let (mut link, mut standby) = (core.link.clone(), core.standby.0.subscribe());
    let mut looks = tokio::time::interval(interval * LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unled = false;
    // One that was told before this task was restarted.
    intake.send(Event::Unled(unled)).await?;
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            _ = looks.tick() => {}
            changed = link.changed() => changed?,
            changed = standby.changed() => changed?,
        }
        standby.mark_unchanged();
        if !link.borrow_and_update().up || core.standby.is_empty() {
            continue;
        }
        let mut lease = look(&core.js).await;
        if lease == Lease::Vacant && !unled {
            let rest = rest(interval, rand::random());
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = tokio::time::sleep(rest) => {}
            }
            lease = look(&core.js).await;
        }
        let now_unled = match lease {
            Lease::Held => false,
            Lease::Vacant => true,
            Lease::Unknown => continue,
        };
        if now_unled != unled {
            unled = now_unled;
            tracing::info!(unled, "whether there is no dispatcher that could call this agent up; without one it pulls all its lanes");
            intake.send(Event::Unled(unled)).await?;
        }
    }
}

/// How long to wait before the second look, for a random number from 0 to 1: after a restart of the broker a whole fleet is here in the same moment, and
/// must not begin to pull in the same moment.
fn rest(interval: Duration, random: f64) -> Duration {
    SETTLE + interval.mul_f64(random.clamp(0.0, 1.0))
}

async fn look(js: &Js) -> Lease {
    if !js.is_connected() {
        return Lease::Unknown;
    }
    match last::on(js.client(), &bucket_stream(LEASES), &js::key(LEASES, DISPATCHER_LEASE)).await {
        Ok(None) => Lease::Vacant,
        // One that was given back.
        Ok(Some(message)) if message.headers.as_ref().is_some_and(|headers| headers.get(KV_OPERATION).is_some()) => Lease::Vacant,
        Ok(Some(_)) => Lease::Held,
        // A broker that was restarted has forgotten the bucket, and no dispatcher has made it anew.
        Err(Unread::Unanswered(error)) if error.kind() == RequestErrorKind::NoResponders => Lease::Vacant,
        Err(_) => Lease::Unknown,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_fleet_that_finds_no_dispatcher_begins_to_pull_over_a_whole_interval() {
        let every = Duration::from_secs(30);
        let begins: Vec<_> = (0..20_000).map(|_| rest(every, rand::random())).collect();
        assert!(begins.iter().all(|rest| (SETTLE..=SETTLE + every).contains(rest)));
        let most = (0..31).map(|second| begins.iter().filter(|rest| rest.as_secs() == 2 + second).count()).max().unwrap();
        assert!(most < 1_000, "{most} of 20 000 within one second");
    }

    #[test]
    fn a_standing_that_says_the_same_is_no_change() {
        let standby = Standby::default();
        let mut changes = standby.0.subscribe();
        let shell: ExecutorName = "shell".parse().unwrap();
        standby.told([shell.clone()].into());
        assert!(changes.has_changed().unwrap() && standby.has(&shell));
        changes.mark_unchanged();
        standby.told([shell.clone()].into());
        assert!(!changes.has_changed().unwrap());
        standby.told(BTreeSet::new());
        assert!(!standby.has(&shell) && standby.is_empty());
    }
}
