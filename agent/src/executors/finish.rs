//! How executors say that they are done: what they hand to `runner`, and what `runner` makes of it.

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
    /// The end of standard output, at most [`super::Settings::tail_bytes`].
    pub stdout: Output,
    /// The end of standard error, likewise.
    pub stderr: Output,
    /// Whether either stream was longer than what is kept here.
    pub truncated: bool,
    /// What the executor gives back beside output; at most 96 KiB as MessagePack.
    pub data: Option<Value>,
    /// What went wrong, unless it succeeded.
    pub error: Option<ErrorInfo>,
    /// Chunks of its log that went on their way; for the agent's core to fill in.
    pub log_chunks: u64,
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
    pub(super) fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(Code::ParamsInvalid, format!("params.{field}: {problem}"))
    }
}

impl From<Rejection> for ErrorInfo {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.code, rejection.message)
    }
}

/// What an executor hands back.
#[derive(Debug)]
pub(super) struct Finish {
    pub(super) verdict: Verdict,
    pub(super) exit_code: Option<i32>,
    pub(super) data: Option<Value>,
    /// It ended because it was told to stop; the verdict is then the runner's.
    pub(super) stopped: bool,
}

/// What an executor makes of its own work.
#[derive(Debug)]
pub(super) enum Verdict {
    Succeeded,
    Failed(ErrorInfo),
    Rejected(ErrorInfo),
}

impl Finish {
    pub(super) fn succeeded(data: Option<Value>) -> Self {
        Self { verdict: Verdict::Succeeded, exit_code: None, data, stopped: false }
    }

    pub(super) fn failed(code: Code, message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed(ErrorInfo::new(code, message)), exit_code: None, data: None, stopped: false }
    }

    pub(super) fn rejected(code: Code, message: impl Into<String>) -> Self {
        Self { verdict: Verdict::Rejected(ErrorInfo::new(code, message)), ..Self::failed(code, "") }
    }

    pub(super) fn with_data(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }
}
