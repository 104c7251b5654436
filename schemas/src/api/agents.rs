//! Agents over REST.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    heartbeat::{Load, Slots},
    names::{AgentId, AgentName, ExecutorName, PoolName},
    records::{Revoked, secret},
    signature::{Signature, SignatureError, Signed, SignedSigners, Signer},
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
    /// The proof that the agent has the private key, and when that was made: see [`Register::prove`].
    #[serde(default)]
    pub proof: String,
    /// A request for a client certificate (PKCS #10, PEM) for the agent, where the deployment has TLS on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr: Option<String>,
    /// Whether the agent is to be removed once it leaves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

impl Register {
    /// Puts the public key of `signer` in, and the proof that it is the caller's own: a signature over the key and the prefix of the join token
    /// or API key that the registration is sent with, so that it is of no use with another one.
    pub fn prove(&mut self, signer: &Signer, credential: &str, now: Timestamp) {
        self.public_key = signer.public_key().into();
        let prefix = secret::prefix(credential).unwrap_or_default();
        self.proof = signer.sign(Signed::Registration, &prefix, self.public_key.as_bytes(), now).to_string();
    }

    /// When the proof was made, by the agent's clock.
    ///
    /// # Errors
    /// When it is no proof for this public key and this join token or API key.
    pub fn proven(&self, credential: &str) -> Result<Timestamp, SignatureError> {
        let signature = Signature::parse(&self.proof)?;
        if signature.key != self.public_key {
            return Err(SignatureError::Wrong);
        }
        let prefix = secret::prefix(credential).unwrap_or_default();
        signature.verify(Signed::Registration, &prefix, self.public_key.as_bytes())?;
        Ok(signature.at)
    }
}

/// What a registered agent gets.
#[derive(Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Registered {
    /// Its id.
    pub agent_id: AgentId,
    /// Its name, as the record has it.
    pub name: AgentName,
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
    /// What time it is, by the gateway's clock.
    pub now: Timestamp,
    /// Whose jobs it is to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signers: Option<SignedSigners>,
    /// Its client certificate, where the deployment has TLS on and it asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// Whether it is removed once it leaves, whatever it says itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

/// A client certificate for an agent, for 24 hours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Certificate {
    /// The certificate, and the ones between it and the authority's, as PEM.
    pub chain: String,
    /// The authority's own, as PEM: what the broker's and the gateway's certificates are checked against.
    pub authority: String,
    /// When it stops working.
    pub expires_at: Timestamp,
}

/// How an agent that is created is to prove itself the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// With a join token that is for this agent alone, works once, and for 24 hours.
    #[default]
    JoinToken,
    /// With its API key.
    ApiKey,
}

/// An agent to create, before it is there. Names are texts here, so that a wrong one is refused by its own code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAgent {
    /// Its name; unique.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// For people, at most 1 000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Tags.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// Labels. They go before those that the agent says itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whatever you want to keep with it; limits as for labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// What it is meant to run on, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// What it is to prove itself with the first time.
    #[serde(default)]
    pub credential: Credential,
}

/// An agent that was created, enabled after a revocation, or given a new key, with its secret.
#[derive(Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AgentSecret {
    /// The agent.
    #[serde(flatten)]
    pub agent: AgentView,
    /// A join token for this agent, shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_token: Option<String>,
    /// Its API key, shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// When the join token stops working; an API key does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What else has to be known of it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Changes to an agent. What is absent stays, with `PUT` too; `null` takes away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeAgent {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub description: Option<Option<String>>,
    /// Labels that an operator sets, all of them. They go before those that the agent says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Tags, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeSet<String>>,
    /// Executors that it may run jobs of, out of those that it has; `null` allows all of them, an empty list none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub capabilities: Option<Option<BTreeSet<String>>>,
    /// Its pool. It is cut off from the old one at once, and comes back in the new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// Tells `null` from absent.
fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

/// Why an agent is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// For people, at most 1 000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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
    /// The public key (an nkey that starts with `U`) that it signs results with and proves itself to the broker with, at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Whatever its operator keeps with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// What it is meant to run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Whether it finishes what it has and takes nothing new, until it is enabled again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Whether it is removed once it leaves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// When and why it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
    /// When its API key was last replaced by an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_rotated_at: Option<Timestamp>,
    /// What the dispatcher says of it; absent before its first heartbeat, and once it is revoked.
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
