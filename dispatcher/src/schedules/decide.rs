//! What becomes of a firing, and which firing was missed. Pure: what is known is passed in, and so is the time.

use std::time::Duration;

use muster_schemas::{
    schedule::{Became, FiredJob, Missed, Overlap, ScheduleRecord, ScheduleState},
    time::Timestamp,
    wire::V,
};

/// A firing is looked for by the calendar only this long after it counts as missed: the broker's timer rounds to whole seconds, and a new
/// interval begins when the broker learns of it.
const SLACK: Duration = Duration::from_secs(2);

/// A firing, as the broker or the calendar tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// The time that it is for.
    pub at: Timestamp,
    /// [`ScheduleRecord::token`] of the timer that fired it.
    pub token: String,
}

/// What is to be done with a firing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, and nothing is remembered of it. Why.
    Drop(&'static str),
    /// Find out whether this job is queued or running, and ask again.
    Look(FiredJob),
    /// Write this down, then carry it out.
    Record(ScheduleState),
    /// It was written down before: carry it out.
    Finish(ScheduleState),
}

/// Decides on a firing. `alive` says whether the job of [`Step::Look`] is queued or running, once that is known.
pub fn decide(
    record: Option<&ScheduleRecord>,
    state: Option<&ScheduleState>,
    firing: &Firing,
    alive: Option<bool>,
    now: Timestamp,
) -> Step {
    let Some(record) = record else { return Step::Drop("the schedule was deleted") };
    if record.paused || record.token() != firing.token {
        return Step::Drop("the schedule was paused, or fires otherwise now");
    }
    let state = state.filter(|state| state.of == record.created_at);
    match state {
        Some(state) if state.fired_at == firing.at => return Step::Finish(state.clone()),
        Some(state) if state.fired_at > firing.at => return Step::Drop("a later firing came before it"),
        _ => {}
    }
    if now.since(firing.at) > record.grace() {
        if record.missed == Missed::Skip {
            return Step::Drop("it was missed");
        }
        if record.timing.after(firing.at, firing.at).is_some_and(|next| next <= now) {
            return Step::Drop("it was missed, and a later one stands for it");
        }
    }
    let Some(job) = record.job_at(firing.at) else { return Step::Drop("its job has no valid id") };
    let before = state.and_then(|state| state.job.clone());
    let decided = |became, job, replaced, detail: Option<&str>| {
        Step::Record(ScheduleState {
            v: V,
            of: record.created_at,
            since: record.since,
            fired_at: firing.at,
            became,
            detail: detail.map(str::to_owned),
            job,
            replaced,
        })
    };
    match (record.overlap, before, alive) {
        (Overlap::Queue, ..) | (_, None, _) | (_, Some(_), Some(false)) => decided(Became::Job, Some(job), None, None),
        (_, Some(before), None) => Step::Look(before),
        (Overlap::Skip, before, Some(true)) => {
            decided(Became::Overlapped, before, None, Some("the job of the firing before was still queued or running"))
        }
        (Overlap::Replace, before, Some(true)) => decided(Became::Job, Some(job), before, None),
    }
}

/// The firing to make up for those that were missed: the last one that the calendar knows, if one before it was never dealt with and is
/// late by more than the schedule's grace. Only for schedules that want that.
pub fn missed(record: &ScheduleRecord, state: Option<&ScheduleState>, now: Timestamp) -> Option<Firing> {
    if record.paused || record.missed == Missed::Skip {
        return None;
    }
    let state = state.filter(|state| state.of == record.created_at);
    let from = state.map_or(record.since, |state| state.fired_at.max(record.since));
    record.timing.until(now - record.grace() - SLACK, from)?;
    Some(Firing { at: record.timing.until(now, from)?, token: record.token() })
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
