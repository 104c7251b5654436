//! Records of agents.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    names::{AgentId, AgentName, ExecutorName, PoolName},
    signature::SKEW_MAX,
    time::Timestamp,
    wire::{Body, V},
};

/// What an operator has decided about an agent. Whether it is there and well is its standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Created, not yet registered.
    Pending,
    /// Registered and allowed to run jobs.
    #[default]
    Active,
    /// Takes nothing new until enabled again.
    Disabled,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Its credentials are refused.
    Revoked,
    /// It is being removed: what is left of it goes, and then its record.
    Deleting,
}

/// An agent, under `id.<agent_id>` in the bucket [`crate::topology::AGENTS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Its id.
    pub id: AgentId,
    /// Its name, unique while this record exists.
    pub name: AgentName,
    /// Its pool.
    pub pool: PoolName,
    /// What an operator has decided about it.
    pub state: AgentState,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Executors it has told of.
    #[serde(default)]
    pub capabilities: BTreeSet<ExecutorName>,
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
    /// The public key (an nkey that starts with `U`) that its JWTs are for.
    #[serde(default)]
    pub public_key: Option<String>,
    /// The prefix of its API key in [`crate::topology::API_KEYS`].
    #[serde(default)]
    pub key_prefix: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last registered.
    #[serde(default)]
    pub registered_at: Option<Timestamp>,
    /// The address it last registered from.
    #[serde(default)]
    pub remote_ip: Option<String>,
    /// Whatever its operator wants to keep with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// What it is meant to run on, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Labels that an operator set. They go before the agent's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set_labels: BTreeMap<String, String>,
    /// Executors that an operator allows it; absent is all that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<BTreeSet<ExecutorName>>,
    /// Whether it is removed once it leaves, or has been away for [`crate::topology::EPHEMERAL_AWAY_MAX`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// When and why it was revoked; absent unless it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
    /// When its API key was last replaced by an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_rotated_at: Option<Timestamp>,
    /// Public keys that it had before, newest first, at most [`PAST_KEYS_MAX`]. Results that were signed then still count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past_keys: Vec<PastKey>,
}

/// A revocation, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Revoked {
    /// When.
    pub at: Timestamp,
    /// Who: the name of the API key.
    pub by: String,
    /// Why, if they said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A public key that an agent had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastKey {
    /// The key.
    pub public_key: String,
    /// What it signed up to here counts.
    pub until: Timestamp,
    /// Whether it was revoked, and not just replaced by another one: then only what the broker had stored by then counts, for the
    /// moment that a signature names is whatever its signer says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}

/// Past keys that a record keeps.
pub const PAST_KEYS_MAX: usize = 8;

/// The public keys that an agent has or had. Whoever removes an agent leaves them in the marker of its record's deletion, so that results
/// which are still kept can be checked. A whole record can be read as one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SigningKeys {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Those before, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past_keys: Vec<PastKey>,
}

impl Body for SigningKeys {
    const LIMIT: usize = 64 * 1024;
}

impl SigningKeys {
    /// Whether a result is this agent's that `key` signed at that moment, by the signer's clock, and that the broker stored at the other one.
    pub fn signs_with(&self, key: &str, signed_at: Timestamp, stored_at: Timestamp) -> bool {
        let past = |past: &PastKey| past.public_key == key && past.covers(signed_at, stored_at);
        self.public_key.as_deref() == Some(key) || self.past_keys.iter().any(past)
    }

    /// Whether the key is, or ever was, this agent's.
    pub fn knows(&self, key: &str) -> bool {
        self.public_key.as_deref() == Some(key) || self.past_keys.iter().any(|past| past.public_key == key)
    }
}

impl PastKey {
    fn covers(&self, signed_at: Timestamp, stored_at: Timestamp) -> bool {
        if self.revoked { stored_at <= self.until } else { signed_at <= self.until + SKEW_MAX }
    }
}

impl AgentRecord {
    /// An active agent of which nothing else is known yet.
    pub fn new(id: AgentId, name: AgentName, pool: PoolName, created_at: Timestamp) -> Self {
        Self {
            v: V,
            id,
            name,
            pool,
            state: AgentState::Active,
            description: None,
            tags: BTreeSet::new(),
            labels: BTreeMap::new(),
            capabilities: BTreeSet::new(),
            version: String::new(),
            os: String::new(),
            arch: String::new(),
            hostname: String::new(),
            public_key: None,
            key_prefix: None,
            created_at,
            registered_at: None,
            remote_ip: None,
            metadata: BTreeMap::new(),
            platform: None,
            set_labels: BTreeMap::new(),
            allowed: None,
            ephemeral: false,
            revoked: None,
            key_rotated_at: None,
            past_keys: Vec::new(),
        }
    }

    /// Labels as they are looked at: an operator's go before the agent's own.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels.extend(self.set_labels.iter().map(|(name, value)| (name.clone(), value.clone())));
        labels
    }

    /// A label as it is looked at.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.set_labels.get(name).or_else(|| self.labels.get(name)).map(String::as_str)
    }

    /// Whether it has an executor and may use it.
    pub fn may_run(&self, executor: &ExecutorName) -> bool {
        self.capabilities.contains(executor) && self.allowed.as_ref().is_none_or(|allowed| allowed.contains(executor))
    }

    /// Executors that it has and may use.
    pub fn executors(&self) -> BTreeSet<ExecutorName> {
        self.capabilities.iter().filter(|name| self.may_run(name)).cloned().collect()
    }

    /// Its public keys.
    pub fn signing_keys(&self) -> SigningKeys {
        SigningKeys { v: V, public_key: self.public_key.clone(), past_keys: self.past_keys.clone() }
    }

    /// Takes a public key into use; `None` revokes the present one. The one before still counts for what it signed until now.
    pub fn replace_key(&mut self, key: Option<String>, now: Timestamp) {
        if self.public_key == key {
            return;
        }
        // Without a key to follow it, it is one that the broker refuses from now on.
        let revoked = key.is_none();
        if let Some(public_key) = std::mem::replace(&mut self.public_key, key) {
            self.past_keys.insert(0, PastKey { public_key, until: now, revoked });
            self.past_keys.truncate(PAST_KEYS_MAX);
        }
    }
}

impl Body for AgentRecord {
    const LIMIT: usize = 64 * 1024;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::wire;

    #[test]
    fn a_key_that_was_replaced_counts_for_what_it_signed_before_and_a_revoked_one_for_what_was_stored_before() {
        let at = Timestamp::from_secs;
        let mut record = AgentRecord::new(AgentId::generate(), "a".parse().unwrap(), "p".parse().unwrap(), at(0));
        record.replace_key(Some("UA".into()), at(1_000));
        record.replace_key(Some("UB".into()), at(1_000));
        record.replace_key(None, at(2_000));
        record.replace_key(Some("UC".into()), at(3_000));
        let holds = |key: &str, signed: i64, stored: i64| record.signing_keys().signs_with(key, at(signed), at(stored));
        let skew = i64::try_from(SKEW_MAX.as_secs()).unwrap();
        assert!(holds("UA", 1_000 + skew, 9_000), "out of a spool, by a clock that is ahead");
        assert!(!holds("UA", 1_001 + skew, 9_000));
        assert!(holds("UB", 1_999, 2_000));
        assert!(!holds("UB", 1_999, 2_001), "it says that it is older than the revocation");
        assert!(holds("UC", 9_000, 9_000) && !holds("UD", 0, 0));
        assert!(record.signing_keys().knows("UB") && !record.signing_keys().knows("UD"));
        for n in 0..20 {
            record.replace_key(Some(format!("U{n}")), at(4_000));
        }
        assert_eq!(record.past_keys.len(), PAST_KEYS_MAX);
        assert_eq!(wire::decode::<SigningKeys>(&wire::encode(&record)).unwrap(), record.signing_keys());
    }

    #[test]
    fn what_an_operator_set_goes_before_what_the_agent_says_and_an_empty_list_allows_nothing() {
        let mut record = AgentRecord::new(AgentId::generate(), "a".parse().unwrap(), "p".parse().unwrap(), Timestamp::from_secs(0));
        let (shell, http): (ExecutorName, ExecutorName) = ("shell".parse().unwrap(), "http".parse().unwrap());
        record.capabilities = [shell.clone(), http.clone()].into();
        record.labels = [("zone".to_owned(), "a".to_owned()), ("rack".to_owned(), "1".to_owned())].into();
        record.set_labels = [("zone".to_owned(), "b".to_owned())].into();
        assert_eq!((record.label("zone"), record.label("rack"), record.label("none")), (Some("b"), Some("1"), None));
        assert_eq!(record.all_labels().get("zone").map(String::as_str), Some("b"));
        assert!(record.may_run(&shell) && record.executors().len() == 2);
        record.allowed = Some([http.clone(), "docker".parse().unwrap()].into());
        assert!(!record.may_run(&shell) && record.executors() == [http.clone()].into());
        record.allowed = Some(BTreeSet::new());
        assert!(!record.may_run(&http) && record.executors().is_empty());
    }
}
