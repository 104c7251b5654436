//! How a group is shown: its record, how far it is, and where its jobs are by a dispatcher's history.

use std::collections::BTreeMap;

use muster_schemas::{
    api::{GroupView, JobState, NOT_SENT},
    code::Code,
    group::{GroupRecord, GroupState, keys},
    history::{GroupAnswer, GroupQuestion},
    names::GroupId,
    subjects::History,
    wire::V,
};

use crate::{
    app::{App, Held, read},
    jobs::list,
    problem::ApiError,
};

/// Members' jobs by where they are.
pub(super) type Counts = BTreeMap<String, u64>;

/// A group's record, straight from the bucket.
pub(super) async fn find(app: &App, id: &GroupId) -> Result<Option<GroupRecord>, ApiError> {
    Ok(read(&app.buckets.groups, &keys::definition(id)).await?.map(|held| held.record))
}

/// A group's record, or `group_not_found`.
pub(super) async fn get(app: &App, id: &GroupId) -> Result<GroupRecord, ApiError> {
    let unknown = || ApiError::new(Code::GroupNotFound, format!("no group `{id}` is known, or it is older than groups are kept"));
    find(app, id).await?.ok_or_else(unknown)
}

/// How far a group is; absent when it has just begun.
pub(super) async fn state(app: &App, id: &GroupId) -> Result<Option<Held<GroupState>>, ApiError> {
    read(&app.buckets.groups, &keys::state(id)).await
}

/// How far a group is that has just begun.
pub(super) fn begun() -> GroupState {
    GroupState::default()
}

pub(super) fn or_begun(held: Option<Held<GroupState>>) -> GroupState {
    held.map_or_else(begun, |held| held.record)
}

/// The group as it is, or `history_unavailable`.
pub(super) async fn view(app: &App, record: &GroupRecord, state: &GroupState) -> Result<GroupView, ApiError> {
    let answer = ask(app, record, 0, 0).await?;
    Ok(show(record, state, Some(&answer.counts)))
}

/// The same, for what must not fail because nobody counts: without a dispatcher, there are no counts.
pub(super) async fn as_far_as_known(app: &App, record: &GroupRecord, state: &GroupState) -> Result<GroupView, ApiError> {
    match view(app, record, state).await {
        Err(error) if error.code == Code::HistoryUnavailable => Ok(show(record, state, None)),
        other => other,
    }
}

/// Asks a dispatcher for the jobs of the members, with up to `limit` rows from the place `from` on.
pub(super) async fn ask(app: &App, record: &GroupRecord, from: u32, limit: u32) -> Result<GroupAnswer, ApiError> {
    let question = GroupQuestion { v: V, pool: record.pool.clone(), group: record.id.clone(), members: members(record), from, limit };
    let mut answer: GroupAnswer = list::ask(app, History::Group, &question).await?;
    list::refused(answer.error.take())?;
    Ok(answer)
}

/// How many members a group has.
pub(super) fn members(record: &GroupRecord) -> u32 {
    u32::try_from(record.members.len()).unwrap_or(u32::MAX)
}

/// A group with the counts that the history has of its jobs.
pub(super) fn show(record: &GroupRecord, state: &GroupState, known: Option<&Counts>) -> GroupView {
    GroupView {
        id: record.id.clone(),
        pool: record.pool.clone(),
        job_type: record.job.job_type.clone(),
        labels: record.labels.clone(),
        status: state.status,
        reason: state.reason.clone(),
        matched: record.matched,
        members: members(record),
        sent: state.sent,
        waves: record.waves.clone(),
        stop_after: record.stop_after,
        counts: known.map(|known| counts(members(record), state, known)).unwrap_or_default(),
        created_at: record.created_at,
        created_by: record.created_by.clone(),
    }
}

/// Where a member's job is that the history does not know; `None` when it has forgotten it.
pub(super) fn unknown(place: u32, state: &GroupState) -> Option<&'static str> {
    match place < state.sent {
        false => Some(NOT_SENT),
        // The history is a fraction of a second behind. Of a group that has ended, it has forgotten the job.
        true => (!state.status.is_final()).then_some(JobState::Pending.as_str()),
    }
}

/// All members by where their jobs are.
fn counts(members: u32, state: &GroupState, known: &Counts) -> Counts {
    let mut counts = known.clone();
    let known: u64 = known.values().sum();
    // While a wave is being sent, the history knows more jobs than are noted as sent.
    let sent = u64::from(state.sent).max(known);
    let mut add = |word: &str, count: u64| {
        if count > 0 {
            *counts.entry(word.to_owned()).or_default() += count;
        }
    };
    if !state.status.is_final() {
        add(JobState::Pending.as_str(), sent - known);
    }
    add(NOT_SENT, u64::from(members).saturating_sub(sent));
    counts
}

#[cfg(test)]
mod tests {
    use muster_schemas::group::GroupStatus;

    use super::*;

    fn counted(members: u32, sent: u32, status: GroupStatus, known: &[(&str, u64)]) -> Vec<(String, u64)> {
        let known = known.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect();
        counts(members, &GroupState { sent, status, ..GroupState::default() }, &known).into_iter().collect()
    }

    #[test]
    fn every_member_is_counted_once() {
        let is = |counts: Vec<(String, u64)>, expected: &[(&str, u64)]| {
            assert_eq!(counts, expected.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect::<Vec<_>>());
        };
        is(counted(10, 0, GroupStatus::Running, &[]), &[(NOT_SENT, 10)]);
        is(counted(10, 4, GroupStatus::Running, &[]), &[(NOT_SENT, 6), ("pending", 4)]);
        is(counted(10, 4, GroupStatus::Running, &[("failed", 1), ("pending", 2)]), &[("failed", 1), (NOT_SENT, 6), ("pending", 3)]);
        // A wave that is being sent.
        is(counted(10, 0, GroupStatus::Running, &[("pending", 3)]), &[(NOT_SENT, 7), ("pending", 3)]);
        is(counted(3, 3, GroupStatus::Finished, &[("succeeded", 3)]), &[("succeeded", 3)]);
        // The history has forgotten one.
        is(counted(3, 3, GroupStatus::Finished, &[("succeeded", 2)]), &[("succeeded", 2)]);
        is(counted(5, 3, GroupStatus::Cancelled, &[("cancelled", 3)]), &[("cancelled", 3), (NOT_SENT, 2)]);
    }
}
