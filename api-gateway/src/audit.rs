//! The audit trail: who did what, or tried to, written before the answer goes out.
//!
//! Every endpoint says with [`Audited`] what the trail tells of it; a test over the table of routes fails where one that changes something
//! says nothing. [`layer`] stands around the gate and the handler, so that who is turned away is told of as well. What cannot be stored
//! at once is stored later, by `muster_runtime::trail`. It never decides whether something is done, and never keeps a body.
//!
//! | to find | look in |
//! |---|---|
//! | the entry, what is cut out of it, how refusals are folded | `muster_schemas::audit` |
//! | around each request | [`layer`] |
//! | what of a path is told | [`target`] |
//! | requests that are refused before all that | [`refused`] |
//! | storing, and storing later | `muster_runtime::trail` |
//! | `GET /api/v1/audit` | [`list`] |

mod layer;
mod list;
mod noted;
mod refused;
mod target;

pub(crate) use layer::{Place, around};
pub(crate) use list::endpoints;
pub(crate) use noted::Noted;
pub(crate) use refused::Actions;

/// Stores what could not be stored at once, for ever.
pub(crate) async fn run(app: crate::app::App) -> anyhow::Result<()> {
    app.audit.run().await;
    Ok(())
}

/// What the audit trail says of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audited {
    /// Every use of it.
    Always {
        /// `<area>.<deed>`.
        action: &'static str,
        /// Where the answer names what was made.
        made: Option<&'static str>,
    },
    /// Only who was turned away; and what the handler itself gives an action, see [`Noted::act`].
    RefusalsOnly {
        /// `<area>.<deed>`; without it, it is a read of whatever the path names.
        action: Option<&'static str>,
        /// Why that is enough. Only an endpoint that changes nothing needs no reason.
        why: Option<&'static str>,
    },
}

impl Audited {
    /// The action, where every use is written.
    pub(crate) fn always(self) -> Option<&'static str> {
        match self {
            Self::Always { action, .. } => Some(action),
            Self::RefusalsOnly { .. } => None,
        }
    }

    /// The action of an endpoint at this path.
    pub(crate) fn action(self, path: &str) -> String {
        match self {
            Self::Always { action, .. } | Self::RefusalsOnly { action: Some(action), .. } => action.to_owned(),
            Self::RefusalsOnly { action: None, .. } => {
                let area = path.strip_prefix(muster_schemas::api::BASE).unwrap_or_default().split('/').nth(1).unwrap_or_default();
                let area: String = area.chars().map(|letter| if letter == '-' { '_' } else { letter }).collect();
                format!("{}.read", if area.is_empty() { "gateway" } else { &area })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests fail by panicking")]
    use std::collections::{BTreeMap, BTreeSet};

    use axum::http::Method;
    use muster_schemas::subjects;

    use super::*;

    #[test]
    fn every_endpoint_that_is_no_read_says_what_the_audit_trail_tells_of_it() {
        let mut actions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for endpoint in crate::routes::table() {
            let place = format!("{} {}", endpoint.method, endpoint.path);
            let action = endpoint.audit.action(endpoint.path);
            assert!(subjects::audit(&action).is_some(), "{place}: `{action}` is no action");
            match endpoint.audit {
                Audited::Always { action, .. } => {
                    actions.entry(action).or_default().insert(endpoint.path);
                }
                Audited::RefusalsOnly { why: Some(why), .. } => assert!(!why.is_empty(), "{place} does not say why it is not audited"),
                Audited::RefusalsOnly { why: None, .. } => {
                    assert_eq!(endpoint.method, Method::GET, "{place} needs .audited(\"<area>.<deed>\"), or .unaudited(…) with a reason");
                }
            }
        }
        for (action, paths) in actions {
            assert!(paths.len() == 1, "{action} is told of {paths:?}: nobody could tell these apart");
        }
    }

    #[test]
    fn a_read_is_named_after_what_its_path_names() {
        let read = Audited::RefusalsOnly { action: None, why: None };
        assert_eq!(read.action("/api/v1/api-keys/{id}"), "api_keys.read");
        assert_eq!(read.action("/openapi.json"), "gateway.read");
        assert_eq!(read.action("/"), "gateway.read");
    }
}
