//! Agents over REST.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    heartbeat::{Load, Slots},
    names::{AgentId, AgentName, ExecutorName, PoolName},
    standing::Standing,
    time::Timestamp,
};

/// What an agent says when it registers. Names are texts here, so that a wrong one is refused by its own code.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The name it wants; unique.
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Its operating system.
    #[serde(default)]
    pub os: String,
    /// Its processor architecture.
    #[serde(default)]
    pub arch: String,
    /// Its host name.
    #[serde(default)]
    pub hostname: String,
    /// Executors that are on.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The public key (an nkey that starts with `U`) that its JWT is to be for. The private key never leaves the agent.
    pub public_key: String,
}

/// What a registered agent gets.
#[derive(Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Registered {
    /// Its id.
    pub agent_id: AgentId,
    /// Its pool.
    pub pool: PoolName,
    /// Its API key, once: at the first registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// Its credential on the broker, for 24 hours.
    pub jwt: String,
    /// Where the broker is.
    pub nats_urls: Vec<String>,
    /// Settings from the server's side.
    pub config: RegisteredConfig,
}

/// Settings for an agent from the server's side. What the agent's own settings say wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RegisteredConfig {
    /// Seconds between heartbeats.
    pub heartbeat_interval_s: u32,
    /// How much it logs.
    pub log_level: String,
}

/// Where an agent is, from its standing and from what an operator decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// There and well.
    Online,
    /// Not there.
    Offline,
    /// There, but jobs fail or it reports a fault.
    Degraded,
    /// Created, not yet registered.
    Pending,
    /// An operator stopped it.
    Disabled,
    /// Its credentials are refused.
    Revoked,
}

/// An agent as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AgentView {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: AgentName,
    /// Its pool.
    pub pool: PoolName,
    /// Where it is.
    pub status: AgentStatus,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Tags.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Executors that are on.
    pub capabilities: BTreeSet<ExecutorName>,
    /// Its version.
    pub version: String,
    /// Its operating system.
    pub os: String,
    /// Its processor architecture.
    pub arch: String,
    /// Its host name.
    pub hostname: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Timestamp>,
    /// The address it last registered from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_ip: Option<String>,
    /// What the dispatcher says of it; absent before its first heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
}

/// An agent that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConnectedAgent {
    /// The agent.
    #[serde(flatten)]
    pub agent: AgentView,
    /// Since when this run of it is up, by its last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_since: Option<Timestamp>,
}

/// An agent's health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AgentHealth {
    /// Its id.
    pub agent_id: AgentId,
    /// Where it is.
    pub status: AgentStatus,
    /// What the dispatcher says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// When its last heartbeat came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_at: Option<Timestamp>,
    /// Since when this run of it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Its machine's load, from the last heartbeat.
    #[serde(default)]
    pub load: Load,
    /// Its room for jobs, from the last heartbeat.
    #[serde(default)]
    pub slots: Slots,
    /// Results that wait in its spool.
    #[serde(default)]
    pub spooled: u64,
    /// Its last error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What an agent answered to a ping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PongView {
    /// Who answered.
    pub agent_id: AgentId,
    /// The run of the agent, as in its heartbeats.
    pub instance: String,
    /// How long it took from the gateway to the agent and back, in milliseconds.
    pub ms: f64,
}
