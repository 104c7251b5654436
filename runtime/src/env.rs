//! The process environment: the only place that reads it (besides clap's `env` attributes).
//!
//! Never sets variables (that is unsound with threads) and never interprets them: names belong to
//! the settings of each process, see [`crate::config`].

/// An environment variable that is set but is not valid UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {name} is not valid UTF-8")]
pub struct NotUnicode {
    /// The variable's name.
    pub name: String,
}

/// The value of an environment variable; `None` when it is unset or empty.
///
/// Empty counts as unset, because `docker-compose` passes `${NAME:-}` as an empty string.
///
/// # Errors
/// [`NotUnicode`] when the value is not valid UTF-8.
pub fn var(name: &str) -> Result<Option<String>, NotUnicode> {
    Ok(var_or_empty(name)?.filter(|value| !value.is_empty()))
}

/// As [`var`], but an empty value is one: for lists, where it means none.
///
/// # Errors
/// [`NotUnicode`] when the value is not valid UTF-8.
#[allow(clippy::disallowed_methods, reason = "this module is the one home of the process environment")]
pub fn var_or_empty(name: &str) -> Result<Option<String>, NotUnicode> {
    match std::env::var_os(name).map(std::ffi::OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(_)) => Err(NotUnicode { name: name.to_owned() }),
    }
}
