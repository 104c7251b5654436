//! What the audit trail keeps: who did, or tried to do, what to whom, from where, and what came of it. Never a secret, never a body.

use serde::{Deserialize, Serialize};

use crate::{
    code::Code,
    time::Timestamp,
    wire::{Body, V},
};

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Actor {
    /// What kind of identity was shown.
    pub kind: ActorKind,
    /// Its id: of a key, of an agent, the prefix of a join token, or the run of a dispatcher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What kind of identity acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A person or service with an API key.
    Key,
    /// An agent.
    Agent,
    /// The holder of a join token.
    JoinToken,
    /// The control plane itself.
    Muster,
    /// Nobody who could prove to be somebody.
    Nobody,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// It was done.
    Done,
    /// It was refused: whoever asked may not, or asked for something wrong.
    Refused,
    /// It failed on our side. Some of it may have been done.
    Failed,
}

/// An entry of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AuditEntry {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// When, by the clock of whoever wrote it.
    pub at: Timestamp,
    /// What: an area and a deed, such as `agents.revoke`.
    pub action: String,
    /// Who.
    pub actor: Actor,
    /// From which address, where it came over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// To whom or what: an id or a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What came of it.
    pub outcome: AuditOutcome,
    /// The stable code, unless it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// More for people; short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The request, to find it in the logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How many alike this entry stands for; absent is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Body for AuditEntry {
    const LIMIT: usize = 16 * 1024;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::wire;

    #[test]
    fn an_entry_round_trips_and_is_pinned_by_a_golden_file() {
        let entry = AuditEntry {
            v: V,
            at: Timestamp::from_secs(1_800_000_000),
            action: "agents.revoke".into(),
            actor: Actor { kind: ActorKind::Key, id: Some("key_1".into()), name: Some("ops".into()) },
            address: Some("10.0.0.1".into()),
            target: Some("agt_1".into()),
            outcome: AuditOutcome::Refused,
            code: Some(Code::Forbidden),
            detail: None,
            request_id: Some("req_1".into()),
            count: None,
        };
        assert_eq!(wire::decode::<AuditEntry>(&wire::encode(&entry)).unwrap(), entry);
        crate::json::golden("audit_entry.json", &(serde_json::to_string_pretty(&entry).unwrap() + "\n"));
    }
}
