//! The folders that are allowed, and the way from a job's path to the one that it lies in.

use std::{path::PathBuf, sync::Arc};

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC};

use crate::{FileError, Folder, NewFile, names};

/// Where the kernel's own files are: none of them is one that a job is to have.
const KERNELS: &[&str] = &["/proc", "/sys", "/dev"];

/// A folder that can't be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{root}` {problem}")]
pub struct RootsError {
    root: String,
    problem: &'static str,
}

/// The folders whose files jobs may have. Cheap to clone; nothing is opened before a file is asked for.
#[derive(Debug, Clone, Default)]
pub struct Roots(Arc<[String]>);

impl Roots {
    /// These folders, each by its absolute path. None is fine: then every file is refused.
    ///
    /// # Errors
    /// Names the folder: one that is not absolute, has odd names in its path, or is `/`, `/proc`, `/sys` or `/dev`.
    pub fn new(folders: &[PathBuf]) -> Result<Self, RootsError> {
        let mut roots = Vec::new();
        for folder in folders {
            let shown = folder.display().to_string();
            let refuse = |problem| RootsError { root: shown.clone(), problem };
            let text = folder.to_str().ok_or_else(|| refuse("is not UTF-8"))?;
            let text = text.strip_suffix('/').unwrap_or(text);
            if text.is_empty() {
                return Err(refuse("would be every file of this machine"));
            }
            let inner = text.strip_prefix('/').ok_or_else(|| refuse("is not an absolute path"))?;
            if inner.split('/').any(|name| names::check(name).is_err()) {
                return Err(refuse("is not a plain path: no `..`, no doubled slashes, no odd names"));
            }
            if KERNELS.iter().any(|kernels| text == *kernels || text.starts_with(&format!("{kernels}/"))) {
                return Err(refuse("holds files of the kernel"));
            }
            roots.push(text.to_owned());
        }
        // Where one lies in another, the nearer one is the one that a path is kept beneath.
        roots.sort_by_key(|root| std::cmp::Reverse(root.len()));
        Ok(Self(roots.into()))
    }

    /// Checks a path without looking at any file: whether it is absolute, plain, and beneath an allowed folder.
    ///
    /// # Errors
    /// [`FileError::NoRoots`], [`FileError::Outside`] or [`FileError::Name`].
    pub fn check(&self, path: &str) -> Result<(), FileError> {
        self.find(path).map(drop)
    }

    /// Opens a file for reading, from its beginning.
    ///
    /// # Errors
    /// See [`FileError`]: among others, when it is not a regular file, or has a second name.
    pub fn open(&self, path: &str) -> Result<std::fs::File, FileError> {
        let (root, inner) = self.find(path)?;
        Self::root(root)?.open(inner)
    }

    /// Starts a file, which appears under its name, in place of the one that was there, once it is [finished](NewFile::finish).
    /// Its folder has to be there.
    ///
    /// # Errors
    /// See [`FileError`]: among others, when what is there is not a regular file.
    pub fn create(&self, path: &str, mode: u32) -> Result<NewFile, FileError> {
        let (root, inner) = self.find(path)?;
        Self::root(root)?.create(inner, mode)
    }

    /// Opens a folder, which is made if it is not there (the one that it lies in has to be). One of the allowed folders themselves will do.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn folder(&self, path: &str) -> Result<Folder, FileError> {
        if let Some(root) = self.0.iter().find(|root| *root == path.strip_suffix('/').unwrap_or(path)) {
            return Self::root(root);
        }
        let (root, inner) = self.find(path)?;
        Self::root(root)?.folder(inner)
    }

    /// The allowed folder that a path lies in, and the rest of the path.
    fn find<'a>(&'a self, path: &'a str) -> Result<(&'a str, &'a str), FileError> {
        let shown = names::shown(path);
        if self.0.is_empty() {
            return Err(FileError::NoRoots { path: shown });
        }
        let beneath = |root: &'a String| Some((root.as_str(), path.strip_prefix(root.as_str())?.strip_prefix('/')?));
        let (root, inner) = self.0.iter().find_map(beneath).ok_or(FileError::Outside { path: shown.clone() })?;
        inner.split('/').try_for_each(names::check).map_err(|problem| FileError::name(&shown, problem))?;
        Ok((root, inner))
    }

    fn root(root: &str) -> Result<Folder, FileError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(|errno| FileError::of("open", root, errno))?;
        // The operator's own path may lead through links; not to where the environment of processes can be read.
        let system = rustix::fs::fstatfs(&fd).map_err(|errno| FileError::of("open", root, errno))?;
        if system.f_type == PROC_SUPER_MAGIC {
            return Err(FileError::name(root, "holds files of the kernel"));
        }
        Ok(Folder::new(fd, root.to_owned()))
    }
}
