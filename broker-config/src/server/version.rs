//! The oldest server that we run on.

pub use muster_schemas::topology::MIN_SERVER_VERSION;

/// A server is too old, or says a version that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Too old.
    #[error("this is nats-server {have}; Muster needs {MIN_SERVER_VERSION} or newer")]
    TooOld {
        /// What the server says.
        have: String,
    },
    /// Not a version.
    #[error("`{have}` is no version of nats-server; Muster needs {MIN_SERVER_VERSION} or newer")]
    Unknown {
        /// What the server says.
        have: String,
    },
}

/// Checks what a server says of itself (`version` in its INFO, or the last word of `nats-server --version`) against
/// [`MIN_SERVER_VERSION`].
///
/// # Errors
/// [`VersionError`], whose message names both versions. A pre-release of the oldest version is too old.
pub fn check_version(have: &str) -> Result<(), VersionError> {
    let (Some(given), Some(least)) = (parse(have), parse(MIN_SERVER_VERSION)) else {
        return Err(VersionError::Unknown { have: have.chars().take(40).flat_map(char::escape_debug).collect() });
    };
    if given < least { Err(VersionError::TooOld { have: have.to_owned() }) } else { Ok(()) }
}

/// Major, minor, patch, and whether it is a release rather than a pre-release.
fn parse(text: &str) -> Option<(u32, u32, u32, bool)> {
    let text = text.trim().trim_start_matches('v');
    let (numbers, release) = match text.split_once('-') {
        Some((numbers, _)) => (numbers, false),
        None => (text, true),
    };
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some((major, minor, patch, release))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn versions_compare_by_number_and_the_error_names_both() {
        for good in ["2.15.1", "v2.15.1", "2.15.10", "2.16.0-RC.1", "3.0.0"] {
            check_version(good).unwrap();
        }
        for old in ["2.15.0", "2.9.25", "2.15.1-RC.2", "1.99.99"] {
            let error = check_version(old).unwrap_err().to_string();
            assert!(error.contains(old) && error.contains(MIN_SERVER_VERSION), "{error}");
        }
        for bad in ["", "2.15", "2.15.1.1", "latest", "2.x.1"] {
            assert!(matches!(check_version(bad), Err(VersionError::Unknown { .. })), "{bad}");
        }
    }
}
