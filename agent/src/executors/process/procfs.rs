//! Reads Linux's process table. Where there is no `/proc`, it finds nothing and the process group has to do.

use std::fs;

/// One line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// When it was started, in ticks since the system was: with the pid, it names a process for good.
    pub(crate) started: u64,
    /// Dead, but not yet waited for by its parent.
    pub(crate) zombie: bool,
}

/// Every process that can be seen.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    entries.filter_map(pid).filter_map(one).collect()
}

/// One process, if it exists.
pub(crate) fn one(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (comm) state ppid pgrp session …`, with the start as field 22 (proc_pid_stat(5)): comm may hold spaces and brackets, so start after the last one.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    let started = fields.nth(15)?.parse().ok()?;
    Some(Process { pid, parent, group, session, started, zombie })
}

/// Whether the process was started with this `NAME=value` in its environment.
pub(crate) fn has_variable(pid: i32, variable: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| environ.split(|b| *b == 0).any(|entry| entry == variable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_and_spaces_does_not_confuse_the_reader() {
        let rest = "7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1 2";
        let expected = Process { pid: 42, parent: 7, group: 8, session: 9, started: 777, zombie: false };
        assert_eq!(parse(42, &format!("42 (a) Z 1 (b) S) S {rest}")), Some(expected));
        assert!(parse(42, &format!("42 (x) Z {rest}")).is_some_and(|process| process.zombie));
        assert_eq!(parse(42, "42 (x) S 1 2"), None);
        assert_eq!(parse(42, "42 (x"), None);
    }

    #[test]
    fn this_process_is_in_the_table() {
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        assert!(all().iter().any(|process| process.pid == own));
        assert!(!has_variable(own, b"MUSTER_ATTEMPT_KEY=none"));
    }
}
