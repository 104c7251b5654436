//! Sees to it that agents with commands have a consumer to get them with, and that the others have none. Only the active dispatcher does.
//!
//! A reconciler: who sends a command makes the consumer and tells the agent; where that was not done to the end, it is made good here. The
//! commands of groups are left to it altogether. With no command and no consumer a look is one request. How a consumer is removed without
//! losing a command that is sent at that moment is in `broker-config`, `provision/commands.rs`.

mod known;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::Client;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_broker_config::provision::{self, Retired};
use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::{
    control::{Order, What},
    names::{AgentId, PoolName},
    records::{AgentRecord, AgentState, keys},
    subjects,
    topology::{AGENTS, COMMANDS},
    wire::{self, V},
};
use tokio::sync::Notify;

use crate::{
    broker::{self, BrokerError},
    held::{self, Record},
    lease::keeper::Leadership,
};
use known::{Glance, Known};

/// Looks without a hint: so long a command may wait whose gateway died before it made the consumer.
const EVERY: Duration = Duration::from_secs(10);
/// Looks without a hint take at most this part of the time: one that lists a million commands takes seconds.
const REST: u32 = 20;
/// When a consumer is spare. A second command within this time finds the consumer, and its agent asking.
const SPARE: Duration = Duration::from_secs(60);
/// For so long consumers are removed in one look. There may be thousands, of a release that made one for each agent, and what is missing has to be made
/// meanwhile.
const CLEARING: Duration = Duration::from_secs(1);
/// Consumers that are made at once: each waits for the broker's disk.
const AT_ONCE: usize = 16;

/// Why a look was not finished.
#[derive(Debug, thiserror::Error)]
enum QueuesError {
    /// The broker did not answer, or refused.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A consumer could not be made or removed.
    #[error(transparent)]
    Provision(#[from] provision::Error),
    /// Another dispatcher will do it.
    #[error("this dispatcher is not the active one any longer")]
    NotActive,
}

/// Tells that commands were stored. Clones share it; it says nothing but "look".
#[derive(Debug, Clone, Default)]
pub(crate) struct Hint(Arc<Notify>);

impl Hint {
    /// Commands were stored, and nobody else sees to their agents.
    pub(crate) fn look(&self) {
        self.0.notify_one();
    }
}

/// The task that looks.
#[derive(Debug)]
pub(crate) struct Queues {
    broker: Broker,
    leadership: Leadership,
    hint: Hint,
    known: Known,
    /// The longest time between two looks.
    every: Duration,
    /// How long a consumer must have had nothing to give.
    spare: Duration,
}

impl Queues {
    /// One that looks at once when it is told.
    pub(crate) fn new(broker: Broker, leadership: Leadership) -> (Self, Hint) {
        let hint = Hint::default();
        (Self { broker, leadership, hint: hint.clone(), known: Known::default(), every: EVERY, spare: SPARE }, hint)
    }

    /// Runs until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let (mut leadership, hint) = (self.leadership.clone(), self.hint.clone());
        let (mut led, mut rested_at, mut look_at) = (None, Instant::now(), Instant::now());
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = hint.0.notified() => look_at = look_at.min(rested_at),
                () = leadership.changed() => if leadership.connection() != led {
                    look_at = Instant::now();
                },
                () = tokio::time::sleep_until(look_at.into()) => {}
            }
            if Instant::now() < look_at {
                continue;
            }
            let leads = leadership.connection();
            if led != leads || leads.is_none() {
                (self.known, led) = (Known::default(), leads);
            }
            if leads.is_none() {
                look_at = Instant::now() + self.every;
                continue;
            }
            let began = Instant::now();
            let looked = tokio::select! {
                () = shutdown.requested() => return Ok(()),
                looked = self.look() => looked,
            };
            let took = began.elapsed();
            rested_at = Instant::now() + took;
            look_at = match looked {
                Ok(true) => rested_at,
                Ok(false) => Instant::now() + self.every.max(took * REST),
                Err(error) => {
                    self.known.unsure();
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "could not see to the queues of agents with commands; trying again");
                    Instant::now() + self.every
                }
            };
        }
    }

    fn client(&self) -> &Client {
        self.broker.client()
    }

    fn lead(&self) -> Result<(), QueuesError> {
        if self.leadership.is_mine() { Ok(()) } else { Err(QueuesError::NotActive) }
    }

    /// Answers whether there is more to do at once.
    async fn look(&mut self) -> Result<bool, QueuesError> {
        let glance = match broker::stream_info(self.client(), COMMANDS).await {
            Ok(info) => Some(Glance::of(&info)).filter(|glance| !glance.is_empty()),
            // It is just being made.
            Err(BrokerError::Missing(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(glance) = glance else {
            self.known = Known::default();
            return Ok(false);
        };
        if !self.known.is_as(glance) {
            let mut commands: BTreeMap<AgentId, BTreeSet<PoolName>> = BTreeMap::new();
            broker::each_subject(self.client(), COMMANDS, subjects::broker::COMMANDS, |subject| {
                if let Some(address) = subjects::parse_job(&subject)
                    && let Some(agent) = address.queue.agent()
                {
                    commands.entry(agent.clone()).or_default().insert(address.pool);
                }
            })
            .await?;
            let consumers = provision::agents_with_commands(self.client()).await?;
            let reached = self.reach(&commands, &consumers).await?;
            self.known.listed(glance, &commands.into_keys().collect(), consumers, Instant::now());
            if !reached {
                self.known.unsure();
            }
        }
        self.clear().await
    }

    /// Makes the consumers that are missing, and tells all agents that have commands: whoever told them first may have died before, and one that is told
    /// once more does nothing. Answers whether all have theirs.
    async fn reach(&self, commands: &BTreeMap<AgentId, BTreeSet<PoolName>>, consumers: &BTreeSet<AgentId>) -> Result<bool, QueuesError> {
        let (there, missing): (Vec<_>, Vec<_>) = commands.iter().partition(|(agent, _)| consumers.contains(*agent));
        for (agent, _) in there {
            self.order(agent).await;
        }
        let make = |(agent, pools): (AgentId, BTreeSet<PoolName>)| async move { self.serve(&agent, &pools).await };
        let missing: Vec<_> = missing.into_iter().map(|(agent, pools)| (agent.clone(), pools.clone())).collect();
        stream::iter(missing.into_iter().map(make)).buffer_unordered(AT_ONCE).try_fold(true, |all, one| async move { Ok(all && one) }).await
    }

    /// Makes the consumer of an agent that has commands in these pools, and tells the agent, unless it is not in any of them any more: nobody may be given
    /// what was sent in another pool. Answers whether it was done, or need not be.
    async fn serve(&self, agent: &AgentId, pools: &BTreeSet<PoolName>) -> Result<bool, QueuesError> {
        self.lead()?;
        let (Record::Value(record), _) = held::record::<AgentRecord>(self.client(), AGENTS, &keys::agent(agent)).await? else {
            return Ok(true);
        };
        if record.state == AgentState::Deleting || !pools.contains(&record.pool) {
            return Ok(true);
        }
        let made = provision::ensure_commands(self.client(), &record.pool, agent).await;
        if alone(made, agent)?.is_none() {
            return Ok(false);
        }
        self.order(agent).await;
        Ok(true)
    }

    /// Tells an agent that a command waits.
    async fn order(&self, agent: &AgentId) {
        let order = Order { v: V, what: What::AskQueue };
        if let Err(error) = self.client().publish(subjects::control(agent), wire::encode(&order).into()).await {
            tracing::debug!(%agent, %error, "could not tell an agent of a command; it asks by itself in a while");
        }
    }

    /// Removes consumers that have had nothing to give for a while. Answers whether there are more.
    async fn clear(&mut self) -> Result<bool, QueuesError> {
        let until = Instant::now() + CLEARING;
        for agent in self.known.ripe(self.spare, Instant::now()) {
            if Instant::now() >= until {
                return Ok(true);
            }
            let leads = self.leadership.connection().ok_or(QueuesError::NotActive)?;
            let may = || self.leadership.connection() == Some(leads);
            let retired = provision::retire_commands(self.broker.client(), &agent, self.spare, may).await;
            match alone(retired, &agent)? {
                Some(Retired::Gone) => self.known.gone(&agent),
                Some(Retired::Overtaken(pool)) => {
                    self.known.gone(&agent);
                    self.serve(&agent, &[pool].into()).await?;
                }
                Some(Retired::Kept) | None => self.known.used(&agent, Instant::now()),
            }
        }
        Ok(false)
    }
}

/// What concerns one agent alone keeps nothing from the others: it is told, and tried again at another look.
fn alone<T>(done: Result<T, provision::Error>, agent: &AgentId) -> Result<Option<T>, provision::Error> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.is_transient() => Err(error),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, %agent, "could not make or remove the consumer of an agent's commands");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests;
