//! Starts the command of a `shell.run` job: its own process group, a clean environment, three pipes and nothing else.
//!
//! No descriptor that the agent opened is passed on: Rust opens all of them close-on-exec. What the agent itself was started with, beyond
//! the first three, is for whoever started it to close.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use muster_executor::Attempt;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};

use super::environment::{self, AGENT, MARKER};
use super::params::Params;

/// A running command.
pub(super) struct Child {
    pub(super) process: tokio::process::Child,
    /// `NAME=value` as it stands in the environment of all that the attempt starts.
    pub(super) marker: Vec<u8>,
    pub(super) pipes: (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>),
}

/// Why a command could not be started. The message is for the person who wrote the job.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("params.cwd: {path:?}: {problem}")]
    Cwd { path: PathBuf, problem: String },
    #[error("cannot start `{program}`: {problem}")]
    Program { program: String, problem: String },
}

pub(super) fn start(params: &Params, attempt: &Attempt) -> Result<Child, Error> {
    // 128 random bits: nobody else's environment has it, and no job can guess another's.
    let key = format!("{:032x}", rand::random::<u128>());
    let inherited = environment::inherited();
    let cwd = cwd(params, &inherited)?;
    let mut command = Command::new(&params.program);
    command
        .args(&params.args)
        .env_clear()
        .envs(inherited)
        .envs(params.env.iter().map(|(name, value)| (name, value)))
        .env(AGENT, attempt.agent_id.as_str())
        .env("MUSTER_JOB_ID", attempt.job_id.as_str())
        .env("MUSTER_ATTEMPT", attempt.number.to_string())
        .env(MARKER, &key)
        .current_dir(cwd)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if params.stdin.is_empty() {
        command.stdin(Stdio::null());
    }
    let mut process = command.spawn().map_err(|error| program(params, &error))?;
    let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
    Ok(Child { process, marker: format!("{MARKER}={key}").into_bytes(), pipes })
}

/// The job's directory, else the agent's home, else `/`: never wherever the agent happened to be started.
fn cwd(params: &Params, inherited: &[(&str, String)]) -> Result<PathBuf, Error> {
    let Some(path) = &params.cwd else {
        let home = inherited.iter().find(|(name, _)| *name == "HOME").map(|(_, home)| Path::new(home));
        return Ok(home.filter(|home| home.is_absolute() && home.is_dir()).unwrap_or(Path::new("/")).to_owned());
    };
    let wrong = |problem: String| Error::Cwd { path: path.clone(), problem };
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(path.clone()),
        Ok(_) => Err(wrong("not a directory".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn program(params: &Params, error: &std::io::Error) -> Error {
    let problem = match error.kind() {
        std::io::ErrorKind::NotFound => "no such program".to_owned(),
        std::io::ErrorKind::ArgumentListTooLong => {
            let bytes: usize = params.args.iter().map(String::len).chain(params.env.iter().map(|(n, v)| n.len() + v.len())).sum();
            format!("its arguments and variables ({bytes} bytes) are more than the system takes; send them on stdin")
        }
        _ => error.to_string(),
    };
    Error::Program { program: params.program.chars().take(200).collect(), problem }
}
