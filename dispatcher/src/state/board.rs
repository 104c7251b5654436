//! The bucket of standings as it is, and what of it must be written.
//!
//! Each write names the revision that it replaces, so a dispatcher that does not know yet that it was followed by another one can't
//! overwrite what that one wrote. At most [`IN_FLIGHT_MAX`] writes are under way, one per key; those that have to wait follow as others end, and
//! deletions are looked for again. Nothing is judged here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use muster_schemas::{
    names::{AgentId, PoolName},
    standing::Standing,
    time::Timestamp,
    topology::MARKER_AGE,
};

use super::{Feed, Key};

/// Writes under way at once. The broker flushes each one to disk; more would only wait there.
pub const IN_FLIGHT_MAX: usize = 256;
/// A difference in score below this is none.
const SCORE_STEP: f64 = 0.05;
/// Changes that only people read (score, rank, reason), or that cost no more than a detour (how many agents accept), are written this often
/// at most: while a heartbeat ages, the score falls all the time.
const SMALL_EVERY: Duration = Duration::from_secs(5);
/// Changes that agents act upon are written at once, up to so many per second and agent: an agent may say goodbye and hello as fast as it
/// can, and each write costs the broker a flush.
const LARGE_PER_SECOND: u8 = 5;

/// What the bucket holds.
#[derive(Debug, Default)]
pub struct Board {
    /// By pool and agent, so that one is looked up by what is at hand: in a large fleet all of them are, each second.
    entries: BTreeMap<PoolName, BTreeMap<AgentId, Entry>>,
    in_flight: usize,
    /// Standings that had to wait for others to be written, or for what was written of the same agent.
    waiting: BTreeSet<Key>,
    /// Whether a deletion had to wait for others.
    crowded: bool,
    reading: u64,
}

#[derive(Debug, Default)]
struct Entry {
    /// What is there; `None` when it is deleted or can't be read.
    standing: Option<Standing>,
    /// Whether there is anything, readable or not.
    exists: bool,
    revision: u64,
    reading: u64,
    flight: Option<Flight>,
    /// Since when it is known to be deleted.
    gone: Option<Timestamp>,
    /// How many writes were begun in the second since that time.
    burst: (Option<Timestamp>, u8),
}

/// What is being written; `None` for a deletion.
#[derive(Debug)]
struct Flight(Option<Standing>);

/// How much two standings differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    None,
    Small,
    Large,
}

impl Board {
    /// The standing of an agent as written.
    pub fn standing(&self, pool: &PoolName, agent: &AgentId) -> Option<&Standing> {
        self.entries.get(pool)?.get(agent)?.standing.as_ref()
    }

    /// Takes in what the bucket says.
    pub fn follow(&mut self, feed: Feed<Key, Option<Standing>>) {
        match feed {
            Feed::Begin => self.reading += 1,
            Feed::Put(key, standing, revision) => self.set(key, standing, true, revision),
            Feed::Gone(key, revision) => self.set(key, None, false, revision),
            Feed::End => {
                let reading = self.reading;
                for entry in self.entries.values_mut().flat_map(BTreeMap::values_mut).filter(|entry| entry.reading != reading) {
                    (entry.standing, entry.exists, entry.revision) = (None, false, 0);
                }
                self.forget();
            }
        }
    }

    /// The revision that a write of this standing must name; `None` when it need not or can't be written now. The write counts as under
    /// way from then on. One for which there is no room waits ([`Board::next_waiting`]).
    pub fn wants(&mut self, key: &Key, standing: &Standing) -> Option<u64> {
        let entry = entry(&mut self.entries, key);
        let difference = entry.standing.as_ref().map_or(Difference::Large, |written| difference(written, standing));
        let last = entry.standing.as_ref().map(|written| written.at);
        let wanted = match difference {
            Difference::None => false,
            Difference::Small => last.is_none_or(|last| standing.at.since(last) >= SMALL_EVERY || last > standing.at),
            Difference::Large => true,
        };
        if !wanted || entry.flight.is_some() {
            return None;
        }
        if self.in_flight >= IN_FLIGHT_MAX {
            self.waiting.insert(key.clone());
            return None;
        }
        if difference == Difference::Large && !entry.may_burst(standing.at) {
            return None;
        }
        entry.flight = Some(Flight(Some(standing.clone())));
        self.in_flight += 1;
        Some(entry.revision)
    }

    /// The next one that waits and for which there is room now.
    pub fn next_waiting(&mut self) -> Option<Key> {
        if self.in_flight < IN_FLIGHT_MAX { self.waiting.pop_first() } else { None }
    }

    /// Standings that exist without their agent, with the revision that a deletion must name. The deletions count as under way from then
    /// on.
    pub fn orphans(&mut self, is_member: impl Fn(&PoolName, &AgentId) -> bool) -> Vec<(Key, u64)> {
        let mut orphans = Vec::new();
        for (pool, agent, entry) in
            self.entries.iter_mut().flat_map(|(pool, entries)| entries.iter_mut().map(move |(agent, entry)| (pool, agent, entry)))
        {
            if !entry.exists || entry.flight.is_some() || is_member(pool, agent) {
                continue;
            }
            if self.in_flight >= IN_FLIGHT_MAX {
                self.crowded = true;
                break;
            }
            entry.flight = Some(Flight(None));
            self.in_flight += 1;
            orphans.push((Key { pool: pool.clone(), agent: agent.clone() }, entry.revision));
        }
        orphans
    }

    /// Forgets deleted entries of which not even the marker is left. One that vanished before it is forgotten costs a refused write.
    pub fn sweep(&mut self, now: Timestamp) {
        self.retain(|entry| {
            if entry.exists || entry.flight.is_some() {
                entry.gone = None;
                return true;
            }
            now.since(*entry.gone.get_or_insert(now)) < MARKER_AGE
        });
    }

    /// A write ended, with its new revision; `None` when it was refused or lost. Then the bucket itself will tell, at the latest after the
    /// next reconnect.
    pub fn written(&mut self, key: &Key, revision: Option<u64>) {
        let Some(entry) = self.entries.get_mut(&key.pool).and_then(|entries| entries.get_mut(&key.agent)) else { return };
        let Some(Flight(standing)) = entry.flight.take() else { return };
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(revision) = revision.filter(|revision| *revision > entry.revision) {
            entry.exists = standing.is_some();
            (entry.standing, entry.revision) = (standing, revision);
            // It may have been judged otherwise meanwhile.
            self.waiting.insert(key.clone());
        }
    }

    /// Whether deletions had to wait and need not any longer. Says so once.
    pub fn has_room_again(&mut self) -> bool {
        let room = self.crowded && self.in_flight <= IN_FLIGHT_MAX / 2;
        self.crowded &= !room;
        room
    }

    fn set(&mut self, key: Key, standing: Option<Standing>, exists: bool, revision: u64) {
        let reading = self.reading;
        let entry = entry(&mut self.entries, &key);
        // Within one reading revisions only grow. A new reading may come from a bucket that was made anew.
        if revision > entry.revision || entry.reading != reading {
            (entry.standing, entry.exists, entry.revision) = (standing, exists, revision);
        }
        entry.reading = reading;
    }

    /// Drops what is neither there nor being written. A deleted key with a revision is kept for now: a new standing must name it.
    fn forget(&mut self) {
        self.retain(|entry| entry.revision > 0 || entry.flight.is_some());
    }

    fn retain(&mut self, mut keep: impl FnMut(&mut Entry) -> bool) {
        self.entries.retain(|_, entries| {
            entries.retain(|_, entry| keep(entry));
            !entries.is_empty()
        });
    }
}

impl Entry {
    fn may_burst(&mut self, now: Timestamp) -> bool {
        let (since, count) = self.burst;
        let fresh = since.is_none_or(|since| now.since(since) >= Duration::from_secs(1) || since > now);
        self.burst = if fresh { (Some(now), 1) } else { (since, count.saturating_add(1)) };
        self.burst.1 <= LARGE_PER_SECOND
    }
}

fn entry<'a>(entries: &'a mut BTreeMap<PoolName, BTreeMap<AgentId, Entry>>, key: &Key) -> &'a mut Entry {
    entries.entry(key.pool.clone()).or_default().entry(key.agent.clone()).or_default()
}

fn difference(written: &Standing, now: &Standing) -> Difference {
    let acts = |of: &Standing| (of.status, of.accepting, of.pull_priority);
    let lanes = (&written.executors, &written.standby) != (&now.executors, &now.standby);
    if acts(written) != acts(now)
        || lanes
        || written.twin != now.twin
        || written.defaults != now.defaults
        || written.ack_delay_ms != now.ack_delay_ms
    {
        return Difference::Large;
    }
    let parts = |of: &Standing| [of.score, of.heartbeat_part, of.success_part];
    let moved = parts(written).into_iter().zip(parts(now)).any(|(a, b)| (a - b).abs() >= SCORE_STEP);
    // The rank of an agent that may not pull, or stands by, only says how many others there are, and so does their number.
    let among = |of: &Standing| (of.rank, of.accepting_agents);
    let moved = moved
        || (&written.reason, &written.description, &written.vault) != (&now.reason, &now.description, &now.vault)
        || (now.accepting && now.standby.is_empty() && among(written) != among(now));
    if moved { Difference::Small } else { Difference::None }
}
