//! Cron expressions, as the broker understands them: seconds, minutes, hours, days of the month, months, days of the week.
//!
//! It fires at every second whose local clock and calendar match. So a time that a change of the clock leaves out does not fire, and one
//! that comes twice fires twice. Days: where the day of the month or the day of the week is `*` (or `?`), both must match; where both are
//! restricted, either is enough. A step on a star (`*/2`) is a restriction. The day of the week is 0 (Sunday) to 6, not 7.
//!
//! Libraries for cron differ in just these points, and what people are shown must be what happens: a test in
//! `dispatcher/tests/schedules` compares this with the timer of a real broker.

use jiff::{civil::DateTime, tz::TimeZone};

/// How far ahead, and back, a firing is looked for, in seconds: five years, as the broker does. It holds a 29 February, except from 2096 on.
const HORIZON: i64 = 5 * 366 * 86_400;

/// A checked cron expression of six fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    seconds: Field,
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
}

/// The values that a field allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Field {
    bits: u64,
    /// Whether it is not restricted at all.
    star: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits & 1_u64.checked_shl(value).unwrap_or(0) != 0)
    }
}

/// What a field may hold.
struct Kind {
    name: &'static str,
    least: u32,
    most: u32,
    /// Names of values, from `least` on.
    words: &'static [&'static str],
}

const fn kind(name: &'static str, least: u32, most: u32, words: &'static [&'static str]) -> Kind {
    Kind { name, least, most, words }
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const KINDS: [Kind; 6] = [
    kind("second", 0, 59, &[]),
    kind("minute", 0, 59, &[]),
    kind("hour", 0, 23, &[]),
    kind("day of the month", 1, 31, &[]),
    kind("month", 1, 12, &MONTHS),
    kind("day of the week", 0, 6, &WEEKDAYS),
];

/// Why a text is not a cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Neither five nor six fields.
    #[error("it takes five fields, or six with seconds first, and has {0}; an interval such as `@every 5m` goes into the field `every`")]
    Fields(usize),
    /// A field breaks its rule.
    #[error("the {field} takes {least} to {most} as N, N-M, *, each with /STEP, joined by commas; `{given}` is none of these")]
    Field {
        /// Which.
        field: &'static str,
        /// Its least value.
        least: u32,
        /// Its greatest value.
        most: u32,
        /// What was given.
        given: String,
    },
}

impl std::str::FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let mut given: Vec<&str> = text.split_ascii_whitespace().collect();
        if given.len() == 5 {
            given.insert(0, "0");
        }
        let &[second, minute, hour, day, month, weekday] = given.as_slice() else { return Err(CronError::Fields(given.len())) };
        let [seconds, minutes, hours, days, months, weekdays] = KINDS;
        Ok(Self {
            seconds: field(second, &seconds)?,
            minutes: field(minute, &minutes)?,
            hours: field(hour, &hours)?,
            days: field(day, &days)?,
            months: field(month, &months)?,
            weekdays: field(weekday, &weekdays)?,
            text: given.join(" "),
        })
    }
}

fn field(text: &str, kind: &Kind) -> Result<Field, CronError> {
    let wrong = || CronError::Field {
        field: kind.name,
        least: kind.least,
        most: kind.most,
        given: text.chars().take(64).flat_map(char::escape_debug).collect(),
    };
    let mut field = Field::default();
    for part in text.split(',') {
        let one = range(part, kind).ok_or_else(wrong)?;
        field = Field { bits: field.bits | one.bits, star: field.star || one.star };
    }
    Ok(field)
}

/// `*`, `N` or `N-M`, each with `/STEP`. `N/STEP` goes on to the greatest value.
fn range(text: &str, kind: &Kind) -> Option<Field> {
    let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
    let step = step.map_or(Some(1), number).filter(|step| *step > 0)?;
    let all = matches!(range, "*" | "?");
    let (first, last) = match range.split_once('-') {
        _ if all => (kind.least, kind.most),
        Some((first, last)) => (value(first, kind)?, value(last, kind)?),
        None if text.contains('/') => (value(range, kind)?, kind.most),
        None => (value(range, kind)?, value(range, kind)?),
    };
    let fits = kind.least <= first && first <= last && last <= kind.most;
    let values = (first..=last).step_by(usize::try_from(step).ok()?);
    fits.then(|| Field { bits: values.fold(0, |bits, value| bits | 1 << value), star: all && step == 1 })
}

fn value(text: &str, kind: &Kind) -> Option<u32> {
    let named = kind.words.iter().position(|word| word.eq_ignore_ascii_case(text)).and_then(|place| u32::try_from(place).ok());
    named.map(|place| kind.least + place).or_else(|| number(text))
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A stretch of time in which the zone's offset is the same.
#[derive(Clone, Copy)]
struct Stretch {
    offset: jiff::tz::Offset,
    /// Its first second.
    first: i64,
    /// The second behind its last one.
    end: i64,
}

impl Stretch {
    fn around(second: i64, zone: &TimeZone) -> Option<Self> {
        let at = jiff::Timestamp::from_second(second).ok()?;
        let next = jiff::Timestamp::from_second(second.checked_add(1)?).ok()?;
        let change = |change: jiff::tz::TimeZoneTransition<'_>| change.timestamp().as_second();
        Some(Self {
            offset: zone.to_offset(at),
            // Of a zone without rules for the future, jiff names the last change again and again.
            first: zone.preceding(next).next().map(change).filter(|first| *first <= second).unwrap_or(i64::MIN),
            end: zone.following(at).next().map(change).filter(|end| *end > second).unwrap_or(i64::MAX),
        })
    }

    fn holds(self, second: i64) -> bool {
        (self.first..self.end).contains(&second)
    }
}

impl Cron {
    /// The expression with six fields, as the broker takes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first firing after that second since 1970. `None` when there is none within five years.
    pub fn after(&self, second: i64, zone: &TimeZone) -> Option<i64> {
        self.walk(second.checked_add(1)?, zone, |second, (_, ahead), stretch| second.saturating_add(ahead).min(stretch.end))
    }

    /// The last firing at or before that second since 1970. `None` when there is none within five years.
    pub fn until(&self, second: i64, zone: &TimeZone) -> Option<i64> {
        self.walk(second, zone, |second, (behind, _), stretch| second.saturating_sub(behind + 1).max(stretch.first.saturating_sub(1)))
    }

    /// Goes from `start` over everything that does not match. A step never leaves a stretch by more than a second, so nothing is stepped over.
    fn walk(&self, start: i64, zone: &TimeZone, step: impl Fn(i64, (i64, i64), Stretch) -> i64) -> Option<i64> {
        let mut second = start;
        let mut stretch = Stretch::around(second, zone)?;
        while (second - start).abs() <= HORIZON {
            if !stretch.holds(second) {
                stretch = Stretch::around(second, zone)?;
            }
            let local = stretch.offset.to_datetime(jiff::Timestamp::from_second(second).ok()?);
            match self.misfit(local) {
                None => return Some(second),
                Some(around) => second = step(second, around, stretch),
            }
        }
        None
    }

    /// How many seconds before this one, and from this one on, are known not to match either. `None` when it matches.
    fn misfit(&self, local: DateTime) -> Option<(i64, i64)> {
        let (minute, second) = (i64::from(local.minute()), i64::from(local.second()));
        let unit = if !self.months.has(local.month()) || !self.day(local) {
            (i64::from(local.hour()) * 3600 + minute * 60 + second, 86_400)
        } else if !self.hours.has(local.hour()) {
            (minute * 60 + second, 3600)
        } else if !self.minutes.has(local.minute()) {
            (second, 60)
        } else if !self.seconds.has(local.second()) {
            (0, 1)
        } else {
            return None;
        };
        Some((unit.0, unit.1 - unit.0))
    }

    fn day(&self, local: DateTime) -> bool {
        let (day, weekday) = (self.days.has(local.day()), self.weekdays.has(local.weekday().to_sunday_zero_offset()));
        if self.days.star || self.weekdays.star { day && weekday } else { day || weekday }
    }
}

#[cfg(test)]
#[path = "cron_tests.rs"]
mod tests;
