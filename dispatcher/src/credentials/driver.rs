//! The loop around [`Plan`]: waits for something to happen, lets the plan decide, and has carried out what it commands.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use muster_runtime::shutdown::Shutdown;
use muster_schemas::time::Timestamp;
use tokio::sync::mpsc;

use super::{
    desk::Desk,
    follow::Input,
    known::Heard,
    plan::{Event, Plan},
};
use crate::{channel, clock::BrokerClock};

/// How often the plan is looked at.
const TICK: Duration = Duration::from_millis(250);
/// Inputs taken in at once.
const BATCH: usize = 64;

/// The task that delivers.
pub(super) struct Driver {
    desk: Desk,
    inputs: mpsc::Receiver<Input>,
    plan: Plan,
    clock: BrokerClock,
    lead: bool,
    busy: FuturesUnordered<BoxFuture<'static, Event>>,
}

impl Driver {
    pub(super) fn new(desk: Desk, inputs: mpsc::Receiver<Input>) -> Self {
        let clock = BrokerClock::new(Timestamp::now(), Instant::now());
        Self { desk, inputs, plan: Plan::default(), clock, lead: false, busy: FuturesUnordered::new() }
    }

    /// Runs until the shutdown.
    pub(super) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut leadership = self.desk.leadership.clone();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let mut events = Vec::new();
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = leadership.changed() => {}
                _ = ticks.tick() => events.push(Event::Tick),
                Some(ended) = self.busy.next() => events.push(ended),
                taken = channel::take(&mut self.inputs, &mut batch, BATCH, &shutdown) => taken?,
            }
            for input in batch.drain(..) {
                match input {
                    Input::BrokerClock(said, at) => self.clock.asked(said, at),
                    Input::Heard(heard) => {
                        if let Heard::Heartbeat(_, _, stored) = &heard {
                            self.clock.stamped(*stored, Instant::now());
                        }
                        events.push(Event::Heard(heard));
                    }
                }
            }
            let lead = leadership.is_mine();
            if std::mem::replace(&mut self.lead, lead) != lead {
                events.push(Event::Lead(lead));
            }
            for command in self.plan.apply_all(events, self.clock.now(Instant::now())) {
                let desk = self.desk.clone();
                let work = async move {
                    let outcome = desk.perform(&command).await;
                    Event::Ended(command.about(), outcome)
                };
                self.busy.push(work.boxed());
            }
        }
    }
}
