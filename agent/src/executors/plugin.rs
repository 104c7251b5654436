//! Plugins: programs of the plugin folder, each an executor of the name of its file. The protocol is in `docs/plugins.md`.
//!
//! Which files are plugins and which are refused is in `find`, what they say of themselves in `describe`, what they write while they run in `lines`.
//! They are started as commands are, by `process`; a job's secrets are on their standard input and nowhere else.

mod describe;
mod find;
mod lines;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use muster_executor::{BoxFuture, Executor, Finish, Rejection, Scope, Work};
use muster_schemas::{
    code::Code,
    connection::ConnectionKind,
    describe::TypeInfo,
    names::{AgentId, ConnectionName, JobId},
};
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub use find::{Plugins, Refused};

use super::process::{self, Host, Order, limits::Limits};
use describe::Described;
use lines::Lines;

/// One plugin.
#[derive(Debug)]
pub(super) struct Plugin {
    name: String,
    program: PathBuf,
    described: Described,
    host: Arc<Host>,
}

impl Plugin {
    fn new(name: String, program: PathBuf, described: Described, host: Arc<Host>) -> Self {
        Self { name, program, described, host }
    }
}

impl Executor for Plugin {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> &str {
        &self.described.about
    }

    fn types(&self) -> Vec<TypeInfo> {
        self.described.types.clone()
    }

    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection> {
        let kind = format!("{}.{verb}", self.name);
        if !self.described.types.iter().any(|info| info.name == kind) {
            return Ok(None);
        }
        if !params.is_object() {
            return Err(Rejection::new(Code::ParamsInvalid, "params: expected a map"));
        }
        let (name, program, host) = (self.name.clone(), self.program.clone(), Arc::clone(&self.host));
        Ok(Some(Box::new(Job { name, program, host, verb: verb.to_owned(), params: params.clone() })))
    }
}

#[derive(Debug)]
struct Job {
    name: String,
    program: PathBuf,
    host: Arc<Host>,
    verb: String,
    params: Value,
}

impl Work for Job {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(run(*self, scope))
    }

    fn cleans_up(&self) -> bool {
        true
    }
}

async fn run(job: Job, scope: &Scope) -> Finish {
    let failed = |problem: String| Finish::failed(Code::PluginFailed, format!("plugin `{}`: {problem}", job.name));
    let stdin = match document(&job, scope) {
        Ok(stdin) => stdin,
        Err(error) => return failed(format!("its job can't be written as JSON: {error}")),
    };
    let order = Order {
        program: job.program.display().to_string(),
        args: vec!["run".to_owned()],
        env: Vec::new(),
        cwd: None,
        stdin,
        user: None,
        limits: Limits::default(),
    };
    let enough = CancellationToken::new();
    let mut lines = Lines::new(&scope.recorder, enough.clone());
    let ended = match process::run(order, &job.host, scope, &mut lines, &enough).await {
        Ok(ended) => ended,
        Err(error) => return Finish::failed(Code::SpawnFailed, format!("plugin `{}`: {error}", job.name)),
    };
    let (code, how) = match ended.status.map(process::exit) {
        Ok(exit) => exit,
        Err(error) => return failed(format!("could not wait for it: {error}")),
    };
    // Whoever broke the protocol was stopped for that, not because the attempt has to end.
    let stopped = ended.stopped && scope.stop.is_cancelled();
    let finish = match lines.said() {
        Err(problem) => failed(problem),
        Ok(None) if code == 0 => failed("it ended without a result".to_owned()),
        Ok(None) => failed(format!("it ended without a result: {how}")),
        Ok(Some(result)) if result.succeeded() && code != 0 => failed(format!("it said `succeeded`, and then ended badly: {how}")),
        Ok(Some(result)) => result.into(),
    };
    Finish { stopped, ..finish }
}

/// What a plugin reads: one JSON document.
#[derive(Serialize)]
struct Document<'a> {
    v: u32,
    job_id: &'a JobId,
    attempt: u32,
    agent_id: &'a AgentId,
    r#type: String,
    verb: &'a str,
    params: &'a Value,
    timeout_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<Opened<'a>>,
}

#[derive(Serialize)]
struct Opened<'a> {
    name: &'a ConnectionName,
    kind: ConnectionKind,
    settings: &'a Value,
    credentials: &'a BTreeMap<String, String>,
}

/// The only place where a plugin finds secrets.
fn document(job: &Job, scope: &Scope) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let attempt = &scope.attempt;
    let document = Document {
        v: 1,
        job_id: &attempt.job_id,
        attempt: attempt.number,
        agent_id: &attempt.agent_id,
        r#type: format!("{}.{}", job.name, job.verb),
        verb: &job.verb,
        params: &job.params,
        timeout_s: attempt.timeout.as_secs_f64(),
        connection: scope.connection.as_ref().map(|connection| Opened {
            name: &connection.name,
            kind: connection.kind,
            settings: &connection.settings,
            credentials: &connection.credentials.fields,
        }),
    };
    // Of its full size from the start: what grows leaves copies behind that nobody wipes.
    let mut text = Zeroizing::new(Vec::with_capacity(size(&document)?));
    serde_json::to_writer(&mut *text, &document)?;
    Ok(text)
}

/// Bytes that it has as JSON.
fn size(document: &Document<'_>) -> serde_json::Result<usize> {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, document)?;
    Ok(counter.0)
}

#[cfg(test)]
mod tests;
