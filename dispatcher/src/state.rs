//! The dispatcher's mind: what it knows of agents, and what follows from it. `apply(event, now) -> commands`, no IO, no clock.
//!
//! It is a reconciler: standings are compared with what the bucket holds, and only differences are written, so a start, a take-over and
//! an ordinary second are the same thing. A follower knows as much as the leader and commands nothing.
//!
//! | to find | look in |
//! |---|---|
//! | what is to be done, and what is to be told | [`Command`], [`Note`] |
//! | agents and what is known of each | [`roster`] |
//! | the bucket of standings, and what must be written | [`board`] |
//! | what pools give to jobs that say nothing themselves | [`defaults`] |
//! | how far an agent's vault has come | `floor` |
//! | judging a pool: places, and what must be written; how often | `judge`, `pace` |
//! | who pulls, who stands by, who is called up | [`standby`], `calls` |
//! | where events come from | [`crate::intake`], [`crate::lookout`] |
//! | who carries out commands | [`crate::core`], [`crate::lanes`], [`crate::lookout`], [`crate::warden::agenda`] |

pub mod board;
mod calls;
mod command;
pub mod defaults;
mod floor;
mod judge;
mod pace;
pub mod roster;
pub mod standby;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use muster_schemas::{
    describe::is_digest,
    heartbeat::{Heartbeat, VaultMark},
    names::{AgentId, ExecutorName, PoolName},
    records::{AgentRecord, AgentState},
    result::Outcome,
    standing::Standing,
    time::Timestamp,
    topology::EPHEMERAL_AWAY_MAX,
};

use board::Board;
use calls::Calls;
pub use command::{Command, Note};
use defaults::{Defaults, Terms};
use pace::Pace;
use roster::Roster;

/// An agent in a pool: the subject of its heartbeats and the key of its standing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The pool.
    pub pool: PoolName,
    /// The agent.
    pub agent: AgentId,
}

/// What a heartbeat says, as far as it is used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Which run of the agent.
    pub instance: String,
    /// Its number within the run.
    pub seq: u64,
    /// Seconds to the next one, as claimed.
    pub interval_s: u32,
    /// A fault the agent found in itself.
    pub fault: Option<String>,
    /// The digest of what its executors take.
    pub description: Option<String>,
    /// The state of its vault.
    pub vault: Option<VaultMark>,
    /// How many jobs it runs at once.
    pub slots: u32,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// Whether it is the last one of its run.
    pub goodbye: bool,
}

impl From<Heartbeat> for Beat {
    fn from(beat: Heartbeat) -> Self {
        let Heartbeat { instance, seq, interval_s, fault, description, vault, slots, draining, goodbye, .. } = beat;
        let description = description.filter(|digest| is_digest(digest));
        Self { instance, seq, interval_s, fault, description, vault, slots: slots.total, draining, goodbye }
    }
}

/// What an agent's record says, as far as it is used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enlisted {
    /// Its pool.
    pub pool: PoolName,
    /// What an operator has decided about it.
    pub state: AgentState,
    /// Its executors.
    pub capabilities: BTreeSet<ExecutorName>,
    /// Those that an operator allows it; `None` is all that it has.
    pub allowed: Option<BTreeSet<ExecutorName>>,
    /// Whether it is to be removed once it stays away.
    pub ephemeral: bool,
}

impl From<AgentRecord> for Enlisted {
    fn from(record: AgentRecord) -> Self {
        let AgentRecord { pool, state, capabilities, allowed, ephemeral, .. } = record;
        Self { pool, state, capabilities, allowed, ephemeral }
    }
}

/// A key-value bucket as it is followed: all of it, then its changes; all of it again after a reconnect.
#[derive(Debug, Clone, PartialEq)]
pub enum Feed<K, T> {
    /// All of it follows.
    Begin,
    /// An entry, with its revision.
    Put(K, T, u64),
    /// A deleted entry, with the revision of its deletion.
    Gone(K, u64),
    /// That was all of it. Changes follow.
    End,
}

/// What is read from its beginning before the state is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Records of agents.
    Agents,
    /// Standings as written.
    Standings,
    /// Last heartbeats.
    Heartbeats,
    /// Results of the last hour.
    Results,
    /// Records of pools.
    Pools,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 5] = [Self::Agents, Self::Standings, Self::Heartbeats, Self::Results, Self::Pools];

    /// What it is called in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::Standings => "standings",
            Self::Heartbeats => "heartbeats",
            Self::Results => "results",
            Self::Pools => "pools",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A heartbeat, with the time at which the broker stored it. The agent's own clock is never asked.
    Heartbeat(Key, Beat, Timestamp),
    /// The stream of heartbeats exists since then. Of the time before nothing is known.
    HeartbeatsSince(Timestamp),
    /// A job of a pool ended, as its result says, which the broker stored at that time.
    Finished(PoolName, Option<AgentId>, Outcome, Timestamp),
    /// The bucket of agents.
    Agents(Feed<AgentId, Enlisted>),
    /// The bucket of standings. What can't be read is `None`, and is replaced.
    Standings(Feed<Key, Option<Standing>>),
    /// The bucket of pools, as far as it is used here.
    Pools(Feed<PoolName, Terms>),
    /// All that this source had is known.
    CaughtUp(Source),
    /// A [`Command::Put`] or [`Command::Delete`] was carried out, with the new revision; `None` when it was refused or lost.
    Written(Key, Option<u64>),
    /// This process leads from now on, or does not.
    Lead(bool),
    /// So many jobs of an executor wait in a pool, and nobody asks for them.
    Waiting(PoolName, ExecutorName, u64),
    /// Time has passed.
    Tick,
}

/// All that the dispatcher knows.
#[derive(Debug, Default)]
pub struct State {
    roster: Roster,
    board: Board,
    defaults: Defaults,
    caught_up: BTreeSet<Source>,
    lead: bool,
    /// Pools where something changed that should not wait for the next tick.
    urgent: BTreeSet<PoolName>,
    pace: Pace,
    /// Whether an agent may be gone whose standing is still there.
    untidy: bool,
    /// Lanes that were asked for, so that each is asked for once.
    lanes: BTreeMap<PoolName, BTreeSet<ExecutorName>>,
    /// How long an ephemeral agent may stay away, if not for [`EPHEMERAL_AWAY_MAX`].
    ephemeral_after: Option<Duration>,
    /// How many agents of an executor of a pool pull, if not [`standby::ACTIVE_MAX`].
    active_max: Option<usize>,
    calls: Calls,
}

impl State {
    /// One that has ephemeral agents removed that have been away for so long, and lets so many agents of an executor of a pool pull.
    pub fn new(ephemeral_after: Duration, active_max: usize) -> Self {
        Self { ephemeral_after: Some(ephemeral_after), active_max: Some(active_max), ..Self::default() }
    }

    /// Takes in one event and says what is to be done.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Vec<Command> {
        self.apply_all([event], now)
    }

    /// Takes in several events that happened together, judging each pool once: a thousand agents that start at the same time cost little
    /// more than one.
    pub fn apply_all(&mut self, events: impl IntoIterator<Item = Event>, now: Timestamp) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut all = false;
        for event in events {
            all |= matches!(event, Event::Tick | Event::Lead(_) | Event::CaughtUp(_));
            self.take(event, now, &mut commands);
        }
        self.untidy |= self.board.has_room_again();
        let (pace, roster) = (&mut self.pace, &self.roster);
        let mut pools: BTreeSet<_> = self.urgent.extract_if(.., |pool| all || pace.allows(pool, roster.size(pool), now)).collect();
        if all {
            self.board.sweep(now);
            self.calls.sweep(now);
            pace.keep(|pool| roster.size(pool) > 0);
            pools.extend(roster.pools().cloned());
        }
        for pool in &pools {
            self.pace.judged(pool, now);
            self.judge(pool, now, &mut commands);
        }
        if !self.commanding() {
            return commands;
        }
        self.write_waiting(&mut commands);
        if all || std::mem::take(&mut self.untidy) {
            self.tidy(&mut commands);
        }
        if all {
            commands.extend(self.roster.leaving(now, self.ephemeral_after.unwrap_or(EPHEMERAL_AWAY_MAX)));
        }
        commands
    }

    /// Whether all sources were read, so that what is known is complete.
    pub fn is_warm(&self) -> bool {
        Source::ALL.iter().all(|source| self.caught_up.contains(source))
    }

    /// The sources that are still being read.
    pub fn missing(&self) -> impl Iterator<Item = Source> {
        Source::ALL.into_iter().filter(|source| !self.caught_up.contains(source))
    }

    /// The agents as last judged.
    pub fn agents(&self) -> impl Iterator<Item = (&PoolName, &AgentId, Option<&Standing>)> {
        self.roster.iter().map(|(id, agent)| (agent.pool(), id, agent.judged()))
    }

    /// The executors that agents of each pool have told of.
    pub fn capabilities(&self) -> BTreeMap<PoolName, BTreeSet<ExecutorName>> {
        let mut pools = BTreeMap::<_, BTreeSet<_>>::new();
        for (_, agent) in self.roster.iter() {
            pools.entry(agent.pool().clone()).or_default().extend(agent.capabilities().iter().cloned());
        }
        pools
    }

    /// Whether commands are given: only a leader that knows everything gives any.
    fn commanding(&self) -> bool {
        self.lead && self.is_warm()
    }

    fn take(&mut self, event: Event, now: Timestamp, commands: &mut Vec<Command>) {
        match event {
            Event::Heartbeat(key, beat, arrived) => {
                let (urgent, note) = self.roster.heartbeat(&key, beat, arrived, now);
                commands.extend(note.map(Command::Note));
                if urgent {
                    self.urgent.insert(key.pool);
                }
            }
            Event::HeartbeatsSince(since) => self.roster.heartbeats_since(since),
            Event::Finished(pool, agent, outcome, at) => {
                let Some(agent) = agent.filter(|_| outcome.counts_for_score()) else { return };
                if !self.roster.finished(&pool, &agent, outcome == Outcome::Succeeded, at, now) {
                    commands.push(Command::Note(Note::Unattributed(pool, agent)));
                }
            }
            Event::Agents(feed) => {
                self.untidy = true;
                self.enlist(feed, now, commands);
            }
            Event::Standings(feed) => {
                if feed == Feed::End {
                    self.caught_up.insert(Source::Standings);
                }
                self.board.follow(feed);
            }
            Event::Pools(feed) => {
                if feed == Feed::End {
                    self.caught_up.insert(Source::Pools);
                }
                self.urgent.extend(self.defaults.follow(feed));
            }
            Event::CaughtUp(source) => {
                self.caught_up.insert(source);
            }
            Event::Written(key, revision) => self.board.written(&key, revision),
            Event::Lead(lead) => {
                self.lead = lead;
                self.lanes.clear();
                if lead {
                    for (pool, wanted) in self.capabilities() {
                        self.ask_for_lanes(&pool, wanted, commands);
                    }
                }
            }
            Event::Waiting(pool, executor, jobs) => self.call_up(&pool, &executor, jobs, now, commands),
            Event::Tick => {}
        }
    }

    fn enlist(&mut self, feed: Feed<AgentId, Enlisted>, now: Timestamp, commands: &mut Vec<Command>) {
        match feed {
            Feed::Begin => self.roster.begin(),
            Feed::Put(id, record, _) => {
                let (pool, wanted) = (record.pool.clone(), record.capabilities.clone());
                self.urgent.extend(self.roster.put(&id, record, now));
                self.ask_for_lanes(&pool, wanted, commands);
            }
            Feed::Gone(id, _) => self.urgent.extend(self.roster.remove(&id)),
            Feed::End => {
                self.caught_up.insert(Source::Agents);
                self.urgent.extend(self.roster.end());
            }
        }
    }

    /// Asks for the lanes of executors of a pool, but for those that were asked for.
    fn ask_for_lanes(&mut self, pool: &PoolName, mut wanted: BTreeSet<ExecutorName>, commands: &mut Vec<Command>) {
        if !self.lead {
            return;
        }
        let asked = self.lanes.entry(pool.clone()).or_default();
        wanted.retain(|executor| !asked.contains(executor));
        if !wanted.is_empty() {
            asked.extend(wanted.iter().cloned());
            commands.push(Command::Lanes(pool.clone(), wanted));
        }
    }
}

#[cfg(test)]
mod tests;
