//! What the settings give this agent to register with: an API key, a join token, or files that hold them, read anew each time.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use muster_runtime::config::Secret;

use crate::config::Config;

/// Longer than any key or token, in bytes.
const LIMIT: u64 = 512;

/// A key or token can't be used. It never shows what was read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file that should hold it.
    #[error("can't read the {what} from {path}")]
    File {
        /// Which of the two.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What it looks like.
    #[error("the {what} can't be one: it is {problem}")]
    Form {
        /// Which of the two.
        what: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// What there is to register with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) key: Option<Secret>,
    pub(crate) token: Option<Secret>,
}

impl Credentials {
    /// Reads what the settings name.
    pub(crate) fn read(config: &Config) -> Result<Self, CredentialError> {
        Ok(Self { key: key(config)?, token: token(config)? })
    }

    /// As [`Credentials::read`], for an agent that has an identity: a file that was taken away after the first start is no error.
    pub(crate) fn read_if_there(config: &Config) -> Self {
        let there = |read: Result<Option<Secret>, CredentialError>| match read {
            Ok(secret) => secret,
            Err(CredentialError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(error = %muster_runtime::process::chain(&error.into()), "going on without it");
                None
            }
        };
        Self { key: there(key(config)), token: there(token(config)) }
    }

    /// Those of them that can be read now, without a word about the other.
    pub(crate) fn readable(config: &Config) -> Self {
        Self { key: key(config).unwrap_or_default(), token: token(config).unwrap_or_default() }
    }
}

fn key(config: &Config) -> Result<Option<Secret>, CredentialError> {
    one("API key", config.api_key.as_ref(), config.api_key_file.as_deref())
}

fn token(config: &Config) -> Result<Option<Secret>, CredentialError> {
    one("join token", config.join_token.as_ref(), config.join_token_file.as_deref())
}

fn one(what: &'static str, given: Option<&Secret>, file: Option<&Path>) -> Result<Option<Secret>, CredentialError> {
    let text = match (file, given) {
        (Some(path), _) => {
            let failed = |source| CredentialError::File { what, path: path.to_owned(), source };
            let mut bytes = Vec::new();
            File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes)).map_err(failed)?;
            Secret::new(String::from_utf8_lossy(&bytes))
        }
        (None, Some(secret)) => secret.clone(),
        (None, None) => return Ok(None),
    };
    let text = text.expose().trim();
    let form = |problem| Err(CredentialError::Form { what, problem });
    if text.is_empty() {
        return form("empty");
    }
    if text.len() as u64 >= LIMIT {
        return form("longer than 511 bytes");
    }
    // It travels in a header.
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return form("more than one line or word, or not of plain ASCII letters");
    }
    Ok(Some(Secret::new(text)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn what_can_be_no_key_or_token_is_refused_in_words_that_do_not_show_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let long = "hunter2".repeat(100_000);
        for (text, said) in [
            ("", "empty"),
            (" \n", "empty"),
            ("hunter2\nX-Role: admin", "one line"),
            ("hunter2\u{0}", "plain"),
            ("hünter2", "plain"),
            (&long, "511"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = one("join token", None, Some(&file)).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("join token") && !error.contains("nter2"), "{error}");
        }
        std::fs::write(&file, "mst_join_x\n").unwrap();
        assert_eq!(one("join token", None, Some(&file)).unwrap().unwrap().expose(), "mst_join_x");
        let error = one("API key", None, Some(&dir.path().join("none"))).unwrap_err().to_string();
        assert!(error.contains("API key") && error.contains("none"), "{error}");
    }
}
