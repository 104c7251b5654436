//! Counts what a broker flushes, by reading over its shoulder with strace.
//!
//! The broker is started under strace, which stops it only at the calls that count (`--seccomp-bpf`): so it runs at nearly its own pace, and
//! what is done together without strace is so with it. Its messages are flushed by `fsync`; its small files (consumers' states, settings) are
//! opened `O_SYNC` and written once **[measured, 2.15.1]**, so each such open counts.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use muster_schemas::topology;

use crate::failure::Failure;

/// When nothing was flushed for so long, what was put off is done.
const STILL: Duration = Duration::from_secs(1);
/// The longest wait for that.
const STILL_MAX: Duration = Duration::from_secs(15);

/// A traced broker.
#[derive(Debug)]
pub(in crate::bench) struct Trace {
    /// What to start in place of the broker.
    pub(in crate::bench) program: PathBuf,
    calls: PathBuf,
}

/// Writes the program that starts `nats_server` under strace.
///
/// # Errors
/// When there is no strace.
pub(in crate::bench) fn wrap(folder: &Path, name: &str, nats_server: &Path) -> Result<Trace> {
    let quiet = Command::new("strace").arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !quiet.is_ok_and(|status| status.success()) {
        let missing = Failure::new("flushes are counted with strace, and there is none");
        return Err(missing.hint("install it: apt install strace, dnf install strace, apk add strace").into());
    }
    let (program, calls) = (folder.join(format!("{name}-nats-server.sh")), folder.join(format!("{name}.calls")));
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    // With -D the broker keeps the process id of what was started, and strace is its child, not its parent.
    let script = format!(
        "#!/bin/sh\nexec strace -D -f --seccomp-bpf -qq -y -e trace=fsync,fdatasync,openat -o {} {} \"$@\"\n",
        quoted(&calls),
        quoted(nats_server)
    );
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700))?;
    Ok(Trace { program, calls })
}

impl Trace {
    /// Waits until the broker has flushed what it put off, and gives the place in the trace from which to count.
    ///
    /// # Errors
    /// When strace could not trace it.
    pub(super) async fn mark(&self) -> Result<u64> {
        let start = Instant::now();
        let (mut at, mut since) = (self.length(), Instant::now());
        while since.elapsed() < STILL && start.elapsed() < STILL_MAX {
            tokio::time::sleep(Duration::from_millis(50)).await;
            // The broker opens other files all the time.
            let flushed = !self.since(at)?.is_empty();
            at = self.length();
            if flushed {
                since = Instant::now();
            }
        }
        // A broker that starts opens files.
        ensure!(at > 0, "strace has seen nothing; may this user trace processes here (in a container: --cap-add SYS_PTRACE)?");
        Ok(at)
    }

    fn length(&self) -> u64 {
        fs::metadata(&self.calls).map_or(0, |meta| meta.len())
    }

    /// Flushes since a mark, by what was flushed.
    ///
    /// # Errors
    /// When the trace cannot be read.
    pub(super) fn since(&self, mark: u64) -> Result<BTreeMap<String, u64>> {
        let mut file = fs::File::open(&self.calls).context("strace has traced nothing")?;
        file.seek(SeekFrom::Start(mark))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(count(&String::from_utf8_lossy(&text)))
    }
}

fn count(calls: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for path in calls.lines().filter_map(flushed) {
        *counts.entry(label(path)).or_default() += 1;
    }
    counts
}

/// The file that a call flushes. A call in two lines, the second of them `<... fsync resumed>`, counts by its first.
fn flushed(line: &str) -> Option<&str> {
    let call = line.split_once(' ')?.1.trim_start();
    if call.starts_with("fsync(") || call.starts_with("fdatasync(") {
        return Some(call.split_once('<')?.1.split_once('>')?.0);
    }
    if call.starts_with("openat(") && (call.contains("O_SYNC") || call.contains("O_DSYNC")) {
        return Some(call.split_once('"')?.1.split_once('"')?.0);
    }
    None
}

/// What is flushed, in the words of the topology: a stream's messages by its name, its consumers' states apart, the queue whatever its pool.
fn label(path: &str) -> String {
    let Some((_, within)) = path.split_once("/streams/") else { return "other files".into() };
    let mut parts = within.split('/');
    let stream = parts.next().unwrap_or_default();
    let stream = if topology::is_jobs_stream(stream) { "the queue" } else { stream };
    match parts.next() {
        Some("msgs") => stream.to_owned(),
        Some("obs") => format!("{stream}: consumers"),
        Some(file) if file.starts_with("meta.") => format!("{stream}: settings"),
        None => format!("{stream}: settings"),
        Some(_) => format!("{stream}: batches"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn flushes_are_counted_once_and_by_what_they_are_for() {
        let calls = "\
5949  fsync(32</d/jetstream/ACQ/streams/JOBS_p/msgs/1.blk>) = 0
5946  fsync(9</d/jetstream/ACQ/streams/RESULTS/msgs/1.blk> <unfinished ...>
5949  fsync(32</d/jetstream/ACQ/streams/JOBS_p/msgs/1.blk>) = 0
5946  <... fsync resumed>)              = 0
5946  openat(AT_FDCWD</tmp>, \"/d/streams/JOBS_p/obs/normal_probe/o.dat.tmp\", O_WRONLY|O_CREAT|O_SYNC|O_CLOEXEC, 0600) = 4</x>
5946  openat(AT_FDCWD</tmp>, \"/proc/5937/stat\", O_RDONLY|O_CLOEXEC) = 4</proc/5937/stat>
5946  --- SIGURG {si_signo=SIGURG} ---
5946  fdatasync(9</d/elsewhere>) = 0
half a li";
        let expected = [("the queue", 2), ("RESULTS", 1), ("the queue: consumers", 1), ("other files", 1)];
        assert_eq!(count(calls), expected.map(|(what, times)| (what.to_owned(), times)).into());
    }

    #[test]
    fn parts_of_a_stream_are_told_apart() {
        for (path, expected) in [
            ("/d/streams/RESULTS/msgs/2.blk", "RESULTS"),
            ("/d/streams/RESULTS/meta.inf.tmp", "RESULTS: settings"),
            ("/d/streams/RESULTS", "RESULTS: settings"),
            ("/d/streams/JOBS_a/batches/x/msgs/1.blk", "the queue: batches"),
            ("/d/accounts/A.jwt", "other files"),
        ] {
            assert_eq!(label(path), expected, "{path}");
        }
    }

    #[test]
    fn the_wrapper_runs_what_it_wraps_and_sees_what_it_flushes() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("it's a broker.sh");
        fs::write(&script, "#!/bin/sh\nsync \"$1\"\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
        let trace = match wrap(dir.path(), "a", &script) {
            Ok(trace) => trace,
            // There is no strace here; what is said then is tested with the command.
            Err(error) => return assert!(error.is::<Failure>(), "{error:#}"),
        };
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(Command::new(&trace.program).arg(&file).status().unwrap().success());
        // strace ends after what it traces.
        let deadline = Instant::now() + Duration::from_secs(10);
        while trace.since(0).unwrap_or_default().get("other files") != Some(&1) {
            assert!(Instant::now() < deadline, "{:?}", fs::read_to_string(&trace.calls));
            std::thread::sleep(Duration::from_millis(10)); // poll
        }
    }
}
