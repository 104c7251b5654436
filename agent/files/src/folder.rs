//! One open folder, and what may be opened and made beneath it.

use std::{fs::File, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{FileError, NewFile, names};

/// The kernel refuses whatever leads out, over a symbolic link, a link of `/proc`, or onto another file system.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// How often a path is tried again that was being renamed while the kernel walked it (`EAGAIN`).
const TRIES: u32 = 64;

/// An open folder. Whoever renames it or puts another one in its place does not change what it is.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: String,
}

impl Folder {
    pub(crate) fn new(fd: OwnedFd, path: String) -> Self {
        Self { fd, path }
    }

    /// Opens a file beneath it for reading.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn open(&self, inner: &str) -> Result<File, FileError> {
        let path = self.path_of(inner)?;
        let error = |errno| FileError::of("open", &path, errno);
        // Opening a device can do something already: look at what it is first.
        let found = self.beneath(inner, OFlags::PATH, Mode::empty()).map_err(error)?;
        regular(&path, &rustix::fs::fstat(&found).map_err(error)?)?;
        let opened = self.beneath(inner, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()).map_err(error)?;
        // Another one may be there by now: what counts is what was opened.
        let stat = rustix::fs::fstat(&opened).map_err(error)?;
        regular(&path, &stat)?;
        #[allow(clippy::useless_conversion, reason = "its width differs from one architecture to the next")]
        let links = u64::from(stat.st_nlink);
        if links != 1 {
            return Err(FileError::HardLinked { path, links });
        }
        Ok(opened.into())
    }

    /// Starts a file beneath it; see [`crate::Roots::create`].
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn create(&self, inner: &str, mode: u32) -> Result<NewFile, FileError> {
        let path = self.path_of(inner)?;
        let (parent, name) = self.parent(inner, &path)?;
        match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => regular(&path, &stat)?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(FileError::of("look at", &path, errno)),
        }
        let parent = Self::new(parent, path.clone());
        NewFile::start(parent, name, path, mode)
    }

    /// Opens a folder beneath it, and makes it if it is not there.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn folder(&self, inner: &str) -> Result<Self, FileError> {
        let path = self.path_of(inner)?;
        let (parent, name) = self.parent(inner, &path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(FileError::of("make", &path, errno)),
        }
        let parent = Self::new(parent, String::new());
        let fd = parent.beneath(name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        Ok(Self::new(fd.map_err(|errno| FileError::of("open", &path, errno))?, path))
    }

    /// Opens what is there, or a new file with `CREATE`, beneath this folder.
    pub(crate) fn beneath(&self, inner: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.fd, inner, flags | OFlags::CLOEXEC, mode, BENEATH) {
                Err(Errno::AGAIN) if tries < TRIES => tries += 1,
                other => return other,
            }
        }
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn path_of(&self, inner: &str) -> Result<String, FileError> {
        let path = format!("{}/{}", self.path, names::shown(inner));
        inner.split('/').try_for_each(names::check).map_err(|problem| FileError::name(&path, problem))?;
        Ok(path)
    }

    /// The folder that something beneath this one lies in, and its name in there.
    fn parent<'a>(&self, inner: &'a str, path: &str) -> Result<(OwnedFd, &'a str), FileError> {
        let (folder, name) = inner.rsplit_once('/').unwrap_or((".", inner));
        let opened = self.beneath(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        Ok((opened.map_err(|errno| FileError::of("open the folder of", path, errno))?, name))
    }
}

fn regular(path: &str, stat: &rustix::fs::Stat) -> Result<(), FileError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a folder",
        FileType::Symlink => return Err(FileError::Leads { path: path.to_owned() }),
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    };
    Err(FileError::NotRegular { path: path.to_owned(), what })
}
