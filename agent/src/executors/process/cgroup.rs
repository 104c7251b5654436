//! Cgroups (version 2): one for each attempt, below one that is the agent's to divide. Nothing gets out of it that is not root, so that all
//! of it can be killed at once, however it forks; and it is what memory, processes and processors are limited by.
//!
//! `<base>/muster-<agent id>/<attempt>`; the agent's own part makes what an earlier run of it left findable. It never touches a cgroup that
//! it did not make, but for moving the agent itself into a leaf where it is alone in its own.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use muster_schemas::names::AgentId;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::limits::Limits;

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Where the agent itself goes, since the kernel gives controllers to the children of no cgroup that has processes of its own.
const LEAF: &str = "agent";

/// The period of `cpu.max`, in microseconds: the kernel's own default.
const PERIOD: f64 = 100_000.0;

/// Cgroups within cgroups that are looked through.
const DEPTH: usize = 16;

/// A cgroup that is the agent's to divide.
#[derive(Debug, Clone)]
pub struct Base(PathBuf);

/// The cgroup of an attempt.
#[derive(Debug)]
pub(crate) struct Cgroup(PathBuf);

impl Base {
    /// As the setting says: `none`, a folder, or `auto`, which is the agent's own cgroup where it may divide that.
    ///
    /// # Errors
    /// When the setting names a folder, and that can't be used.
    pub fn find(setting: &str) -> Result<Option<Self>, String> {
        let base = match setting {
            "none" => return Ok(None),
            "auto" => match own().map(Self) {
                Some(base) => base,
                None => return Ok(None),
            },
            folder => Self(folder.into()),
        };
        match base.prepare() {
            Ok(()) => Ok(Some(base)),
            Err(error) if setting == "auto" => {
                tracing::debug!(cgroup = %base.0.display(), %error, "not the agent's to divide; jobs get no cgroups");
                Ok(None)
            }
            Err(error) => Err(format!("{}: no cgroup (version 2) that this agent may divide: {error}", base.0.display())),
        }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Tries it, and gives its controllers to what is made in it.
    fn prepare(&self) -> io::Result<()> {
        if !self.0.join("cgroup.procs").exists() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it has no cgroup.procs"));
        }
        let tried = self.0.join(format!("muster-try-{}", std::process::id()));
        fs::create_dir(&tried)?;
        fs::remove_dir(&tried)?;
        let own = std::process::id().to_string();
        if fs::read_to_string(self.0.join("cgroup.procs"))?.lines().eq([own.as_str()]) {
            let leaf = self.0.join(LEAF);
            fs::create_dir_all(&leaf)?;
            fs::write(leaf.join("cgroup.procs"), own)?;
        }
        hand_down(&self.0);
        Ok(())
    }

    /// A cgroup for one attempt, with these limits as far as there are controllers for them.
    pub(super) fn make(&self, agent: &AgentId, key: &str) -> io::Result<Cgroup> {
        let folder = self.of(agent);
        fs::create_dir_all(&folder)?;
        hand_down(&folder);
        let own = folder.join(key);
        fs::create_dir(&own)?;
        Ok(Cgroup(own))
    }

    /// What earlier runs of this agent left behind.
    pub(super) fn left_of(&self, agent: &AgentId) -> Option<Cgroup> {
        let folder = self.of(agent);
        folder.exists().then_some(Cgroup(folder))
    }

    fn of(&self, agent: &AgentId) -> PathBuf {
        self.0.join(format!("muster-{agent}"))
    }
}

/// Gives the controllers of a cgroup to its children: those that there are, one by one.
fn hand_down(folder: &Path) {
    let there = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for name in CONTROLLERS.iter().filter(|name| there.split_ascii_whitespace().any(|there| there == **name)) {
        // Where it can't be had, limits that need it are refused later.
        let _refused = fs::write(folder.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

impl Cgroup {
    /// Which of the limits it keeps; the others are for somebody else.
    pub(super) fn limit(&self, limits: &Limits) -> io::Result<Vec<&'static str>> {
        let mut kept = Vec::new();
        let mut keep = |name: &'static str, file: &str, value: Option<String>| match value {
            Some(value) if self.0.join(file).exists() => fs::write(self.0.join(file), value).map(|()| kept.push(name)),
            _ => Ok(()),
        };
        keep("memory_bytes", "memory.max", limits.memory_bytes.map(|bytes| bytes.get().to_string()))?;
        keep("processes", "pids.max", limits.processes.map(|processes| processes.to_string()))?;
        keep("cpus", "cpu.max", limits.cpus.map(|cpus| format!("{:.0} {PERIOD:.0}", cpus * PERIOD)))?;
        if kept.contains(&"memory_bytes") {
            // Or the limit would only make it swap; and half a tree is of no use to anybody. Neither file is everywhere.
            let _no_swap = fs::write(self.0.join("memory.swap.max"), "0");
            let _not_there = fs::write(self.0.join("memory.oom.group"), "1");
        }
        Ok(kept)
    }

    /// The file that a process joins by.
    pub(super) fn door(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// Its members, and those of all cgroups in it.
    pub(super) fn members(&self) -> BTreeSet<i32> {
        let mut members = BTreeSet::new();
        each(&self.0, DEPTH, &mut |folder| {
            let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            members.extend(pids.lines().filter_map(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 1));
        });
        members
    }

    /// KILL to all of it.
    pub(super) fn kill(&self) {
        if fs::write(self.0.join("cgroup.kill"), "1").is_err() {
            // Before Linux 5.14.
            for pid in self.members() {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// Removes it and all in it; says whether it is gone.
    pub(super) fn remove(&self) -> bool {
        each(&self.0, DEPTH, &mut |folder| drop(fs::remove_dir(folder)));
        !self.0.exists()
    }
}

/// Calls it for each cgroup of a tree, the deepest first.
fn each(folder: &Path, depth: usize, call: &mut impl FnMut(&Path)) {
    if depth > 0 {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                each(&entry.path(), depth - 1, call);
            }
        }
    }
    call(folder);
}

/// The cgroup that this process is in, unless that is the machine's root, which is nobody's to divide; that of the service where systemd has
/// put the agent into a leaf of its own (`DelegateSubgroup=agent`).
fn own() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // `… root mount-point options - type source options` (proc_pid_mountinfo(5)).
    let (root, at) = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        kind.starts_with("cgroup2 ").then_some((place.next()?, place.next()?))
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    let own = Path::new(at).join(path.strip_prefix(root).ok()?);
    let base = if own.ends_with(LEAF) { own.parent()?.to_owned() } else { own };
    // The root has no type.
    base.join("cgroup.type").exists().then_some(base)
}

#[cfg(test)]
mod tests;
