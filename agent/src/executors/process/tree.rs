//! Finds and signals everything an attempt has started: its process group, every process with the attempt's marker in
//! its environment (double forks, `setsid`), the children and sessions of all these, and the members of its cgroup.
//!
//! What it cannot find without a cgroup: a process that both lost its parents and overwrote or cleared its environment, and one of
//! another user (sudo) outside the process group. It never signals a process that is not the attempt's.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use muster_schemas::names::AgentId;

use super::cgroup::{Base, Cgroup};
use super::environment::AGENT;
use super::procfs::{self, Process};

/// KILL is repeated until nothing is left, since a process may fork just before it is killed; a fork bomb that outruns
/// this many looks is left to the operator.
const ROUNDS: u32 = 40;

/// Between two looks. A killed process takes about a millisecond to go.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// Between two looks at a tree that was asked to end.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The processes of one attempt. Dropped before [`Tree::kill`] has run (the attempt was abandoned), it kills them.
#[derive(Debug)]
pub(crate) struct Tree {
    target: Arc<Mutex<Target>>,
    done: bool,
}

#[derive(Debug)]
struct Target {
    /// Process group, which is also the pid of the command itself.
    group: i32,
    marker: Vec<u8>,
    /// When the command was started: what is older is not its child, and need not be looked at closely.
    since: u64,
    /// The command itself was waited for, so that its pid may be used again by the system.
    leader_gone: bool,
    /// Pid and start of all that was ever found: a process stays the attempt's after its parents are gone.
    known: BTreeSet<(i32, u64)>,
    /// What nobody gets out of who is not root.
    cgroup: Option<Cgroup>,
}

impl Tree {
    pub(crate) fn new(pid: Option<u32>, marker: Vec<u8>, cgroup: Option<Cgroup>) -> Self {
        let group = pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        let since = procfs::one(group).map_or(0, |leader| leader.started);
        let target = Target { group, marker, since, leader_gone: false, known: BTreeSet::new(), cgroup };
        Self { target: Arc::new(Mutex::new(target)), done: false }
    }

    /// The command itself has been waited for.
    pub(crate) fn leader_is_gone(&self) {
        lock(&self.target).leader_gone = true;
    }

    /// TERM to all of it.
    pub(crate) async fn terminate(&self) {
        self.blocking(|target| target.signal(Signal::SIGTERM)).await;
    }

    /// Waits until nothing of it is left.
    pub(crate) async fn until_empty(&self) {
        while self.blocking(|target| !target.living().is_empty()).await == Some(true) {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// KILL to all of it, again and again until nothing is left.
    pub(crate) async fn kill(&mut self) {
        self.blocking(Target::kill).await;
        self.done = true;
    }

    /// Looking through `/proc` takes milliseconds on a busy machine: not on a thread that serves other jobs.
    async fn blocking<T: Send + 'static>(&self, look: impl FnOnce(&mut Target) -> T + Send + 'static) -> Option<T> {
        let target = self.target.clone();
        tokio::task::spawn_blocking(move || look(&mut lock(&target))).await.ok()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.done {
            lock(&self.target).kill();
        }
    }
}

/// Kills what earlier attempts of this agent left running, and all that descends from it, when there is nobody any more who looks after
/// them: at the agent's start, and when it ends without waiting for its jobs. Blocks for milliseconds. Returns how many it found.
///
/// Finds them by the agent's id in their environment, and in the cgroups that are named after the agent.
pub(crate) fn kill_orphans(agent: &AgentId, base: Option<&Base>) -> usize {
    let marker = format!("{AGENT}={agent}").into_bytes();
    let cgroup = base.and_then(|base| base.left_of(agent));
    Target { group: 0, marker, since: 0, leader_gone: true, known: BTreeSet::new(), cgroup }.kill()
}

fn lock(target: &Mutex<Target>) -> MutexGuard<'_, Target> {
    target.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Target {
    /// Says how many there were.
    fn kill(&mut self) -> usize {
        for _ in 0..ROUNDS {
            let found = self.signal(Signal::SIGKILL);
            if let Some(cgroup) = &self.cgroup {
                cgroup.kill();
            }
            // Without a group it is about commands of other attempts, and whoever started those waits for them.
            if self.group > 1 {
                self.reap();
            }
            if found == 0 && self.cgroup.as_ref().is_none_or(Cgroup::remove) {
                return self.known.len();
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        tracing::warn!(group = self.group, "processes of an attempt are still there after {ROUNDS} KILLs");
        self.known.len()
    }

    /// Where the agent is the machine's first process (a container), orphans become its children; nobody else waits for
    /// them. The command itself is left to whoever started it.
    fn reap(&self) {
        for (pid, _) in self.known.iter().filter(|(pid, _)| *pid != self.group) {
            let _not_our_child = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
        }
    }

    /// Signals all that is found alive, and says how many. Looks before it signals: a child can no longer be told from a
    /// stranger once its parent is gone.
    fn signal(&mut self, signal: Signal) -> usize {
        let living = self.living();
        if self.group_is_ours() {
            let _empty = killpg(Pid::from_raw(self.group), signal);
        }
        for process in living.iter().filter(|process| process.group != self.group) {
            let _gone = kill(Pid::from_raw(process.pid), signal);
        }
        living.len()
    }

    /// Once the command itself is gone, its number stays taken as long as its group has members; when a process with
    /// that pid exists, the group was empty and the number belongs to somebody else now.
    fn group_is_ours(&self) -> bool {
        self.group > 1 && !(self.leader_gone && procfs::one(self.group).is_some())
    }

    /// The attempt's processes that are not dead yet.
    fn living(&mut self) -> Vec<Process> {
        let group_is_ours = self.group_is_ours();
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let members = self.cgroup.as_ref().map(Cgroup::members).unwrap_or_default();
        let all: Vec<_> =
            procfs::all().into_iter().filter(|process| process.started >= self.since && process.pid > 1 && process.pid != own).collect();
        let is_ours = |process: &&Process| {
            (group_is_ours && process.group == self.group)
                || members.contains(&process.pid)
                || self.known.contains(&(process.pid, process.started))
                || (!process.zombie && procfs::has_variable(process.pid, &self.marker))
        };
        let mut found: BTreeSet<i32> = all.iter().filter(is_ours).map(|process| process.pid).collect();
        // Children of what was found, and members of sessions that one of them leads, until no more are found.
        loop {
            let before = found.len();
            let more: Vec<_> = all.iter().filter(|p| found.contains(&p.parent) || found.contains(&p.session)).map(|p| p.pid).collect();
            found.extend(more);
            if found.len() == before {
                break;
            }
        }
        let found: Vec<_> = all.into_iter().filter(|process| found.contains(&process.pid)).collect();
        self.known.extend(found.iter().map(|process| (process.pid, process.started)));
        found.into_iter().filter(|process| !process.zombie).collect()
    }
}
