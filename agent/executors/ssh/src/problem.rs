//! Why a job could not do its work: a code and a sentence, and whether another attempt could.

use muster_executor::{Finish, Rejection};
use muster_files::{FileError, archive::ArchiveError};
use muster_schemas::code::Code;

/// Why the work could not be done.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) message: String,
    for_good: bool,
}

impl Problem {
    /// Another attempt may do it.
    pub(crate) fn failed(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), for_good: false }
    }

    /// No attempt will, before somebody has changed something.
    pub(crate) fn for_good(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), for_good: true }
    }

    pub(crate) fn transfer(message: impl Into<String>) -> Self {
        Self::failed(Code::TransferFailed, message)
    }
}

impl From<Problem> for Finish {
    fn from(problem: Problem) -> Self {
        match problem.for_good {
            true => Self::rejected(problem.code, problem.message),
            false => Self::failed(problem.code, problem.message),
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        Self::for_good(rejection.code, rejection.message)
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        Self::failed(code(&error), error.line())
    }
}

impl From<ArchiveError> for Problem {
    fn from(error: ArchiveError) -> Self {
        Self::for_good(Code::ArchiveRefused, error.to_string())
    }
}

/// The code for what is wrong with a local file.
pub(crate) fn code(error: &FileError) -> Code {
    match error {
        FileError::NoRoots { .. } | FileError::Outside { .. } => Code::SettingForbids,
        _ => Code::TransferFailed,
    }
}
