//! What the dispatcher writes into the audit trail: what it does to agents by itself, and what it finds out about them.
//!
//! It never holds up its caller: an entry is stored in the background, and one that cannot wait any more goes into the log. What a gateway
//! asked for is in the trail already, from the gateway, with who asked for it.

use std::sync::Arc;

use muster_runtime::{
    metrics::{Metrics, MetricsError},
    nats::Broker,
    trail,
};
use muster_schemas::{
    audit::{Actor, ActorKind, AuditEntry, AuditOutcome},
    names::{AgentId, AgentName, PoolName},
    time::Timestamp,
};

use crate::keyring::forged::Forged;

/// The way into the trail; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Trail {
    trail: Arc<trail::Trail>,
    /// This run of the dispatcher.
    instance: Arc<str>,
}

impl Trail {
    pub(crate) fn new(broker: Broker, metrics: &Metrics, instance: &str) -> Result<Self, MetricsError> {
        Ok(Self { trail: Arc::new(trail::Trail::new(broker, metrics)?), instance: instance.into() })
    }

    /// The broker refuses an agent's key from now on, and its connection is cut. `by` is who revoked the agent: should the gateway that was asked for
    /// it have died before it wrote that down, it stands here.
    pub(crate) fn cut_off(&self, agent: &AgentId, public_key: &str, by: Option<&str>) {
        let by = by.map(|by| format!(", revoked by {by}")).unwrap_or_default();
        self.trail.leave(AuditEntry { detail: Some(format!("key {public_key}{by}")), ..self.about(agent, "agents.cut_off") });
    }

    /// An agent that was being removed is gone.
    pub(crate) fn removed(&self, agent: &AgentId, name: &AgentName) {
        self.trail.leave(AuditEntry { detail: Some(format!("its name was {name}")), ..self.about(agent, "agents.remove") });
    }

    /// An ephemeral agent stayed away, and is being removed for that.
    pub(crate) fn expelled(&self, agent: &AgentId, name: &AgentName) {
        self.trail.leave(AuditEntry { detail: Some(format!("its name was {name}")), ..self.about(agent, "agents.expel") });
    }

    /// Two processes use one identity. It is found out again and again for as long as they do.
    pub(crate) fn twin(&self, pool: &PoolName, agent: &AgentId) {
        let actor = Actor::new(ActorKind::Agent, agent.as_str());
        let detail = Some(format!("two processes use this identity, in pool {pool}"));
        self.trail.leave_folded(AuditEntry { actor, detail, ..self.about(agent, "agents.twin") });
    }

    /// `count` results that name an agent, or none, and are not signed by it; this is the last of them. Folded already by who finds them. Who did it
    /// is the agent whose key has signed, and never the one that is named: that one is the victim.
    pub(crate) fn forged(&self, forged: &Forged, count: u64) {
        let Forged { pool, job, named, signer, key } = forged;
        let actor = signer.as_ref().map_or_else(Actor::nobody, |agent| Actor::new(ActorKind::Agent, agent.as_str()));
        let named = named.as_ref().map_or("no agent", AgentId::as_str);
        let key = key.as_deref().unwrap_or("none that can be read");
        let entry = AuditEntry {
            target: Some(job.to_string()),
            detail: Some(format!("a result in pool {pool} is not signed by whom it names: it names {named}, the signing key is {key}")),
            count: (count > 1).then_some(count),
            ..AuditEntry::new("results.forged", actor, AuditOutcome::Refused, Timestamp::now())
        };
        self.trail.leave(entry);
    }

    /// Stores what waits, for ever.
    pub(crate) async fn run(&self) {
        self.trail.run().await;
    }

    /// Stores what waits, at the end.
    pub(crate) async fn end(&self, grace: std::time::Duration) {
        self.trail.end(grace).await;
    }

    fn about(&self, agent: &AgentId, action: &str) -> AuditEntry {
        let actor = Actor::new(ActorKind::Muster, &*self.instance).named("dispatcher");
        AuditEntry { target: Some(agent.to_string()), ..AuditEntry::new(action, actor, AuditOutcome::Done, Timestamp::now()) }
    }
}
