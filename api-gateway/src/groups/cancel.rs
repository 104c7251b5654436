//! Cancels a group: writes down that it is to be. The active dispatcher then sends no more of it, and cancels what was sent.

use muster_schemas::{
    api::GroupView,
    code::Code,
    group::{GroupState, GroupStatus, keys},
    names::GroupId,
    time::Timestamp,
    wire::V,
};

use super::view;
use crate::{
    app::{App, create, update},
    problem::ApiError,
};

/// How often to try again when the dispatcher writes at the same moment. It writes when a wave is sent, and when one has ended.
const ROUNDS: usize = 8;

/// Cancels a group; one that was cancelled before is answered again.
///
/// # Errors
/// `group_not_found`; `group_finished`; `broker_unavailable`.
pub(super) async fn cancel(app: &App, id: &GroupId, by: &str) -> Result<GroupView, ApiError> {
    let record = view::get(app, id).await?;
    for _ in 0..ROUNDS {
        let held = view::state(app, id).await?;
        let state = held.as_ref().map_or_else(view::begun, |held| held.record.clone());
        match state.status {
            GroupStatus::Finished => {
                return Err(ApiError::new(Code::GroupFinished, format!("all jobs of group `{id}` have ended; nothing is left to cancel")));
            }
            GroupStatus::Cancelling | GroupStatus::Cancelled => return view::as_far_as_known(app, &record, &state).await,
            // What a stopped one has sent may still run.
            GroupStatus::Running | GroupStatus::Stopped => {}
        }
        let reason = Some(format!("cancelled by {by}"));
        let next = GroupState { v: V, status: GroupStatus::Cancelling, sent: state.sent, reason, changed_at: Some(Timestamp::now()) };
        let (bucket, key) = (&app.buckets.groups, keys::state(id));
        let written = match &held {
            None => create(bucket, &key, &next).await?,
            Some(held) => update(bucket, &key, &next, held.revision).await?,
        };
        if written.is_some() {
            return view::as_far_as_known(app, &record, &next).await;
        }
    }
    Err(ApiError::broker("cancel the group", "its state changed each time"))
}
