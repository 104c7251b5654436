//! `shell.run`: one command in a process group of its own, and the end of everything it started.
//!
//! Spawning is in `spawn`, what the child may see in `environment`, finding and killing its tree in `tree`, its pipes
//! in `pipes`. The time-out is not here: `runner` says when to stop, this says how.
//!
//! The attempt's whole tree ends with it: what a command leaves in the background is killed when the command has ended.

mod environment;
mod params;
mod pipes;
mod procfs;
mod spawn;
mod tree;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use muster_executor::{BoxFuture, Executor, Finish, Rejection, Scope, Work, schema};
use muster_schemas::{code::Code, describe::TypeInfo};
use params::Params;
use pipes::Pipes;
use serde_json::{Value, json};
use spawn::Child;
use tokio::time::{Instant, timeout_at};
use tree::Tree;
pub use tree::kill_orphans;

/// The executor's name.
pub(super) const NAME: &str = "shell";

/// The executor.
#[derive(Debug)]
pub(super) struct Shell;

impl Executor for Shell {
    fn name(&self) -> &str {
        NAME
    }

    fn about(&self) -> &str {
        "commands on the agent's machine"
    }

    fn types(&self) -> Vec<TypeInfo> {
        vec![schema::type_info(NAME, "run", "Runs a command.", params::schema(), json!({"command": "uptime"}))]
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        Ok(if verb == "run" { Some(Box::new(Params::parse(params)?)) } else { None })
    }
}

impl Work for Params {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(run(*self, scope))
    }

    fn cleans_up(&self) -> bool {
        true
    }
}

/// How long pipes may take to close once nobody is left who could write: what they still hold is read.
const LAST_WORDS: Duration = Duration::from_millis(500);

async fn run(params: Params, scope: &Scope) -> Finish {
    let Child { mut process, marker, pipes } = match spawn::start(&params, &scope.attempt) {
        Ok(child) => child,
        Err(error) => return Finish::failed(Code::SpawnFailed, error.to_string()),
    };
    let mut tree = Tree::new(process.id(), marker);
    let mut pipes = Pipes::new(pipes, params.stdin, &scope.recorder);
    let ended = tokio::select! {
        biased;
        status = pipes.beside(process.wait()) => Some(status),
        () = scope.stop.cancelled() => None,
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
    Finish { stopped, ..finish(status) }
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

fn finish(status: std::io::Result<ExitStatus>) -> Finish {
    let status = match status {
        Ok(status) => status,
        Err(error) => return Finish::failed(Code::Internal, format!("could not wait for the command: {error}")),
    };
    let (exit_code, problem) = match (status.code(), status.signal()) {
        (Some(0), _) => return Finish { exit_code: Some(0), ..Finish::succeeded(None) },
        (Some(code), _) => (code, format!("exit status {code}")),
        (None, Some(signal)) => (128 + signal, format!("ended by signal {signal}{}", signal_name(signal))),
        (None, None) => (-1, format!("ended oddly: {status}")),
    };
    let failed = Finish::failed(Code::ExitNonzero, problem);
    Finish { exit_code: Some(exit_code), ..failed }
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(|_| String::new(), |name| format!(" ({name})"))
}

#[cfg(test)]
mod tests;
