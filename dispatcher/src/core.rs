//! The loop around [`State`]: waits for something to happen, lets the state decide, and carries out what it commands.
//!
//! Only here does the state meet a clock and the broker. Writes run beside the loop, each with the revision it replaces; a write that is
//! refused or lost is an event like any other. Before each one leadership is asked again, since a lease may have run out meanwhile.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use muster_runtime::{http::Readiness, nats::Broker, shutdown::Shutdown};
use muster_schemas::{records::keys, time::Timestamp, topology::STANDINGS, wire};
use tokio::sync::{mpsc, watch};

use crate::{
    broker::{self, Write},
    channel,
    clock::BrokerClock,
    figures::{Figures, Ignored},
    intake::Input,
    lanes::Lanes,
    lease::keeper::Leadership,
    lookout::Caller,
    signing,
    state::{Command, Event, Feed, Key, Note, Source, State},
    trail::Trail,
    warden::{
        agenda::{Agenda, Task},
        told,
    },
};

/// Inputs taken in at once.
const BATCH: usize = 512;
/// How often the metrics of agents are brought up to date.
const FIGURES_EVERY: Duration = Duration::from_secs(5);
/// How long writes under way may take at the end.
const GRACE: Duration = Duration::from_secs(2);

/// The checks of `/readyz`.
pub(crate) const CHECKS: [&str; 3] = [BROKER, STATE, signing::CHECK];
const BROKER: &str = "broker";
const STATE: &str = "state";

/// The loop and all that it uses.
pub(crate) struct Core {
    pub(crate) broker: Broker,
    pub(crate) leadership: Leadership,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) lanes: Lanes,
    pub(crate) agenda: Agenda,
    pub(crate) caller: Caller,
    pub(crate) figures: Figures,
    pub(crate) trail: Trail,
    pub(crate) readiness: Readiness,
    /// Told when all records of agents have been taken in.
    pub(crate) records_read: watch::Sender<bool>,
    /// Time between two looks at all agents.
    pub(crate) tick: Duration,
    pub(crate) mind: Mind,
    pub(crate) writes: FuturesUnordered<BoxFuture<'static, Event>>,
}

/// What the loop remembers.
#[derive(Debug)]
pub(crate) struct Mind {
    state: State,
    clock: BrokerClock,
    lead: bool,
    figures_at: Instant,
}

impl Mind {
    /// Knows nothing yet. Ephemeral agents may stay away for so long, and so many agents of an executor of a pool pull.
    pub(crate) fn new(ephemeral_after: Duration, active_max: usize) -> Self {
        let now = Instant::now();
        Self {
            state: State::new(ephemeral_after, active_max),
            clock: BrokerClock::new(Timestamp::now(), now),
            lead: false,
            figures_at: now,
        }
    }
}

impl Core {
    /// Runs until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(self.tick);
        // After a pause (a suspended machine) one tick is enough.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let mut events = Vec::new();
            tokio::select! {
                () = shutdown.requested() => break,
                () = self.leadership.changed() => {}
                _ = ticks.tick() => events.push(Event::Tick),
                Some(written) = self.writes.next() => events.push(written),
                taken = channel::take(&mut self.inputs, &mut batch, BATCH, &shutdown) => taken?,
            }
            while let Some(Some(written)) = self.writes.next().now_or_never() {
                events.push(written);
            }
            self.take(batch.drain(..), &mut events);
            self.step(events);
        }
        self.finish().await;
        Ok(())
    }

    /// Sorts what came in into events.
    fn take(&mut self, inputs: impl Iterator<Item = Input>, events: &mut Vec<Event>) {
        let now = Instant::now();
        for input in inputs {
            match input {
                Input::BrokerClock(said, at) => self.mind.clock.asked(said, at),
                Input::Event(event) => {
                    let event = *event;
                    if let Event::Heartbeat(_, _, stored) | Event::Finished(_, _, _, stored) = &event {
                        self.mind.clock.stamped(*stored, now);
                    }
                    events.push(event);
                }
            }
        }
    }

    /// Lets the state decide, and begins what it commands.
    fn step(&mut self, mut events: Vec<Event>) {
        let lead = self.leadership.is_mine();
        if lead != self.mind.lead {
            self.mind.lead = lead;
            self.figures.lead(lead);
            self.mind.figures_at = Instant::now();
            events.push(Event::Lead(lead));
        }
        let ticked = events.contains(&Event::Tick);
        let records_read = events.contains(&Event::Agents(Feed::End));
        let now = self.mind.clock.now(Instant::now());
        for command in self.mind.state.apply_all(events, now) {
            self.perform(command);
        }
        self.caller.stand_by(self.mind.state.standby());
        if records_read {
            self.records_read.send_replace(true);
        }
        if ticked {
            self.report();
        }
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Put(key, standing, revision) => self.write(key, Some(wire::encode(&*standing)), revision),
            Command::Delete(key, revision) => self.write(key, None, revision),
            Command::Lanes(pool, executors) => self.lanes.want(pool, executors),
            Command::CallUp(agents, executor, for_s) => {
                let called = agents.len();
                match self.caller.call_up(agents, executor, for_s) {
                    Ok(()) => self.figures.called(called),
                    Err((agents, executor)) => {
                        tracing::debug!(agents = agents.len(), %executor, "too many calls at once; the next look makes up for it");
                        self.mind.state.not_called(&agents, &executor);
                    }
                }
            }
            Command::Remove(agent) => self.agenda.put(agent, Task::Remove),
            Command::Expel(agent) => self.agenda.put(agent, Task::Expel),
            Command::Note(note) => self.note(note),
        }
    }

    fn write(&self, key: Key, value: Option<Vec<u8>>, revision: u64) {
        let (broker, leadership, figures) = (self.broker.clone(), self.leadership.clone(), self.figures.clone());
        let write = async move {
            let name = keys::standing(&key.pool, &key.agent);
            if !leadership.is_mine() {
                return Event::Written(key, None);
            }
            let write = |value, revision| broker::write(broker.client(), STANDINGS, &name, value, revision, broker::PATIENCE);
            let mut written = write(value.clone(), revision).await;
            // What it was to replace may have been the marker of a deletion, which vanishes by itself.
            if let (Ok(Write::Refused), 1.., Some(_)) = (&written, revision, &value)
                && let Ok(None) = broker::entry(broker.client(), STANDINGS, &name, broker::PATIENCE).await
            {
                written = write(value, 0).await;
            }
            let revision = match written {
                Ok(Write::Stored(revision)) => Some(revision),
                Ok(Write::Refused) => {
                    tracing::debug!(key = name, revision, "somebody else has written this standing");
                    None
                }
                Err(error) => {
                    tracing::warn!(key = name, error = &error as &dyn std::error::Error, "could not write a standing; trying again");
                    None
                }
            };
            figures.written(revision.is_some());
            Event::Written(key, revision)
        };
        self.writes.push(write.boxed());
    }

    fn note(&self, note: Note) {
        match note {
            Note::Replay(Key { pool, agent }) => {
                self.figures.ignored(Ignored::Replay);
                tracing::debug!(%pool, %agent, "a heartbeat that was seen before");
            }
            Note::Stranger(Key { pool, agent }) => {
                self.figures.ignored(Ignored::Stranger);
                tracing::debug!(%pool, %agent, "a heartbeat of an agent that has no record in this pool");
            }
            Note::Unattributed(pool, agent) => {
                self.figures.ignored(Ignored::Unattributed);
                tracing::debug!(%pool, %agent, "a result that names an agent of another pool, or none that is known");
            }
            Note::TwoProcesses(Key { pool, agent }) if self.mind.lead => told::twin(&self.trail, &pool, &agent),
            Note::TwoProcesses(_) => {}
            Note::Status(Key { pool, agent }, status, reason) if self.mind.lead => {
                tracing::info!(%pool, %agent, ?status, reason, "an agent's status changed");
            }
            Note::Status(..) => {}
        }
    }

    /// Tells readiness and metrics what is known.
    fn report(&mut self) {
        let connected = self.broker.status().connected;
        self.readiness.set(BROKER, if connected { Ok(()) } else { Err("not connected".to_owned()) });
        let missing: Vec<_> = self.mind.state.missing().map(Source::name).collect();
        self.readiness.set(STATE, if missing.is_empty() { Ok(()) } else { Err(format!("still reading {}", missing.join(", "))) });
        if self.mind.lead && self.mind.state.is_warm() && Instant::now() >= self.mind.figures_at {
            self.mind.figures_at = Instant::now() + FIGURES_EVERY;
            self.figures.agents(self.mind.state.agents());
        }
    }

    /// Waits for writes under way, so that giving the lease back does not overtake them.
    async fn finish(&mut self) {
        let rest = async { while self.writes.next().await.is_some() {} };
        if tokio::time::timeout(GRACE, rest).await.is_err() {
            tracing::debug!(writes = self.writes.len(), "writes are left to the next dispatcher");
        }
        self.figures.lead(false);
    }
}
