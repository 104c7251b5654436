//! The removal of an agent whose record says so, in steps that may each be repeated: whoever is killed in between is followed by one who begins
//! again from the first. The record goes last, so as long as anything is left it can be found.
//!
//! | step | why there |
//! |---|---|
//! | its keys are refused by the broker | from here on it starts nothing |
//! | its commands end | whoever waits for one is told |
//! | the consumer of its commands | it has none left to give |
//! | its API key, join tokens for it | nobody comes back as it |
//! | its mailbox | the credentials that were sealed to it |
//! | its name, if it still has it | free for another one |
//! | its record | |
//!
//! Jobs of its pool are not touched: what it ran goes to another agent when its lease runs out. Its standing goes with its record
//! ([`crate::state`]); its results and history stay.

use std::time::Duration;

use muster_runtime::nats::Broker;
use muster_schemas::{
    connection,
    control::{IdentityEnd, Order, What},
    names::AgentId,
    records::{AgentRecord, AgentState, JoinTokenRecord, keys},
    signature::SKEW_MAX,
    subjects::{self, broker::keys_of, js},
    time::Timestamp,
    topology::{AGENT_JWT_LIFETIME, AGENTS, API_KEYS, JOIN_TOKENS, MAILBOXES, RESULT_AGE_MAX, bucket_stream},
    wire::{self, V},
};

use super::{WardenError, commands, revocations::Revocations, told};
use crate::{
    broker::{self, Entry, PATIENCE, Write},
    held::{self, Record},
    lease::keeper::Leadership,
    signing::Signing,
    trail::Trail,
};

/// How long a JWT for a key can still be good that was replaced: as long as it lives, and what clocks may differ.
const KEY_LIVES: Duration = AGENT_JWT_LIFETIME.saturating_add(SKEW_MAX);

/// Removes agents; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Remover {
    broker: Broker,
    leadership: Leadership,
    revocations: Revocations,
    signing: Signing,
    trail: Trail,
}

impl Remover {
    pub(super) fn new(broker: Broker, leadership: Leadership, revocations: Revocations, signing: Signing, trail: Trail) -> Self {
        Self { broker, leadership, revocations, signing, trail }
    }

    /// Whether it can remove any.
    pub(super) fn can(&self) -> bool {
        self.revocations.can().is_ok()
    }

    /// Has an ephemeral agent removed that has stayed away, unless it has been decided otherwise meanwhile.
    pub(super) async fn expel(&self, id: &AgentId) -> Result<(), WardenError> {
        let Some((mut record, revision)) = self.record(id).await? else { return Ok(()) };
        if !record.ephemeral || matches!(record.state, AgentState::Revoked | AgentState::Deleting) {
            return Ok(());
        }
        self.lead()?;
        record.state = AgentState::Deleting;
        let value = Some(wire::encode(&record));
        if broker::write(self.broker.client(), AGENTS, &keys::agent(id), value, revision, PATIENCE).await? == Write::Refused {
            // Somebody has just changed it; it is looked at again.
            return Ok(());
        }
        told::expelled(&self.trail, id, &record.name);
        let reason = Some("it is ephemeral, and stayed away".to_owned());
        let order = Order { v: V, what: What::IdentityEnded { why: IdentityEnd::Deleted, reason } };
        // For one that comes back in this very moment. Nothing depends on it: the broker cuts it off.
        let _ = self.broker.client().publish(subjects::control(id), wire::encode(&order).into()).await;
        self.remove(id).await
    }

    /// Removes an agent, if its record says so. Once this is done there is no record.
    pub(super) async fn remove(&self, id: &AgentId) -> Result<(), WardenError> {
        let Some((record, revision)) = self.record(id).await?.filter(|(record, _)| record.state == AgentState::Deleting) else {
            return Ok(());
        };
        let client = self.broker.client();
        self.refuse_keys(&record).await?;
        self.revocations.settle().await?;
        let whose = (&record.pool, id, &record.name);
        let mut ended = commands::end(&self.broker, &self.leadership, &self.signing, whose).await?;
        self.lead()?;
        muster_broker_config::provision::remove_commands(client, id).await?;
        if let Some(prefix) = &record.key_prefix {
            self.forget(API_KEYS, prefix, |_| true).await?;
        }
        self.forget_join_tokens(id).await?;
        self.forget(MAILBOXES, &connection::keys::mailbox(id), |_| true).await?;
        self.forget(AGENTS, &keys::agent_name(&record.name), |holder| holder == id.as_str().as_bytes()).await?;
        // What was sent since by a gateway that had looked at the record before.
        ended += commands::end(&self.broker, &self.leadership, &self.signing, whose).await?;
        self.lead()?;
        // Its keys stay behind, for as long as a result of it can be kept.
        let left = (wire::encode(&record.signing_keys()), Some(RESULT_AGE_MAX));
        match broker::bury(client, AGENTS, &keys::agent(id), left, revision, PATIENCE).await? {
            Write::Stored(_) => told::removed(&self.trail, id, &record.name, ended),
            // Somebody else has removed it, or has written into it; then it is looked at again.
            Write::Refused if self.record(id).await?.is_some() => return Err(WardenError::Restless("the agent's record")),
            Write::Refused => {}
        }
        Ok(())
    }

    fn lead(&self) -> Result<(), WardenError> {
        if self.leadership.is_mine() { Ok(()) } else { Err(WardenError::NotActive) }
    }

    async fn record(&self, id: &AgentId) -> Result<Option<(AgentRecord, u64)>, WardenError> {
        let key = keys::agent(id);
        match held::record::<AgentRecord>(self.broker.client(), AGENTS, &key).await? {
            (Record::Value(record), revision) if record.id == *id => Ok(Some((record, revision))),
            (Record::Absent, _) => Ok(None),
            (Record::Value(_) | Record::Unreadable, _) => Err(WardenError::Unreadable(key)),
        }
    }

    /// Has every key refused for which there may be a JWT that works. Whoever had it removed has done so for its present key, as a rule.
    async fn refuse_keys(&self, record: &AgentRecord) -> Result<(), WardenError> {
        let now = Timestamp::now();
        let past = record.past_keys.iter().filter(|past| now.since(past.until) < KEY_LIVES).map(|past| &past.public_key);
        for key in record.public_key.iter().chain(past) {
            self.revocations.refuse(&record.id, key, now).await?;
        }
        Ok(())
    }

    /// Deletes an entry, if it is there and is the one that is meant.
    async fn forget(&self, bucket: &str, key: &str, meant: impl Fn(&[u8]) -> bool) -> Result<(), WardenError> {
        let client = self.broker.client();
        loop {
            let Some(Entry { revision, value: Some(value) }) = broker::entry(client, bucket, key, PATIENCE).await? else { return Ok(()) };
            if !meant(&value) {
                return Ok(());
            }
            self.lead()?;
            if let Write::Stored(_) = broker::write(client, bucket, key, None, revision, PATIENCE).await? {
                return Ok(());
            }
        }
    }

    async fn forget_join_tokens(&self, id: &AgentId) -> Result<(), WardenError> {
        let prefix = js::key(JOIN_TOKENS, "");
        let is_its = |value: &[u8]| wire::decode::<JoinTokenRecord>(value).is_ok_and(|token| token.agent_id.as_ref() == Some(id));
        for held in held::all(self.broker.client(), &bucket_stream(JOIN_TOKENS), &keys_of(JOIN_TOKENS)).await? {
            if let Some(key) = held.subject.strip_prefix(&prefix).filter(|_| is_its(&held.payload)) {
                self.forget(JOIN_TOKENS, key, is_its).await?;
            }
        }
        Ok(())
    }
}
