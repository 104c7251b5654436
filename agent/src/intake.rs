//! Which lanes are pulled, how far, and which job starts next: DESIGN §4, as a pure state machine.
//!
//! [`Intake::apply`] takes what happened and says what to do; it has no clock, no IO and no job's content. The shell around it is
//! in [`crate::pull`]. What is known of a single lane is in [`lane`], how free slots become pull requests in [`plan`].
//!
//! The rules, made precise:
//! - Each lane has *credits*: jobs asked for and not yet given. While a slot is free, an idle lane has one. A lane that gives as many
//!   jobs as it may owe soon may owe twice as many, up to the free slots; one that has given nothing for [`Settings::settled`] begins
//!   again with one.
//!   So an agent gets what it can run, but is owed little where nothing happens, and has little to withdraw.
//! - A lane that gave a job is *hot* until its credits went unanswered for [`Settings::patience`]. While a lane is hot, lanes of a lower
//!   priority get no new credits, and hot lanes of one priority share the free slots instead of each asking for all of them.
//! - A job without a free slot is held, and while one is held nothing is pulled. Held for [`Settings::hold`], it is released as soon as
//!   its lane has no credits left, so that the broker can't send it straight back.
//! - Credits that are no longer wanted (no slot free for [`Settings::hold`], not accepting, a worse pull priority) are withdrawn by
//!   draining the lane, but only once it has been quiet for a while; a lane that gives uses them up by itself. The reason: a job
//!   that the broker gives out in the very moment in which an inbox goes away is lost until its lease ends, and the broker does not
//!   notice [measured on 2.15.1: 138 of 3 000 jobs stored within 0.6 ms of it across accounts, 36 within one account].
//! - A better pull priority withdraws nothing: new pulls are added, which the broker serves before the old ones, and those expire.

mod lane;
mod plan;

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lane::Lane;
pub(crate) use lane::Refusal;

/// A job on this agent, as the shell knows it.
pub(crate) type Handle = u64;

/// A lane by its place in the list given to [`Intake::new`].
pub(crate) type LaneIndex = usize;

/// How the intake behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How many jobs may run at once.
    pub(crate) slots: u32,
    /// How long a job may wait for a slot here, how long all slots may be taken before the lanes are drained, and how long a lane must have
    /// been quiet before it is drained because the agent may take nothing more.
    pub(crate) hold: Duration,
    /// How long a lane must have been quiet to begin again with one credit, and before it is drained for any lesser reason.
    pub(crate) settled: Duration,
    /// How long a hot lane's pull may stay unanswered before lower lanes are pulled.
    pub(crate) patience: Duration,
    /// How long a pull request waits at the broker.
    pub(crate) expires: Duration,
}

impl Settings {
    /// The settings of DESIGN §4 for so many slots.
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            slots,
            hold: Duration::from_millis(200),
            // Long against any round trip; and with less than a job a second, the moment in which a drain may lose one is not hit.
            settled: Duration::from_secs(1),
            // Ten times the round trip to a broker in the same data centre; a broker with a backlog answers within one.
            patience: Duration::from_millis(10),
            // Across accounts the server forgets an idle reply mapping after 2 min.
            expires: Duration::from_secs(60),
        }
    }
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
    /// Take nothing new, for good.
    Shutdown,
    /// Time has passed.
    Tick,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Ask the lane for jobs. The inbox is the one of this epoch; the first pull of an epoch opens it.
    Pull { lane: LaneIndex, epoch: u32, batch: u32, priority: u8 },
    /// Close the inbox of this epoch without losing what is under way, then say [`Event::Drained`].
    Drain { lane: LaneIndex, epoch: u32 },
    /// Run the job.
    Start(Handle),
    /// Give the job back.
    Release(Handle),
}

/// A job that waits for a slot: ordered by priority, then by arrival.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    tier: u8,
    order: u64,
    lane: LaneIndex,
    since: Instant,
    handle: Handle,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Intake {
    settings: Settings,
    lanes: Vec<Lane>,
    running: u32,
    held: BTreeSet<Held>,
    arrivals: u64,
    /// Since when no slot is free.
    full_since: Option<Instant>,
    connected: bool,
    accepting: bool,
    blocked: bool,
    stopping: bool,
    priority: u8,
    /// Which of several hot lanes of one priority was served last.
    turn: usize,
}

impl Intake {
    /// `tiers` are the lanes: for each how urgent it is, 0 the most.
    pub(crate) fn new(settings: Settings, tiers: impl IntoIterator<Item = u8>, priority: u8) -> Self {
        Self {
            settings,
            lanes: tiers.into_iter().map(Lane::new).collect(),
            running: 0,
            held: BTreeSet::new(),
            arrivals: 0,
            full_since: None,
            connected: false,
            accepting: true,
            blocked: false,
            stopping: false,
            priority,
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
                self.held.insert(Held { tier, order: self.arrivals, lane, since: now, handle });
                self.fill(now, commands);
            }
            Event::SlotFreed => {
                self.running = self.running.saturating_sub(1);
                self.full_since = None;
                self.fill(now, commands);
            }
            Event::Expired { lane, epoch, pending } => self.in_epoch(lane, epoch, |lane| lane.expired(pending)),
            Event::Refused { lane, epoch, why } => self.in_epoch(lane, epoch, |lane| lane.refused(why, now)),
            Event::Drained { lane, epoch } => self.in_epoch(lane, epoch, Lane::drained),
            Event::Standing { accepting, priority } => {
                // Pulls that wait at the broker carry the old priority.
                match priority.cmp(&self.priority) {
                    Ordering::Less => self.lanes.iter_mut().for_each(Lane::promoted),
                    Ordering::Greater => self.lanes.iter_mut().for_each(Lane::demoted),
                    Ordering::Equal => {}
                }
                self.priority = priority;
                self.accepting = accepting;
            }
            Event::Blocked(blocked) => self.blocked = blocked,
            Event::Shutdown => self.stopping = true,
            Event::Tick => {}
        }
    }

    fn in_epoch(&mut self, lane: LaneIndex, epoch: u32, change: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes.get_mut(lane).filter(|lane| lane.epoch == epoch) {
            change(lane);
        }
    }

    /// Starts held jobs, the most urgent first, while slots are free.
    fn fill(&mut self, now: Instant, commands: &mut Vec<Command>) {
        // Once the agent stops, what is held goes back: it would only delay the end.
        while self.running < self.settings.slots && !self.stopping {
            let Some(job) = self.held.pop_first() else { break };
            self.running += 1;
            commands.push(Command::Start(job.handle));
        }
        if self.running >= self.settings.slots && self.full_since.is_none() {
            self.full_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests;
