//! The folder of a stack: what is where, and the lock that gives it to one `muster up` at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use muster_runtime::lock;

use crate::{failure::Failure, profile};

/// The folder of a stack. An absolute path without links, since processes are told apart by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes the folder if need be.
    pub(super) fn open(given: Option<PathBuf>) -> anyhow::Result<Self> {
        let root = match given {
            Some(root) => root,
            None => profile::data_dir()?,
        };
        let make = |path: &Path| {
            DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| format!("can't make the folder {}", path.display()))
        };
        make(&root)?;
        let root = fs::canonicalize(&root).with_context(|| format!("can't use the folder {}", root.display()))?;
        let folder = Self { root };
        for sub in [folder.logs(), folder.run(), folder.store(), folder.agents()] {
            make(&sub)?;
        }
        Ok(folder)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Keys, credentials and the broker's config, as `muster init` makes them.
    pub(super) fn deployment(&self) -> PathBuf {
        self.root.join("deployment")
    }

    /// Where the broker keeps its streams.
    pub(super) fn store(&self) -> PathBuf {
        self.root.join("broker")
    }

    /// Where agents keep their state, one folder each.
    pub(super) fn agents(&self) -> PathBuf {
        self.root.join("agents")
    }

    /// Where the dispatcher keeps the history of jobs.
    pub(super) fn dispatcher(&self) -> PathBuf {
        self.root.join("dispatcher")
    }

    /// One file per process.
    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Pid files and ports.
    pub(super) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    pub(super) fn pid(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.pid"))
    }

    /// The ports that were taken last.
    pub(super) fn ports(&self) -> PathBuf {
        self.run().join("ports.toml")
    }

    /// Takes the folder for this process, until the file is dropped. The kernel gives it back when the process dies.
    pub(super) fn lock(&self) -> anyhow::Result<File> {
        let path = self.root.join("up.lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("can't open {}", path.display()))?;
        match lock::take(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let message = format!("another `muster up` (pid {}) runs on {}", holder.trim(), self.root.display());
                return Err(Failure::new(message).hint("use that one, stop it, or choose another folder with --data-dir").into());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("can't lock {}", path.display())),
        }
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(dir.path().join("new/data"))).unwrap();
        let first = folder.lock().unwrap();
        let error = folder.lock().unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert!(failure.message.contains(&std::process::id().to_string()), "{failure}");
        assert!(failure.hint.as_ref().unwrap().contains("--data-dir"));
        drop(first);
        folder.lock().unwrap();
    }
}
