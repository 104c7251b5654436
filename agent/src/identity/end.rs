//! The end of an identity: why it is over, told once by whoever learns of it first, and heard by the agent's core.
//!
//! An order says so ([`crate::control`]), or the gateway does when the broker refuses this agent ([`super::renew`]). What the agent does about it is in
//! [`crate::service`] and [`crate::shutdown`].

use std::fmt;

use muster_schemas::{code::Code, control::IdentityEnd, names::PoolName};
use tokio::sync::watch;

/// The most characters of an operator's words that are shown.
const REASON_MAX: usize = 300;

/// Why an identity is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// An order said so.
    Ordered {
        why: IdentityEnd,
        /// In an operator's words.
        reason: Option<String>,
    },
    /// The gateway refuses it.
    Refused { code: Code, detail: String },
    /// The gateway has it in another pool.
    Elsewhere(PoolName),
}

impl End {
    /// Whether it may come back at once, with the same API key and a new private key.
    pub(crate) fn may_come_back_at_once(&self) -> bool {
        match self {
            Self::Ordered { why, .. } => *why == IdentityEnd::Moved,
            Self::Refused { code, .. } => *code == Code::KeyRevoked,
            Self::Elsewhere(_) => true,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, detail) = match self {
            Self::Ordered { why, reason } => {
                let what = match why {
                    IdentityEnd::Revoked => "revoked",
                    IdentityEnd::Deleted => "deleted",
                    IdentityEnd::KeyRotated => "its API key was replaced",
                    IdentityEnd::Moved => "moved to another pool",
                };
                (what, reason.as_deref())
            }
            Self::Refused { code, detail } => {
                let what = match code {
                    Code::AgentRevoked => "revoked",
                    Code::AgentNotFound => "deleted",
                    Code::Unauthenticated => "its API key is refused",
                    _ => "its private key is refused",
                };
                (what, Some(detail.as_str()))
            }
            Self::Elsewhere(pool) => ("moved to another pool", Some(pool.as_str())),
        };
        f.write_str(what)?;
        match detail {
            Some(detail) if !detail.is_empty() => write!(f, ": {}", detail.chars().take(REASON_MAX).collect::<String>()),
            _ => Ok(()),
        }
    }
}

/// Whether the identity is over; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Ended(watch::Sender<Option<End>>);

impl Ended {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Says that it is. The first reason stands.
    pub(crate) fn say(&self, end: End) {
        self.0.send_if_modified(|ended| ended.is_none() && ended.replace(end).is_none());
    }

    /// Whether it is.
    pub(crate) fn is_over(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until it is, and says why. Safe to cancel.
    pub(crate) async fn wait(&self) -> End {
        let mut ended = self.0.subscribe();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| (*end).clone());
        match end {
            Some(end) => end,
            // The sender is here.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_what_happened_and_in_whose_words() {
        let ordered = |why, reason: Option<&str>| End::Ordered { why, reason: reason.map(str::to_owned) }.to_string();
        assert_eq!(ordered(IdentityEnd::Revoked, Some("stolen laptop")), "revoked: stolen laptop");
        assert_eq!(ordered(IdentityEnd::Revoked, None), "revoked");
        assert_eq!(ordered(IdentityEnd::Deleted, None), "deleted");
        assert_eq!(ordered(IdentityEnd::KeyRotated, None), "its API key was replaced");
        assert_eq!(ordered(IdentityEnd::Moved, None), "moved to another pool");
        assert_eq!(ordered(IdentityEnd::Revoked, Some(&"x".repeat(1000))).len(), "revoked: ".len() + REASON_MAX);
        let refused = |code| End::Refused { code, detail: "no".to_owned() }.to_string();
        assert_eq!(refused(Code::AgentRevoked), "revoked: no");
        assert_eq!(refused(Code::AgentNotFound), "deleted: no");
    }

    #[tokio::test]
    async fn the_first_reason_stands() {
        let ended = Ended::new();
        assert!(!ended.is_over());
        let first = End::Ordered { why: IdentityEnd::Revoked, reason: None };
        ended.say(first.clone());
        ended.say(End::Refused { code: Code::Unauthenticated, detail: String::new() });
        assert!(ended.is_over());
        assert_eq!(ended.wait().await, first);
    }
}
