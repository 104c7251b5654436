//! Which files of the plugin folder are plugins: those that nobody but root and the agent's own user can have put there or changed.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use muster_executor::Executor;
use muster_schemas::names::ExecutorName;

use super::{
    super::process::Host,
    Plugin,
    describe::{self, BYTES},
};

/// What a plugin folder holds.
#[derive(Debug, Clone, Default)]
pub struct Plugins {
    /// By name: the program, or why it is refused.
    found: BTreeMap<String, Result<PathBuf, String>>,
}

/// A plugin that was asked for can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The folder itself.
    #[error("the plugin folder {folder} can't be used: {problem}")]
    Folder {
        /// Where it is.
        folder: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A plugin.
    #[error("plugin `{name}`: {problem}")]
    Plugin {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

impl Plugins {
    /// Looks into the folder. It starts nothing.
    ///
    /// # Errors
    /// When the folder can't be read, or somebody else could put something there.
    pub fn look(folder: &Path, builtin: &[&str]) -> Result<Self, Refused> {
        let refused = |problem: String| Refused::Folder { folder: folder.to_owned(), problem };
        let real = folder.canonicalize().map_err(|error| refused(error.to_string()))?;
        for place in real.ancestors() {
            let found = fs::metadata(place).map_err(|error| refused(format!("{}: {error}", place.display())))?;
            // Whoever may write a folder above may put another one in this one's place, unless it is sticky.
            safe(&found, place != real).map_err(|problem| refused(format!("{} {problem}", place.display())))?;
        }
        let entries = fs::read_dir(&real).map_err(|error| refused(error.to_string()))?;
        let mut found = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(|error| refused(error.to_string()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let program = judge(&name, &entry.path(), &real, builtin);
            if let Err(problem) = &program {
                tracing::warn!(plugin = name.escape_debug().to_string(), problem, "this file of the plugin folder is no plugin");
            }
            found.insert(name, program);
        }
        Ok(Self { found })
    }

    /// The names of those that could be used.
    pub(crate) fn usable(&self) -> impl Iterator<Item = &str> {
        self.found.iter().filter(|(_, program)| program.is_ok()).map(|(name, _)| name.as_str())
    }

    /// Makes the named plugins, asking each for its description. One that nobody named is never started.
    ///
    /// # Errors
    /// The first that is not there, is refused, or does not describe itself; of those that `all` stands for, such a one is only left out.
    pub(crate) async fn make(&self, named: &[String], all: bool, host: &Arc<Host>) -> Result<Vec<Arc<dyn Executor>>, Refused> {
        let mut made: Vec<Arc<dyn Executor>> = Vec::new();
        let mut left = BYTES;
        let others = self.usable().filter(|name| all && !named.iter().any(|named| named == name));
        for (name, must) in named.iter().map(|name| (name.as_str(), true)).chain(others.map(|name| (name, false))) {
            match self.one(name, host, &mut left).await {
                Ok(plugin) => made.push(plugin),
                Err(problem) if must => return Err(Refused::Plugin { name: name.to_owned(), problem }),
                Err(problem) => tracing::warn!(plugin = name, problem, "this plugin is off"),
            }
        }
        for name in self.usable().filter(|name| !made.iter().any(|made| made.name() == *name)) {
            tracing::info!(plugin = name, "this plugin is not on; EXECUTORS does not name it");
        }
        Ok(made)
    }

    async fn one(&self, name: &str, host: &Arc<Host>, left: &mut usize) -> Result<Arc<dyn Executor>, String> {
        let program = self.found.get(name).ok_or("there is no such file in the plugin folder")?.clone()?;
        let described = describe::ask(name, &program, host).await?;
        // Together they have to fit into the agent's description of itself.
        *left = left
            .checked_sub(described.size)
            .ok_or_else(|| format!("with it, the descriptions of the plugins have more than {BYTES} bytes"))?;
        Ok(Arc::new(Plugin::new(name.to_owned(), program, described, Arc::clone(host))))
    }
}

/// The program, if it may be one.
fn judge(name: &str, path: &Path, folder: &Path, builtin: &[&str]) -> Result<PathBuf, String> {
    name.parse::<ExecutorName>().map_err(|_| "its name is not 1 to 63 of a-z, 0-9 and -".to_owned())?;
    if builtin.contains(&name) || name == "all" {
        return Err("an executor of the agent itself has this name".to_owned());
    }
    let real = path.canonicalize().map_err(|error| error.to_string())?;
    // What lies in between is the folder's and below, so as safe as what was looked at.
    if real.parent() != Some(folder) {
        return Err("it is a link to outside the folder".to_owned());
    }
    let found = fs::metadata(&real).map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    safe(&found, false).map_err(|problem| format!("it {problem}"))?;
    if nix::unistd::access(&real, nix::unistd::AccessFlags::X_OK).is_err() || found.mode() & 0o111 == 0 {
        return Err("it may not be executed".to_owned());
    }
    Ok(real)
}

/// Whether only root and the agent's user can write it.
fn safe(found: &Metadata, sticky_is_enough: bool) -> Result<(), String> {
    let own = nix::unistd::geteuid().as_raw();
    if found.uid() != 0 && found.uid() != own {
        return Err(format!("belongs to user {}, not to root or the agent's user", found.uid()));
    }
    let sticky = sticky_is_enough && found.mode() & 0o1000 != 0;
    if found.mode() & 0o022 != 0 && !sticky {
        return Err(format!("may be written by others (mode {:o})", found.mode() & 0o7777));
    }
    Ok(())
}
