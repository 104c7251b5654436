//! Texts of the command line: parsed at the edge, and durations, ages and sizes as people read them.

use std::{collections::BTreeMap, io::Read as _, str::FromStr, time::Duration};

use anyhow::{Context as _, bail};
use muster_runtime::config::{ParseQuantityError, Period};
use muster_schemas::{job, records::Role, time::Timestamp, topology::RESULT_AGE_MAX};
use serde_json::Value;

/// The longest line of output that is shown in a line with other things, in characters.
const LINE_MAX: usize = 120;

/// A word that an enumeration of the interface knows.
pub(crate) fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

/// A time as people give it: how long ago, or when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long ago.
    Ago(Duration),
    /// Then.
    At(Timestamp),
}

impl Moment {
    pub(crate) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(ago) => now - ago,
            Self::At(at) => at,
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ago = text.parse::<Period>().map(|period| Self::Ago(period.get()));
        ago.or_else(|_| text.parse().map(Self::At))
            .map_err(|_| "write how long ago, such as 1h or 7d, or a time such as 2026-08-01T12:00:00Z".into())
    }
}

/// `key=value`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as key=value".to_owned()),
    }
}

/// How long a result is kept.
pub(crate) fn result_ttl(text: &str) -> Result<Period, String> {
    let period: Period = text.parse().map_err(|error: ParseQuantityError| error.to_string())?;
    // A fraction of a second is rounded up.
    let fits = !period.get().is_zero() && period.get() <= RESULT_AGE_MAX;
    if fits { Ok(period) } else { Err("it takes 1s to 30d".to_owned()) }
}

/// A role by its word.
pub(crate) fn role(text: &str) -> Result<Role, String> {
    [Role::Viewer, Role::Operator, Role::Admin]
        .into_iter()
        .find(|role| role.to_string() == text)
        .ok_or_else(|| "it takes viewer, operator or admin".to_owned())
}

/// A service's name: it ends up in the broker's monitoring and in file names.
pub(crate) fn service_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(plain);
    if fits { Ok(text.to_owned()) } else { Err("it takes 1 to 64 of A-Z, a-z, 0-9, _ and -".to_owned()) }
}

/// Params of a job: JSON itself, `@file`, or `-` for standard input. No more is read than a job may hold.
pub(crate) fn params(text: &str) -> anyhow::Result<Value> {
    let limit = u64::try_from(job::LIMIT).unwrap_or(u64::MAX);
    let mut read = String::new();
    let (what, json) = if text == "-" {
        std::io::stdin().lock().take(limit + 1).read_to_string(&mut read).context("can't read the params from standard input")?;
        ("standard input", read.as_str())
    } else if let Some(path) = text.strip_prefix('@') {
        let file = std::fs::File::open(path).with_context(|| format!("can't read the params in {path}"))?;
        file.take(limit + 1).read_to_string(&mut read).with_context(|| format!("can't read the params in {path}"))?;
        (path, read.as_str())
    } else {
        ("--params", text)
    };
    if json.len() > job::LIMIT {
        bail!("the params in {what} are larger than a job may be ({} bytes)", job::LIMIT);
    }
    let value: Value = serde_json::from_str(json).with_context(|| format!("the params in {what} are not JSON"))?;
    if !value.is_object() {
        bail!("the params in {what} must be a JSON object, such as {{\"key\": \"value\"}}");
    }
    Ok(value)
}

/// One param of a job: `name=text`, or `name:=` and JSON.
pub(crate) fn param(text: &str) -> Result<(String, Value), String> {
    let form = || "write NAME=TEXT, or NAME:=JSON for what is no text".to_owned();
    let (name, value) = text.split_once('=').ok_or_else(form)?;
    let (name, value) = match name.strip_suffix(':') {
        None => (name, Value::from(value)),
        Some(name) => (name, serde_json::from_str(value).map_err(|error| format!("`{value}` is no JSON: {error}; {}", form()))?),
    };
    if name.is_empty() { Err(form()) } else { Ok((name.to_owned(), value)) }
}

/// A duration with three digits at most: `850 µs`, `3.2 ms`, `12 s`, `2 h 5 min`.
pub(crate) fn duration(duration: Duration) -> String {
    let (micros, seconds) = (duration.as_micros(), duration.as_secs());
    let short = |value: f64, unit: &str| if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") };
    if micros < 1000 {
        format!("{micros} µs")
    } else if micros < 999_500 {
        short(duration.as_secs_f64() * 1e3, "ms")
    } else if seconds < 60 {
        short(duration.as_secs_f64(), "s")
    } else if seconds < 3600 {
        format!("{} min {} s", seconds / 60, seconds % 60)
    } else if seconds < 48 * 3600 {
        format!("{} h {} min", seconds / 3600, seconds % 3600 / 60)
    } else {
        format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600)
    }
}

/// How long ago.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", duration(Duration::from_secs(now.since(at).as_secs().max(1))))
}

/// How long until then: at least a second, as [`ago`].
pub(crate) fn until(at: Timestamp, now: Timestamp) -> String {
    duration(Duration::from_secs(at.since(now).as_secs().max(1)))
}

/// A time to the second: nobody reads more of one to come.
pub(crate) fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_secs(at.secs())
}

/// Bytes: `512 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    // Whole numbers up to 9999 of a unit: no column needs more than that.
    for next in units {
        if value < 10_000 {
            break;
        }
        (value, unit) = (value / 1024, *next);
    }
    format!("{value} {unit}")
}

/// Labels in one cell.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// The last line of an output with anything on it, cut after 120 characters.
pub(crate) fn last_line(output: &str) -> Option<String> {
    let line = output.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(match line.char_indices().nth(LINE_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line.to_owned(),
    })
}

/// A text from outside, safe for a terminal: control characters shown, not obeyed.
pub(crate) fn safe(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() && c != '\n' { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_label_has_a_key_and_may_have_an_empty_value() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a="), Ok(("a".into(), String::new())));
        assert!(label("a").is_err() && label("=b").is_err());
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago_it_was() {
        let now = Timestamp::from_secs(1_800_000_000);
        let at = |text: &str| text.parse::<Moment>().map(|moment| moment.at(now).secs() - now.secs());
        assert_eq!([at("1h30m"), at("90"), at("2027-01-15T08:00:07Z")], [Ok(-5400), Ok(-90), Ok(7)]);
        for wrong in ["", "yesterday", "1w", "2027-01-15"] {
            assert!(at(wrong).unwrap_err().contains("1h"), "{wrong}");
        }
    }

    #[test]
    fn a_result_is_kept_for_a_second_to_thirty_days() {
        for fits in ["1s", "1", "90m", "30d"] {
            assert!(result_ttl(fits).is_ok(), "{fits}");
        }
        for wrong in ["0", "0s", "31d", "a week", "-1"] {
            assert!(result_ttl(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn params_come_from_the_command_line_or_a_file_and_are_an_object() {
        assert_eq!(params(r#"{"a": 1}"#).unwrap(), serde_json::json!({"a": 1}));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, r#"{{"b": 2}}"#).unwrap();
        let at = format!("@{}", file.path().display());
        assert_eq!(params(&at).unwrap(), serde_json::json!({"b": 2}));
        for wrong in ["", "[]", "{", "1", "@/nonexistent"] {
            assert!(params(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn params_larger_than_a_job_are_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{}", "x".repeat(job::LIMIT + 10)).unwrap();
        let error = params(&format!("@{}", file.path().display())).unwrap_err().to_string();
        assert!(error.contains("larger"), "{error}");
    }

    #[test]
    fn durations_have_few_digits() {
        for (micros, text) in [
            (850, "850 µs"),
            (3_240, "3.2 ms"),
            (999_000, "999 ms"),
            (999_900, "1.0 s"),
            (12_000_000, "12 s"),
            (65_000_000, "1 min 5 s"),
            (7_500_000_000, "2 h 5 min"),
            (200_000_000_000, "2 d 7 h"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn sizes_are_whole_numbers_of_a_fitting_unit() {
        assert_eq!([bytes(0), bytes(9_999), bytes(10_240), bytes(3 << 30)], ["0 B", "9999 B", "10 KiB", "3072 MiB"]);
    }

    #[test]
    fn the_last_line_is_one_with_something_on_it_and_not_too_long() {
        assert_eq!(last_line("one\n two \n\n").as_deref(), Some("two"));
        assert_eq!(last_line(" \n"), None);
        assert_eq!(last_line(&"ä".repeat(500)).unwrap().chars().count(), LINE_MAX + 1);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(safe("a\u{1b}[31mb\r\nc"), "a\\u{1b}[31mb\\r\nc");
    }
}
