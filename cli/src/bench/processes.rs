//! What processes use, as /proc tells: memory, processor time, open files; and folders on disk.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Clock ticks per second in /proc: fixed at 100 on Linux for user space.
const TICKS: f64 = 100.0;
/// The share of a core below which a process counts as having nothing left to do.
const QUIET: f64 = 0.2;

/// A process at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// Its processor time since it began, in seconds, to a hundredth.
    pub(super) seconds: f64,
    /// Its resident memory, in bytes.
    pub(super) resident: f64,
    /// Its open files, sockets included.
    pub(super) files: f64,
}

/// What a process uses.
///
/// # Errors
/// When it is gone.
pub(super) fn usage(pid: u32) -> Result<Usage> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("process {pid} is gone"));
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("process {pid} is gone"))?.count();
    let seconds = seconds(&read("stat")?).with_context(|| format!("can't read the times of process {pid}"))?;
    let resident = resident(&read("status")?).with_context(|| format!("process {pid} is gone"))?;
    Ok(Usage { seconds, resident, files: files as f64 })
}

/// Processor time of this process so far, in seconds.
///
/// # Errors
/// When there is no /proc.
pub(super) fn own_seconds() -> Result<f64> {
    Ok(usage(std::process::id())?.seconds)
}

fn seconds(stat: &str) -> Option<f64> {
    // After the name in brackets: state is the first field, user and system time the 12th and 13th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS)
}

/// A zombie has none.
fn resident(status: &str) -> Option<f64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?;
    Some(kib.parse::<u64>().ok()? as f64 * 1024.0)
}

/// The processes of a stack by name, with what they use.
///
/// # Errors
/// When one is gone.
pub(super) fn of_stack(data_dir: &Path) -> Result<Vec<(String, u32, Usage)>> {
    let found = crate::up::processes(data_dir)?;
    found.into_iter().map(|(name, pid)| anyhow::Ok((name, pid, usage(pid)?))).collect()
}

/// Waits until the stack has caught up with what it was given, but no longer than `most`.
///
/// # Errors
/// When a process is gone.
pub(super) async fn quiet(data_dir: &Path, most: Duration) -> Result<()> {
    let start = Instant::now();
    let mut before = of_stack(data_dir)?;
    while start.elapsed() < most {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = of_stack(data_dir)?;
        let busy = now.iter().any(|(name, _, now)| {
            before.iter().find(|(known, ..)| known == name).is_none_or(|(.., then)| now.seconds - then.seconds > QUIET)
        });
        if !busy {
            break;
        }
        before = now;
    }
    Ok(())
}

/// What the files in a folder take on disk, in bytes. Files that go while it looks do not count.
pub(super) fn disk(folder: &Path) -> f64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0.0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk(&entry.path()),
        // In units of 512 bytes, whatever the file system's blocks are.
        Ok(meta) => meta.blocks() as f64 * 512.0,
        Err(_) => 0.0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn times_are_found_whatever_the_program_is_called() {
        let stat = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1";
        assert_eq!(seconds(stat), Some(3.0));
        assert_eq!(seconds("12 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_and_files_and_a_folder_takes_what_its_files_take() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), vec![1; 100_000]).unwrap();
        let held = std::fs::File::open(dir.path().join("sub/file")).unwrap();
        let used = usage(std::process::id()).unwrap();
        assert!(used.resident > 1e6 && used.files >= 4.0, "{used:?}");
        assert!((100_000.0..300_000.0).contains(&disk(dir.path())), "{}", disk(dir.path()));
        drop(held);
    }
}
