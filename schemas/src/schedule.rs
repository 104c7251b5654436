//! Schedules: when they fire, what each firing does, and what is remembered of the last one.
//!
//! The broker keeps the time (`dispatcher/src/schedules` tells it what to keep); here is the same calendar as pure code, for what people
//! are shown and for firings that the broker lost. Nothing here reads a clock.
//!
//! | to find | look in |
//! |---|---|
//! | cron expressions | [`cron`] |
//! | `cron`, `every`, `at` and their time zones | [`timing`] |

use serde::{Deserialize, Serialize};

use crate::{
    job::{self, Draft},
    lane::Priority,
    names::{JobId, PoolName, ScheduleName},
    time::Timestamp,
    wire::{Body, V},
};

pub mod cron;
pub mod timing;

pub use cron::Cron;
pub use timing::{Timing, TimingError, When};

/// A firing that is handled later than this is late, unless its schedule says otherwise: a restart of the broker or of every dispatcher
/// is over by then.
pub const GRACE_DEFAULT_S: u32 = 60;
/// The longest grace: one day.
pub const GRACE_MAX_S: u32 = 24 * 3600;

/// What a firing does while the job of the one before is queued or running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It makes no job.
    #[default]
    Skip,
    /// It makes its job all the same.
    Queue,
    /// It cancels that job, then makes its own.
    Replace,
}

/// What becomes of firings that were missed during an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// All of them together make one job.
    #[default]
    RunOnce,
    /// They make none.
    Skip,
}

/// A schedule, under [`keys::definition`] in the bucket [`crate::topology::SCHEDULES_BUCKET`]. Written by gateways.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleRecord {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Its name.
    pub name: ScheduleName,
    /// When it fires.
    pub timing: Timing,
    /// What a firing does while the job of the one before is there.
    pub overlap: Overlap,
    /// What becomes of missed firings.
    pub missed: Missed,
    /// From what age, in seconds, a firing counts as missed.
    pub grace_s: u32,
    /// Whether it does not fire for now.
    pub paused: bool,
    /// The pool of its jobs.
    pub pool: PoolName,
    /// The priority of its jobs.
    pub priority: Priority,
    /// The body of its jobs, checked when it was written.
    pub job: Draft,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// When it was made: tells it from an earlier one of the same name.
    pub created_at: Timestamp,
    /// When it was last written.
    pub changed_at: Timestamp,
    /// Since when it fires as it does: it was made, its timing was changed, or it was resumed. Firings of before count for nothing.
    pub since: Timestamp,
}

/// What became of a schedule's last firing, under [`keys::state`]. Written by dispatchers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// [`ScheduleRecord::created_at`] of the schedule that this is about.
    pub of: Timestamp,
    /// [`ScheduleRecord::since`] at that firing.
    pub since: Timestamp,
    /// The time of the last firing that was handled.
    pub fired_at: Timestamp,
    /// What became of it.
    pub became: Became,
    /// Why it made no job, in one sentence.
    #[serde(default)]
    pub detail: Option<String>,
    /// The last job that was made, by this firing or an earlier one.
    #[serde(default)]
    pub job: Option<FiredJob>,
    /// The job that the last one replaced, and that is cancelled before it is stored.
    #[serde(default)]
    pub replaced: Option<FiredJob>,
}

/// What became of a firing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Became {
    /// A job.
    Job,
    /// Nothing: the job of the firing before was queued or running.
    Overlapped,
    /// Nothing: the pool would not take the job.
    Refused,
}

/// A job that a firing made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FiredJob {
    /// Its id.
    pub id: JobId,
    /// Its pool.
    pub pool: PoolName,
    /// The time of the firing.
    pub fired_at: Timestamp,
}

impl Body for ScheduleRecord {
    // A job, and room for what is around it.
    const LIMIT: usize = job::LIMIT + 16 * 1024;
}

impl Body for ScheduleState {
    const LIMIT: usize = 16 * 1024;
}

impl ScheduleRecord {
    /// How late a firing may be.
    pub fn grace(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.grace_s.into())
    }

    /// The job of the firing at that time. Always the same one, so that it is made once.
    pub fn job_at(&self, fired_at: Timestamp) -> Option<FiredJob> {
        // RFC 3339 without its punctuation: 2026-01-02T03:04:05Z becomes 20260102T030405Z.
        let at: String = Timestamp::from_secs(fired_at.secs()).to_string().chars().filter(char::is_ascii_alphanumeric).collect();
        Some(FiredJob { id: format!("{}-{at}", self.name).parse().ok()?, pool: self.pool.clone(), fired_at })
    }

    /// What identifies this run of firings, as the body of the broker's schedule message: a firing that carries another one is of a
    /// timing that was replaced.
    pub fn token(&self) -> String {
        self.since.to_string()
    }
}

/// Keys of the bucket [`crate::topology::SCHEDULES_BUCKET`].
pub mod keys {
    use crate::names::ScheduleName;

    /// All definitions, as a key filter.
    pub const DEFINITIONS: &str = "definition.*";

    /// Where a schedule's definition is.
    pub fn definition(name: &ScheduleName) -> String {
        format!("definition.{name}")
    }

    /// The schedule of a definition's key.
    pub fn parse_definition(key: &str) -> Option<ScheduleName> {
        key.strip_prefix("definition.")?.parse().ok()
    }

    /// Where its state is.
    pub fn state(name: &ScheduleName) -> String {
        format!("state.{name}")
    }

    /// The schedule of a state's key.
    pub fn parse_state(key: &str) -> Option<ScheduleName> {
        key.strip_prefix("state.")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::wire;

    #[test]
    fn records_round_trip_and_the_id_of_a_firing_is_readable() {
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let record = ScheduleRecord {
            v: V,
            name: "n".repeat(40).parse().unwrap(),
            timing: When { cron: Some("0 2 * * *".into()), time_zone: Some("Europe/Berlin".into()), ..When::default() }.try_into().unwrap(),
            overlap: Overlap::Replace,
            missed: Missed::Skip,
            grace_s: GRACE_DEFAULT_S,
            paused: false,
            pool: "p".parse().unwrap(),
            priority: Priority::Low,
            job: Draft { job_type: "shell.run".into(), ..Draft::default() },
            description: None,
            created_at: at,
            changed_at: at,
            since: at,
        };
        assert_eq!(wire::decode::<ScheduleRecord>(&wire::encode(&record)).unwrap(), record);
        let job = record.job_at(at).unwrap();
        assert_eq!(job.id.as_str(), format!("{}-20260102T030405Z", record.name));
        let state =
            ScheduleState { v: V, of: at, since: at, fired_at: at, became: Became::Job, detail: None, job: Some(job), replaced: None };
        assert_eq!(wire::decode::<ScheduleState>(&wire::encode(&state)).unwrap(), state);
        assert_eq!(keys::parse_definition(&keys::definition(&record.name)), Some(record.name));
    }
}
