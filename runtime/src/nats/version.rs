//! Which servers we work with.

use async_nats::ServerInfo;

pub use muster_schemas::topology::MIN_SERVER_VERSION;

/// The server is too old, or says no version that can be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nats-server is {found:?}, but {minimum} or newer is needed: upgrade it")]
pub struct VersionError {
    /// What the server says.
    pub found: String,
    /// What is needed.
    pub minimum: String,
}

/// Checks a server's version from its own INFO.
///
/// # Errors
/// [`VersionError`] when it is older than `minimum`, or can't be compared.
pub fn check_server_version(info: &ServerInfo, minimum: &str) -> Result<(), VersionError> {
    match (parse(&info.version), parse(minimum)) {
        (Some(found), Some(needed)) if found >= needed => Ok(()),
        _ => Err(VersionError { found: info.version.clone(), minimum: minimum.to_owned() }),
    }
}

/// Major, minor, patch, and whether it is a release: `2.15.1-RC.2` comes before `2.15.1`.
fn parse(version: &str) -> Option<(u64, u64, u64, bool)> {
    let version = version.trim_start_matches('v');
    // Build metadata (`+build`) does not count.
    let version = version.split('+').next()?;
    let (numbers, release) = match version.split_once('-') {
        Some((numbers, _)) => (numbers, false),
        None => (version, true),
    };
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    let parsed = (numbers.next()??, numbers.next()??, numbers.next()??, release);
    numbers.next().is_none().then_some(parsed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn check(version: &str) -> Result<(), VersionError> {
        let info = ServerInfo { version: version.to_owned(), ..ServerInfo::default() };
        check_server_version(&info, MIN_SERVER_VERSION)
    }

    #[test]
    fn the_minimum_and_everything_newer_is_accepted() {
        for version in ["2.15.1", "v2.15.1", "2.15.2", "2.16.0-dev", "2.100.0", "3.0.0", "2.15.1+build"] {
            assert!(check(version).is_ok(), "{version}");
        }
    }

    #[test]
    fn an_older_server_is_refused_with_both_versions() {
        for version in ["2.15.0", "2.14.5", "2.9.25", "1.99.99", "2.15.1-RC.2", "", "2.15", "x.y.z"] {
            let error = check(version).unwrap_err().to_string();
            assert!(error.contains(version) && error.contains("2.15.1"), "{error}");
        }
    }
}
