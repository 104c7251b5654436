//! The launcher: the agent's own binary, started in the command's place, which puts on itself what the command is to have (a cgroup, limits,
//! another user) and then becomes the command.
//!
//! The standard library can start a process as another user, but not with other supplementary groups or limits, without unsafe code. A
//! process that changes itself needs none. It is used only where a command needs it.
//!
//! The command's variables come under other names, so that none of them (a loader's, say) does anything to the launcher, which may be root
//! still. What it can't do it says on standard error after a mark that nobody else knows, and ends.

use std::{
    ffi::{CString, OsStr, OsString},
    io::Write as _,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
    process::ExitCode,
};

use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::{Gid, Uid, execvpe, setgid, setgroups, setuid},
};
use serde::{Deserialize, Serialize};

use super::user::Ids;

/// The word after which the launcher's arguments begin.
const WORD: &str = "launch";

/// Holds the [`Plan`].
const PLAN: &str = "MUSTER_LAUNCH";

/// Goes before the names of the command's variables.
const SET: &str = "MUSTER_SET_";

/// Goes before each of the command's arguments, so that no parser on the way takes one for its own.
const ARGUMENT: &str = "=";

/// How the launcher is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    program: PathBuf,
    words: Vec<OsString>,
}

impl Launcher {
    /// The binary that runs this process. `words` are those that make it an agent, such as `service agent`.
    pub fn own(words: &[&str]) -> Self {
        // By this name it is the same binary even after an upgrade has put another one in its place.
        Self::at("/proc/self/exe", words)
    }

    /// A binary.
    pub fn at(program: impl Into<PathBuf>, words: &[&str]) -> Self {
        Self { program: program.into(), words: words.iter().copied().chain([WORD]).map(OsString::from).collect() }
    }

    /// The command that becomes `program`, with its arguments and variables.
    pub(super) fn command(&self, plan: &Plan, program: &str, args: &[String], variables: &[(String, String)]) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command
            .args(&self.words)
            .args([program].into_iter().chain(args.iter().map(String::as_str)).map(|arg| format!("{ARGUMENT}{arg}")))
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (format!("{SET}{name}"), value)))
            .env(PLAN, serde_json::to_string(plan).unwrap_or_default())
            .current_dir("/");
        // Where a program is looked for; it changes nothing for a binary that is already running.
        if let Some((_, path)) = variables.iter().rfind(|(name, _)| name == "PATH") {
            command.env("PATH", path);
        }
        command
    }
}

/// What the launcher puts on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// What it says on standard error before anything else.
    pub(super) mark: String,
    /// The file to write itself into.
    pub(super) cgroup: Option<PathBuf>,
    pub(super) limits: Vec<(Limit, u64)>,
    pub(super) ids: Option<Ids>,
    pub(super) cwd: PathBuf,
}

/// A resource limit of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Limit {
    CpuS,
    AddressSpace,
    Processes,
    OpenFiles,
    FileBytes,
}

/// Becomes the command, if the arguments are those of a launcher; `None` when they are not.
pub(crate) fn main(args: &[OsString]) -> Option<ExitCode> {
    let command = args.get(1).filter(|word| *word == WORD).and_then(|_| args.get(2..))?;
    let plan = muster_runtime::env::var(PLAN).ok().flatten().and_then(|plan| serde_json::from_str::<Plan>(&plan).ok());
    let Some(plan) = plan else {
        let _ = writeln!(std::io::stderr(), "this is how the agent starts commands; it is of no use by hand");
        return Some(ExitCode::from(muster_runtime::config::EXIT_CONFIG));
    };
    let problem = become_it(&plan, command);
    let _ = write!(std::io::stderr(), "{}{problem}", plan.mark);
    Some(ExitCode::from(127))
}

/// Says why it did not.
fn become_it(plan: &Plan, command: &[OsString]) -> String {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| "an argument or variable with a NUL".to_owned());
    let run = || -> Result<String, String> {
        let argument = |arg: &OsString| text(arg.as_bytes().strip_prefix(ARGUMENT.as_bytes()).unwrap_or(arg.as_bytes()));
        let args = command.iter().map(argument).collect::<Result<Vec<_>, _>>()?;
        let program = args.first().ok_or("no program")?;
        let variables = variables().map(|variable| text(variable.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        put_on(plan)?;
        // From here on memory may be short: nothing but the call.
        let error = match execvpe(program, &args, &variables) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        Ok(cannot_start(&program.to_string_lossy(), &error.into(), args.iter().chain(&variables).map(|text| text.count_bytes()).sum()))
    };
    run().unwrap_or_else(|problem| problem)
}

/// The message about a program that the system would not start.
pub(super) fn cannot_start(program: &str, error: &std::io::Error, bytes: usize) -> String {
    let program: String = program.chars().take(200).collect();
    let problem = match error.kind() {
        std::io::ErrorKind::NotFound => "no such program".to_owned(),
        std::io::ErrorKind::ArgumentListTooLong => {
            format!("its arguments and variables ({bytes} bytes) are more than the system takes; send them on stdin")
        }
        _ => error.to_string(),
    };
    format!("cannot start `{program}`: {problem}")
}

/// The command's variables, as `NAME=value`.
#[allow(clippy::disallowed_methods, reason = "it hands on what it was given, and reads no setting from it")]
fn variables() -> impl Iterator<Item = OsString> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.as_bytes().strip_prefix(SET.as_bytes())?;
        Some(OsString::from_vec([name, b"=", value.as_bytes()].concat()))
    })
}

fn put_on(plan: &Plan) -> Result<(), String> {
    let said = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    if let Some(members) = &plan.cgroup {
        // 0 is whoever writes it.
        std::fs::write(members, "0").map_err(|error| said("can't join the job's cgroup", &error))?;
    }
    for (limit, value) in &plan.limits {
        let resource = match limit {
            Limit::CpuS => Resource::RLIMIT_CPU,
            Limit::AddressSpace => Resource::RLIMIT_AS,
            Limit::Processes => Resource::RLIMIT_NPROC,
            Limit::OpenFiles => Resource::RLIMIT_NOFILE,
            Limit::FileBytes => Resource::RLIMIT_FSIZE,
        };
        let (_, most) = getrlimit(resource).map_err(|error| said("can't read the agent's own limits", &error))?;
        let value = (*value).min(most);
        // A second more than XCPU is sent after, so that a command can end in order.
        let hard = if *limit == Limit::CpuS { value.saturating_add(1).min(most) } else { value };
        setrlimit(resource, value, hard).map_err(|error| said("can't set the job's limits", &error))?;
    }
    if let Some(ids) = &plan.ids {
        let groups: Vec<_> = ids.groups.iter().copied().map(Gid::from_raw).collect();
        let changed = setgroups(&groups).and_then(|()| setgid(Gid::from_raw(ids.gid))).and_then(|()| setuid(Uid::from_raw(ids.uid)));
        changed.map_err(|error| said("params.user: can't become that user", &error))?;
    }
    let cwd: &OsStr = plan.cwd.as_os_str();
    std::env::set_current_dir(cwd).map_err(|error| said(&format!("params.cwd: {}", plan.cwd.display()), &error))
}
