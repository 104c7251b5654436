//! Which lanes are pulled, how far, and which job starts next: DESIGN §4, as a pure state machine.
//!
//! [`Intake::apply`] takes what happened and says what to do; it has no clock, no IO and no job's content. The shell around it is
//! in [`crate::pull`]. What is known of a single lane is in [`lane`], how free slots become pull requests in [`plan`].
//!
//! A *lane* here is whatever can be pulled: the lanes of the pool, and the agent's own queue, which holds its commands and comes before all of
//! them ([`OWN`]).
//!
//! The rules, made precise:
//! - Each lane has *credits*: jobs asked for and not yet given. While a slot is free, an idle lane has one. A lane that gives as many
//!   jobs as it may owe soon may owe twice as many, up to the free slots; one that has given nothing for [`Settings::settled`] begins
//!   again with one. So an agent gets what it can run, and is owed little where nothing happens.
//! - A lane that gave a job is *hot* until a credit went unanswered for [`Settings::patience`]. While a lane is hot, lanes of a lower
//!   priority get no new credits, and hot lanes of one priority share the free slots instead of each asking for all of them.
//! - A job without a free slot is held, and while one is held nothing is pulled. Held for [`Settings::hold`], it is released. So is, at
//!   once, a job that comes while the agent may take none.
//! - Credits that are no longer wanted (no slot free, not accepting, a worse pull priority) are left to expire, which the broker does
//!   without losing anything, after [`Settings::lapse`] where there was work lately. Withdrawing them by closing the inbox is no way: a
//!   job that the broker gives out in the very moment in which an inbox goes away is lost until its lease ends, and nobody
//!   notices [measured on 2.15.1: 138 of 3 000 jobs stored within 0.6 ms of it across accounts, 36 within one account; more when
//!   the machine is busy]. Only an agent that shuts down drains its lanes, each once it is quiet.
//! - A lane that is [`Gate::Closed`] gets no credits, and what it gives for those it still has is released at once.
//! - A lane on [`Gate::Standby`] gets none either, but what it gives is run: others pull it, and this agent may. Called up
//!   ([`Event::CallUp`]) it is pulled for a while, with pulls that end when the call does; so is it for as long as there is nobody
//!   who could call ([`Event::Unled`]).
//! - The own queue is there only while the agent had a command lately. Where it is missing, the agent rests: it asks again when it is told
//!   that a command waits ([`Event::Commands`]), after a connect, and by itself after [`Settings::rest`].
//! - A better pull priority adds new pulls, which the broker serves before the old ones; not to the own queue, where nobody else asks.
//! - An agent that gave a job back for others ([`Event::StepBack`]) pulls with the last priority for a moment.

mod lane;
mod plan;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lane::Lane;
pub(crate) use lane::Refusal;

/// A job on this agent, as the shell knows it.
pub(crate) type Handle = u64;

/// A lane by its place in the list given to [`Intake::new`].
pub(crate) type LaneIndex = usize;

/// The tier of the agent's own queue: more urgent than every lane's.
pub(crate) const OWN: u8 = 0;

/// How the intake behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How many jobs may run at once.
    pub(crate) slots: u32,
    /// How long a job may wait for a slot here, and how long a lane must have been quiet before it is drained.
    pub(crate) hold: Duration,
    /// How long a lane must have been quiet to begin again with one credit.
    pub(crate) settled: Duration,
    /// How long a hot lane's pull may stay unanswered before lower lanes are pulled.
    pub(crate) patience: Duration,
    /// How long a pull waits at the broker.
    pub(crate) expires: Duration,
    /// The same for an agent that had work within the last minute, and for more than one job at once.
    pub(crate) lapse: Duration,
    /// After how long the own queue is asked again that was not there.
    pub(crate) rest: Duration,
}

impl Settings {
    /// The settings of DESIGN §4 for so many slots.
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            slots,
            hold: Duration::from_millis(200),
            // Long against any round trip, short against the time in which a burst matters.
            settled: Duration::from_secs(1),
            // The shell raises it where the broker answers more slowly.
            patience: PATIENCE,
            // Across accounts the server forgets an idle reply mapping after 2 min.
            expires: Duration::from_secs(60),
            // A full agent gets at most one job too many per lane within this time; its pulls cost the broker next to nothing.
            lapse: Duration::from_secs(10),
            // It costs the broker what a pull does that has run out. The shell has each agent rest for a time of its own.
            rest: Duration::from_secs(60),
        }
    }
}

/// The least patience: ten times the round trip to a broker in the same data centre. With a backlog the broker answers within one.
const PATIENCE: Duration = Duration::from_millis(10);
/// The most patience: for so long a lower lane may have to wait beside a free slot.
const PATIENCE_MAX: Duration = Duration::from_millis(250);
/// An agent that got no job for this long has no work.
const IDLE: Duration = Duration::from_secs(60);

/// How long an agent asks behind the others after it gave a job back for them: longer than the delays of such releases together
/// (see [`crate::attempt::prefer`]), so that a better standing does not get it the same job again at once.
const STEP_BACK: Duration = Duration::from_secs(2);
/// The priority that is served last.
const PRIORITY_LAST: u8 = 9;

/// How a lane may be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Always.
    Open,
    /// Only while called up: enough fitter agents pull it.
    Standby,
    /// Never, and its jobs may not run here.
    Closed,
}

/// Why a job is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// No slot came free in time.
    Full,
    /// The agent may take no jobs.
    Closed,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The broker can be reached; it knows of none of our pulls.
    Connected,
    /// It can't.
    Disconnected,
    /// A lane gave a job.
    Arrived { lane: LaneIndex, handle: Handle },
    /// A job that was started has left its slot.
    SlotFreed,
    /// A pull of the lane's present inbox ended with `pending` of its jobs not given.
    Expired { lane: LaneIndex, epoch: u32, pending: u32 },
    /// A pull of the lane's present inbox was refused.
    Refused { lane: LaneIndex, epoch: u32, why: Refusal },
    /// The inbox is drained: nothing more comes from it.
    Drained { lane: LaneIndex, epoch: u32 },
    /// The dispatcher's word.
    Standing { accepting: bool, priority: u8 },
    /// Whether something on this machine forbids taking jobs, whatever the dispatcher says.
    Blocked(bool),
    /// How the lanes may be pulled, by their places. Without this all of them are open.
    Gates(Vec<Gate>),
    /// More waits in these lanes, by their places, than those who pull them take: they are pulled until then whatever the standing says.
    CallUp { lanes: Vec<bool>, until: Instant },
    /// Whether there is nobody who could call up.
    Unled(bool),
    /// A command waits in the own queue, which may not have been there when it was asked last.
    Commands,
    /// Take nothing new, for good.
    Shutdown,
    /// A job was given back for other agents to take: for [`STEP_BACK`] this agent asks behind all of them.
    StepBack,
    /// Time has passed.
    Tick,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Ask the lane for jobs. The inbox is the one of this epoch; the first pull of an epoch opens it. The priority means nothing to the own
    /// queue.
    Pull { lane: LaneIndex, epoch: u32, batch: u32, priority: u8, expires: Duration },
    /// Close the inbox of this epoch without losing what is under way, then say [`Event::Drained`].
    Drain { lane: LaneIndex, epoch: u32 },
    /// Run the job.
    Start(Handle),
    /// Give the job back.
    Release(Handle, Why),
}

/// A job that waits for a slot: ordered by priority, then by arrival.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    tier: u8,
    order: u64,
    since: Instant,
    handle: Handle,
    lane: LaneIndex,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Intake {
    settings: Settings,
    lanes: Vec<Lane>,
    running: u32,
    held: BTreeSet<Held>,
    arrivals: u64,
    /// When a job last came.
    arrived_at: Option<Instant>,
    connected: bool,
    accepting: bool,
    blocked: bool,
    stopping: bool,
    priority: u8,
    /// Until when it asks behind all others, whatever its priority.
    back_until: Option<Instant>,
    /// When to look again whether lanes can be drained.
    drain_at: Option<Instant>,
    /// Which of several hot lanes of one priority was served last.
    turn: usize,
}

impl Intake {
    /// `tiers` are the lanes: for each how urgent it is, [`OWN`] the most.
    pub(crate) fn new(settings: Settings, tiers: impl IntoIterator<Item = u8>, priority: u8) -> Self {
        Self {
            settings,
            lanes: tiers.into_iter().map(Lane::new).collect(),
            running: 0,
            held: BTreeSet::new(),
            arrivals: 0,
            arrived_at: None,
            connected: false,
            accepting: true,
            blocked: false,
            stopping: false,
            priority,
            back_until: None,
            drain_at: None,
            turn: 0,
        }
    }

    /// Takes what happened, all at `now`, into account and says what to do, in this order.
    pub(crate) fn apply(&mut self, events: impl IntoIterator<Item = Event>, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        for event in events {
            self.note(event, now, &mut commands);
        }
        self.plan(now, &mut commands);
        commands
    }

    /// Says how long the broker takes to answer, so that patience with it fits.
    pub(crate) fn broker_answers_within(&mut self, latency: Duration) {
        self.settings.patience = (latency * 3).clamp(PATIENCE, PATIENCE_MAX);
    }

    /// How many jobs wait for a slot.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// How many jobs have been started and not ended.
    pub(crate) fn running(&self) -> u32 {
        self.running
    }

    fn note(&mut self, event: Event, now: Instant, commands: &mut Vec<Command>) {
        match event {
            Event::Connected => self.connected = true,
            Event::Disconnected => {
                self.connected = false;
                self.lanes.iter_mut().for_each(Lane::forget);
            }
            Event::Arrived { lane, handle } => {
                let tier = self.lanes.get_mut(lane).map_or(u8::MAX, |lane| {
                    lane.gave(&self.settings, now);
                    lane.tier
                });
                self.arrivals += 1;
                self.arrived_at = Some(now);
                self.held.insert(Held { tier, order: self.arrivals, since: now, handle, lane });
                self.fill(commands);
            }
            Event::SlotFreed => {
                self.running = self.running.saturating_sub(1);
                self.fill(commands);
            }
            Event::Expired { lane, epoch, pending } => self.in_epoch(lane, epoch, |lane| lane.expired(pending)),
            Event::Refused { lane, epoch, why } => {
                let rest = self.settings.rest;
                self.in_epoch(lane, epoch, |lane| lane.refused(why, rest, now));
            }
            Event::Drained { lane, epoch } => self.in_epoch(lane, epoch, Lane::forget),
            Event::Standing { accepting, priority } => {
                if priority < self.priority {
                    self.lanes.iter_mut().for_each(Lane::promoted);
                }
                self.priority = priority;
                self.accepting = accepting;
            }
            Event::Blocked(blocked) => self.blocked = blocked,
            Event::Gates(gates) => self.lanes.iter_mut().zip(gates).for_each(|(lane, gate)| lane.gate = gate),
            Event::CallUp { lanes, until } => {
                self.lanes.iter_mut().zip(lanes).filter(|(_, called)| *called).for_each(|(lane, _)| lane.call(until));
            }
            Event::Unled(unled) => self.lanes.iter_mut().for_each(|lane| lane.unled = unled),
            Event::Commands => self.lanes.iter_mut().filter(|lane| lane.tier == OWN).for_each(Lane::told),
            Event::Shutdown => self.stopping = true,
            Event::StepBack => self.back_until = Some(now + STEP_BACK),
            Event::Tick => {}
        }
    }

    fn in_epoch(&mut self, lane: LaneIndex, epoch: u32, change: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes.get_mut(lane).filter(|lane| lane.epoch == epoch) {
            change(lane);
        }
    }

    /// Starts held jobs, the most urgent first, while slots are free.
    fn fill(&mut self, commands: &mut Vec<Command>) {
        while self.running < self.settings.slots && self.may_run() {
            let Some(job) = self.held.iter().find(|job| self.is_open(job.lane)).cloned() else { break };
            self.held.remove(&job);
            self.running += 1;
            commands.push(Command::Start(job.handle));
        }
    }

    /// Whether jobs of the lane may run here.
    fn is_open(&self, lane: LaneIndex) -> bool {
        self.lanes.get(lane).is_none_or(|lane| lane.gate != Gate::Closed)
    }

    /// Whether it may start jobs. One that comes while the connection is just gone may as well run.
    fn may_run(&self) -> bool {
        self.accepting && !self.blocked && !self.stopping
    }
}

#[cfg(test)]
mod tests;
