//! The end of an ephemeral agent: it asks to be removed, and forgets who it was.

use std::time::Duration;

use muster_schemas::{
    control::{LeaveAnswer, LeaveRequest},
    subjects,
    wire::{self, V},
};

use super::Identity;
use crate::core::Core;

/// How long the gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Leaves for good, after the goodbye. Where that does not work the identity stays: the agent may come back with it, or the dispatcher removes
/// it when it has stayed away for long (`ephemeral_after`).
pub(crate) async fn leave(core: &Core, identity: &Identity) {
    let kept = core.spool.count();
    if kept > 0 {
        return tracing::warn!(results = kept, "results wait in the spool, so this agent is not removed now");
    }
    match ask(core).await {
        Ok(()) => match identity.forget() {
            Ok(()) => tracing::info!("this agent is being removed"),
            Err(error) => tracing::warn!(error = %muster_runtime::process::chain(&error.into()), "this agent is being removed"),
        },
        Err(problem) => {
            tracing::warn!(problem, "can't leave for good now; the dispatcher removes this agent when it has stayed away for long")
        }
    }
}

async fn ask(core: &Core) -> Result<(), String> {
    if !core.js.is_connected() {
        return Err("no connection to the broker".to_owned());
    }
    let request = core.js.client().request(subjects::leave(&core.id), wire::encode(&LeaveRequest { v: V }).into());
    let answer = tokio::time::timeout(PATIENCE, request).await.map_err(|_| "no answer in time".to_owned())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let answer: LeaveAnswer = wire::decode(&answer.payload).map_err(|error| error.to_string())?;
    answer.error.map_or(Ok(()), |error| Err(format!("{} ({})", error.message, error.code)))
}
