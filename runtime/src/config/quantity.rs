//! Durations and sizes as people write them: `30s`, `1h30m`, `64KiB`, or a plain number.
//!
//! Pure parsing and printing. Ranges are checked by the settings that use them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration or size that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: write {example}")]
pub struct ParseQuantityError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// A length of time. Written `250ms`, `30s`, `5m`, `1h30m`, `2d`, or as plain seconds (`30`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

impl Period {
    /// A period of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A period of whole milliseconds.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// As a standard duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    fn error(text: &str) -> ParseQuantityError {
        ParseQuantityError {
            text: text.to_owned(),
            what: "duration",
            example: "a number with ms, s, m, h or d (30s, 1h30m), or plain seconds",
        }
    }
}

impl From<Duration> for Period {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

const MILLIS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Period {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || Self::error(text);
        let mut rest = text.trim();
        if let Some(seconds) = parse_digits(rest) {
            return seconds.checked_mul(1_000).map(Self::from_millis).ok_or_else(error);
        }
        let mut total: u64 = 0;
        // Units come largest first and once each, so `5s1m` and `1s1s` are typing errors.
        let mut allowed = MILLIS.as_slice();
        while !rest.is_empty() {
            let (number, after) = split_number(rest).ok_or_else(error)?;
            let (unit, after) = split_unit(after);
            let at = allowed.iter().position(|(name, _)| *name == unit).ok_or_else(error)?;
            let (_, millis) = allowed.get(at).ok_or_else(error)?;
            total = number.checked_mul(*millis).and_then(|part| total.checked_add(part)).ok_or_else(error)?;
            allowed = allowed.get(at + 1..).unwrap_or_default();
            rest = after;
        }
        if text.trim().is_empty() {
            return Err(error());
        }
        Ok(Self::from_millis(total))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in MILLIS {
            if rest >= millis {
                write!(f, "{}{unit}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

/// A number of bytes. Written `64KiB`, `1MB`, `2GiB`, or as a plain number of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// A size in bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The size in bytes as a `usize`, capped at its maximum.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const SIZES: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

impl FromStr for ByteSize {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseQuantityError {
            text: text.to_owned(),
            what: "size",
            example: "a number with B, KiB, MiB, GiB, kB, MB or GB (64KiB), or plain bytes",
        };
        let (number, unit) = split_number(text.trim()).ok_or_else(error)?;
        let unit = unit.trim();
        let factor = if unit.is_empty() || unit.eq_ignore_ascii_case("b") {
            1
        } else {
            SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor).ok_or_else(error)?
        };
        number.checked_mul(factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in SIZES {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

fn parse_digits(text: &str) -> Option<u64> {
    // `u64::from_str` would also take a leading `+`.
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    text.parse().ok()
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// Accepts a string or a whole number that is not negative.
struct Visitor<T> {
    expecting: &'static str,
    from_number: fn(u64) -> T,
}

impl<T: FromStr<Err = ParseQuantityError>> de::Visitor<'_> for Visitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        Ok((self.from_number)(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let number = u64::try_from(number).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))?;
        Ok((self.from_number)(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor { expecting: "a duration such as \"30s\", or seconds", from_number: Period::from_secs })
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor { expecting: "a size such as \"64KiB\", or bytes", from_number: ByteSize::new })
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("30", 30_000),
            ("0", 0),
            ("250ms", 250),
            ("30s", 30_000),
            (" 5m ", 300_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
            ("1s500ms", 1_500),
        ] {
            assert_eq!(text.parse(), Ok(Period::from_millis(millis)), "{text:?}");
        }
    }

    #[test]
    fn a_duration_that_is_not_one_is_refused_with_an_example() {
        for text in [
            "",
            " ",
            "s",
            "30x",
            "-5s",
            "+5",
            "1.5s",
            "5s1m",
            "1s1s",
            "30 s",
            "1h30",
            "٣s",
            "99999999999999999999",
            "18446744073709551615s",
        ] {
            let error = text.parse::<Period>().unwrap_err().to_string();
            assert!(error.contains("30s"), "{text:?}: {error}");
            assert!(error.contains(text), "{text:?}: {error}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("65536", 65_536), ("64KiB", 65_536), ("64 kib", 65_536), ("1MB", 1_000_000), ("2GiB", 2 << 30), ("7B", 7)] {
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)), "{text:?}");
        }
    }

    #[test]
    fn a_size_that_is_not_one_is_refused_with_an_example() {
        for text in ["", "KiB", "64K", "-1", "1.5MiB", "1 2", "99999999TiB"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("64KiB"), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_period_is_read_back_as_it_was_printed(millis in 0..u64::MAX / 2) {
            let period = Period::from_millis(millis);
            prop_assert_eq!(period.to_string().parse(), Ok(period));
        }

        #[test]
        fn every_size_is_read_back_as_it_was_printed(bytes: u64) {
            let size = ByteSize::new(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".*") {
            let _ = text.parse::<Period>();
            let _ = text.parse::<ByteSize>();
        }
    }
}
