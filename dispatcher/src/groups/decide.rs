//! What is to be done next for a group. Pure: what is known is passed in, and so is the time.

use std::time::Duration;

use muster_schemas::{
    group::{GroupRecord, GroupState, GroupStatus},
    time::Timestamp,
};

use crate::history::Fate;

/// A cancelled group is looked after this much longer: a dispatcher that lost its lease while it sent a wave may have had a job under way.
const LINGER: Duration = Duration::from_secs(60);

/// What is to be done with a group. Members are named by their places.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Nothing now.
    Wait,
    /// Nothing more, unless somebody changes its state.
    Close,
    /// Find out how it stands with these jobs, which were sent and of which the history knows nothing, and ask again.
    Look(Vec<usize>),
    /// Send the jobs of these members; when all are stored, write this down.
    Send(Vec<usize>, GroupState),
    /// Cancel the jobs of these members, as far as there are any; when none is left, write this down.
    Cancel(Vec<usize>, Option<GroupState>),
    /// Write this down.
    Record(GroupState),
}

/// Whether nothing is to be done for a group unless somebody changes its state.
pub(super) fn is_over(state: &GroupState, now: Timestamp) -> bool {
    match state.status {
        GroupStatus::Running | GroupStatus::Cancelling => false,
        GroupStatus::Finished | GroupStatus::Stopped => true,
        GroupStatus::Cancelled => state.changed_at.is_none_or(|at| now.since(at) >= LINGER),
    }
}

/// Decides on a group, by how it stands with the job of each member.
pub(super) fn decide(record: &GroupRecord, state: &GroupState, fates: &[Fate], now: Timestamp) -> Step {
    let members = record.members.len();
    let sent = usize::try_from(state.sent).unwrap_or(usize::MAX).min(members);
    let end = wave_end(record, sent);
    let places = |wanted: &dyn Fn(usize, Fate) -> bool| -> Vec<usize> {
        let fates = fates.iter().copied().enumerate();
        fates.filter(|(place, fate)| wanted(*place, *fate)).map(|(place, _)| place).collect()
    };
    let become_ = |status, reason| GroupState { status, reason, changed_at: Some(now), ..state.clone() };
    match state.status {
        _ if is_over(state, now) => Step::Close,
        GroupStatus::Finished | GroupStatus::Stopped | GroupStatus::Cancelled => {
            let left = places(&|_, fate| fate == Fate::Open);
            if left.is_empty() { Step::Wait } else { Step::Cancel(left, None) }
        }
        GroupStatus::Cancelling => {
            // Of the wave that comes next, a dispatcher that died may have stored a part of which nothing is known yet.
            let left = places(&|place, fate| fate == Fate::Open || (fate == Fate::Unknown && place < end));
            Step::Cancel(left, Some(become_(GroupStatus::Cancelled, state.reason.clone())))
        }
        GroupStatus::Running => {
            let failed = places(&|_, fate| fate == Fate::Ended(false)).len();
            let ended = places(&|_, fate| matches!(fate, Fate::Ended(_))).len();
            let stop = record.stop_after.is_some_and(|most| failed >= usize::try_from(most.max(1)).unwrap_or(usize::MAX));
            if stop && sent < members {
                let reason = format!("{failed} of the {ended} jobs that have ended did not succeed");
                return Step::Record(become_(GroupStatus::Stopped, Some(reason)));
            }
            if !places(&|place, fate| place < sent && fate == Fate::Open).is_empty() {
                return Step::Wait;
            }
            let unknown = places(&|place, fate| place < sent && fate == Fate::Unknown);
            if !unknown.is_empty() {
                return Step::Look(unknown);
            }
            if sent == members {
                return Step::Record(become_(GroupStatus::Finished, None));
            }
            let wave = places(&|place, fate| (sent..end).contains(&place) && fate == Fate::Unknown);
            let then = GroupState { sent: u32::try_from(end).unwrap_or(u32::MAX), ..become_(GroupStatus::Running, None) };
            Step::Send(wave, then)
        }
    }
}

/// Where the wave ends that begins behind the first `sent` members.
fn wave_end(record: &GroupRecord, sent: usize) -> usize {
    let members = record.members.len();
    let ends = record.waves.iter().scan(0_usize, |end, size| {
        *end = end.saturating_add(usize::try_from(*size).unwrap_or(usize::MAX));
        Some(*end)
    });
    ends.into_iter().find(|end| *end > sent).unwrap_or(members).min(members)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
