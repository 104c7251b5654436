//! Taking the lock of a file that somebody may hold for a moment still.
//!
//! A process that was killed dies over a moment, and each child that is forked has its parent's descriptors, locks included, until its
//! `exec`. So a lock that is held is looked at again for a while before it counts as held.

use std::{
    fs::{File, TryLockError},
    time::{Duration, Instant},
};

/// How long a lock may be held by somebody who is about to let it go.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Locks the file for this process, waiting for up to [`PATIENCE`]; blocks meanwhile. The lock goes when the file is closed.
///
/// # Errors
/// Those of [`File::try_lock`].
pub fn take(file: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOOK),
            locked => return locked,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn what_lets_go_soon_is_waited_for_and_what_stays_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::create(dir.path().join("lock")).unwrap();
        let (holder, other) = (open(), open());
        holder.try_lock().unwrap();
        let dying = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100)); // stuck on purpose
            drop(holder);
        });
        take(&other).unwrap();
        dying.join().unwrap();
        assert!(matches!(take(&open()), Err(TryLockError::WouldBlock)));
    }
}
