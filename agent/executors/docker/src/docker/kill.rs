//! Ends a process that runs in a container, from outside: the engine's API has no call for it.
//!
//! The engine says the process's id on its host. That is a process of ours to end only where this agent sees the same processes as the engine does:
//! the kernel says that it is in the container's control group, or nothing is done.

use std::{collections::BTreeMap, fs, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Between two looks whether it has ended.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// TERM to the process, and after `grace` KILL to it and all that it has started.
///
/// # Errors
/// Why it could not be ended.
pub(super) async fn end(pid: i32, container: &str, grace: Duration) -> Result<(), String> {
    if pid <= 0 {
        return Ok(());
    }
    if !is_in(pid, container) {
        return match fs::exists(format!("/proc/{pid}")) {
            Ok(false) if sees_the_host() => Ok(()),
            _ => Err("the agent does not see the host's processes".to_owned()),
        };
    }
    let family = family(pid, container);
    send(pid, Signal::SIGTERM)?;
    let deadline = tokio::time::Instant::now() + grace;
    while tokio::time::Instant::now() < deadline && family.iter().any(|pid| is_in(*pid, container)) {
        tokio::time::sleep(LOOK).await;
    }
    // What it has started meanwhile, and what of the first family lives on with another parent.
    for member in self::family(pid, container).into_iter().chain(family) {
        if is_in(member, container) {
            send(member, Signal::SIGKILL)?;
        }
    }
    Ok(())
}

/// Whether the process is one of this container's.
fn is_in(pid: i32, container: &str) -> bool {
    !container.is_empty()
        && fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(container))
        && !is_dead(pid)
}

/// One that nobody has asked for its exit status yet is in its group still.
fn is_dead(pid: i32) -> bool {
    stat(pid).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

/// The process, its children and theirs, as long as they are in the container.
fn family(pid: i32, container: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: BTreeMap<i32, i32> = pids.filter_map(|pid| Some((pid, stat(pid)?.1))).collect();
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(child, _)| *child));
        at += 1;
    }
    family.retain(|pid| is_in(*pid, container));
    family
}

/// State and parent.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything, parentheses too.
    let mut rest = text.rsplit_once(')')?.1.split_whitespace();
    Some((rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

/// Whether process 2 is the kernel's: only the host's own view has it.
fn sees_the_host() -> bool {
    fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd")
}

fn send(pid: i32, signal: Signal) -> Result<(), String> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(format!("{signal}: {error}")),
    }
}
