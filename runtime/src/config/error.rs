//! What can be wrong with settings, and the words for it.
//!
//! Every message names the layer, the key and what was wrong, in one line.

use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
    path::PathBuf,
};

/// Exit code of a process whose settings or flags are wrong (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// The defaults that are embedded in the binary.
    Defaults,
    /// The config file at this path.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// The flag of this name, with its dashes.
    Flag(String),
}

impl Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("defaults"),
            Self::File(path) => write!(f, "config file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong with a key; what [`super::Settings::check`] returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The dotted key.
    pub key: String,
    /// What is wrong and what is allowed, as a predicate: "must be between 1 and 50, but is 90".
    pub message: String,
}

impl Problem {
    /// A problem of a key.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

/// Checks that a value lies in a range.
///
/// # Errors
/// A [`Problem`] that names the range and the value.
pub fn in_range<T: PartialOrd + Display>(key: &str, value: T, range: RangeInclusive<T>) -> Result<(), Problem> {
    if range.contains(&value) {
        return Ok(());
    }
    let (low, high) = range.into_inner();
    Err(Problem::new(key, format!("must be between {low} and {high}, but is {value}")))
}

/// Checks that a value is at least that of another key.
///
/// # Errors
/// A [`Problem`] that names both keys and both values.
pub fn not_below<T: PartialOrd + Display>(key: &str, value: T, other_key: &str, other: T) -> Result<(), Problem> {
    if value >= other {
        return Ok(());
    }
    Err(Problem::new(key, format!("must not be below {other_key} ({other}), but is {value}")))
}

/// Settings that can't be used. The process exits with [`EXIT_CONFIG`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key's value is wrong, or the key is unknown.
    #[error("{layer}: {key}: {problem}")]
    Invalid {
        /// Where the value came from.
        layer: Layer,
        /// The dotted key.
        key: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// A layer as a whole can't be understood (TOML syntax, a value outside of any key).
    #[error("{layer}: {problem}")]
    Malformed {
        /// Which layer.
        layer: Layer,
        /// What is wrong, with line and column.
        problem: String,
    },
    /// The config file can't be read.
    #[error("can't read config file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An environment variable is not text.
    #[error(transparent)]
    Environment(#[from] crate::env::NotUnicode),
}

impl ConfigError {
    /// A [`ConfigError`] for a [`Problem`] that was found outside of [`super::load`].
    #[must_use]
    pub fn from_problem(layer: Layer, problem: Problem) -> Self {
        Self::Invalid { layer, key: problem.key, problem: problem.message }
    }

    /// Turns an error of serde's into one with its key. `at` is the key that was being set, if known.
    pub(crate) fn from_serde(layer: Layer, at: Option<&str>, error: &toml::de::Error) -> Self {
        let problem = one_line(error.message());
        // Errors of a `toml::Value` say where they are only in their Display: "…\nin `a.b`\n".
        let found = error.to_string().lines().rev().find_map(|line| Some(line.strip_prefix("in `")?.strip_suffix('`')?.to_owned()));
        // An unknown field is an error of the table around it: name the field itself.
        let unknown = error.message().strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        let key = match (found, unknown) {
            (Some(table), Some(field)) if !ends_with_key(&table, field) => Some(format!("{table}.{field}")),
            (Some(found), _) => Some(found),
            (None, Some(field)) => Some(at.unwrap_or(field).to_owned()),
            (None, None) => at.map(str::to_owned),
        };
        match key {
            Some(key) => Self::Invalid { layer, key, problem },
            None => Self::Malformed { layer, problem },
        }
    }
}

fn ends_with_key(path: &str, key: &str) -> bool {
    path.rsplit('.').next() == Some(key)
}

pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
