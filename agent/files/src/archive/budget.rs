//! How many bytes may still come out of an archive.

use super::{ArchiveError, Limits};
use crate::names;

/// Counts down.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    problem: String,
}

impl Budget {
    /// For an archive of this size.
    pub(super) fn new(limits: &Limits, size: u64) -> Self {
        let by_ratio = limits.ratio_from.max(size.saturating_mul(limits.ratio));
        if by_ratio < limits.bytes {
            let problem = format!("the archive unfolds to more than {} times its size ({by_ratio} bytes)", limits.ratio);
            Self { left: by_ratio, problem }
        } else {
            Self { left: limits.bytes, problem: format!("the archive unfolds to more than {} bytes", limits.bytes) }
        }
    }

    /// Takes bytes that came out.
    pub(super) fn spend(&mut self, bytes: u64, name: &str) -> Result<(), ArchiveError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(ArchiveError::TooMuch { problem: self.problem.clone(), entry: names::shown(name) }),
        }
    }
}
