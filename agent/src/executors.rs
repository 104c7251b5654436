//! What an agent can do: the executors, the one place that knows which are on, and the way a job's work is run.
//!
//! [`Registry::check`] parses a job's params before anything starts; [`Registry::run`] runs one attempt to its
//! [`Execution`]. Time-out, cancel and output caps live in `runner`, once, around all executors. Nothing here talks to
//! the broker: what an attempt writes and reports comes out of the [`Feed`], and the agent's core carries it on.
//!
//! To add an executor: a module with `Params::parse` and `run`, a variant of `Prepared`, a name in [`Registry::KNOWN`].

pub mod context;
mod fields;
mod finish;
mod http;
mod probe;
mod recorder;
mod runner;
mod shell;
mod tail;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_schemas::code::Code;
use muster_schemas::names::{AgentId, JobId};
use serde_json::Value;

pub use context::{Chunk, Context, Feed, Progress, Stream, Update};
pub use finish::{Execution, Rejection};
pub use shell::kill_orphans;

/// What holds for every attempt of an agent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Lets `http.request` reach private and reserved addresses (the agent's `ALLOW_PRIVATE_NETWORK`).
    pub allow_private_network: bool,
    /// How long a stopped process may take between TERM and KILL.
    pub kill_grace: Duration,
    /// How long the pipes may stay open after a command has ended (a background child holds them).
    pub drain: Duration,
    /// Bytes kept of the end of each output stream (64 KiB).
    pub tail_bytes: usize,
    /// Bytes of output of one job that go into its log (5 MiB); the tail does not count against it.
    pub log_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allow_private_network: false,
            kill_grace: Duration::from_secs(5),
            drain: Duration::from_secs(2),
            tail_bytes: muster_schemas::result::TAIL_LIMIT,
            // A command that prints for ever must not fill the LOGS stream of the whole pool.
            log_bytes: muster_schemas::topology::LOG_BYTES_PER_JOB,
        }
    }
}

/// Which attempt of which job is run, and for how long at most.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The agent that runs it.
    pub agent_id: AgentId,
    /// The job's id.
    pub job_id: JobId,
    /// 1 for the first attempt.
    pub number: u32,
    /// After this the attempt is stopped and its outcome is `timed_out`.
    pub timeout: Duration,
}

/// `EXECUTORS` names something that this build does not have.
#[derive(Debug, thiserror::Error)]
#[error("unknown executor `{name}` (known: {})", Registry::KNOWN.join(", "))]
pub struct UnknownExecutor {
    name: String,
}

/// Params that were parsed and found good: all that is left is to run them.
#[derive(Debug)]
pub struct Prepared(Kind);

#[derive(Debug)]
enum Kind {
    Probe(probe::Params),
    Shell(Box<shell::Params>),
    Http(Box<http::Params>),
}

/// The executors that are on, with their settings. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    on: Arc<BTreeSet<&'static str>>,
    settings: Arc<Settings>,
    http: Arc<http::Requester>,
}

impl Registry {
    /// Every executor of this build. `probe` is always on.
    pub const KNOWN: &[&str] = &["probe", "shell", "http"];

    /// Turns on `probe` and the named executors.
    ///
    /// # Errors
    /// A name that is not in [`Registry::KNOWN`].
    pub fn new<S: AsRef<str>>(enabled: &[S], settings: Settings) -> Result<Self, UnknownExecutor> {
        let mut on = BTreeSet::from(["probe"]);
        for name in enabled {
            let name = name.as_ref().trim();
            let known = Self::KNOWN.iter().find(|known| **known == name);
            on.insert(known.ok_or_else(|| UnknownExecutor { name: name.to_owned() })?);
        }
        let http = http::Requester::new(http::Guard::new(settings.allow_private_network));
        Ok(Self { on: Arc::new(on), settings: Arc::new(settings), http: Arc::new(http) })
    }

    /// The names of the executors that are on, in alphabetical order: an agent's capabilities.
    pub fn executors(&self) -> Vec<&'static str> {
        self.on.iter().copied().collect()
    }

    /// Parses a job's params before anything starts. `kind` is the job's type, such as `shell.run`.
    ///
    /// # Errors
    /// `type_unknown` for a type that no executor here runs (or whose executor is off), `params_invalid` naming the
    /// field, `address_forbidden` for a URL that points at a forbidden address. All are final: the job is rejected.
    pub fn check(&self, kind: &str, params: &Value) -> Result<Prepared, Rejection> {
        let (executor, verb) = kind.split_once('.').unwrap_or((kind, ""));
        if !self.on.contains(executor) {
            let on = self.executors().join(", ");
            return Err(Rejection::new(Code::TypeUnknown, format!("no executor here runs `{kind}` (on: {on})")));
        }
        let parsed = match (executor, verb) {
            ("probe", _) => probe::Params::parse(verb, params)?.map(Kind::Probe),
            ("shell", "run") => Some(Kind::Shell(Box::new(shell::Params::parse(params)?))),
            ("http", "request") => Some(Kind::Http(Box::new(self.http.prepare(params)?))),
            _ => None,
        };
        let unknown = || Rejection::new(Code::TypeUnknown, format!("executor `{executor}` has no type `{kind}`"));
        parsed.map(Prepared).ok_or_else(unknown)
    }

    /// Runs one attempt to its end. Never fails: whatever happens is an [`Execution`].
    ///
    /// Dropping the future kills what the attempt started.
    pub async fn run(&self, prepared: Prepared, attempt: Attempt, context: Context) -> Execution {
        runner::run(self, prepared.0, attempt, context).await
    }
}

#[cfg(test)]
mod tests;
