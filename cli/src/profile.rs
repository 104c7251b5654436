//! Profiles: named gateways with their keys, in `~/.config/muster/profiles.toml`. `muster up` writes the one named `local`.
//!
//! The file holds keys, so it is 0600, and replaced as a whole: a reader never sees half of it.

use std::{
    collections::BTreeMap,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use muster_runtime::env;
use serde::{Deserialize, Serialize};

/// The profile that `muster up` writes, and that is used when nothing else is said.
pub(crate) const LOCAL: &str = "local";

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profiles {
    /// By name.
    #[serde(default)]
    pub(crate) profiles: BTreeMap<String, Profile>,
}

/// One gateway.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// Where it is.
    pub(crate) url: String,
    /// The key to show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<String>,
    /// File with the certificates (PEM) that its one must be signed by; without it, the system's count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// Where `muster up` keeps its data, if it is one of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("url", &self.url).field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// The folder of a kind that the XDG base directory rules give: the variable if it is an absolute path, else the fallback below the home.
fn xdg(variable: &str, fallback: &str) -> anyhow::Result<PathBuf> {
    if let Some(folder) = env::var(variable)?.map(PathBuf::from).filter(|folder| folder.is_absolute()) {
        return Ok(folder.join("muster"));
    }
    match env::var("HOME")? {
        Some(home) => Ok(Path::new(&home).join(fallback).join("muster")),
        None => bail!("neither {variable} nor HOME is set, so there is no place for muster's files"),
    }
}

/// Where profiles are: `$XDG_CONFIG_HOME/muster/profiles.toml`, or below `~/.config`.
pub(crate) fn path() -> anyhow::Result<PathBuf> {
    Ok(xdg("XDG_CONFIG_HOME", ".config")?.join("profiles.toml"))
}

/// Where `muster up` keeps its data unless told otherwise: `$XDG_DATA_HOME/muster`, or below `~/.local/share`.
pub(crate) fn data_dir() -> anyhow::Result<PathBuf> {
    xdg("XDG_DATA_HOME", ".local/share")
}

impl Profiles {
    /// Reads the file; one that is not there is empty.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("can't read the profiles in {}", path.display())),
        };
        Self::parse(&text).with_context(|| format!("can't understand the profiles in {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // The message only: the rest of the error quotes the file, which holds keys.
        toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.message()))
    }

    /// Replaces the file.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        write_private(path, toml::to_string(self)?.as_bytes()).with_context(|| format!("can't write the profiles to {}", path.display()))
    }
}

/// Whether others on this machine can read a file.
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

/// Replaces a file by one that only its owner can read, in a folder made likewise if need be.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = folder.join(format!(".{name}.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&fresh, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn profiles_read_back_from_a_file_that_only_its_owner_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/profiles.toml");
        assert_eq!(Profiles::load(&path).unwrap(), Profiles::default());
        let local = Profile { url: "http://127.0.0.1:8080".into(), api_key: Some("mst_x".into()), ca: None, data_dir: Some("/d".into()) };
        let profiles = Profiles { profiles: [(LOCAL.to_owned(), local)].into() };
        profiles.save(&path).unwrap();
        profiles.save(&path).unwrap();
        assert_eq!(Profiles::load(&path).unwrap(), profiles);
        assert!(!is_open_to_others(&path) && !is_open_to_others(path.parent().unwrap()));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_typing_error_is_refused_without_showing_a_key() {
        let error = Profiles::parse("[profiles.a]\nurl = \"u\"\napi_kee = \"mst_secret\"\n").unwrap_err().to_string();
        assert!(error.contains("api_kee") && !error.contains("mst_secret"), "{error}");
    }

    #[test]
    fn a_profile_does_not_show_its_key_when_printed_for_debugging() {
        let profile = Profile { url: "u".into(), api_key: Some("mst_secret".into()), ca: None, data_dir: None };
        assert!(!format!("{profile:?}").contains("mst_secret"));
    }
}
