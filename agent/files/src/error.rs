//! What can go wrong with a file, in words for whoever wrote the job.

use std::io;

use rustix::io::Errno;

/// Why a file can't be had or made. Each names its path.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// No folder is allowed at all.
    #[error("`{path}`: this agent gives jobs no files; its operator can allow folders with FILES_ROOTS")]
    NoRoots {
        /// What was asked for.
        path: String,
    },
    /// It is not beneath a folder that is allowed.
    #[error("`{path}` is not beneath a folder that FILES_ROOTS allows")]
    Outside {
        /// What was asked for.
        path: String,
    },
    /// The path or a name in it is not taken.
    #[error("`{path}`: {problem}")]
    Name {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A part of it is a symbolic link or a mount point, or leads out of its folder.
    #[error("`{path}` leads through a symbolic link or a mount point, or out of its folder; take the real path")]
    Leads {
        /// What was asked for.
        path: String,
    },
    /// Something that is not a file.
    #[error("`{path}` is {what}, not a regular file")]
    NotRegular {
        /// What was asked for.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// The file has a second name, which may lie outside of the folder.
    #[error("`{path}` has {links} hard links, so it may be a file from elsewhere; make a copy of it")]
    HardLinked {
        /// What was asked for.
        path: String,
        /// How many names it has.
        links: u64,
    },
    /// The kernel can't keep paths beneath a folder.
    #[error(
        "this system has no openat2 (Linux 5.6 or newer, not forbidden by a container's seccomp profile), without which no files are given"
    )]
    Unsupported,
    /// The system says no.
    #[error("could not {doing} `{path}`")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What was asked for.
        path: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl FileError {
    pub(crate) fn of(doing: &'static str, path: &str, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::LOOP | Errno::XDEV => Self::Leads { path },
            Errno::NOSYS => Self::Unsupported,
            errno => Self::Io { doing, path, source: errno.into() },
        }
    }

    pub(crate) fn name(path: &str, problem: impl Into<String>) -> Self {
        Self::Name { path: path.to_owned(), problem: problem.into() }
    }

    /// The error with its cause, in one line.
    pub fn line(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}
