//! The claims of operator, account and user, as NATS JWTs of version 2 have them.
//!
//! Field names and nesting follow the reference implementation (nats-io/jwt v2); only what we set is here.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

use crate::permissions::Permissions;

/// Something that can be signed.
pub trait Claims {
    /// The payload without `iat`, `exp`, `iss` and `jti`, which signing adds.
    fn to_value(&self) -> Value;
    /// How long it lasts; `None` is for ever.
    fn lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The operator: whoever signs accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorClaims {
    /// For people.
    pub name: String,
    /// The operator's public key.
    pub public_key: String,
    /// Further keys that may sign accounts.
    pub signing_keys: Vec<String>,
    /// The public key of the system account.
    pub system_account: String,
}

impl Claims for OperatorClaims {
    fn to_value(&self) -> Value {
        json!({
            "name": self.name, "sub": self.public_key,
            "nats": {"type": "operator", "version": 2, "signing_keys": self.signing_keys, "system_account": self.system_account},
        })
    }
}

/// How an exported service answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Response {
    /// One answer to one request.
    Singleton,
    /// Any number of answers to one request.
    Stream,
}

/// What an account offers to others. Subjects are the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Export {
    /// Others may publish here, and get answers.
    Service(String, Response),
    /// Others may subscribe here.
    Stream(String),
}

impl Export {
    fn subject(&self) -> &str {
        match self {
            Self::Service(subject, _) | Self::Stream(subject) => subject,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Service(..) => "service",
            Self::Stream(_) => "stream",
        }
    }
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountClaims {
    /// For people.
    pub name: String,
    /// The account's public key.
    pub public_key: String,
    /// Further keys that may sign users.
    pub signing_keys: Vec<String>,
    /// What it offers.
    pub exports: Vec<Export>,
    /// What it takes, with the public key of the account that offers it.
    pub imports: Vec<(String, Export)>,
    /// Users that are refused: public key, and the second up to which (inclusive) their JWTs' `iat` is refused.
    pub revocations: BTreeMap<String, i64>,
    /// Whether it may have streams, without limit. Otherwise it has none.
    pub jetstream: bool,
}

impl Claims for AccountClaims {
    fn to_value(&self) -> Value {
        let exports = self.exports.iter().map(|export| {
            let mut value = json!({"name": export.subject(), "subject": export.subject(), "type": export.kind()});
            if let (Export::Service(_, response), Some(map)) = (export, value.as_object_mut()) {
                map.insert("response_type".into(), json!(response));
            }
            value
        });
        let imports = self.imports.iter().map(|(account, import)| {
            let subject = import.subject();
            json!({"name": subject, "subject": subject, "account": account, "type": import.kind(), "local_subject": subject})
        });
        // -1 is no limit. An account that does not name the limits of JetStream has no streams.
        let mut limits =
            json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1});
        if let (true, Some(map)) = (self.jetstream, limits.as_object_mut()) {
            for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
                map.insert(limit.into(), (-1).into());
            }
        }
        let mut nats = json!({
            "type": "account", "version": 2, "limits": limits, "signing_keys": self.signing_keys,
            "exports": exports.collect::<Vec<_>>(), "imports": imports.collect::<Vec<_>>(),
            // For users whose JWT names no permissions at all: nothing. The broker's own default is everything.
            "default_permissions": Permissions::default().to_claims(),
        });
        if let (false, Some(map)) = (self.revocations.is_empty(), nats.as_object_mut()) {
            map.insert("revocations".into(), json!(self.revocations));
        }
        json!({"name": self.name, "sub": self.public_key, "nats": nats})
    }
}

/// A user: what connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserClaims {
    /// For people, and in the broker's connection list.
    pub name: String,
    /// The user's public key.
    pub public_key: String,
    /// What it may do.
    pub permissions: Permissions,
    /// How long it lasts; `None` is for ever.
    pub expires_in: Option<Duration>,
    /// The account's public key, when one of the account's signing keys signs; `None` when the account's own key does.
    pub issuer_account: Option<String>,
    /// The most subscriptions of a connection; `None` is no limit.
    pub max_subscriptions: Option<u32>,
}

impl Claims for UserClaims {
    fn to_value(&self) -> Value {
        let subs = self.max_subscriptions.map_or(-1, i64::from);
        let mut nats = json!({"type": "user", "version": 2, "subs": subs, "data": -1, "payload": -1});
        if let (Some(map), Value::Object(permissions)) = (nats.as_object_mut(), self.permissions.to_claims()) {
            map.extend(permissions);
            if let Some(account) = &self.issuer_account {
                map.insert("issuer_account".into(), account.as_str().into());
            }
        }
        json!({"name": self.name, "sub": self.public_key, "nats": nats})
    }

    fn lifetime(&self) -> Option<Duration> {
        self.expires_in
    }
}
