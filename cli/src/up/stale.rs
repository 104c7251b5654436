//! What an earlier run left behind. The kernel ends the parts when `muster up` dies, but they take their time; and a folder may
//! have been copied. So each pid file is checked: only a process that names this folder on its command line is ours to stop.

use std::{fs, path::Path, time::Duration};

use anyhow::bail;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::Instant;

use super::folder::Folder;
use crate::output;

/// How long a left-over has to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look.
const LOOK: Duration = Duration::from_millis(50);

/// Stops whatever of an earlier run still runs.
pub(super) async fn stop_all(folder: &Folder) -> anyhow::Result<()> {
    let mut left = Vec::new();
    for entry in fs::read_dir(folder.run())? {
        let path = entry?.path();
        if path.extension().is_none_or(|end| end != "pid") {
            continue;
        }
        match fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<i32>().ok()) {
            Some(pid) if pid > 1 && is_ours(pid, folder.root()) => left.push((pid, path)),
            _ => fs::remove_file(&path)?,
        }
    }
    for (pid, path) in &left {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        output::warn(&format!("stopping {name} (pid {pid}), left by an earlier run"));
        // One that has had this signal from the kernel takes the second as "at once".
        let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
    }
    for (pid, path) in &left {
        if !gone(*pid, folder.root(), PATIENCE).await {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            if !gone(*pid, folder.root(), PATIENCE).await {
                bail!("process {pid} of an earlier run does not end");
            }
        }
        fs::remove_file(path)?;
    }
    Ok(())
}

async fn gone(pid: i32, root: &Path, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while is_ours(pid, root) {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

/// Whether a process runs on behalf of this folder. A zombie has no command line and counts as gone.
fn is_ours(pid: i32, root: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    line.split(|byte| *byte == 0).any(|arg| names(&String::from_utf8_lossy(arg), root))
}

/// Whether an argument names the folder or something in it, also as `key=value`.
fn names(arg: &str, root: &Path) -> bool {
    let value = arg.split_once('=').map_or(arg, |(_, value)| value);
    Path::new(value.trim_matches('"')).starts_with(root)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::process::{Child, Command};

    use super::*;

    fn sleeper(arg: &str) -> Child {
        // The argument after the script is only for show.
        Command::new("sh").args(["-c", "trap '' TERM; sleep 60 & wait; wait", "sh", arg]).spawn().unwrap()
    }

    #[test]
    fn only_whole_names_of_the_folder_count() {
        let root = Path::new("/data/up");
        for arg in ["/data/up", "/data/up/deployment/x.conf", "credentials=/data/up/a", "state_dir=\"/data/up/agents/1\""] {
            assert!(names(arg, root), "{arg}");
        }
        for arg in ["/data/up2/x", "/data", "up", "", "--config"] {
            assert!(!names(arg, root), "{arg}");
        }
    }

    #[tokio::test]
    async fn a_left_over_is_stopped_and_a_stranger_with_its_old_pid_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(dir.path().to_owned())).unwrap();
        fs::write(folder.root().join("up.lock"), "").unwrap();
        let mut ours = Command::new("tail").arg("-f").arg(folder.root().join("up.lock")).spawn().unwrap();
        let mut stranger = sleeper("/elsewhere");
        fs::write(folder.pid("broker"), ours.id().to_string()).unwrap();
        fs::write(folder.pid("agent-1"), stranger.id().to_string()).unwrap();
        fs::write(folder.pid("agent-2"), "nonsense").unwrap();
        // A process that has only just begun has no command line yet.
        let pid = i32::try_from(ours.id()).unwrap();
        while !is_ours(pid, folder.root()) {
            tokio::time::sleep(LOOK).await; // poll
        }
        // Reaped in the background, or it would stay a zombie of this process.
        let reaper = std::thread::spawn(move || ours.wait().unwrap());
        stop_all(&folder).await.unwrap();
        assert!(!reaper.join().unwrap().success());
        assert!(stranger.try_wait().unwrap().is_none(), "the stranger goes on");
        assert_eq!(fs::read_dir(folder.run()).unwrap().count(), 0);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
