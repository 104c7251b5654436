//! The shell around [`crate::intake`]: one task that reads lanes and own queue, sends the pulls, and starts what the intake says.
//!
//! A lane's inbox, and how it is closed without losing a job, is in [`inbox`]; what the broker says instead of a job in [`status`]. Nothing
//! here looks into a job.

mod inbox;
mod status;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::Message;
use muster_runtime::shutdown::Shutdown;
use muster_schemas::{
    lane::Lane,
    names::{ExecutorName, JobId},
    queue::Queue,
    standing::PULL_PRIORITY_UNKNOWN,
    subjects,
};
use tokio::sync::{mpsc, watch};

use crate::{
    attempt::{self, Arrived, delivery::Delivery},
    core::Core,
    intake::{self, Command, Event, Gate, Handle, Intake, Settings, Why},
    link::Link,
};
use inbox::{Inboxes, Incoming};
use status::Status;

/// Events that may wait. Each started job gives at most two, and there are at most 50 of them.
pub(crate) const EVENTS: usize = 1024;
/// Messages taken at once before the intake is asked what to do about them.
const AT_ONCE: usize = 64;
/// The intake looks at the clock at least this often; nothing depends on it.
const IDLE: Duration = Duration::from_secs(3600);

/// The slot that an attempt takes. Dropping it tells the intake that it is free.
#[derive(Debug)]
pub(crate) struct Slot(mpsc::Sender<Event>);

impl Slot {
    /// Lets other agents come first for a moment. To be said before the slot is free.
    pub(crate) fn step_back(&self) {
        let _ = self.0.try_send(Event::StepBack);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // There is room: see `EVENTS`. Or nobody listens, and the agent is gone.
        let _ = self.0.try_send(Event::SlotFreed);
    }
}

/// The puller.
pub(crate) struct Puller {
    core: Arc<Core>,
    intake: Intake,
    inboxes: Inboxes,
    events: mpsc::Receiver<Event>,
    slots: mpsc::Sender<Event>,
    waiting: HashMap<Handle, Arrived>,
    next: Handle,
    /// The connection that the open inboxes were made on, but for those that are being drained.
    connection: u64,
    /// Whether nothing can come any more: no inbox is open, and no job waits here.
    quiet: watch::Sender<bool>,
}

impl Puller {
    /// `slots` is the sending end of `events`.
    pub(crate) fn new(core: Arc<Core>, slots: mpsc::Sender<Event>, events: mpsc::Receiver<Event>, quiet: watch::Sender<bool>) -> Self {
        let queues = queues(&core);
        let tiers = queues.iter().map(tier);
        let settings = Settings::new(core.slots);
        let settings = Settings { rest: rest(settings.rest, rand::random()), ..settings };
        let intake = Intake::new(settings, tiers, PULL_PRIORITY_UNKNOWN);
        let inboxes = Inboxes::new(&core, &queues);
        Self { core, intake, inboxes, events, slots, waiting: HashMap::new(), next: 0, connection: 0, quiet }
    }

    /// Pulls until the shutdown, which is the end of everything: what has to happen before is for events to say.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut link = self.core.link.clone();
        link.mark_changed();
        let mut last = Link::default();
        loop {
            let wake = self.intake.wake_at().into_iter().chain(self.inboxes.wake_at()).min().unwrap_or_else(|| Instant::now() + IDLE);
            let mut happened = Vec::new();
            tokio::select! {
                biased;
                changed = link.changed() => {
                    changed?;
                    let now = *link.borrow_and_update();
                    self.reconnected(last, now, &mut happened).await;
                    last = now;
                }
                event = self.events.recv() => happened.extend(event),
                incoming = self.inboxes.next() => self.take(incoming, &mut happened).await,
                () = tokio::time::sleep_until(wake.into()) => happened.push(Event::Tick),
                () = shutdown.requested() => return Ok(()),
            }
            // Whatever else is there by now is one decision with it: slots that free together are one pull.
            for _ in 0..AT_ONCE {
                let Some(incoming) = self.inboxes.ready() else { break };
                self.take(incoming, &mut happened).await;
            }
            while let Ok(event) = self.events.try_recv() {
                happened.push(event);
            }
            let now = Instant::now();
            happened.extend(self.inboxes.give_up(now));
            self.intake.broker_answers_within(self.core.js.latency());
            let (starts, others): (Vec<_>, Vec<_>) =
                self.intake.apply(happened, now).into_iter().partition(|command| matches!(command, Command::Start(_)));
            let started = !starts.is_empty();
            for command in starts {
                self.perform(command).await;
            }
            if started {
                // A job of microseconds ends in this moment, and its result reaches the broker before the pull for the next one, in one write.
                tokio::task::yield_now().await;
            }
            for command in others {
                self.perform(command).await;
            }
            let quiet = self.inboxes.is_empty() && self.waiting.is_empty();
            self.quiet.send_if_modified(|was| std::mem::replace(was, quiet) != quiet);
            self.core.figures.set_slots(self.intake.running(), u32::try_from(self.intake.held()).unwrap_or(u32::MAX));
        }
    }

    async fn reconnected(&mut self, last: Link, now: Link, happened: &mut Vec<Event>) {
        if last.up && (!now.up || now.connects != last.connects) {
            happened.push(Event::Disconnected);
        }
        if now.up && (!last.up || now.connects != last.connects) {
            // async-nats has subscribed to the old inboxes again, and the broker may still serve them: they are closed in good order.
            self.inboxes.drain_all().await;
            self.connection = self.core.js.connects();
            happened.push(Event::Connected);
        }
    }

    async fn take(&mut self, incoming: Incoming, happened: &mut Vec<Event>) {
        let Incoming { lane, epoch, draining, message } = incoming;
        let Some(message) = message else {
            happened.push(Event::Drained { lane, epoch });
            return;
        };
        match Status::of(&message) {
            // What the agent sends itself to end an inbox.
            Status::Job if draining && message.reply.is_none() => {}
            Status::Job => {
                if let Some(handle) = self.arrived(message, draining) {
                    happened.push(Event::Arrived { lane, handle });
                }
            }
            // Pulls of an inbox that is being drained no longer count.
            _ if draining => {}
            Status::Expired { pending } => {
                self.inboxes.expired(lane, epoch, pending);
                happened.push(Event::Expired { lane, epoch, pending });
            }
            Status::Refused(why, text) => {
                if why == intake::Refusal::Missing && !self.inboxes.is_shared(lane) {
                    tracing::debug!("no command was sent to this agent lately; it asks again when one is");
                } else {
                    tracing::warn!(lane = self.inboxes.name(lane), text, "the broker refused a pull; trying again in a while");
                }
                if why == intake::Refusal::Missing {
                    // This answer is not counted by the broker as a message of the inbox, so it could not be drained in good order; and nothing is under way.
                    self.inboxes.close(lane, epoch);
                }
                happened.push(Event::Refused { lane, epoch, why });
            }
            Status::Nothing => {}
        }
    }

    /// Takes a job in: from now on its lease is kept.
    fn arrived(&mut self, message: Message, draining: bool) -> Option<Handle> {
        let reply = message.reply.as_ref().map(ToString::to_string);
        let Some((reply, delivery)) = reply.and_then(|reply| Delivery::parse(&reply).map(|delivery| (reply, delivery))) else {
            tracing::error!(subject = %message.subject, reply = ?message.reply, "a message that is no delivery; dropped");
            return None;
        };
        let handle = self.next;
        self.next += 1;
        let address = subjects::parse_job(message.subject.as_str());
        let connection = address.as_ref().filter(|address| !draining && address.queue.lane().is_some()).map(|_| self.connection);
        let id = address.and_then(|address| address.id.parse::<JobId>().ok());
        let brake = self.core.live.add(handle, id, reply.as_str().into());
        self.waiting.insert(handle, Arrived { handle, message, reply, delivery, connection, brake });
        Some(handle)
    }

    async fn perform(&mut self, command: Command) {
        match command {
            Command::Pull { lane, epoch, batch, priority, expires } => self.inboxes.pull(lane, epoch, batch, (priority, expires)).await,
            Command::Drain { lane, epoch } => self.inboxes.drain(lane, epoch).await,
            Command::Start(handle) => {
                if let Some(arrived) = self.waiting.remove(&handle) {
                    let slot = Slot(self.slots.clone());
                    // What becomes of it is in the log and at the broker; nobody waits for the task.
                    drop(self.core.group.spawn(attempt::carry(Arc::clone(&self.core), arrived, slot)));
                }
            }
            Command::Release(handle, why) => {
                if let Some(arrived) = self.waiting.remove(&handle) {
                    let reason = match why {
                        Why::Full => "no slot came free",
                        Why::Closed => "the agent takes no jobs",
                    };
                    let release = attempt::release(Arc::clone(&self.core), arrived, reason);
                    drop(self.core.group.spawn(release));
                }
            }
        }
    }
}

/// How long this agent's own queue rests, for a random number from 0 to 1: after a restart of the broker a whole fleet asks in the same moment,
/// and must not do so ever after.
fn rest(mean: Duration, random: f64) -> Duration {
    mean.mul_f64(0.5 + random.clamp(0.0, 1.0))
}

/// Where this agent takes jobs from, the most urgent first: its own queue, then the lanes of its executors.
fn queues(core: &Core) -> Vec<Queue> {
    let executors = core.registry.executors();
    let mut lanes: Vec<Lane> = executors.iter().filter_map(|name| name.parse().ok()).flat_map(|name| Lane::of(&name)).collect();
    lanes.sort();
    std::iter::once(Queue::Agent(core.id.clone())).chain(lanes.into_iter().map(Queue::Lane)).collect()
}

/// How they may be pulled, in the same order. The own queue always: nobody else pulls it.
pub(crate) fn gates(core: &Core) -> Vec<Gate> {
    let gate = |lane: &Lane| match core.allowed.allows(&lane.executor) {
        false => Gate::Closed,
        true if core.standby.has(&lane.executor) => Gate::Standby,
        true => Gate::Open,
    };
    queues(core).iter().map(|queue| queue.lane().map_or(Gate::Open, gate)).collect()
}

/// What being called up for these executors means to the intake.
pub(crate) fn call_up(core: &Core, executors: &BTreeSet<ExecutorName>, until: Instant) -> Event {
    let lanes = queues(core).iter().map(|queue| queue.lane().is_some_and(|lane| executors.contains(&lane.executor))).collect();
    Event::CallUp { lanes, until }
}

fn tier(queue: &Queue) -> u8 {
    match queue {
        Queue::Agent(_) => intake::OWN,
        Queue::Lane(lane) => intake::OWN + 1 + lane.priority as u8,
    }
}
