//! Who needs which credentials, and who is asked for them: `apply(event, now) -> commands`, no IO, no clock.
//!
//! A reconciler: an agent needs what its mailbox does not hold, sealed to its present key, unless it says that it has it. A command that came
//! to nothing is given again after a while, to another holder if there is one. A follower knows as much as the leader and commands nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use muster_schemas::{
    connection::CONNECTIONS_MAX,
    names::{AgentId, ConnectionName, PoolName},
    sealed::SealingKey,
    time::Timestamp,
};

use super::known::{Heard, Known, Present};

/// Commands under way at once.
const AT_ONCE: usize = 8;
/// The most that begin within a [`RATE_SPAN`]: each has an agent seal something and the broker write to its disk, and nobody is in a hurry.
const RATE: usize = 32;
const RATE_SPAN: Duration = Duration::from_secs(1);
/// How long after a command that was carried out the same one may be given: by then what it changed has been heard.
const SETTLES: Duration = Duration::from_secs(5);
/// First and longest wait after one that came to nothing.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// After a holder has said that it must not.
const FORBIDDEN: Duration = Duration::from_secs(600);
/// How long something must have been left over before it is taken out: the gateway does that itself, and a record and a mailbox that were
/// written one after the other may be heard in another order.
const LEFT_OVER: Duration = Duration::from_secs(10);

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Have credentials sealed to an agent that needs them, and put them into its mailbox.
    Hand(Handing),
    /// Take an entry out of a mailbox unless the agent's pool has such a connection.
    Drop(AgentId, ConnectionName),
    /// Delete the mailbox of an agent unless that has a record.
    Discard(AgentId),
}

/// Credentials that are to be handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handing {
    pub(super) pool: PoolName,
    pub(super) connection: ConnectionName,
    pub(super) revision: u64,
    /// Who has them.
    pub(super) from: AgentId,
    /// Who is to have them.
    pub(super) to: AgentId,
    pub(super) public_key: String,
    pub(super) sealing: SealingKey,
}

/// What a command is about: no two with the same are under way, and those that failed are counted by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct About(AgentId, Option<ConnectionName>);

impl Command {
    pub(super) fn about(&self) -> About {
        match self {
            Self::Hand(Handing { to, connection, .. }) => About(to.clone(), Some(connection.clone())),
            Self::Drop(agent, connection) => About(agent.clone(), Some(connection.clone())),
            Self::Discard(agent) => About(agent.clone(), None),
        }
    }
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is done, or there is nothing to do any more.
    Done,
    /// Not now.
    Failed,
    /// Its holder must not hand them on.
    Forbidden,
}

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    Heard(Heard),
    /// A command has ended.
    Ended(About, Outcome),
    /// This process leads from now on, or does not.
    Lead(bool),
    /// Time has passed.
    Tick,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    until: Timestamp,
    failures: u32,
}

/// All that it is decided from.
#[derive(Debug, Default)]
pub(super) struct Plan {
    known: Known,
    lead: bool,
    /// Agents about which a command is under way: a mailbox has one writer at a time here.
    busy: BTreeSet<AgentId>,
    /// How many commands are under way.
    under_way: usize,
    waits: BTreeMap<About, Wait>,
    /// Since when something is left over.
    left: BTreeMap<About, Timestamp>,
    /// How many commands were given since when.
    given: Option<(Timestamp, usize)>,
    /// Whether anything has happened since the last look.
    changed: bool,
}

impl Plan {
    /// Takes in what happened, and says what is to be done.
    pub(super) fn apply_all(&mut self, events: impl IntoIterator<Item = Event>, now: Timestamp) -> Vec<Command> {
        let mut ticked = false;
        for event in events {
            match event {
                Event::Heard(heard) => self.changed |= self.known.take(heard),
                Event::Ended(about, outcome) => self.ended(about, outcome, now),
                Event::Lead(lead) => {
                    // What is under way was given by an earlier lead; it looks for itself whether it may still write.
                    (self.lead, self.changed) = (lead, true);
                    self.waits.clear();
                    self.left.clear();
                }
                Event::Tick => ticked = true,
            }
        }
        // Looking costs a pass over all agents and connections; waits and heartbeats that run out need no more than a tick.
        let due = ticked && (self.changed || !self.left.is_empty() || self.waits.values().any(|wait| wait.until <= now));
        if !self.lead || !due || !self.known.is_complete() {
            return Vec::new();
        }
        self.changed = false;
        self.known.tidy();
        self.look(now)
    }

    fn ended(&mut self, about: About, outcome: Outcome, now: Timestamp) {
        self.under_way = self.under_way.saturating_sub(1);
        self.busy.remove(&about.0);
        let failures = self.waits.get(&about).map_or(0, |wait| wait.failures);
        let (first, most) = AGAIN_AFTER;
        let wait = match outcome {
            Outcome::Done => Wait { until: now + SETTLES, failures: 0 },
            Outcome::Failed => Wait { until: now + (first * 2_u32.saturating_pow(failures.min(10))).min(most), failures: failures + 1 },
            Outcome::Forbidden => Wait { until: now + FORBIDDEN, failures: failures + 1 },
        };
        self.waits.insert(about, wait);
        self.changed = true;
    }

    fn look(&mut self, now: Timestamp) -> Vec<Command> {
        let wanted = self.needed(now).into_iter().chain(self.left_over(now)).collect::<Vec<_>>();
        let wants: BTreeSet<About> = wanted.iter().map(Command::about).collect();
        self.waits.retain(|about, wait| wants.contains(about) || wait.until > now);
        let (since, mut given) = self.given.filter(|(since, _)| now.since(*since) < RATE_SPAN).unwrap_or((now, 0));
        let mut commands = Vec::new();
        for command in wanted {
            let about = command.about();
            if self.waits.get(&about).is_some_and(|wait| wait.until > now) || self.busy.contains(&about.0) {
                continue;
            }
            if self.under_way >= AT_ONCE || given >= RATE {
                // The rest waits for a later tick.
                self.changed = true;
                break;
            }
            // Only here, for it costs a moment: who signed another agent's key gets nothing.
            if let Command::Hand(Handing { to, public_key, sealing, .. }) = &command
                && sealing.check(to, public_key).is_err()
            {
                continue;
            }
            self.under_way += 1;
            given += 1;
            self.busy.insert(about.0);
            commands.push(command);
        }
        self.given = Some((since, given));
        commands
    }

    /// What agents need that others have.
    fn needed(&self, now: Timestamp) -> Vec<Command> {
        let present = self.known.present(now);
        let mut needed = Vec::new();
        for (pool, connections) in self.known.connections() {
            let agents = present.get(pool).map(Vec::as_slice).unwrap_or_default();
            for (name, revision) in connections {
                let holders: Vec<&AgentId> =
                    agents.iter().filter(|agent| agent.told.held.get(name) == Some(&revision)).map(|agent| agent.id).collect();
                if holders.is_empty() || holders.len() == agents.len() {
                    continue;
                }
                let handing = |agent: &Present<'_>| self.handing(agent, (pool, name, revision), &holders);
                needed.extend(agents.iter().filter_map(handing).map(Command::Hand));
            }
        }
        needed
    }

    fn handing(
        &self,
        agent: &Present<'_>,
        (pool, name, revision): (&PoolName, &ConnectionName, u64),
        holders: &[&AgentId],
    ) -> Option<Handing> {
        let sealing = agent.told.sealing.as_ref()?;
        // What somebody put there by hand is theirs to replace.
        let has = agent.told.held.get(name).is_some_and(|held| [0, revision].contains(held));
        let full = !agent.told.held.contains_key(name) && agent.told.held.len() >= CONNECTIONS_MAX;
        let sent = self.known.lies(agent.id, name).is_some_and(|(lies, key)| (*lies, key) == (revision, &sealing.key));
        if has || full || sent {
            return None;
        }
        // Another holder after each failure.
        let failures = self.waits.get(&About(agent.id.clone(), Some(name.clone()))).map_or(0, |wait| wait.failures);
        let from = holders.get(usize::try_from(failures).ok()? % holders.len())?;
        Some(Handing {
            pool: pool.clone(),
            connection: name.clone(),
            revision,
            from: (*from).clone(),
            to: agent.id.clone(),
            public_key: agent.public_key.to_owned(),
            sealing: sealing.clone(),
        })
    }

    /// What has been left over for long enough.
    fn left_over(&mut self, now: Timestamp) -> Vec<Command> {
        let stale = self.known.stale().into_iter().map(|(agent, name)| Command::Drop(agent.clone(), name.clone()));
        let ownerless = self.known.ownerless().into_iter().map(|agent| Command::Discard(agent.clone()));
        let before = std::mem::take(&mut self.left);
        let mut due = Vec::new();
        for command in stale.chain(ownerless) {
            let about = command.about();
            let since = before.get(&about).copied().unwrap_or(now);
            self.left.insert(about, since);
            if now.since(since) >= LEFT_OVER {
                due.push(command);
            }
        }
        due
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
