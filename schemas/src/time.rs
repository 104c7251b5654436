//! Points in time as they travel: RFC 3339 in UTC, microseconds. The one home of the system clock.
//!
//! Pure code gets `now` as an argument; only shells call [`Timestamp::now`].

use std::time::Duration;

use ::time::{OffsetDateTime, format_description::well_known::Rfc3339};
use serde::{Deserialize, Serialize};

/// A point in time, in UTC, to the microsecond. Written as RFC 3339 (`2026-01-02T03:04:05.000006Z`) in every encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The earliest and the latest instants that RFC 3339 can write with four digits of year, in microseconds since 1970.
const RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;

/// Why a text is not a [`Timestamp`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a time in RFC 3339, such as 2026-01-02T03:04:05Z")]
pub struct TimeError {
    given: String,
}

impl Timestamp {
    /// The system clock's reading now.
    #[allow(clippy::disallowed_methods, reason = "this is the one home of the system clock")]
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// From microseconds since 1970-01-01 UTC; what lies outside the years 0 to 9999 is clamped to them.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(*RANGE.start(), *RANGE.end()))
    }

    /// From nanoseconds since 1970-01-01 UTC (the broker's unit), rounded down.
    pub fn from_nanos(nanos: i64) -> Self {
        Self::from_micros(nanos.div_euclid(1000))
    }

    /// From whole seconds since 1970-01-01 UTC (the unit of JWT claims).
    pub fn from_secs(secs: i64) -> Self {
        Self::from_micros(secs.saturating_mul(1_000_000))
    }

    /// Microseconds since 1970-01-01 UTC.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970-01-01 UTC, rounded down.
    pub fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The time between the two, whichever is the earlier.
    pub fn apart(self, other: Self) -> Duration {
        self.since(other).max(other.since(self))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self::from_micros(self.0.saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        f.write_str(&at.format(&Rfc3339).unwrap_or_default())
    }
}

impl std::str::FromStr for Timestamp {
    type Err = TimeError;
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let bad = || TimeError { given: text.chars().take(64).collect() };
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| bad())?;
        let micros = i64::try_from(at.unix_timestamp_nanos().div_euclid(1000)).map_err(|_| bad())?;
        if RANGE.contains(&micros) { Ok(Self(micros)) } else { Err(bad()) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "date-time", "description": "RFC 3339, UTC"})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_is_written_in_utc_with_a_z() {
        let at: Timestamp = "2026-01-02T05:04:05.000006+02:00".parse().unwrap();
        assert_eq!(at.to_string(), "2026-01-02T03:04:05.000006Z");
    }

    #[test]
    fn what_is_not_rfc_3339_is_refused_with_an_example() {
        for text in ["", "now", "2026-01-02", "2026-13-02T03:04:05Z", "99999-01-02T03:04:05Z"] {
            let error = text.parse::<Timestamp>().unwrap_err().to_string();
            assert!(error.contains("RFC 3339"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_round_trips(micros in any::<i64>()) {
            let at = Timestamp::from_micros(micros);
            prop_assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
