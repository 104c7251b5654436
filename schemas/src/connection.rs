//! Connections: where jobs may go with an agent's secrets, and how the secrets get there.
//!
//! The record of a connection holds no secret: its kind, its pool, its settings. Its credentials are sealed by whoever has them to each
//! agent's public key ([`crate::sealed`]) and lie in the agent's mailbox until it has them in its vault. So broker, gateway and logs
//! carry only ciphertext.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    names::{AgentId, ConnectionName, PoolName},
    time::Timestamp,
    wire::{Body, V},
};

pub mod check;
mod kinds;

pub use kinds::{Form, Setting, Way};

/// The most connections whose credentials an agent holds: its heartbeat names all of them.
pub const CONNECTIONS_MAX: usize = 128;
/// The most bytes of a connection's credentials, as MessagePack.
pub const CREDENTIALS_LIMIT: usize = 24 * 1024;
/// The most bytes of a connection's settings, as JSON.
pub const SETTINGS_LIMIT: usize = 16 * 1024;

/// What is at the other end, and so which executors can use it and which credentials it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionKind {
    /// A web service: for `http.request`.
    Http,
    /// A machine that is reached by SSH: for `ssh.*`.
    Ssh,
    /// A registry of container images: for `docker.pull`, `docker.run` and `compose.*`.
    Registry,
    /// A Kubernetes cluster: for `kubernetes.*`.
    Kubernetes,
    /// Anything else: the fields are handed as they are to a plugin.
    Secret,
}

impl ConnectionKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Http, Self::Ssh, Self::Registry, Self::Kubernetes, Self::Secret];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Registry => "registry",
            Self::Kubernetes => "kubernetes",
            Self::Secret => "secret",
        }
    }

    /// The fields that credentials of this kind may have; empty is any.
    pub fn credential_fields(self) -> &'static [&'static str] {
        match self {
            Self::Http => &["username", "password", "token", "value", "certificate", "private_key"],
            Self::Ssh => &["password", "private_key", "passphrase"],
            Self::Registry => &["username", "password"],
            Self::Kubernetes => &["kubeconfig", "token", "certificate", "private_key"],
            Self::Secret => &[],
        }
    }
}

/// The record of a connection, under [`keys::record`]. No field of it is a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConnectionRecord {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Its name, unique in the deployment.
    pub name: ConnectionName,
    /// What is at the other end.
    pub kind: ConnectionKind,
    /// The pool whose agents have it. A job that names the connection goes there.
    pub pool: PoolName,
    /// Where and how to connect, by kind.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub settings: Value,
    /// Which credentials are the newest: counts up from 1 with each delivery; 0 is none so far.
    #[serde(default)]
    pub revision: u64,
    /// A digest of what was delivered as that revision, so that a delivery that was cut off can be repeated and another one be told from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Body for ConnectionRecord {
    const LIMIT: usize = SETTINGS_LIMIT + 4096;
}

/// What keeps a connection's name unique, under [`keys::name`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConnectionPlace {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The pool under which the record lies.
    pub pool: PoolName,
}

impl Body for ConnectionPlace {
    const LIMIT: usize = 4096;
}

/// All credentials that wait for, or were delivered to, one agent; under its id in the bucket [`crate::topology::MAILBOXES`]. Agents read their own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Mailbox {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// By connection. What is not here any more is to leave the agent's vault.
    pub entries: BTreeMap<ConnectionName, SealedEntry>,
}

impl Body for Mailbox {
    // Below the broker's largest message; the bucket's entries hold no more.
    const LIMIT: usize = 900 * 1024;
}

/// Credentials of one connection, sealed to one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SealedEntry {
    /// The connection's revision that these credentials are.
    pub revision: u64,
    /// The public sealing key that they are sealed to, base64. An agent that has another one by now can't open them.
    pub key: String,
    /// The ciphertext, base64: see [`crate::sealed`].
    pub sealed: String,
    /// When they were put here.
    pub at: Timestamp,
}

/// Keys in the bucket of connections.
pub mod keys {
    use super::*;

    /// Where the record lies. Agents may read those of their pool.
    pub fn record(pool: &PoolName, name: &ConnectionName) -> String {
        format!("{pool}.{name}")
    }

    /// Where the name is taken.
    pub fn name(name: &ConnectionName) -> String {
        name.to_string()
    }

    /// The records of a pool.
    pub fn records_of(pool: &PoolName) -> String {
        format!("{pool}.*")
    }

    /// Where an agent's mailbox lies, in its own bucket.
    pub fn mailbox(agent: &AgentId) -> String {
        agent.to_string()
    }

    /// Pool and name of a record's key; `None` for the key of a name.
    pub fn parse_record(key: &str) -> Option<(PoolName, ConnectionName)> {
        let (pool, name) = key.split_once('.')?;
        Some((pool.parse().ok()?, name.parse().ok()?))
    }
}
