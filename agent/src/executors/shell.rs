//! `shell.run`: one command, through a shell or directly.
//!
//! Starting it, its pipes and the end of everything it started are in `process`, which plugins share.

mod params;

use std::sync::Arc;

use muster_executor::{BoxFuture, Executor, Finish, Rejection, Scope, Stream, Work, schema};
use muster_schemas::{code::Code, describe::TypeInfo};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::process::{self, Ended, Host, Order, limits::Limits, pipes::Recorded};

/// The executor's name.
pub(super) const NAME: &str = "shell";

/// The executor.
#[derive(Debug)]
pub(super) struct Shell(Bounds);

/// What an agent lets a command have.
#[derive(Debug)]
struct Bounds {
    host: Arc<Host>,
    /// What each command gets at most.
    limits: Limits,
}

impl Shell {
    pub(super) fn new(host: Arc<Host>, limits: Limits) -> Self {
        Self(Bounds { host, limits })
    }
}

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
        if verb != "run" {
            return Ok(None);
        }
        Ok(Some(Box::new(Command { order: params::parse(params, &self.0)?, host: Arc::clone(&self.0.host) })))
    }
}

#[derive(Debug)]
struct Command {
    order: Order,
    host: Arc<Host>,
}

impl Work for Command {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move {
            let mut out = Recorded { recorder: &scope.recorder, stream: Stream::Stdout };
            match process::run(self.order, &self.host, scope, &mut out, &CancellationToken::new()).await {
                Ok(ended) => finish(ended),
                Err(error) => Finish::failed(Code::SpawnFailed, error.to_string()),
            }
        })
    }

    fn cleans_up(&self) -> bool {
        true
    }
}

fn finish(Ended { status, stopped, report }: Ended) -> Finish {
    let ended = match status.map(process::exit) {
        Ok((0, _)) => Finish { exit_code: Some(0), ..Finish::succeeded(None) },
        Ok((code, problem)) => Finish { exit_code: Some(code), ..Finish::failed(Code::ExitNonzero, problem) },
        Err(error) => Finish::failed(Code::Internal, format!("could not wait for the command: {error}")),
    };
    Finish { stopped, data: report, ..ended }
}

#[cfg(test)]
mod tests;
