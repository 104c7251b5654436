//! Schedules over REST.

use serde::{Deserialize, Serialize};

use crate::{
    job::Draft,
    lane::Priority,
    names::{PoolName, ScheduleName},
    schedule::{Became, FiredJob, Missed, Overlap, When},
    time::Timestamp,
};

use super::Submit;

/// How many firings to come a schedule shows.
pub const UPCOMING: usize = 5;

/// What a schedule is to be: the whole of it, what is left out gets its default. Exactly one of `cron`, `every` and `at`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutSchedule {
    /// Six fields with seconds first, or five and second 0: `30 2 * * 1-5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The time zone of `cron`, as the IANA names it: `Europe/Berlin`. Default UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// An interval of whole seconds: `90s`, `10m`, `1h30m`, `7d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// One point in time, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The job of each firing, as in a submit, without `id`, `not_before` and `expires_at`.
    pub job: Submit,
    /// What a firing does while the job of the one before is queued or running: `skip` (default), `queue` or `replace`.
    #[serde(default)]
    pub overlap: Overlap,
    /// What becomes of firings that an outage kept: `run_once` (default) makes one job for all of them, `skip` none.
    #[serde(default)]
    pub missed: Missed,
    /// From how many seconds on a late firing counts as missed, 1 to 86 400. Default 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<i64>,
    /// Whether it does not fire for now.
    #[serde(default)]
    pub paused: bool,
    /// For people, at most 1 000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl PutSchedule {
    /// When it fires, not yet checked.
    pub fn when(&self) -> When {
        When { cron: self.cron.clone(), time_zone: self.time_zone.clone(), every: self.every.clone(), at: self.at.clone() }
    }
}

/// A schedule as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ScheduleView {
    /// Its name.
    pub name: ScheduleName,
    /// When it fires.
    #[serde(flatten)]
    pub when: When,
    /// The pool of its jobs.
    pub pool: PoolName,
    /// The priority of its jobs.
    pub priority: Priority,
    /// The body of its jobs.
    pub job: Draft,
    /// What a firing does while the job of the one before is there.
    pub overlap: Overlap,
    /// What becomes of missed firings.
    pub missed: Missed,
    /// From how many seconds on a late firing counts as missed.
    pub grace_s: u32,
    /// Whether it does not fire for now.
    pub paused: bool,
    /// Whether the broker's timer has it. Not yet, when a dispatcher is still to see a change; never, when the broker refuses it: then
    /// the dispatcher's log says why.
    pub armed: bool,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub changed_at: Timestamp,
    /// Its next firings, at most five; none while it is paused. An interval starts anew when the broker was killed.
    pub next: Vec<Timestamp>,
    /// What became of its last firing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<FiringView>,
}

/// A firing as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FiringView {
    /// The time that it was for.
    pub fired_at: Timestamp,
    /// What became of it.
    pub became: Became,
    /// Why it made no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The last job that this schedule made, at this firing or an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<FiredJob>,
}
