//! Who is called up when jobs wait that nobody asks for: the best of those who stand by, as many as it takes.
//!
//! Who was called is not called again before the call ends, so while jobs go on waiting others are called. That they wait at all is found
//! out by [`crate::lookout`].

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use muster_schemas::{
    names::{AgentId, ExecutorName, PoolName},
    time::Timestamp,
};

use super::{Command, State};
use crate::ranking;

/// For how long an agent is called up, in seconds: after that, one that got nothing costs nothing, and one that is still needed is called again. A
/// fleet of twenty thousand that is needed as a whole takes two thousand orders a second, next to nothing beside its jobs.
pub(super) const CALL_S: u32 = 10;
/// One whose call ends within this time may be called again, so that it never stops in between.
const AGAIN_BEFORE: Duration = Duration::from_secs(1);
/// The most agents called at once. The next look, 25 ms later, calls more where that is not enough.
pub(super) const CALLS_MAX: usize = 512;

/// Who stands by for what, and who has been called.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Executors for which agents of a pool stand by.
    standby: BTreeMap<PoolName, BTreeSet<ExecutorName>>,
    /// Those who can be called, with their slots, the best last; made when it is needed, from how the pool was last judged.
    reserves: BTreeMap<(PoolName, ExecutorName), Vec<(AgentId, u32)>>,
    /// Until when each is called.
    called: BTreeMap<(AgentId, ExecutorName), Timestamp>,
}

impl Calls {
    /// A pool was judged anew, and agents stand by for these.
    pub(super) fn judged<'a>(&mut self, pool: &PoolName, executors: impl Iterator<Item = &'a ExecutorName>) {
        self.reserves.retain(|(of, _), _| of != pool);
        let mut standby = BTreeSet::new();
        for executor in executors {
            if !standby.contains(executor) {
                standby.insert(executor.clone());
            }
        }
        match standby.is_empty() {
            true => self.standby.remove(pool),
            false => self.standby.insert(pool.clone(), standby),
        };
    }

    /// Forgets calls that have ended.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        self.called.retain(|_, until| *until > now);
    }

    fn may_call(&self, agent: &AgentId, executor: &ExecutorName, now: Timestamp) -> bool {
        self.called.get(&(agent.clone(), executor.clone())).is_none_or(|until| *until <= now + AGAIN_BEFORE)
    }
}

impl State {
    /// Executors for which agents stand by, by pool.
    pub fn standby(&self) -> &BTreeMap<PoolName, BTreeSet<ExecutorName>> {
        &self.calls.standby
    }

    /// Calls up agents for so many jobs of an executor: the best of those who stand by, until their slots are enough.
    pub(super) fn call_up(&mut self, pool: &PoolName, executor: &ExecutorName, jobs: u64, now: Timestamp, commands: &mut Vec<Command>) {
        if !self.commanding() || !self.calls.standby.get(pool).is_some_and(|standby| standby.contains(executor)) {
            return;
        }
        let key = (pool.clone(), executor.clone());
        let mut reserve = match self.calls.reserves.remove(&key) {
            Some(reserve) => reserve,
            None => self.reserve(pool, executor, now),
        };
        let (mut agents, mut slots) = (Vec::new(), 0);
        while slots < jobs
            && agents.len() < CALLS_MAX
            && let Some((agent, its)) = reserve.pop()
        {
            slots += u64::from(its);
            self.calls.called.insert((agent.clone(), executor.clone()), now + Duration::from_secs(CALL_S.into()));
            agents.push(agent);
        }
        self.calls.reserves.insert(key, reserve);
        if !agents.is_empty() {
            commands.push(Command::CallUp(agents, executor.clone(), CALL_S));
        }
    }

    /// Takes a [`Command::CallUp`] back that could not be carried out: these can be called again at once.
    pub fn not_called(&mut self, agents: &[AgentId], executor: &ExecutorName) {
        for agent in agents {
            self.calls.called.remove(&(agent.clone(), executor.clone()));
        }
        self.calls.reserves.retain(|(_, of), _| of != executor);
    }

    /// Those who stand by for an executor and can be called, the best last.
    fn reserve(&self, pool: &PoolName, executor: &ExecutorName, now: Timestamp) -> Vec<(AgentId, u32)> {
        let mut reserve: Vec<_> = self
            .roster
            .members(pool)
            .filter_map(|(id, agent)| {
                let standing = agent.judged().filter(|standing| standing.accepting && standing.standby.contains(executor))?;
                self.calls.may_call(id, executor, now).then(|| (ranking::tenths(standing.score), Reverse(id), agent.slots()))
            })
            .collect();
        reserve.sort_unstable();
        reserve.into_iter().map(|(_, Reverse(id), slots)| (id.clone(), slots)).collect()
    }
}
