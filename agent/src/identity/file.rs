//! Files that hold secrets: written whole or not at all, readable by their owner only, and refused otherwise.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// A file of ours can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("can't read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It can't be written.
    #[error("can't write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read it.
    #[error("{path} may be read by others (mode {mode:o}); make it yours alone with `chmod 600 {path}`")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Another agent uses the directory.
    #[error("another agent runs with {path}; give each its own state_dir")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// Larger than any file of ours; no more is read of one.
pub(super) const LIMIT: u64 = 1024 * 1024;

/// Reads a file that only its owner may read; `None` when there is none.
pub(crate) fn read_private(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.mode();
    if mode & 0o077 != 0 {
        return Err(FileError::Open { path: path.to_owned(), mode: mode & 0o7777 });
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// Replaces a file: temporary file, sync, rename, sync of the directory.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let failed = |source| FileError::Write { path: path.to_owned(), source };
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        // A left-over of a crash may have another mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().map_err(failed)
}

/// Removes a file for good.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    let gone = || -> io::Result<()> {
        fs::remove_file(path)?;
        sync_parent(path)
    };
    gone().map_err(|source| FileError::Write { path: path.to_owned(), source })
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes the state directory (0700) and locks it for this process, until the returned file is dropped.
pub(crate) fn claim(state_dir: &Path) -> Result<File, FileError> {
    let failed = |source| FileError::Write { path: state_dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(failed)?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(state_dir.join("lock")).map_err(failed)?;
    match muster_runtime::lock::take(&lock) {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(FileError::InUse { path: state_dir.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}
