//! Cancels a group: writes down that it is to be. The active dispatcher then sends no more of it, and cancels what was sent.

use muster_schemas::{
    api::GroupView,
    code::Code,
    group::{GroupState, GroupStatus, keys},
    names::{GroupId, PoolName},
    time::Timestamp,
    wire::V,
};

use super::{
    list::{self, Filter},
    view,
};
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
    let state = mark(app, id, &format!("cancelled by {by}")).await?;
    view::as_far_as_known(app, &record, &state).await
}

/// Writes down that a group is to be cancelled, and answers how far it is.
async fn mark(app: &App, id: &GroupId, reason: &str) -> Result<GroupState, ApiError> {
    for _ in 0..ROUNDS {
        let held = view::state(app, id).await?;
        let state = held.as_ref().map_or_else(view::begun, |held| held.record.clone());
        match state.status {
            GroupStatus::Finished => {
                return Err(ApiError::new(Code::GroupFinished, format!("all jobs of group `{id}` have ended; nothing is left to cancel")));
            }
            GroupStatus::Cancelling | GroupStatus::Cancelled => return Ok(state),
            // What a stopped one has sent may still run.
            GroupStatus::Running | GroupStatus::Stopped => {}
        }
        let (reason, changed_at) = (Some(reason.to_owned()), Some(Timestamp::now()));
        let next = GroupState { v: V, status: GroupStatus::Cancelling, sent: state.sent, reason, changed_at };
        let (bucket, key) = (&app.buckets.groups, keys::state(id));
        let written = match &held {
            None => create(bucket, &key, &next).await?,
            Some(held) => update(bucket, &key, &next, held.revision).await?,
        };
        if written.is_some() {
            return Ok(next);
        }
    }
    Err(ApiError::broker("cancel the group", "its state changed each time"))
}

/// The groups of a pool that are not over: they run, and may have more to send.
pub(crate) async fn running_in(app: &App, pool: &PoolName) -> Result<Vec<GroupId>, ApiError> {
    let filter = Filter { pool: Some(pool.clone()), status: Some(GroupStatus::Running) };
    let (mut ids, mut before) = (Vec::new(), None);
    loop {
        let (groups, next) = list::walk(app, &filter, usize::MAX, before).await?;
        ids.extend(groups.into_iter().map(|group| group.id));
        if next.is_none() {
            return Ok(ids);
        }
        before = next;
    }
}

/// Cancels these groups because their pool is removed.
pub(crate) async fn cancel_with_pool(app: &App, groups: &[GroupId]) -> Result<(), ApiError> {
    for id in groups {
        match mark(app, id, "its pool was removed").await {
            Ok(_) => {}
            // It has just ended by itself.
            Err(error) if error.code == Code::GroupFinished => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
