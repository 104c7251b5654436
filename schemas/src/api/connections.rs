//! Connections over REST. Nothing here holds a secret: credentials come sealed, and are never shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    connection::ConnectionKind,
    names::{AgentId, AgentName, ConnectionName, PoolName},
    sealed::SealingKey,
    time::Timestamp,
};

/// What a connection is to be. Kind and pool of one that exists can't be changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutConnection {
    /// What is at the other end.
    pub kind: ConnectionKind,
    /// The pool whose agents have it.
    pub pool: PoolName,
    /// Where and how to connect, by kind; no secrets.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub settings: Value,
}

/// A connection as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConnectionView {
    /// Its name.
    pub name: ConnectionName,
    /// What is at the other end.
    pub kind: ConnectionKind,
    /// The pool whose agents have it.
    pub pool: PoolName,
    /// Where and how to connect.
    pub settings: Value,
    /// Which credentials are the newest; 0 is none so far.
    pub revision: u64,
    /// How many agents of the pool have the newest, and how many there are. Absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<Recipient>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// How far the credentials of a connection are with one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// They are in its vault.
    Delivered,
    /// They lie in its mailbox; it has not said yet that it has them.
    Sent,
    /// It has older ones.
    Stale,
    /// Somebody put them into its vault by hand.
    Local,
    /// It has none.
    Missing,
    /// It can't get any: its vault can't be used, or it has never been there.
    NoKey,
}

/// An agent that is to have a connection's credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Recipient {
    /// Its id.
    pub agent_id: AgentId,
    /// Its name.
    pub name: AgentName,
    /// How far the credentials are with it.
    pub status: Delivery,
    /// The revision that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The public key (nkey) of its identity, with which it signed
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// the key to seal to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<SealingKey>,
}

/// Credentials, sealed to each agent by whoever has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutCredentials {
    /// The revision that these are sealed as: one more than the connection's. Another one is refused with 409 `revision_conflict`.
    pub revision: u64,
    /// By agent: the public sealing key, and the ciphertext ([`crate::sealed`]), both base64.
    pub sealed: BTreeMap<AgentId, SealedFor>,
}

/// Credentials, sealed to one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedFor {
    /// What they are sealed to, base64.
    pub key: String,
    /// The ciphertext, base64.
    pub sealed: String,
}

/// Which agent is to try a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestConnection {
    /// The agent; any of the pool if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
}
