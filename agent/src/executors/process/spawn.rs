//! Starts a process: its own process group, a clean environment, three pipes and nothing else; through the launcher where it is to have what
//! only that can give.
//!
//! No descriptor that the agent opened is passed on: Rust opens all of them close-on-exec. What the agent itself was started with, beyond
//! the first three, it closes at its start.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use muster_executor::Attempt;
use serde_json::{Map, Value, json};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use zeroize::Zeroizing;

use super::{
    Host, Order,
    cgroup::Cgroup,
    environment::{self, MARKER},
    launcher::{Limit, Plan, cannot_start},
    limits::Limits,
    user::Account,
};

/// A running process.
pub(super) struct Child {
    pub(super) process: tokio::process::Child,
    /// `NAME=value` as it stands in the environment of all that the attempt starts.
    pub(super) marker: Vec<u8>,
    pub(super) pipes: (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>),
    pub(super) stdin: Zeroizing<Vec<u8>>,
    pub(super) cgroup: Option<Cgroup>,
    /// What a launcher's complaint begins with.
    pub(super) mark: Option<String>,
    pub(super) report: Option<Value>,
}

/// Why a process could not be started. The message is for the person who wrote the job.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("params.cwd: {path:?}: {problem}")]
    Cwd { path: PathBuf, problem: String },
    /// What is wanted can't be had on this host, or the launcher could not put it on.
    #[error("{0}")]
    Launch(String),
}

pub(super) async fn start(order: Order, host: &Host, attempt: &Attempt) -> Result<Child, Error> {
    let account = match order.user.clone() {
        None => None,
        Some(wanted) => {
            let found = tokio::task::spawn_blocking(move || wanted.find()).await;
            Some(found.unwrap_or_else(|error| Err(error.to_string())).map_err(Error::Launch)?)
        }
    };
    let Order { program, args, env, cwd, stdin, limits, .. } = order;
    // 128 random bits: nobody else's environment has it, and no job can guess another's.
    let key = format!("{:032x}", rand::random::<u128>());
    let inherited = environment::inherited(&host.env_allow);
    let cwd = directory(cwd, account.as_ref(), &inherited)?;
    let variables = environment::of(attempt, &key, inherited, account.as_ref(), env);
    let Hold { cgroup, rlimits, report } = contain(host, attempt, &key, &limits, account.as_ref())?;
    let needs_launcher = cgroup.is_some() || !rlimits.is_empty() || account.is_some();
    let (mut command, mark) = if needs_launcher {
        let launcher = host.launcher.as_ref().ok_or_else(|| Error::Launch("this agent has no launcher".to_owned()))?;
        let mark = format!("{:032x} ", rand::random::<u128>());
        let door = cgroup.as_ref().map(Cgroup::door);
        let plan = Plan { mark: mark.clone(), cgroup: door, limits: rlimits, ids: account.map(|account| account.ids), cwd };
        (Command::from(launcher.command(&plan, &program, &args, &variables)), Some(mark))
    } else {
        let mut command = Command::new(&program);
        command.args(&args).env_clear().envs(variables.iter().map(|(name, value)| (name, value))).current_dir(cwd);
        (command, None)
    };
    command
        .stdin(if stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let spawned = command.spawn().map_err(|error| {
        let bytes = args.iter().map(String::len).chain(variables.iter().map(|(name, value)| name.len() + value.len())).sum();
        if let Some(cgroup) = &cgroup {
            cgroup.remove();
        }
        Error::Launch(cannot_start(&program, &error, bytes))
    });
    let mut process = spawned?;
    let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
    Ok(Child { process, marker: format!("{MARKER}={key}").into_bytes(), pipes, stdin, cgroup, mark, report })
}

/// What a process is held by.
struct Hold {
    cgroup: Option<Cgroup>,
    rlimits: Vec<(Limit, u64)>,
    report: Option<Value>,
}

/// Decides what holds a process: a cgroup where there are any, and limits of the kernel for what no cgroup keeps. A limit that nothing here can keep
/// is refused: a job that asked for it must not run without.
fn contain(host: &Host, attempt: &Attempt, key: &str, limits: &Limits, account: Option<&Account>) -> Result<Hold, Error> {
    let base = host.cgroup.as_ref().filter(|_| host.launcher.is_some());
    let no_cgroup = |error: std::io::Error| Error::Launch(format!("can't make a cgroup for the job: {error}"));
    let cgroup = base.map(|base| base.make(&attempt.agent_id, key)).transpose().map_err(no_cgroup)?;
    let kept = match &cgroup {
        Some(cgroup) => cgroup.limit(limits).map_err(no_cgroup),
        None => Ok(Vec::new()),
    };
    let rest = kept.and_then(|kept| Ok((rlimits(limits, &kept, account)?, kept)));
    let (rlimits, kept) = match (rest, &cgroup) {
        (Ok(rest), _) => rest,
        (Err(error), cgroup) => {
            cgroup.as_ref().map(Cgroup::remove);
            return Err(error);
        }
    };
    let report = (!limits.is_none() || account.is_some()).then(|| {
        let by = |name: &str| if kept.contains(&name) { "cgroup" } else { "rlimit" };
        let limits: Map<String, Value> =
            limits.values().into_iter().map(|(name, limit)| (name.to_owned(), json!({"limit": limit, "by": by(name)}))).collect();
        let mut report = json!({"containment": if cgroup.is_some() { "cgroup" } else { "process tree" }, "limits": limits});
        if let (Some(account), Some(report)) = (account, report.as_object_mut()) {
            report.insert("user".to_owned(), json!({"name": account.name, "uid": account.ids.uid, "gid": account.ids.gid}));
        }
        report
    });
    Ok(Hold { cgroup, rlimits, report })
}

/// The limits that no cgroup keeps.
fn rlimits(limits: &Limits, kept: &[&str], account: Option<&Account>) -> Result<Vec<(Limit, u64)>, Error> {
    let left = |name: &str| !kept.contains(&name);
    let mut set = Vec::new();
    let mut put = |limit, value: Option<u64>| set.extend(value.map(|value| (limit, value)));
    put(Limit::CpuS, limits.cpu_s);
    put(Limit::OpenFiles, limits.open_files);
    put(Limit::FileBytes, limits.file_bytes.map(|bytes| bytes.get()));
    if left("memory_bytes") {
        put(Limit::AddressSpace, limits.memory_bytes.map(|bytes| bytes.get()));
    }
    if limits.cpus.is_some() && left("cpus") {
        let problem = "params.limits.cpus: this agent has no cgroup (version 2) with the controller `cpu`, which alone can limit that";
        return Err(Error::Launch(problem.to_owned()));
    }
    if limits.processes.is_some() && left("processes") {
        let root = account.map_or_else(|| nix::unistd::geteuid().is_root(), |account| account.ids.uid == 0);
        if root {
            let problem = "params.limits.processes: the command would run as root, and without a cgroup (version 2) with the controller `pids` \
                           nothing limits that; give `user`";
            return Err(Error::Launch(problem.to_owned()));
        }
        put(Limit::Processes, limits.processes);
    }
    Ok(set)
}

/// The job's directory, else the home of whoever runs it, else `/`: never wherever the agent happened to be started.
fn directory(given: Option<PathBuf>, account: Option<&Account>, inherited: &[(String, String)]) -> Result<PathBuf, Error> {
    let Some(path) = given else {
        let own = || inherited.iter().find(|(name, _)| name == "HOME").map(|(_, home)| Path::new(home));
        let home = account.map(|account| account.home.as_path()).or_else(own);
        return Ok(home.filter(|home| home.is_absolute() && home.is_dir()).unwrap_or(Path::new("/")).to_owned());
    };
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err(Error::Cwd { path, problem: "not a directory".to_owned() }),
        Err(error) => Err(Error::Cwd { path, problem: error.to_string() }),
    }
}
