//! Files with secrets in them: written whole or not at all, readable by their owner only; and locks between processes.
//!
//! It never overwrites on its own: callers read first, and [`replace`] on purpose.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A file or directory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct FileError {
    /// What was tried ("read", "write", …).
    pub doing: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { doing, path, source }
}

/// Makes a directory and its parents; the ones that it makes are open to their owner only.
pub(crate) fn make_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make directory", path))
}

/// Reads a text file; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Writes a file unless it says so already: a temporary file beside it, flushed, renamed over it, and the directory flushed.
/// Returns whether it was written.
pub(crate) fn replace(path: &Path, text: &str) -> Result<bool, FileError> {
    if read(path)?.as_deref() == Some(text) {
        return Ok(false);
    }
    let temporary = path.with_added_extension("new");
    let write = || -> io::Result<()> {
        // A left-over of a crash may have any mode and content.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(failed("write", path))?;
    Ok(true)
}

/// Takes away what group and others may do with a file that exists: it may have been copied with the wrong mode.
pub(crate) fn restrict(path: &Path) -> Result<(), FileError> {
    let mode = fs::metadata(path).map_err(failed("read", path))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700)).map_err(failed("restrict", path))
}

/// Waits for the lock; it is held until the file is dropped, also by a crash.
pub(crate) fn lock(path: &Path) -> Result<File, FileError> {
    let file = open_lock(path)?;
    file.lock().map_err(failed("lock", path))?;
    Ok(file)
}

pub(crate) fn open_lock(path: &Path) -> Result<File, FileError> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed("open", path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_file_is_written_whole_and_for_its_owner_only_also_over_a_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/key.nk");
        make_dir(path.parent().unwrap()).unwrap();
        fs::write(dir.path().join("a/key.nk.new"), "half").unwrap();
        assert!(replace(&path, "whole").unwrap());
        assert!(!replace(&path, "whole").unwrap());
        assert_eq!(read(&path).unwrap().as_deref(), Some("whole"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_that_others_can_read_is_closed_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.nk");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        restrict(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_error_names_the_file() {
        let error = replace(Path::new("/nonexistent/dir/file"), "x").unwrap_err().to_string();
        assert_eq!(error, "cannot write /nonexistent/dir/file");
    }
}
