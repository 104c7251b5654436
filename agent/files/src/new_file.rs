//! A file that is being written: nobody sees it under its name before it is whole and on the disk.

use std::{
    fs::File,
    io::{self, Write},
};

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::{FileError, Folder};

/// A file in the making, under a name of its own (`.muster-….part`) in the folder where it will be. Dropped before it is finished, it is
/// removed; what was there under its name stays as it was.
#[derive(Debug)]
pub struct NewFile {
    parent: Folder,
    temporary: String,
    name: String,
    path: String,
    file: File,
    finished: bool,
}

impl NewFile {
    pub(crate) fn start(parent: Folder, name: &str, path: String, mode: u32) -> Result<Self, FileError> {
        let error = |errno| FileError::of("make", &path, errno);
        let temporary = format!(".muster-{:016x}.part", rand::random::<u64>());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
        let fd = parent.beneath(&temporary, flags, Mode::from_raw_mode(0o600)).map_err(error)?;
        let file = Self { parent, temporary, name: name.to_owned(), file: fd.into(), path: path.clone(), finished: false };
        // The umask does not count: the mode is the job's word. No bits beyond the permissions.
        rustix::fs::fchmod(&file.file, Mode::from_raw_mode(mode & 0o777)).map_err(error)?;
        Ok(file)
    }

    /// Puts it under its name, at once and for good: it is on the disk when this returns.
    ///
    /// # Errors
    /// What the system says; then nothing has changed under its name.
    pub fn finish(mut self) -> Result<(), FileError> {
        let error = |errno| FileError::of("finish", &self.path, errno);
        rustix::fs::fsync(&self.file).map_err(error)?;
        let folder = self.parent.fd();
        rustix::fs::renameat(folder, &self.temporary, folder, &self.name).map_err(error)?;
        rustix::fs::fsync(folder).map_err(error)?;
        self.finished = true;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            // A folder that is gone took it with it.
            let _gone = rustix::fs::unlinkat(self.parent.fd(), &self.temporary, AtFlags::empty());
        }
    }
}
