//! When a schedule fires: a cron expression in a time zone, an interval, or one point in time.
//!
//! [`When`] is how it is written, [`Timing`] is the same thing checked. The broker's timer fires within 250 ms of the time; what the time
//! was is worked out here again from when the firing was stored, so that it is the same however often that is done.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{Cron, cron::CronError};
use crate::time::{TimeError, Timestamp};

/// The longest interval: one year.
const EVERY_MAX_S: u64 = 365 * 86_400;

/// When a schedule fires, as anybody may write it: exactly one of `cron`, `every` and `at`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct When {
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
}

/// When a schedule fires, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "When", into = "When")]
pub enum Timing {
    /// At every second whose local time matches.
    Cron(Cron, Zone),
    /// After every so many seconds.
    Every(u32),
    /// Once.
    At(Timestamp),
}

/// A time zone of the IANA's database, which is built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

/// Why [`When`] is no [`Timing`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// None, or more than one.
    #[error("a schedule takes exactly one of `cron`, `every` and `at`")]
    Which,
    /// The cron expression.
    #[error("field `cron`: {0}")]
    Cron(#[from] CronError),
    /// No day is ever like that.
    #[error("field `cron`: it does not fire within five years")]
    Never,
    /// The time zone.
    #[error(
        "field `time_zone`: it takes a name of the IANA's database, such as Europe/Berlin, with `cron` only; `{0}` is none, or out of place"
    )]
    Zone(String),
    /// The interval.
    #[error("field `every`: it takes an interval of whole seconds such as 90s, 10m, 1h30m or 7d, from 1s to 365d, and got `{0}`")]
    Every(String),
    /// The point in time.
    #[error("field `at`: {0}")]
    At(#[from] TimeError),
    /// A point in time that the broker cannot count to in nanoseconds fires at once.
    #[error("field `at`: it takes a time before the year 2200, and got {0}")]
    Far(Timestamp),
}

/// The year 2200, in seconds since 1970.
const FAR: i64 = 7_258_118_400;

impl TryFrom<When> for Timing {
    type Error = TimingError;

    fn try_from(when: When) -> Result<Self, TimingError> {
        let zone = when.time_zone.as_deref();
        let out_of_place = || zone.map_or(Ok(()), |name| Err(TimingError::Zone(shown(name))));
        match (when.cron.as_deref(), when.every.as_deref(), when.at.as_deref()) {
            (Some(cron), None, None) => {
                let (cron, zone): (Cron, _) = (cron.parse()?, zone.map_or(Ok(Zone::utc()), Zone::named)?);
                // Where it does not fire in these five years it does in no others, but for a 29 February around the year 2100.
                cron.after(0, &zone.rules).map(|_| Self::Cron(cron, zone)).ok_or(TimingError::Never)
            }
            (None, Some(every), None) => {
                out_of_place()?;
                interval(every).map(Self::Every).ok_or_else(|| TimingError::Every(shown(every)))
            }
            (None, None, Some(at)) => {
                out_of_place()?;
                let at: Timestamp = at.parse()?;
                if at < Timestamp::from_secs(FAR) { Ok(Self::At(at)) } else { Err(TimingError::Far(at)) }
            }
            _ => Err(TimingError::Which),
        }
    }
}

impl From<Timing> for When {
    fn from(timing: Timing) -> Self {
        match timing {
            Timing::Cron(cron, zone) => Self { cron: Some(cron.as_str().to_owned()), time_zone: Some(zone.name), ..Self::default() },
            Timing::Every(seconds) => Self { every: Some(format!("{seconds}s")), ..Self::default() },
            Timing::At(at) => Self { at: Some(at.to_string()), ..Self::default() },
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// The seconds of `1h30m`.
fn interval(text: &str) -> Option<u32> {
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = rest.split_at_checked(digits)?;
        let each = match unit.as_bytes().first()? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return None,
        };
        seconds = number.parse::<u64>().ok()?.checked_mul(each)?.checked_add(seconds)?;
        rest = unit.get(1..)?;
    }
    u32::try_from(seconds).ok().filter(|seconds| (1..=EVERY_MAX_S).contains(&u64::from(*seconds)))
}

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self { name: "UTC".into(), rules: TimeZone::UTC }
    }

    /// The zone of that name, as written in the database.
    ///
    /// # Errors
    /// [`TimingError::Zone`] when there is none.
    pub fn named(name: &str) -> Result<Self, TimingError> {
        let none = || TimingError::Zone(shown(name));
        // The library takes `Etc/Unknown`, which stands for no zone, and the broker does not.
        let rules = jiff::tz::db().get(name).ok().filter(|rules| !rules.is_unknown()).ok_or_else(none)?;
        // The broker looks for a file of that name, so its case matters.
        let name = rules.iana_name().unwrap_or(name).to_owned();
        Ok(Self { name, rules })
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl Timing {
    /// As the broker takes it: the pattern, and the time zone where there is one.
    pub fn pattern(&self) -> (String, Option<&str>) {
        match self {
            // The broker's own default is UTC, and it needs no database for it.
            Self::Cron(cron, zone) => (cron.as_str().to_owned(), Some(zone.as_str()).filter(|name| *name != "UTC")),
            Self::Every(seconds) => (format!("@every {seconds}s"), None),
            Self::At(at) => (format!("@at {at}"), None),
        }
    }

    /// The first firing after `after`. An interval is counted from `from`, its last firing or when it began.
    pub fn after(&self, after: Timestamp, from: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Cron(cron, zone) => cron.after(after.secs(), &zone.rules).map(Timestamp::from_secs),
            Self::Every(seconds) => {
                let step = Duration::from_secs((*seconds).into());
                Some(from + steps(after.since(from), step).saturating_add(step))
            }
            Self::At(at) => Some(*at).filter(|at| *at > after),
        }
    }

    /// The last firing up to `until`, if it comes after `from`. An interval is counted from there.
    pub fn until(&self, until: Timestamp, from: Timestamp) -> Option<Timestamp> {
        let last = match self {
            Self::Cron(cron, zone) => Timestamp::from_secs(cron.until(until.secs(), &zone.rules)?),
            Self::Every(seconds) => from + steps(until.since(from), Duration::from_secs((*seconds).into())),
            Self::At(at) => *at,
        };
        (from < last && last <= until).then_some(last)
    }

    /// The next firings after `after`, at most `count`.
    pub fn upcoming(&self, after: Timestamp, from: Timestamp, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.after(after, from), |last| self.after(*last, from)).take(count).collect()
    }

    /// The time of the firing that the broker stored at `stored`, saying that the next one is at `next`.
    pub fn fired(&self, stored: Timestamp, next: Option<Timestamp>) -> Timestamp {
        let stored = Timestamp::from_secs(stored.secs());
        match self {
            Self::Cron(cron, zone) => cron.until(stored.secs(), &zone.rules).map_or(stored, Timestamp::from_secs),
            // It counts each one from the one before.
            Self::Every(seconds) => next.map_or(stored, |next| next - Duration::from_secs((*seconds).into())),
            Self::At(at) => *at,
        }
    }
}

/// As many whole steps as fit into `time`.
fn steps(time: Duration, step: Duration) -> Duration {
    let whole = time.as_secs().checked_div(step.as_secs()).unwrap_or(0);
    Duration::from_secs(whole.saturating_mul(step.as_secs()))
}

#[cfg(test)]
#[path = "timing_tests.rs"]
mod tests;
