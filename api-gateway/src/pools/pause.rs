//! Pauses a pool and lets it go on: who, when and why go into its record, and the broker's own pause of its lanes follows.

use std::collections::BTreeSet;

use muster_broker_config::provision;
use muster_schemas::{
    api::PausePool,
    code::Code,
    names::PoolName,
    records::{Paused, PoolRecord},
    time::Timestamp,
};

use super::lanes;
use crate::{
    app::{App, update},
    auth::Caller,
    problem::ApiError,
};

/// How often to try again when others change the same pool at the same moment.
const ROUNDS: usize = 8;
/// The longest note, in characters.
const NOTE_MAX: usize = 1000;

/// What a pool's record is to say of a pause by this caller.
///
/// # Errors
/// `field_invalid`.
pub(crate) fn wanted(caller: &Caller, body: PausePool, now: Timestamp) -> Result<Paused, ApiError> {
    let note = body.note.map(|note| note.trim().to_owned()).filter(|note| !note.is_empty());
    if note.as_ref().is_some_and(|note| note.chars().count() > NOTE_MAX || note.contains(char::is_control)) {
        let detail = format!("field `note`: it takes at most {NOTE_MAX} characters, and no control characters");
        return Err(ApiError::new(Code::FieldInvalid, detail));
    }
    Ok(Paused { by: caller.name.clone(), key_id: caller.key_id.clone(), note, at: now })
}

/// Pauses the pool, or with `None` lets it go on, and returns its record. Once it returns, the broker gives out no job of a paused pool.
/// A pool that is paused already has a new pauser then, who keeps the note of the one before unless there is a new one; and one that is not paused stays as it is.
///
/// # Errors
/// `pool_not_found`; `broker_unavailable`, then it is safe to repeat, and the dispatcher carries out what the record says.
pub(crate) async fn set(app: &App, name: &PoolName, paused: Option<Paused>) -> Result<PoolRecord, ApiError> {
    for _ in 0..ROUNDS {
        let held = app.buckets.pool(name).await?;
        let mut record = PoolRecord { paused: paused.clone(), ..held.record.clone() };
        if let (Some(new), Some(old)) = (&mut record.paused, &held.record.paused)
            && new.note.is_none()
        {
            new.note.clone_from(&old.note);
        }
        let same = record == held.record;
        let revision = if same { Some(held.revision) } else { update(&app.buckets.pools, name.as_str(), &record, held.revision).await? };
        if let Some(revision) = revision {
            // Also when nothing was new, so that repeating a call repairs.
            let made = provision::ensure_lanes(&app.nats, name, &BTreeSet::new()).await;
            let record = made.map_err(|error| lanes::failed("pause the pool's lanes or let them go on", error))?;
            app.mirror.pools.caught_up(revision).await;
            return Ok(record);
        }
    }
    Err(ApiError::broker("store the pool", "others changed it each time"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_note_is_one_line_of_text_or_nothing() {
        let caller = Caller { key_id: "key_1".into(), name: "ci".into(), role: muster_schemas::records::Role::Operator };
        let note = |note: &str| wanted(&caller, PausePool { note: Some(note.into()) }, Timestamp::from_secs(0));
        assert_eq!(note(" the disk is full ").unwrap().note.as_deref(), Some("the disk is full"));
        assert_eq!(note("  ").unwrap().note, None);
        assert_eq!(note("a\u{1b}[2Jb").unwrap_err().code, Code::FieldInvalid);
        assert_eq!(note(&"x".repeat(1001)).unwrap_err().code, Code::FieldInvalid);
    }
}
