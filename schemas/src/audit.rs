//! What the audit trail keeps: who did, or tried to do, what to whom, from where, and what came of it. Never a secret, never a body.

use serde::{Deserialize, Serialize};

use crate::{
    code::Code,
    time::Timestamp,
    wire::{Body, V},
};

mod clean;
mod fold;

pub use fold::{FOLD_EVERY, FOLDED_ACTION, FOLDS_MAX, Fold, PROVEN_MAX};

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
    /// A service on NATS. The broker says that it may, and not which one it is.
    Service,
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

impl ActorKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Agent => "agent",
            Self::JoinToken => "join_token",
            Self::Service => "service",
            Self::Muster => "muster",
            Self::Nobody => "nobody",
        }
    }
}

impl AuditOutcome {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Actor {
    /// Somebody by the id of what was shown.
    pub fn new(kind: ActorKind, id: impl Into<String>) -> Self {
        Self { kind, id: Some(id.into()), name: None }
    }

    /// The same, with a name.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Who could not prove to be somebody.
    pub fn nobody() -> Self {
        Self { kind: ActorKind::Nobody, id: None, name: None }
    }
}

impl AuditEntry {
    /// An entry with nothing but the necessary.
    pub fn new(action: impl Into<String>, actor: Actor, outcome: AuditOutcome, at: Timestamp) -> Self {
        let action = action.into();
        Self { v: V, at, action, actor, address: None, target: None, outcome, code: None, detail: None, request_id: None, count: None }
    }

    /// The entry as it may be kept: each text short, without control characters, and without keys, tokens and seeds, which a caller may have
    /// written anywhere (as a name, as an id in a path), also encoded. Of a key that is whole its prefix stays, which is no secret.
    #[must_use]
    pub fn clean(mut self) -> Self {
        let texts = [&mut self.actor.id, &mut self.actor.name, &mut self.address, &mut self.target, &mut self.detail, &mut self.request_id];
        for text in texts.into_iter().flatten() {
            *text = clean::cleaned(text);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::{clean::TEXT_MAX, *};
    use crate::{records::secret::Parts, wire};

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

    #[test]
    fn a_key_that_somebody_wrote_into_a_name_or_a_path_is_not_kept() {
        let random = std::array::from_fn(|place| u8::try_from(place).unwrap());
        let whole = Parts::from_random(crate::records::secret::Kind::Join, &random);
        let damaged = [&whole.reveal()[..40], &whole.reveal().to_uppercase(), &format!("my key {}!", whole.reveal())].map(str::to_owned);
        for text in damaged.into_iter().chain([whole.reveal()]) {
            let entry = AuditEntry {
                target: Some(text.clone()),
                request_id: Some(text.clone()),
                ..AuditEntry::new("a.b", Actor::new(ActorKind::Key, "key_1").named(&text), AuditOutcome::Done, Timestamp::from_secs(0))
            };
            let kept = serde_json::to_string(&entry.clean()).unwrap().to_lowercase();
            assert!(!kept.contains(&whole.secret[..8]) && kept.contains("mst_"), "{kept}");
        }
        let entry = AuditEntry {
            target: Some("a\r\nb".into()),
            detail: Some("x ".repeat(999)),
            ..AuditEntry::new("a.b", Actor::nobody(), AuditOutcome::Done, Timestamp::from_secs(0))
        };
        let kept = entry.clean();
        assert_eq!((kept.target.as_deref(), kept.detail.map(|text| text.len())), (Some("ab"), Some(TEXT_MAX)));
    }
}
