//! Where a usable `nats-server` is.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::{
    fetch::{self, FETCHED_VERSION, FetchError},
    version::{VersionError, check_version},
};

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// The binary that somebody has named (`NATS_SERVER`): this one and no other.
    pub named: Option<PathBuf>,
    /// The search path (`PATH`).
    pub path: Option<OsString>,
    /// The user's directory for caches (`XDG_CACHE_HOME`, or `.cache` in the home directory). Without one nothing is fetched.
    pub cache: Option<PathBuf>,
}

impl Places {
    /// As the process's environment says.
    #[allow(
        clippy::disallowed_methods,
        reason = "this crate does not depend on the runtime, whose `env` reads the environment for services"
    )]
    pub fn from_env() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let cache = var("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            named: var("NATS_SERVER").map(PathBuf::from),
            path: var("PATH"),
            cache: cache.or_else(|| Some(PathBuf::from(var("HOME")?).join(".cache"))),
        }
    }

    /// Where a fetched binary of [`FETCHED_VERSION`] is, or will be.
    pub fn cached(&self) -> Option<PathBuf> {
        Some(self.cache.as_ref()?.join("muster/nats-server").join(FETCHED_VERSION).join("nats-server"))
    }
}

/// Why there is no usable `nats-server`.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The named binary cannot be used; no other is tried.
    #[error("NATS_SERVER is {}, which cannot be used", path.display())]
    Named {
        /// The binary.
        path: PathBuf,
        /// Why not.
        #[source]
        source: UnusableError,
    },
    /// None was found and none could be fetched.
    #[error("no nats-server was found, and it could not be fetched; install it, or set NATS_SERVER to its path")]
    Fetch(#[from] FetchError),
}

/// Why a binary cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableError {
    /// It does not run.
    #[error("it does not run")]
    Run(#[source] std::io::Error),
    /// It runs, but it is another program.
    #[error("it is not a nats-server: `--version` says `{0}`")]
    Other(String),
    /// It is too old.
    #[error(transparent)]
    Version(#[from] VersionError),
}

/// Finds a usable server: the named one, or the first in the search path, or the one fetched earlier, or one fetched now (a few MB, with
/// one line on standard error).
///
/// A server in the search path that is too old is passed over, with a warning.
///
/// # Errors
/// See [`FindError`].
pub async fn find_binary(places: &Places) -> Result<PathBuf, FindError> {
    if let Some(path) = &places.named {
        return match check_binary(path).await {
            Ok(()) => Ok(path.clone()),
            Err(source) => Err(FindError::Named { path: path.clone(), source }),
        };
    }
    for dir in places.path.iter().flat_map(std::env::split_paths) {
        let path = dir.join("nats-server");
        if !path.is_absolute() || !path.is_file() {
            continue;
        }
        match check_binary(&path).await {
            Ok(()) => return Ok(path),
            Err(error) => tracing::warn!(path = %path.display(), error = %error, "passing over this nats-server"),
        }
    }
    Ok(fetch::fetch(places).await?)
}

/// Whether a binary is a nats-server that is new enough.
pub(super) async fn check_binary(path: &Path) -> Result<(), UnusableError> {
    let output = Command::new(path).arg("--version").kill_on_drop(true).output().await.map_err(UnusableError::Run)?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().strip_prefix("nats-server:") {
        Some(version) => Ok(check_version(version.trim())?),
        None => Err(UnusableError::Other(text.trim().chars().take(80).flat_map(char::escape_debug).collect())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::fs;

    use super::*;

    fn fake(dir: &Path, says: &str) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        let path = dir.join("nats-server");
        // Written by another process: a child of a test beside this one could inherit the open file, and it would be "busy".
        let script = format!("#!/bin/sh\necho '{says}'\n");
        let write = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        assert!(std::process::Command::new("sh").args(["-c", write]).arg(&path).arg(script).status().unwrap().success());
        path
    }

    #[tokio::test]
    async fn the_named_binary_is_taken_or_named_in_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let good = fake(&dir.path().join("good"), "nats-server: v2.15.1");
        let places = Places { named: Some(good.clone()), ..Places::default() };
        assert_eq!(find_binary(&places).await.unwrap(), good);
        for (name, says, expect) in [("old", "nats-server: v2.10.0", "2.15.1"), ("other", "hello", "hello")] {
            let path = fake(&dir.path().join(name), says);
            let error = find_binary(&Places { named: Some(path.clone()), ..places.clone() }).await.unwrap_err();
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(expect), "{source}");
        }
        let missing = dir.path().join("missing");
        let error = find_binary(&Places { named: Some(missing), ..places }).await.unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }

    #[tokio::test]
    async fn a_server_in_the_search_path_that_is_too_old_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        fake(&dir.path().join("old"), "nats-server: v2.9.0");
        let good = fake(&dir.path().join("good"), "nats-server: v2.16.0");
        let path = std::env::join_paths([dir.path().join("old"), dir.path().join("good")]).unwrap();
        assert_eq!(find_binary(&Places { path: Some(path), ..Places::default() }).await.unwrap(), good);
    }

    #[tokio::test]
    async fn a_server_that_was_fetched_earlier_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { cache: Some(dir.path().to_owned()), ..Places::default() };
        let cached = fake(places.cached().unwrap().parent().unwrap(), "nats-server: v2.15.1");
        assert_eq!(find_binary(&places).await.unwrap(), cached);
    }

    #[tokio::test]
    async fn without_a_cache_nothing_is_fetched() {
        let error = find_binary(&Places::default()).await.unwrap_err();
        assert!(matches!(error, FindError::Fetch(FetchError::NoCache)), "{error}");
    }
}
