//! The audit trail over REST.

use serde::{Deserialize, Serialize};

use crate::{audit::AuditEntry, time::Timestamp};

/// An entry of the audit trail as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AuditView {
    /// Its place in the trail; a later entry has a larger one.
    pub sequence: u64,
    /// When it was stored, by the broker's clock.
    pub stored_at: Timestamp,
    /// The entry.
    #[serde(flatten)]
    pub entry: AuditEntry,
}
