//! What is mounted into a container: named volumes, and folders of the host beneath those that the operator named.
//!
//! The rule holds twice: on the words, before anything starts, and on what they lead to, just before the container is made, since a link on the
//! way may lead out.

use std::{
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use bollard::models::{Mount as EngineMount, MountType};
use muster_executor::fields::shown;
use serde::Serialize;

use super::name;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Mount {
    pub(crate) source: Source,
    /// A path in the container.
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// Where what is mounted comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) enum Source {
    /// A volume that has a name; the engine makes it where there is none.
    Volume(String),
    /// A volume that ends with the container.
    Anonymous,
    /// A folder or file of the host.
    Bind(PathBuf),
    /// Memory.
    Tmpfs,
}

impl FromStr for Mount {
    type Err = String;

    /// `[source:]target[:ro|:rw]`: a source that begins with `/` is a folder of the host, any other one a volume.
    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, read_only) = match text.rsplit_once(':') {
            Some((rest, "ro")) => (rest, true),
            Some((rest, "rw")) => (rest, false),
            _ => (text, false),
        };
        let (source, to) = match rest.split_once(':') {
            None => (Source::Anonymous, rest),
            Some((from, to)) if from.starts_with(['/', '.', '~']) => (Source::Bind(bind(from)?), to),
            Some((from, to)) => (Source::Volume(name(from)?), to),
        };
        Ok(Self { source, target: target(to)?, read_only })
    }
}

/// A folder of the host, as it is written.
pub(crate) fn bind(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() || path.components().any(|part| matches!(part, Component::ParentDir)) || text.contains('\0') {
        return Err(format!("`{}`: a folder of the host must be an absolute path without `..`", shown(text)));
    }
    Ok(path.to_owned())
}

/// A path in the container.
pub(crate) fn target(text: &str) -> Result<String, String> {
    let path = Path::new(text);
    let is_odd = !path.is_absolute() || path == Path::new("/") || path.components().any(|part| matches!(part, Component::ParentDir));
    if is_odd || text.contains([':', '\0']) {
        return Err(format!("`{}` is not an absolute path in the container", shown(text)));
    }
    Ok(text.to_owned())
}

impl Mount {
    /// Whether the operator allows it, as far as words go.
    pub(crate) fn allowed(&self, roots: &[PathBuf]) -> Result<(), String> {
        let Source::Bind(path) = &self.source else { return Ok(()) };
        match roots.iter().any(|root| path.starts_with(root)) {
            true => Ok(()),
            false if roots.is_empty() => {
                Err(format!("`{}`: folders of the host are refused (DOCKER_BIND_ROOTS names none)", path.display()))
            }
            false => Err(format!("`{}` is not beneath a folder that DOCKER_BIND_ROOTS names", path.display())),
        }
    }

    /// For the engine. Blocks on the disk for a folder of the host.
    ///
    /// # Errors
    /// When that folder is not there, or leads out of those that are allowed.
    pub(crate) fn resolved(&self, roots: &[PathBuf]) -> Result<EngineMount, String> {
        let (typ, source) = match &self.source {
            Source::Volume(name) => (MountType::VOLUME, Some(name.clone())),
            Source::Anonymous => (MountType::VOLUME, None),
            Source::Tmpfs => (MountType::TMPFS, None),
            Source::Bind(path) => {
                self.allowed(roots)?;
                let real = path.canonicalize().map_err(|error| format!("`{}`: {error}", path.display()))?;
                let beneath = |root: &PathBuf| root.canonicalize().is_ok_and(|root| real.starts_with(root));
                if !roots.iter().any(beneath) {
                    let problem = "leads out of the folders that DOCKER_BIND_ROOTS names";
                    return Err(format!("`{}` {problem}", path.display()));
                }
                (MountType::BIND, Some(real.to_string_lossy().into_owned()))
            }
        };
        Ok(EngineMount {
            target: Some(self.target.clone()),
            source,
            typ: Some(typ),
            read_only: Some(self.read_only),
            ..EngineMount::default()
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn mount(text: &str) -> Mount {
        text.parse().unwrap()
    }

    #[test]
    fn mounts_are_volumes_or_folders() {
        assert_eq!(mount("data:/var/data").source, Source::Volume("data".to_owned()));
        assert_eq!(mount("/var/data").source, Source::Anonymous);
        let bind = mount("/srv/a:/a:ro");
        assert_eq!((bind.source, bind.target.as_str(), bind.read_only), (Source::Bind("/srv/a".into()), "/a", true));
        for text in ["", "data", "data:rel", "./x:/x", "~/x:/x", "/a/../etc:/x", "/a:/x:z", "a b:/x", "/a:/x/../y", "data:/", "a:/x:ro:rw"]
        {
            assert!(text.parse::<Mount>().is_err(), "{text}");
        }
    }

    #[test]
    fn folders_of_the_host_are_mounted_only_beneath_those_that_are_allowed() {
        let roots = ["/srv/jobs".into()];
        assert!(mount("/srv/jobs/1:/x").allowed(&roots).is_ok());
        assert!(mount("/srv/jobs:/x").allowed(&roots).is_ok());
        assert!(mount("data:/x").allowed(&[]).is_ok());
        for text in ["/srv/jobsx:/x", "/srv:/x", "/:/x", "/var/run/docker.sock:/x"] {
            assert!(mount(text).allowed(&roots).is_err(), "{text}");
        }
        assert!(mount("/srv/jobs/1:/x").allowed(&[]).unwrap_err().contains("DOCKER_BIND_ROOTS"));
    }

    #[test]
    fn a_link_does_not_lead_out() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
        std::os::unix::fs::symlink(root.join("in"), root.join("link")).unwrap();
        let roots = [root.clone()];
        let resolved = |name: &str| mount(&format!("{}:/x", root.join(name).display())).resolved(&roots);
        assert!(resolved("in").is_ok());
        assert_eq!(resolved("link").unwrap().source, resolved("in").unwrap().source);
        assert!(resolved("out").unwrap_err().contains("leads out"));
        assert!(resolved("none").is_err());
    }
}
