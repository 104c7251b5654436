//! Named checks of what a process needs, as its parts last reported them.
//!
//! Nothing is probed here: whoever learns that something changed calls [`Readiness::set`].

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use serde::Serialize;

/// The checks; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    checks: Arc<RwLock<BTreeMap<&'static str, Result<(), String>>>>,
    notes: Arc<RwLock<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// Checks that fail with "starting" until they are set. Others may be added by setting them.
    #[must_use]
    pub fn new<const N: usize>(expected: [&'static str; N]) -> Self {
        let starting = |name| (name, Err("starting".to_owned()));
        Self { checks: Arc::new(RwLock::new(expected.into_iter().map(starting).collect())), notes: Arc::default() }
    }

    /// Shows a line as the detail of a check that holds: what an operator should know of a process that works. No secrets.
    pub fn note(&self, name: &'static str, detail: String) {
        self.notes.write().unwrap_or_else(PoisonError::into_inner).insert(name, detail);
    }

    /// Sets a check. The detail of a failure is shown to whoever asks: no secrets. A change is logged.
    pub fn set(&self, name: &'static str, state: Result<(), String>) {
        let mut checks = self.checks.write().unwrap_or_else(PoisonError::into_inner);
        let before = checks.insert(name, state.clone());
        drop(checks);
        match (before, state) {
            (Some(Err(_)) | None, Ok(())) => tracing::info!(check = name, "ready"),
            (Some(Ok(())) | None, Err(detail)) => {
                tracing::warn!(check = name, detail, "not ready");
            }
            _ => {}
        }
    }

    /// Whether every check holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.report().ready
    }

    /// All failing checks with their details, for logs and errors.
    #[must_use]
    pub fn failing(&self) -> Vec<(&'static str, String)> {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        checks.iter().filter_map(|(name, state)| Some((*name, state.as_ref().err()?.clone()))).collect()
    }

    pub(crate) fn report(&self) -> Report {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        let notes = self.notes.read().unwrap_or_else(PoisonError::into_inner);
        Report {
            ready: checks.values().all(Result::is_ok),
            checks: checks
                .iter()
                .map(|(name, state)| {
                    let check = Check { ok: state.is_ok(), detail: state.as_ref().err().or(notes.get(name)).cloned() };
                    (*name, check)
                })
                .collect(),
        }
    }
}

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) ready: bool,
    checks: BTreeMap<&'static str, Check>,
}

#[derive(Debug, Serialize)]
struct Check {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_check_holds() {
        let readiness = Readiness::new(["broker", "streams"]);
        assert!(!readiness.is_ready());
        readiness.set("broker", Ok(()));
        readiness.set("streams", Ok(()));
        assert!(readiness.is_ready());
        readiness.set("broker", Err("refused: revoked".to_owned()));
        assert_eq!(readiness.failing(), [("broker", "refused: revoked".to_owned())]);
        assert!(!readiness.clone().is_ready());
    }

    #[test]
    fn a_check_that_holds_may_have_something_to_tell() {
        let readiness = Readiness::new(["history"]);
        readiness.set("history", Ok(()));
        readiness.note("history", "an alarm".to_owned());
        let report = serde_json::to_value(readiness.report()).unwrap_or_default();
        assert!(readiness.is_ready());
        assert_eq!(report, serde_json::json!({"ready": true, "checks": {"history": {"ok": true, "detail": "an alarm"}}}));
    }
}
