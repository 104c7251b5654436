//! The agents: whose record exists, what was heard of each, and how each is judged.
//!
//! It never ranks (a pool's matter, [`crate::ranking`]) and knows nothing of what was written ([`super::board`]).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use muster_schemas::{
    heartbeat::{self, VaultMark},
    names::{AgentId, ExecutorName, PoolName},
    records::AgentState,
    standing::{Standing, Status},
    time::Timestamp,
};

use super::{Beat, Command, Enlisted, Key, Note, floor};
use crate::{
    instances::{Instances, Verdict},
    score::{self, Health, Pulse},
    window::Window,
};

/// Heartbeats kept of agents without a record: between an agent's registration and the arrival of its record here lie milliseconds.
const STRANGERS_MAX: usize = 256;
/// Characters of an agent's own words that go into a reason.
const FAULT_CHARS: usize = 200;

/// All agents that have a record.
#[derive(Debug, Default)]
pub struct Roster {
    agents: BTreeMap<AgentId, Agent>,
    pools: BTreeMap<PoolName, BTreeSet<AgentId>>,
    strangers: VecDeque<(Key, Beat, Timestamp)>,
    /// Which reading of the bucket is going on.
    reading: u64,
    /// Since when heartbeats are stored.
    since: Option<Timestamp>,
}

/// An agent.
#[derive(Debug)]
pub struct Agent {
    record: Enlisted,
    /// Since when this process knows of it in this pool.
    known_since: Timestamp,
    reading: u64,
    last: Option<Last>,
    /// How far its vault has come.
    vault: Option<VaultMark>,
    instances: Instances,
    window: Window,
    judged: Option<Standing>,
}

/// The last heartbeat that counted.
#[derive(Debug)]
struct Last {
    arrived: Timestamp,
    interval: Duration,
    fault: Option<String>,
    description: Option<String>,
    slots: u32,
    draining: bool,
    goodbye: bool,
}

/// What is thought of an agent, before its place in the pool is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Its figures.
    pub health: Health,
    /// Whether it may pull.
    pub accepting: bool,
    /// Why it may not, or why it is degraded.
    pub reason: Option<String>,
    /// Executors that an operator allows it; `None` is all that it has.
    pub executors: Option<BTreeSet<ExecutorName>>,
    /// Whether two processes use its identity.
    pub twin: bool,
    /// The digest of what its executors take.
    pub description: Option<String>,
    /// How far its vault has come.
    pub vault: Option<VaultMark>,
}

impl Agent {
    fn new(record: Enlisted, reading: u64, known_since: Timestamp) -> Self {
        Self {
            record,
            known_since,
            reading,
            last: None,
            vault: None,
            instances: Instances::default(),
            window: Window::default(),
            judged: None,
        }
    }

    /// Its pool.
    pub fn pool(&self) -> &PoolName {
        &self.record.pool
    }

    /// Its executors.
    pub fn capabilities(&self) -> &BTreeSet<ExecutorName> {
        &self.record.capabilities
    }

    /// How many jobs it runs at once, as it says; at least one.
    pub fn slots(&self) -> u32 {
        self.last.as_ref().map_or(1, |last| last.slots.max(1))
    }

    /// How it was last judged.
    pub fn judged(&self) -> Option<&Standing> {
        self.judged.as_ref()
    }
}

impl Roster {
    /// All agents.
    pub fn iter(&self) -> impl Iterator<Item = (&AgentId, &Agent)> {
        self.agents.iter()
    }

    /// Pools that have an agent.
    pub fn pools(&self) -> impl Iterator<Item = &PoolName> {
        self.pools.keys()
    }

    /// The agents of a pool.
    pub fn members(&self, pool: &PoolName) -> impl Iterator<Item = (&AgentId, &Agent)> {
        self.pools.get(pool).into_iter().flatten().filter_map(|id| Some((id, self.agents.get(id)?)))
    }

    /// How many agents a pool has.
    pub fn size(&self, pool: &PoolName) -> usize {
        self.pools.get(pool).map_or(0, BTreeSet::len)
    }

    /// Whether an agent is in a pool.
    pub fn is_member(&self, pool: &PoolName, id: &AgentId) -> bool {
        self.agents.get(id).is_some_and(|agent| agent.record.pool == *pool)
    }

    /// All records follow.
    pub fn begin(&mut self) {
        self.reading += 1;
    }

    /// All records have come: those that did not are no more. Gives back the pools that lost an agent.
    pub fn end(&mut self) -> BTreeSet<PoolName> {
        let gone: Vec<_> = self.agents.iter().filter(|(_, agent)| agent.reading != self.reading).map(|(id, _)| id.clone()).collect();
        gone.iter().filter_map(|id| self.remove(id)).collect()
    }

    /// A record is new or has changed. Gives back the pools that this touches.
    pub fn put(&mut self, id: &AgentId, record: Enlisted, now: Timestamp) -> BTreeSet<PoolName> {
        let pool = record.pool.clone();
        if let Some(known) = self.agents.get_mut(id).filter(|agent| agent.record.pool == pool) {
            known.reading = self.reading;
            let changed = (known.record.state, &known.record.allowed) != (record.state, &record.allowed);
            known.record = record;
            return changed.then_some(pool).into_iter().collect();
        }
        // What was heard of it in another pool says nothing of this one.
        let left = self.remove(id);
        self.agents.insert(id.clone(), Agent::new(record, self.reading, now));
        self.pools.entry(pool.clone()).or_default().insert(id.clone());
        let key = Key { pool: pool.clone(), agent: id.clone() };
        if let Some(place) = self.strangers.iter().position(|(stranger, ..)| *stranger == key)
            && let Some((_, beat, arrived)) = self.strangers.remove(place)
        {
            self.heartbeat(&key, beat, arrived, now);
        }
        left.into_iter().chain([pool]).collect()
    }

    /// A record is no more. Gives back the pool that lost its agent.
    pub fn remove(&mut self, id: &AgentId) -> Option<PoolName> {
        let pool = self.agents.remove(id)?.record.pool;
        if let Some(members) = self.pools.get_mut(&pool) {
            members.remove(id);
            if members.is_empty() {
                self.pools.remove(&pool);
            }
        }
        Some(pool)
    }

    /// Heartbeats are stored since then.
    pub fn heartbeats_since(&mut self, since: Timestamp) {
        self.since = Some(since);
    }

    /// Takes in a heartbeat. Says whether the pool should be judged at once, and what is worth telling.
    pub fn heartbeat(&mut self, key: &Key, beat: Beat, arrived: Timestamp, now: Timestamp) -> (bool, Option<Note>) {
        let Some(agent) = self.agents.get_mut(&key.agent).filter(|agent| agent.record.pool == key.pool) else {
            self.strangers.retain(|(stranger, ..)| stranger != key);
            self.strangers.push_back((key.clone(), beat, arrived));
            if self.strangers.len() > STRANGERS_MAX {
                self.strangers.pop_front();
            }
            return (false, Some(Note::Stranger(key.clone())));
        };
        // A stamp from the future would keep the agent fresh until then; the broker's clock may have been set back.
        let arrived = arrived.min(now);
        let interval = score::interval(beat.interval_s);
        let was_in_conflict = agent.instances.in_conflict(now);
        let note = match agent.instances.observe(&beat.instance, beat.seq, beat.goodbye, arrived, interval) {
            Verdict::Replay => return (false, Some(Note::Replay(key.clone()))),
            Verdict::LateGoodbye => return (false, None),
            Verdict::TwoProcesses if !was_in_conflict => Some(Note::TwoProcesses(key.clone())),
            Verdict::TwoProcesses | Verdict::Fresh => None,
        };
        let last = Last {
            arrived,
            interval,
            fault: beat.fault.map(|fault| fault.chars().filter(|c| !c.is_control()).take(FAULT_CHARS).collect()),
            description: beat.description,
            slots: beat.slots,
            draining: beat.draining,
            goodbye: beat.goodbye,
        };
        let was_away = agent.judged.as_ref().is_none_or(|judged| judged.status == Status::Offline);
        let changed = agent.last.as_ref().is_none_or(|before| {
            (before.goodbye, before.draining, before.fault.is_some()) != (last.goodbye, last.draining, last.fault.is_some())
        });
        agent.last = Some(last);
        agent.vault = floor::raised(agent.vault.take(), beat.vault);
        (was_away || changed || note.is_some(), note)
    }

    /// A job of an agent ended. `false` when that agent is not in the job's pool: then it counts for nobody.
    pub fn finished(&mut self, pool: &PoolName, id: &AgentId, succeeded: bool, at: Timestamp, now: Timestamp) -> bool {
        let agent = self.agents.get_mut(id).filter(|agent| agent.record.pool == *pool);
        agent.map(|agent| agent.window.record(succeeded, at, now)).is_some()
    }

    /// How an agent was last judged in this pool.
    pub fn standing(&self, key: &Key) -> Option<&Standing> {
        self.agents.get(&key.agent).filter(|agent| agent.record.pool == key.pool)?.judged()
    }

    /// Keeps how an agent was judged, and gives back its status before.
    pub fn judged(&mut self, id: &AgentId, standing: Standing) -> Option<Status> {
        let agent = self.agents.get_mut(id)?;
        agent.judged.replace(standing).map(|before| before.status)
    }

    /// Judges an agent. `written` is its standing in the bucket.
    pub fn judge(&self, agent: &Agent, written: Option<&Standing>, now: Timestamp) -> Judged {
        let pulse = self.pulse(agent, written, now);
        let tally = agent.window.tally(now);
        let health = score::health(pulse, tally);
        let refusal = match agent.record.state {
            AgentState::Revoked => Some("revoked"),
            AgentState::Disabled => Some("disabled"),
            AgentState::Deleting => Some("being removed"),
            AgentState::Pending => Some("not registered yet"),
            AgentState::Draining => Some("draining"),
            AgentState::Active if health.status == Status::Offline => Some(match &pulse {
                None => "no heartbeat yet",
                Some(pulse) if pulse.goodbye => "said goodbye",
                Some(_) => "no heartbeat for three intervals",
            }),
            AgentState::Active if agent.last.as_ref().is_some_and(|last| last.draining) => Some("draining"),
            AgentState::Active if crate::ranking::tenths(health.score()) == 0 => Some("its score is zero"),
            AgentState::Active => None,
        };
        let reason = refusal.map(str::to_owned).or_else(|| (health.status == Status::Degraded).then(|| why_degraded(agent, tally, now)));
        let (executors, twin) = (agent.record.allowed.clone(), agent.instances.in_conflict(now));
        let said = agent.last.as_ref().map(|last| &last.description);
        let description = said.or_else(|| Some(&written?.description)).cloned().flatten();
        let vault = floor::raised(written.and_then(|written| written.vault.clone()), agent.vault.clone());
        Judged { health, accepting: refusal.is_none(), reason, executors, twin, description, vault }
    }

    /// What has to be done about agents that are being removed, and about ephemeral ones that stay away.
    pub fn leaving(&self, now: Timestamp, away_max: Duration) -> impl Iterator<Item = Command> {
        self.agents.iter().filter_map(move |(id, agent)| match agent.record.state {
            AgentState::Deleting => Some(Command::Remove(id.clone())),
            // The record of a revoked one is kept: somebody may want to look at it.
            AgentState::Revoked => None,
            _ if agent.record.ephemeral && now.since(self.away_since(agent)) >= away_max => Some(Command::Expel(id.clone())),
            _ => None,
        })
    }

    /// Since when an agent has been away for certain; the future, of one that is there. Nobody could be heard before the stream of heartbeats was
    /// made, and of one that was never heard nothing is known before this process began to listen.
    fn away_since(&self, agent: &Agent) -> Timestamp {
        let heard = agent.last.as_ref().map_or(agent.known_since, |last| match last.goodbye {
            true => last.arrived,
            false => last.arrived + last.interval * score::GONE_AFTER,
        });
        self.since.map_or(heard, |since| heard.max(since))
    }

    /// The last heartbeat as the score sees it.
    ///
    /// The stream of heartbeats is in memory: when the broker was away, the stream is made anew, and nobody could be heard before that.
    /// Agents that were well then get until their next heartbeat, instead of being told to stop all at once.
    fn pulse(&self, agent: &Agent, written: Option<&Standing>, now: Timestamp) -> Option<Pulse> {
        let was_well = written.is_some_and(|standing| standing.status != Status::Offline);
        let unheard = self.since.filter(|since| was_well && agent.last.as_ref().is_none_or(|last| !last.goodbye && last.arrived < *since));
        let (arrived, interval) = match (&agent.last, unheard) {
            (Some(last), None) => (last.arrived, last.interval),
            (Some(last), Some(since)) => (since, last.interval),
            (None, Some(since)) => (since, heartbeat::INTERVAL_DEFAULT),
            (None, None) => return None,
        };
        let goodbye = agent.last.as_ref().is_some_and(|last| last.goodbye);
        let fault = agent.instances.in_conflict(now) || agent.last.as_ref().is_some_and(|last| last.fault.is_some());
        Some(Pulse { age: now.since(arrived), interval, goodbye, fault })
    }
}

fn why_degraded(agent: &Agent, tally: score::Tally, now: Timestamp) -> String {
    if agent.instances.in_conflict(now) {
        return "two processes use this identity".into();
    }
    match agent.last.as_ref().and_then(|last| last.fault.as_ref()) {
        Some(fault) => format!("it reports a fault: {fault}"),
        None if score::mostly_fails(tally) => "fewer than half of its jobs of the last hour succeeded".into(),
        None => String::new(),
    }
}
