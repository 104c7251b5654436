//! One process of an attempt, from its start to the end of everything it started. What `shell.run` and plugins share.
//!
//! | to find | look in |
//! |---|---|
//! | starting it | `spawn`; what it may see, `environment` |
//! | another user, limits, a cgroup: put on by the agent's own binary before it becomes the command | `launcher`, with `user`, `limits`, `cgroup` |
//! | its pipes | `pipes` |
//! | finding and killing its tree | `tree`, `procfs`, `cgroup` |
//!
//! The time-out is not here: the runner says when to stop, this says how. The attempt's whole tree ends with it: what a command leaves in
//! the background is killed when the command has ended.

pub(super) mod cgroup;
pub(super) mod environment;
pub(super) mod launcher;
pub(super) mod limits;
pub(super) mod pipes;
pub(super) mod procfs;
pub(super) mod spawn;
pub(super) mod tree;
pub(super) mod user;

use std::{os::unix::process::ExitStatusExt as _, path::PathBuf, process::ExitStatus, time::Duration};

use muster_executor::Scope;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use cgroup::Base;
use launcher::Launcher;
use limits::Limits;
use pipes::{Pipes, Refusal, Take};
use spawn::Child;
use tree::Tree;
use user::Wanted;

/// What this agent starts processes with.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// The agent's own binary, told to launch. `None` where it can't be had: then there are no users, limits and cgroups.
    pub(crate) launcher: Option<Launcher>,
    /// Where attempts get cgroups of their own.
    pub(crate) cgroup: Option<Base>,
    /// Variables that jobs may set although they change which code runs, and that pass from the agent's own environment.
    pub(crate) env_allow: Vec<String>,
}

/// What is to be started.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) program: String,
    pub(super) args: Vec<String>,
    /// Beside those that every process gets.
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: Option<PathBuf>,
    /// Wiped when it has been sent: a plugin's holds secrets.
    pub(super) stdin: Zeroizing<Vec<u8>>,
    pub(super) user: Option<Wanted>,
    pub(super) limits: Limits,
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: std::io::Result<ExitStatus>,
    /// Because the attempt has to end.
    pub(super) stopped: bool,
    /// Which limits were in force, and by what: for the result. `None` when nothing was asked for.
    pub(super) report: Option<Value>,
}

/// How long pipes may take to close once nobody is left who could write: what they still hold is read.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs it to its end, or until the attempt has to end or `enough` says so. What it writes goes to `out`, and to the recorder's standard error.
///
/// # Errors
/// When it can't be started as it was ordered.
pub(super) async fn run(
    order: Order,
    host: &Host,
    scope: &Scope,
    out: &mut impl Take,
    enough: &CancellationToken,
) -> Result<Ended, spawn::Error> {
    let Child { mut process, marker, pipes, cgroup, mark, report, stdin } = spawn::start(order, host, &scope.attempt).await?;
    let mut tree = Tree::new(process.id(), marker, cgroup);
    let refusal = Refusal::default();
    let mut pipes = Pipes::new(pipes, stdin, out, refusal.watching(mark, &scope.recorder));
    let ended = tokio::select! {
        biased;
        status = pipes.beside(process.wait()) => Some(status),
        () = scope.stop.cancelled() => None,
        () = enough.cancelled() => None,
    };
    let stopped = ended.is_none();
    let status = match ended {
        Some(status) => {
            tree.leader_is_gone();
            // A background child that holds the pipes must not hang the job, but what it writes now is still read.
            pipes.until_closed(scope.settings.drain).await;
            Some(status)
        }
        None => stop(&tree, &mut process, &mut pipes, scope.settings.kill_grace).await,
    };
    pipes.beside(tree.kill()).await;
    let status = match status {
        Some(status) => status,
        None => pipes.beside(process.wait()).await,
    };
    tree.leader_is_gone();
    pipes.until_closed(LAST_WORDS).await;
    drop(pipes);
    match refusal.taken() {
        Some(problem) => Err(spawn::Error::Launch(problem)),
        None => Ok(Ended { status, stopped, report }),
    }
}

/// TERM to the whole tree, then as much of the grace period as it needs. `None` when the command itself outlived it.
async fn stop(
    tree: &Tree,
    process: &mut tokio::process::Child,
    pipes: &mut Pipes<'_>,
    grace: Duration,
) -> Option<std::io::Result<ExitStatus>> {
    let deadline = Instant::now() + grace;
    tree.terminate().await;
    let status = timeout_at(deadline, pipes.beside(process.wait())).await.ok()?;
    tree.leader_is_gone();
    let _killed_next = timeout_at(deadline, pipes.beside(tree.until_empty())).await;
    Some(status)
}

/// The exit status as a number, with 128 and the signal's where a signal ended it, and in words.
pub(super) fn exit(status: ExitStatus) -> (i32, String) {
    match (status.code(), status.signal()) {
        (Some(code), _) => (code, format!("exit status {code}")),
        (None, Some(signal)) => (128 + signal, format!("ended by signal {signal}{}", signal_name(signal))),
        (None, None) => (-1, format!("ended oddly: {status}")),
    }
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(|_| String::new(), |name| format!(" ({name})"))
}
