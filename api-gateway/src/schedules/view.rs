//! A schedule as it is shown: its record, what became of its last firing, and the next ones.

use muster_schemas::{
    api::{FiringView, ScheduleView, UPCOMING},
    schedule::{ScheduleRecord, ScheduleState, Timing, keys},
    subjects,
    time::Timestamp,
    topology::SCHEDULES,
};

use crate::{
    app::{App, read},
    problem::ApiError,
    stored,
};

/// Looks up what is beside the record.
pub(super) async fn view(app: &App, record: ScheduleRecord) -> Result<ScheduleView, ApiError> {
    let state = read::<ScheduleState>(&app.buckets.schedules, &keys::state(&record.name)).await?;
    let timer = stored::last(&app.nats, SCHEDULES, &subjects::schedule(&record.name)).await;
    let timer = timer.map_err(|error| error.while_doing("look at the schedule's timer"))?;
    // A timer of before a change is about to be replaced.
    let armed_at = timer.filter(|timer| timer.payload == record.token().as_bytes()).map(|timer| timer.at);
    Ok(show(record, state.map(|state| state.record), armed_at, Timestamp::now()))
}

fn show(record: ScheduleRecord, state: Option<ScheduleState>, armed_at: Option<Timestamp>, now: Timestamp) -> ScheduleView {
    let state = state.filter(|state| state.of == record.created_at);
    // The broker counts an interval from the second in which it was told of it, then from the last firing.
    let begun = armed_at.map_or(now, |at| Timestamp::from_micros(at.micros() + 500_000));
    let last = state.as_ref().filter(|state| state.since == record.since).map(|state| state.fired_at);
    let from = Timestamp::from_secs(last.unwrap_or(begun).secs());
    let is_over = matches!(record.timing, Timing::At(_)) && last.is_some();
    let next = if record.paused || is_over { Vec::new() } else { record.timing.upcoming(now, from, UPCOMING) };
    ScheduleView {
        name: record.name,
        when: record.timing.into(),
        pool: record.pool,
        priority: record.priority,
        job: record.job,
        overlap: record.overlap,
        missed: record.missed,
        grace_s: record.grace_s,
        paused: record.paused,
        armed: armed_at.is_some(),
        description: record.description,
        created_at: record.created_at,
        changed_at: record.changed_at,
        next,
        last: state.map(|state| FiringView { fired_at: state.fired_at, became: state.became, detail: state.detail, job: state.job }),
    }
}
