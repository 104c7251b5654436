//! API keys and join tokens over REST.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    names::{AgentId, PoolName},
    records::Role,
    time::Timestamp,
};

/// An API key to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// For people, 1 to 100 characters.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it stops working; absent is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// An API key as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct KeyView {
    /// Its id.
    pub id: String,
    /// The part of the key before the secret.
    pub prefix: String,
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute; absent when it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// The address that it was last used from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_from: Option<String>,
    /// The key itself, once: in the answer to its making.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A join token to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinToken {
    /// The pool that agents join with it.
    pub pool: String,
    /// How often it can be used, 1 to 100 000. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<i64>,
    /// Seconds until it stops working, 1 to 31 536 000. Default 86 400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<i64>,
    /// What names of agents that join with it look like: `*` stands for any characters, as in `web-*`. Default any name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_pattern: Option<String>,
    /// Whether agents that join with it are ephemeral, whatever they say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

/// A join token as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JoinTokenView {
    /// The part of the token before the secret.
    pub prefix: String,
    /// The pool that agents join with it.
    pub pool: PoolName,
    /// How often it can still be used; absent is without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_left: Option<u32>,
    /// When it stops working; absent is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What names of agents that join with it look like; absent is any name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_pattern: Option<String>,
    /// Whether agents that join with it are ephemeral.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// The agent that it is for, where it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The token itself, once: in the answer to its making.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A service's key to trust: agents of these pools run what it signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddSigner {
    /// For people, 1 to 100 characters.
    pub name: String,
    /// The public key (an nkey that starts with `U`), such as the one in the service's credentials file.
    pub public_key: String,
    /// The pools, at least one.
    pub pools: BTreeSet<String>,
}

/// A key whose jobs are run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignerView {
    /// The public key.
    pub public_key: String,
    /// For people.
    pub name: String,
    /// Whether it is a gateway's or dispatcher's own, which signs for every pool.
    pub control_plane: bool,
    /// The pools that it signs for; none for the control plane's own, which signs for all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pools: BTreeSet<PoolName>,
    /// When it was added.
    pub added_at: Timestamp,
}
