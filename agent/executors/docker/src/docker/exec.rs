//! `docker.exec`: a command in a container that runs.
//!
//! The engine's API has no way to end such a command: dropping the connection leaves it running. What can be done about it is in `kill`.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use bollard::{
    Docker,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
};
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Stream, Work, fields::Fields, schema};
use muster_schemas::{code::Code, describe::TypeInfo};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::kill;
use crate::{
    container::{self, short, stopped, unless_stopped},
    engine::Engine,
    failure::Failure,
    params, parts,
};

/// Largest piece of output: what the engine frames at once.
const PIECE: usize = 64 * 1024;

/// What it takes.
pub(super) fn info() -> TypeInfo {
    let params = schema::object(
        &["container"],
        [
            params::container_schema(),
            ("argv", schema::texts("The command and its arguments; or `command`.")),
            ("command", schema::text("A line for the container's /bin/sh.")),
            ("env", schema::text_map("Variables, beside the container's.")),
            ("user", schema::text("USER[:GROUP], by name or number; the container's if absent.")),
            ("workdir", schema::text("The folder to start in; the container's if absent.")),
            ("stdin", schema::text("What the command reads.")),
        ],
    );
    let example = json!({"container": "web", "argv": ["nginx", "-t"]});
    schema::type_info(super::Docker::NAME, "exec", "Runs a command in a container that runs.", params, example)
}

/// A `docker.exec`.
#[derive(Debug)]
pub(super) struct Exec {
    engine: Arc<Engine>,
    container: String,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    user: Option<String>,
    workdir: Option<String>,
    stdin: Option<String>,
}

impl Exec {
    pub(super) fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        let container = params::container(fields)?;
        let argv = match (params::texts(fields, "argv")?, fields.text("command")?) {
            (Some(argv), None) if !argv.is_empty() => argv,
            (None, Some(line)) => ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
            (Some(_), Some(_)) => return Err(Rejection::field("command", "give one of `argv` and `command`")),
            _ => return Err(Rejection::field("argv", "is missing: give it or `command`")),
        };
        Ok(Self {
            engine,
            container,
            argv,
            env: params::env(fields)?,
            user: fields.text("user")?.map(str::to_owned),
            workdir: params::parsed(fields, "workdir", parts::mounts::target)?,
            stdin: fields
                .value("stdin")
                .map(|value| value.as_str().ok_or_else(|| muster_executor::fields::wrong("stdin", "text", value)))
                .transpose()?
                .map(str::to_owned),
        })
    }

    async fn perform(&self, scope: &Scope) -> Result<Finish, Failure> {
        let client = match unless_stopped(&scope.stop, self.engine.client(&scope.attempt.agent_id)).await {
            Some(client) => client?,
            None => return Ok(stopped()),
        };
        let container = container::inspect(client, &self.container).await?.id.unwrap_or_default();
        let exec = client.create_exec(&container, self.options()).await?.id;
        let start = StartExecOptions { output_capacity: Some(PIECE), ..StartExecOptions::default() };
        let StartExecResults::Attached { output, mut input } = client.start_exec(&exec, Some(start)).await.map_err(Failure::of_start)?
        else {
            return Err(Failure::new(Code::Internal, "the engine did not attach to the command"));
        };
        let mut work = pin!(async {
            // A command that does not read its input is no failure; nor is one that has ended by then.
            let write = async {
                let Some(stdin) = &self.stdin else { return };
                let _unread = input.write_all(stdin.as_bytes()).await;
                let _closed = input.shutdown().await;
            };
            tokio::join!(write, container::pump(output, &scope.recorder)).1
        });
        if let Some(done) = unless_stopped(&scope.stop, &mut work).await {
            done?;
            return self.judge(client, &exec, &container).await;
        }
        let ending = async { self.end(client, &exec, &container, scope).await };
        tokio::select! {
            biased;
            ended = ending => ended.map(|()| stopped()),
            _read = async { let _ = work.await; std::future::pending::<()>().await } => Ok(stopped()),
        }
    }

    fn options(&self) -> CreateExecOptions<String> {
        CreateExecOptions {
            attach_stdin: Some(self.stdin.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(false),
            env: Some(self.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            cmd: Some(self.argv.clone()),
            privileged: Some(false),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            ..CreateExecOptions::default()
        }
    }

    /// Its output has ended: so has it, unless it closed its output itself.
    async fn judge(&self, client: &Docker, exec: &str, container: &str) -> Result<Finish, Failure> {
        let state = loop {
            let state = client.inspect_exec(exec).await?;
            if state.running != Some(true) {
                break state;
            }
            tokio::time::sleep(kill::LOOK).await;
        };
        let status = state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
        let data = json!({"container": short(container)});
        let finish = match status {
            0 => Finish::succeeded(None),
            _ => Finish::failed(Code::ExitNonzero, format!("the command ended with exit status {status}")),
        };
        Ok(Finish { exit_code: Some(status), ..finish.with_data(data) })
    }

    /// TERM, then KILL; and if that can't be done, says so.
    async fn end(&self, client: &Docker, exec: &str, container: &str, scope: &Scope) -> Result<(), Failure> {
        let pid = client.inspect_exec(exec).await?.pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        if let Err(problem) = kill::end(pid, container, scope.settings.kill_grace).await {
            let words = format!("muster: the command may still run in the container: {problem}\n");
            scope.recorder.write(Stream::Stderr, words.as_bytes()).await;
        }
        Ok(())
    }
}

impl Work for Exec {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.perform(scope).await.unwrap_or_else(Finish::from) })
    }

    fn cleans_up(&self) -> bool {
        true
    }
}
