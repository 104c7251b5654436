//! What makes it harder to get at the secrets in this process's memory. Done first of all in `main`; a test or another program that runs an agent
//! in itself is left as it is.

use std::{fs, io};

use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};

/// No core dumps, of this process or of what it starts: a plugin too is given secrets. No look into memory or environment by others of the same
/// user, jobs among them, unless they are root. And nothing stays open that whoever started it forgot to close.
///
/// # Errors
/// When the system refuses; then it is better not to start.
pub(crate) fn process() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // Also the owner of /proc/<pid>/mem, /environ and the like becomes root by this, and no debugger may attach.
    prctl::set_dumpable(false)?;
    close_inherited()
}

/// Closes all descriptors but the three standard ones. At the start of `main` nothing else is ours yet.
fn close_inherited() -> io::Result<()> {
    let open: Vec<i32> =
        fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect();
    for fd in open {
        // The one that the folder was read with is among them, and closed by now.
        let _closed = nix::unistd::close(fd);
    }
    Ok(())
}
