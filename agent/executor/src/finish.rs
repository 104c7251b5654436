//! How work says that it is done: the [`Finish`] that it hands to [`crate::runner`], and the [`Execution`] that comes of it.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use muster_schemas::code::Code;
use muster_schemas::result::{ErrorInfo, Outcome, Output};
use serde_json::Value;

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    /// `succeeded`, `failed`, `timed_out`, `cancelled` or `rejected`.
    pub outcome: Outcome,
    /// The exit status of a command; 128 and the signal's number when a signal ended it.
    pub exit_code: Option<i32>,
    /// The end of standard output, at most [`crate::Settings::tail_bytes`].
    pub stdout: Output,
    /// The end of standard error, likewise.
    pub stderr: Output,
    /// Whether either stream was longer than what is kept here.
    pub truncated: bool,
    /// What the executor gives back beside output; at most 96 KiB as MessagePack.
    pub data: Option<Value>,
    /// What went wrong, unless it succeeded.
    pub error: Option<ErrorInfo>,
    /// What is left to do once this is stored.
    pub afterwards: Option<Afterwards>,
    /// Chunks of its log that went on their way; for the agent's core to fill in.
    pub log_chunks: u64,
}

/// What is done once a job's result is stored, at the broker or in the agent's own spool: what would keep it from being stored if done before.
#[derive(Clone)]
pub struct Afterwards(Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>);

impl Afterwards {
    /// What is done.
    pub fn new<F: Future<Output = ()> + Send + 'static>(what: impl Fn() -> F + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || Box::pin(what())))
    }

    /// Does it.
    pub async fn run(&self) {
        (self.0)().await;
    }
}

impl fmt::Debug for Afterwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Afterwards")
    }
}

impl PartialEq for Afterwards {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// An error with its causes, without those that only repeat what was said.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    text
}

/// Why a job may not start: its type or params are wrong, for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// The stable code.
    pub code: Code,
    /// What was wrong; names the field.
    pub message: String,
}

impl Rejection {
    /// A rejection.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Params that do not fit: `field` is a path such as `env.LD_PRELOAD`.
    pub fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(Code::ParamsInvalid, format!("params.{field}: {problem}"))
    }
}

impl From<Rejection> for Finish {
    fn from(rejection: Rejection) -> Self {
        Self::rejected(rejection.code, rejection.message)
    }
}

impl From<Rejection> for ErrorInfo {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.code, rejection.message)
    }
}

/// What an executor hands back.
#[derive(Debug)]
pub struct Finish {
    /// What the executor makes of it.
    pub verdict: Verdict,
    /// The exit status of a command, as in [`Execution`].
    pub exit_code: Option<i32>,
    /// What is given back beside output.
    pub data: Option<Value>,
    /// What is left to do once the result is stored.
    pub afterwards: Option<Afterwards>,
    /// It ended because it was told to stop; the verdict is then the runner's.
    pub stopped: bool,
}

/// What an executor makes of its own work.
#[derive(Debug)]
pub enum Verdict {
    /// It did what it was asked for.
    Succeeded,
    /// It did not; another attempt may.
    Failed(ErrorInfo),
    /// It never will: the job asks for what can't or must not be done.
    Rejected(ErrorInfo),
}

impl Finish {
    /// Success.
    pub fn succeeded(data: Option<Value>) -> Self {
        Self { verdict: Verdict::Succeeded, exit_code: None, data, afterwards: None, stopped: false }
    }

    /// A failure.
    pub fn failed(code: Code, message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed(ErrorInfo::new(code, message)), exit_code: None, data: None, afterwards: None, stopped: false }
    }

    /// A refusal, for good.
    pub fn rejected(code: Code, message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Rejected(ErrorInfo::new(code, message)), ..Self::failed(code, "") }
    }

    /// The same, with data.
    #[must_use]
    pub fn with_data(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }
}
