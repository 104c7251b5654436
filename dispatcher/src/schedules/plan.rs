//! Which timers the broker should have: records compared with what the broker holds. Pure.
//!
//! A timer that is as wanted is left alone: publishing it again would start an interval anew.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use muster_schemas::{
    headers::{SCHEDULE, SCHEDULE_TARGET, SCHEDULE_TIME_ZONE, SCHEDULE_TTL},
    names::ScheduleName,
    schedule::{ScheduleRecord, Timing},
    subjects,
    time::Timestamp,
};

/// A firing is kept this much longer, in seconds, than it may be late: what is later is dropped or made up for anyway, and an outage of all
/// dispatchers must not fill the stream.
const KEPT_LONGER_S: u64 = 60;

/// The broker's timer of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    pattern: String,
    zone: Option<String>,
    target: String,
    /// How long a firing is kept.
    ttl: String,
    /// [`ScheduleRecord::token`]; the broker copies it into each firing.
    token: String,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Publish the timer, in place of the one there may be.
    Arm(ScheduleName, Timer),
    /// Remove the timer.
    Disarm(ScheduleName),
}

impl Timer {
    /// The timer that a schedule wants.
    pub fn of(record: &ScheduleRecord) -> Self {
        let (pattern, zone) = record.timing.pattern();
        Self {
            pattern,
            zone: zone.map(str::to_owned),
            target: subjects::due(&record.name),
            ttl: format!("{}s", u64::from(record.grace_s) + KEPT_LONGER_S),
            token: record.token(),
        }
    }

    /// The timer in a message that the broker holds.
    pub fn read(headers: &HeaderMap, payload: &[u8]) -> Self {
        let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        Self {
            pattern: text(SCHEDULE).unwrap_or_default(),
            zone: text(SCHEDULE_TIME_ZONE),
            target: text(SCHEDULE_TARGET).unwrap_or_default(),
            ttl: text(SCHEDULE_TTL).unwrap_or_default(),
            token: String::from_utf8_lossy(payload).into_owned(),
        }
    }

    /// The message that makes it.
    pub fn message(&self) -> (HeaderMap, String) {
        let mut headers = HeaderMap::new();
        headers.insert(SCHEDULE, self.pattern.as_str());
        headers.insert(SCHEDULE_TARGET, self.target.as_str());
        headers.insert(SCHEDULE_TTL, self.ttl.as_str());
        if let Some(zone) = &self.zone {
            headers.insert(SCHEDULE_TIME_ZONE, zone.as_str());
        }
        (headers, self.token.clone())
    }
}

/// What brings the timers that the broker holds to what the records say.
pub fn plan(records: &BTreeMap<ScheduleName, ScheduleRecord>, held: &BTreeMap<ScheduleName, Timer>, now: Timestamp) -> Vec<Command> {
    let mut commands = Vec::new();
    for (name, record) in records.iter().filter(|(_, record)| !record.paused) {
        let (wanted, there) = (Timer::of(record), held.get(name));
        // The broker removes the timer of a point in time when it fires; what it should have fired and did not is made up for.
        let is_over = matches!(record.timing, Timing::At(at) if at <= now);
        if there != Some(&wanted) && !is_over {
            commands.push(Command::Arm(name.clone(), wanted));
        } else if there.is_some_and(|there| *there != wanted) {
            commands.push(Command::Disarm(name.clone()));
        }
    }
    let unwanted = held.keys().filter(|name| records.get(*name).is_none_or(|record| record.paused));
    commands.extend(unwanted.cloned().map(Command::Disarm));
    commands
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
