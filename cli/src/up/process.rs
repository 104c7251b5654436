//! One process per part: started, watched, started again when it dies, stopped in order.
//!
//! Each part is in a process group of its own, so that Ctrl-C reaches `muster up` alone, which then stops them one after the
//! other: agents first, the broker last.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use muster_runtime::{
    process::DIE_WITH_PARENT,
    tasks::{Group, Running},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::folder::Folder;
use crate::{output, profile::write_private, text};

/// The pause before the first restart; doubled each time.
const RESTART_FIRST: Duration = Duration::from_millis(200);
/// The longest pause before a restart.
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A part that ran this long was well: its next restart is quick again.
const STEADY: Duration = Duration::from_secs(30);
/// A log larger than this is cut: its content moves to `.log.1`.
const LOG_MAX: u64 = 32 * 1024 * 1024;
/// Characters of the last line of a log that are shown when a part dies.
const LAST_WORDS: usize = 300;
/// How often logs are looked at.
const LOG_LOOK: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// Also the name of its log.
    pub(super) name: String,
    /// Its place in the order of starting; those that share one are stopped together, the highest first.
    pub(super) place: u8,
    /// Arguments of this binary.
    pub(super) args: Vec<OsString>,
    /// Settings that must not show on a command line.
    pub(super) secrets: Vec<(&'static str, String)>,
}

/// Environment variables that are meant for something else than a part of this stack. Others, such as `LOG_LEVEL` or
/// `MAX_CONCURRENT_JOBS`, reach the parts.
const UNSET: [&str; 28] = [
    "MUSTER_CONFIG",
    "MUSTER_API_KEY",
    "MUSTER_DEPLOYMENT",
    "MUSTER_AGENT_NATS_URL",
    "MUSTER_GATEWAY_CREDENTIALS",
    "MUSTER_DISPATCHER_CREDENTIALS",
    "MUSTER_REVOKER_CREDENTIALS",
    "MUSTER_OPERATOR_KEY",
    "MUSTER_FLEET_ACCOUNT",
    "MUSTER_SIGNING_KEY",
    "MUSTER_JOB_KEYS",
    "MUSTER_CONTROL_PLANE_KEYS",
    "TRUSTED_SIGNERS",
    "MUSTER_NATS_CA",
    "AGENT_API_KEY",
    "AGENT_JOIN_TOKEN",
    "NATS_URL",
    "NATS_CA",
    "VAULT_PATH",
    "ADMIN_TOKEN",
    "MUSTER_TLS_CA",
    "MUSTER_TLS_CA_KEY",
    "MUSTER_TLS_NAMES",
    "MUSTER_HTTPS",
    "MUSTER_CERTIFICATE_LIFETIME",
    "MUSTER_TLS_CERTIFICATE",
    "MUSTER_TLS_KEY",
    "AGENT_CA_FILE",
];

/// All parts, in the order of their start.
#[derive(Debug)]
pub(super) struct Supervisor {
    folder: Folder,
    group: Group,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: String,
    place: u8,
    stop: CancellationToken,
    task: Running<()>,
    failures: Arc<AtomicU32>,
}

impl Supervisor {
    pub(super) fn new(folder: Folder) -> Self {
        Self { folder, group: Group::new("parts of the stack"), parts: Vec::new() }
    }

    /// Starts a part, and keeps it up until told to stop.
    pub(super) fn start(&mut self, program: Program) {
        let (stop, failures) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let (name, place) = (program.name.clone(), program.place);
        let task = self.group.spawn(keep_up(program, self.folder.clone(), stop.clone(), Arc::clone(&failures)));
        self.parts.push(Part { name, place, stop, task, failures });
    }

    /// A part that has died this often in a row, if there is one.
    pub(super) fn failing(&self, times: u32) -> Option<&str> {
        self.parts.iter().find(|part| part.failures.load(Ordering::Relaxed) >= times).map(|part| part.name.as_str())
    }

    /// Stops all parts, the last started first. What is not done when the grace is over is killed.
    pub(super) async fn stop(mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        while let Some(last) = self.parts.last().map(|part| part.place) {
            let batch: Vec<Part> = self.parts.extract_if(.., |part| part.place == last).collect();
            batch.iter().for_each(|part| part.stop.cancel());
            for mut part in batch {
                if tokio::time::timeout_at(deadline, &mut part.task).await.is_err() {
                    output::warn(&format!("{} does not stop; killing it", part.name));
                    part.task.abort();
                    let _ = part.task.await;
                }
            }
        }
    }
}

/// Starts a program again and again until told to stop.
async fn keep_up(program: Program, folder: Folder, stop: CancellationToken, failures: Arc<AtomicU32>) {
    let name = &program.name;
    let (pid_file, log_file) = (folder.pid(name), folder.log(name));
    let mut pause = RESTART_FIRST;
    loop {
        let began = Instant::now();
        let why = match spawn(&program, &log_file) {
            Ok(mut child) => {
                let pid = child.id().unwrap_or_default();
                if let Err(error) = write_private(&pid_file, pid.to_string().as_bytes()) {
                    output::warn(&format!("can't write {}: {error}", pid_file.display()));
                }
                let ended = tokio::select! {
                    status = child.wait() => Some(status),
                    () = stop.cancelled() => None,
                    never = trim(&log_file) => match never {},
                };
                if ended.is_none() {
                    finish(&mut child).await;
                }
                let _ = fs::remove_file(&pid_file);
                match ended {
                    None => return,
                    // One that ended by itself has said why.
                    Some(Ok(status)) if status.code().is_some() => {
                        let last: String = last_lines(&log_file, 1).chars().take(LAST_WORDS).collect();
                        format!("{name} (pid {pid}) {} ({last})", ended_how(status))
                    }
                    Some(Ok(status)) => format!("{name} (pid {pid}) {}", ended_how(status)),
                    Some(Err(error)) => format!("{name} (pid {pid}) is lost: {error}"),
                }
            }
            Err(error) => format!("{name} can't be started: {error}"),
        };
        if began.elapsed() >= STEADY {
            pause = RESTART_FIRST;
            failures.store(0, Ordering::Relaxed);
        }
        failures.fetch_add(1, Ordering::Relaxed);
        output::warn(&format!("{why}; starting it again in {}; its log is {}", text::duration(pause), log_file.display()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(RESTART_MAX);
    }
}

fn spawn(program: &Program, log: &Path) -> io::Result<Child> {
    let out = open_log(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(&program.args)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        // Ctrl-C is for `muster up`, which stops its parts in order.
        .process_group(0)
        .kill_on_drop(true)
        .env(DIE_WITH_PARENT, std::process::id().to_string());
    for name in UNSET {
        command.env_remove(name);
    }
    for (name, value) in &program.secrets {
        command.env(name, value);
    }
    command.spawn()
}

/// Asks to end and waits for it; whoever stops waiting drops the child, which kills it.
async fn finish(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let _ = child.wait().await;
}

fn ended_how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |signal| signal.to_string());
            format!("was ended by {name}")
        }
        (None, None) => "ended".to_owned(),
    }
}

/// Appends, so that cutting the file while it is written to leaves no hole.
fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Cuts a log whenever it has grown too large.
async fn trim(log: &Path) -> std::convert::Infallible {
    loop {
        if fs::metadata(log).is_ok_and(|meta| meta.len() > LOG_MAX) {
            let cut = fs::copy(log, log.with_added_extension("1")).and_then(|_| OpenOptions::new().write(true).open(log)?.set_len(0));
            if let Err(error) = cut {
                output::warn(&format!("can't cut {}: {error}", log.display()));
            }
        }
        tokio::time::sleep(LOG_LOOK).await;
    }
}

/// The last lines of a part's log.
pub(super) fn last_lines(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[tokio::test]
    async fn a_log_that_has_grown_too_large_is_cut_and_its_end_is_kept_beside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        let file = open_log(&log).unwrap();
        file.set_len(LOG_MAX + 1).unwrap();
        let cut = tokio::time::timeout(Duration::from_millis(200), trim(&log)).await;
        assert!(cut.is_err());
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
        assert_eq!(fs::metadata(log.with_added_extension("1")).unwrap().len(), LOG_MAX + 1);
    }

    #[test]
    fn the_end_of_a_log_is_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        assert_eq!(last_lines(&log, 2), "");
        fs::write(&log, "1\n2\n3\n").unwrap();
        assert_eq!(last_lines(&log, 2), "2\n3");
    }
}
