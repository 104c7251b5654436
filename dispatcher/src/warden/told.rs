//! What the warden tells people, one function for each event.

use muster_schemas::names::{AgentId, AgentName, PoolName};

use crate::trail::Trail;

/// The broker refuses a public key of an agent from now on.
pub(super) fn cut_off(trail: &Trail, agent: &AgentId, public_key: &str, by: Option<&str>) {
    trail.cut_off(agent, public_key, by);
    tracing::info!(%agent, public_key, by, "the broker refuses this key from now on");
}

/// A gateway began to end an agent's identity and did not get to its keys, which are refused from now on.
pub(super) fn mended(agent: &AgentId, public_keys: &[String]) {
    tracing::warn!(%agent, ?public_keys, "a gateway left off while it ended this agent's identity; its keys are refused now");
}

/// An ephemeral agent has been away for too long, and is being removed.
pub(super) fn expelled(trail: &Trail, agent: &AgentId, name: &AgentName) {
    trail.expelled(agent, name);
    tracing::info!(%agent, %name, "an ephemeral agent stayed away, and is being removed");
}

/// An agent was removed. `commands` of its own were ended.
pub(super) fn removed(trail: &Trail, agent: &AgentId, name: &AgentName, commands: usize) {
    trail.removed(agent, name);
    tracing::info!(%agent, %name, commands, "an agent was removed");
}

/// Two processes use one identity.
pub(crate) fn twin(trail: &Trail, pool: &PoolName, agent: &AgentId) {
    trail.twin(pool, agent);
    tracing::warn!(%pool, %agent, "two processes use this identity");
}
