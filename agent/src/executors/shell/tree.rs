//! Finds and signals everything an attempt has started: its process group, every process with the attempt's marker in
//! its environment (double forks, `setsid`), and the children and sessions of all these.
//!
//! What it cannot find: a process that both lost its parents and overwrote or cleared its environment, and one of
//! another user (sudo) outside the process group. It never signals a process that is not the attempt's.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::procfs;

/// KILL is repeated until nothing is left, since a process may fork just before it is killed; a fork bomb that outruns
/// this many looks is left to the operator.
const ROUNDS: u32 = 40;

/// Between two looks. A killed process takes about a millisecond to go.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// Between two looks at a tree that was asked to end.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The processes of one attempt. Dropped before [`Tree::kill`] has run (the attempt was abandoned), it kills them.
#[derive(Debug)]
pub(super) struct Tree {
    target: Target,
    done: bool,
}

#[derive(Debug, Clone)]
struct Target {
    /// Process group, which is also the pid of the command itself.
    group: i32,
    marker: Vec<u8>,
    /// The command itself was waited for, so that its pid may be used again by the system.
    leader_gone: bool,
}

impl Tree {
    pub(super) fn new(pid: Option<u32>, marker: Vec<u8>) -> Self {
        let group = pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        Self { target: Target { group, marker, leader_gone: false }, done: false }
    }

    /// The command itself has been waited for.
    pub(super) fn leader_is_gone(&mut self) {
        self.target.leader_gone = true;
    }

    /// TERM to all of it.
    pub(super) async fn terminate(&self) {
        let target = self.target.clone();
        blocking(move || target.signal(Signal::SIGTERM)).await;
    }

    /// Waits until nothing of it is left.
    pub(super) async fn until_empty(&self) {
        loop {
            let target = self.target.clone();
            if blocking(move || target.living().is_empty()).await.unwrap_or(true) {
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// KILL to all of it, again and again until nothing is left.
    pub(super) async fn kill(&mut self) {
        let target = self.target.clone();
        blocking(move || target.kill()).await;
        self.done = true;
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.done {
            self.target.kill();
        }
    }
}

/// Looking through `/proc` takes milliseconds on a busy machine: not on a thread that serves other jobs.
async fn blocking<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(look).await.ok()
}

impl Target {
    fn kill(&self) {
        let mut orphans = BTreeSet::new();
        for _ in 0..ROUNDS {
            let signalled = self.signal(Signal::SIGKILL);
            orphans.extend(signalled.iter().copied().filter(|pid| *pid != self.group));
            // Where the agent is the machine's first process (a container), orphans become its children.
            orphans.retain(|pid| !matches!(waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)), Ok(status) if status.pid().is_some()));
            if signalled.is_empty() {
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        tracing::warn!(group = self.group, "processes of an attempt are still there after {ROUNDS} KILLs");
    }

    /// Signals the group and everything else that is found; says what was found alive.
    fn signal(&self, signal: Signal) -> Vec<i32> {
        if self.group_is_ours() {
            let _empty = killpg(Pid::from_raw(self.group), signal);
        }
        let living = self.living();
        for process in living.iter().filter(|process| process.group != self.group) {
            let _gone = kill(Pid::from_raw(process.pid), signal);
        }
        living.iter().map(|process| process.pid).collect()
    }

    /// Once the command itself is gone, its number stays taken as long as its group has members; when a process with
    /// that pid exists, the group was empty and the number belongs to somebody else now.
    fn group_is_ours(&self) -> bool {
        self.group > 1 && !(self.leader_gone && procfs::one(self.group).is_some())
    }

    /// The attempt's processes that are not dead yet.
    fn living(&self) -> Vec<procfs::Process> {
        let ours = self.group_is_ours();
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let all: Vec<_> = procfs::all().into_iter().filter(|process| process.pid > 1 && process.pid != own).collect();
        let mut found = BTreeSet::new();
        let mut sessions = BTreeSet::new();
        for process in &all {
            let in_group = ours && process.group == self.group;
            if in_group || (!process.zombie && procfs::has_variable(process.pid, &self.marker)) {
                found.insert(process.pid);
            }
        }
        // Children of what was found, and sessions that one of them leads, until no more are found.
        loop {
            let before = found.len();
            sessions.extend(all.iter().filter(|p| p.session == p.pid && found.contains(&p.pid)).map(|p| p.pid));
            let more = all.iter().filter(|p| found.contains(&p.parent) || sessions.contains(&p.session)).map(|p| p.pid);
            found.extend(more.collect::<Vec<_>>());
            if found.len() == before {
                break;
            }
        }
        all.into_iter().filter(|process| !process.zombie && found.contains(&process.pid)).collect()
    }
}
