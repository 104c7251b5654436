//! What a gateway left unfinished that died while it ended an agent's identity: its record says that keys are revoked, and nobody refuses them.
//!
//! The record is the decision and is written first; all that follows from it is done again here, in a gateway's order, so that whoever dies in between is
//! followed by one who begins anew. The entries in the bucket go last: as long as one is missing, something may be. Having the broker refuse what
//! is in the bucket is the matter of [`super::revocations`].
//!
//! Of a move, the consumer of the agent's commands is left too: gateways have the dispatcher remove it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use muster_broker_config::provision;
use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::{
    control::{IdentityEnd, Order, What},
    names::AgentId,
    records::{AgentRecord, AgentState, ApiKeyRecord, KeyOwner, SigningKeys, keys},
    subjects::{self, broker::keys_of, js},
    time::Timestamp,
    topology::{AGENTS, API_KEYS, REVOCATION_AGE, REVOCATIONS, bucket_stream},
    wire::{self, V},
};

use super::{WardenError, revocations::Revocations, told};
use crate::{
    broker::{self, PATIENCE},
    held::{self, Record},
    keyring::Keyring,
    lease::keeper::Leadership,
};

/// How often it is looked when nothing happens.
const EVERY: Duration = Duration::from_secs(60);
/// Time between two tries that fail.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// So long a gateway is left alone with a record that it has just written: its own steps take milliseconds.
const GATEWAYS_OWN: Duration = Duration::from_secs(5);

/// Finishes what was left; clones share it.
#[derive(Clone)]
pub(super) struct Mender {
    broker: Broker,
    leadership: Leadership,
    revocations: Revocations,
    keyring: Keyring,
}

impl Mender {
    pub(super) fn new(broker: Broker, leadership: Leadership, revocations: Revocations, keyring: Keyring) -> Self {
        Self { broker, leadership, revocations, keyring }
    }

    /// Looks when it becomes active, a while after a record with a revoked key has come, and every minute, until the shutdown.
    pub(super) async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let (mut leadership, mut led, mut next) = (self.leadership.clone(), false, Instant::now());
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = self.keyring.hears_of_revoked() => {
                    next = next.min(Instant::now() + GATEWAYS_OWN);
                    continue;
                }
                () = leadership.changed() => {
                    if led == leadership.is_mine() {
                        continue;
                    }
                }
                () = tokio::time::sleep_until(next.into()) => {}
            }
            led = leadership.is_mine();
            next = Instant::now() + EVERY;
            if !led {
                continue;
            }
            let looked = tokio::select! {
                () = shutdown.requested() => return Ok(()),
                looked = self.look() => looked,
            };
            match looked {
                Ok(None) => {}
                Ok(Some(soonest)) => next = next.min(soonest),
                Err(error) => {
                    next = Instant::now() + AGAIN_AFTER;
                    tracing::warn!(error = &error as &dyn std::error::Error, "what gateways left unfinished is not done yet; trying again");
                }
            }
        }
    }

    /// Finishes what a gateway can't be at any more. Answers when the next of the others is due.
    async fn look(&self) -> Result<Option<Instant>, WardenError> {
        let (revoked, now) = (self.keyring.revoked().await, Timestamp::now());
        if !revoked.iter().any(|(_, keys, _)| to_refuse(keys, now).next().is_some()) {
            return Ok(None);
        }
        let (there, mut soonest, mut failed) = (self.revocations.keys().await?, None::<Instant>, None);
        for (agent, keys, heard) in revoked {
            if missing(&keys, &there, now).is_empty() {
                continue;
            }
            let due = heard + GATEWAYS_OWN;
            if due > Instant::now() {
                soonest = Some(soonest.map_or(due, |soonest| soonest.min(due)));
                continue;
            }
            // One that can't be helped must not keep the others from it.
            let mended = async { self.mend(&agent).await.and(self.leave_behind(&agent).await) };
            failed = mended.await.err().or(failed);
        }
        failed.map_or(Ok(soonest), Err)
    }

    /// Finishes what was left of ending an agent's identity, if something was.
    pub(super) async fn mend(&self, id: &AgentId) -> Result<(), WardenError> {
        let (client, now) = (self.broker.client(), Timestamp::now());
        let Some(record) = self.record(id).await? else { return Ok(()) };
        let keys = record.signing_keys();
        let mut there = BTreeSet::new();
        for key in to_refuse(&keys, now) {
            if broker::entry(client, REVOCATIONS, key, PATIENCE).await?.is_some_and(|entry| entry.value.is_some()) {
                there.insert(key.to_owned());
            }
        }
        let missing = missing(&keys, &there, now);
        if missing.is_empty() {
            return Ok(());
        }
        self.lead()?;
        if record.state == AgentState::Revoked {
            self.revoke_api_keys(id, now).await?;
            let reason = record.revoked.and_then(|revoked| revoked.reason);
            let order = Order { v: V, what: What::IdentityEnded { why: IdentityEnd::Revoked, reason } };
            // Nothing depends on it: the broker cuts the agent off.
            let _ = client.publish(subjects::control(id), wire::encode(&order).into()).await;
        }
        for key in &missing {
            self.revocations.refuse(id, key, now).await?;
        }
        told::mended(id, &missing);
        Ok(())
    }

    /// Removes the consumer of the agent's commands if it has moved since that was made: it would be given what is sent in its old pool.
    pub(super) async fn leave_behind(&self, id: &AgentId) -> Result<(), WardenError> {
        let Some(record) = self.record(id).await?.filter(|record| record.state != AgentState::Deleting) else { return Ok(()) };
        self.lead()?;
        if provision::leave_behind(self.broker.client(), &record.pool, id, || self.leadership.is_mine()).await? {
            tracing::info!(agent = %id, pool = %record.pool, "an agent that was moved gets no commands of its old pool any more");
        }
        Ok(())
    }

    async fn record(&self, id: &AgentId) -> Result<Option<AgentRecord>, WardenError> {
        let key = keys::agent(id);
        match held::record::<AgentRecord>(self.broker.client(), AGENTS, &key).await?.0 {
            Record::Value(record) if record.id == *id => Ok(Some(record)),
            Record::Absent => Ok(None),
            Record::Value(_) | Record::Unreadable => Err(WardenError::Unreadable(key)),
        }
    }

    /// Writes down that the agent's API keys are revoked. The record names none of them any more, so they let nobody in as it is.
    async fn revoke_api_keys(&self, id: &AgentId, now: Timestamp) -> Result<(), WardenError> {
        let (client, prefix, owner) = (self.broker.client(), js::key(API_KEYS, ""), KeyOwner::Agent(id.clone()));
        for held in held::all(client, &bucket_stream(API_KEYS), &keys_of(API_KEYS)).await? {
            let Some(key) = held.subject.strip_prefix(&prefix) else { continue };
            let Some(record) = held::decoded::<ApiKeyRecord>(&held).readable() else { continue };
            if record.owner == owner && record.revoked_at.is_none() {
                self.lead()?;
                let record = ApiKeyRecord { revoked_at: Some(now), ..record };
                // Refused when somebody else has just changed it, who can only have revoked or deleted it.
                broker::write(client, API_KEYS, key, Some(wire::encode(&record)), held.sequence, PATIENCE).await?;
            }
        }
        Ok(())
    }

    fn lead(&self) -> Result<(), WardenError> {
        if self.leadership.is_mine() { Ok(()) } else { Err(WardenError::NotActive) }
    }
}

/// The keys of an agent that nobody may use since one was revoked: that one and all before it for which a JWT may still be about, as an agent may have
/// registered with a new key and kept what it had.
fn to_refuse(keys: &SigningKeys, now: Timestamp) -> impl Iterator<Item = &str> {
    let since = keys.past_keys.iter().skip_while(|past| !past.revoked);
    let recent = since.filter(move |past| now.since(past.until) < REVOCATION_AGE).map(|past| past.public_key.as_str());
    recent.filter(|key| keys.public_key.as_deref() != Some(*key))
}

/// Those of them that are not among the keys in the bucket.
fn missing(keys: &SigningKeys, there: &BTreeSet<String>, now: Timestamp) -> Vec<String> {
    to_refuse(keys, now).filter(|key| !there.contains(*key)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use muster_schemas::records::PastKey;

    use super::*;

    #[test]
    fn a_revoked_key_and_those_before_it_are_refused_and_none_that_came_after_or_is_too_old_to_matter() {
        let now = Timestamp::from_secs(1_800_000_000);
        let past = |key: &str, hours: i64, revoked| {
            let until = Timestamp::from_secs(now.secs() - hours * 3600);
            PastKey { public_key: key.into(), until, revoked }
        };
        let of = |past_keys| SigningKeys { v: V, public_key: Some("now".into()), past_keys };
        let keys = of(vec![
            past("replaced", 0, false),
            past("revoked", 1, true),
            past("now", 2, false),
            past("copied", 3, false),
            past("old", 49, true),
        ]);
        assert_eq!(missing(&keys, &BTreeSet::new(), now), ["revoked", "copied"]);
        assert_eq!(missing(&keys, &BTreeSet::from(["revoked".to_owned()]), now), ["copied"]);
        assert_eq!(missing(&of(vec![past("replaced", 0, false)]), &BTreeSet::new(), now), [""; 0]);
    }
}
