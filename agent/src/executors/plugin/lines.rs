//! What a running plugin writes on standard output: JSON, one value to a line, bounded in every direction.
//!
//! The first thing that breaks the protocol is what the job fails with, and the end of the plugin: nobody reads on.

use muster_executor::{Finish, Recorder, Stream};
use muster_schemas::code::Code;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::super::process::pipes::Take;

/// The longest line: the data of a result, however it is escaped.
pub(super) const LINE_BYTES: usize = 1024 * 1024;

/// The most that a plugin may write on standard output: more than any log keeps.
pub(super) const TOTAL_BYTES: u64 = 64 * 1024 * 1024;

/// The longest message of a result, in bytes.
const MESSAGE_BYTES: usize = 4096;

/// A line has exactly one of these.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Progress(Progress),
    Output(String),
    Result(Result),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    percent: f64,
    #[serde(default)]
    message: String,
}

/// How a plugin says that it is done.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Result {
    outcome: Outcome,
    #[serde(default)]
    data: Option<Value>,
    #[serde(default)]
    error: Option<Problem>,
    #[serde(default)]
    exit_code: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Succeeded,
    Failed,
    Rejected,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Problem {
    message: String,
}

impl Result {
    pub(super) fn succeeded(&self) -> bool {
        self.outcome == Outcome::Succeeded
    }
}

impl From<Result> for Finish {
    fn from(Result { outcome, data, error, exit_code }: Result) -> Self {
        let message = |nothing: &str| {
            let text = error.map_or_else(|| nothing.to_owned(), |error| error.message);
            text.get(..text.floor_char_boundary(MESSAGE_BYTES)).unwrap_or_default().to_owned()
        };
        let finish = match outcome {
            Outcome::Succeeded => Self::succeeded(None),
            Outcome::Failed => Self::failed(Code::PluginFailed, message("the plugin says that it failed, and not why")),
            Outcome::Rejected => Self::rejected(Code::ParamsInvalid, message("the plugin refuses the job, and does not say why")),
        };
        Self { data, exit_code, ..finish }
    }
}

/// Reads the lines as they come.
pub(super) struct Lines<'a> {
    recorder: &'a Recorder,
    /// Set when nothing that follows can make it right.
    enough: CancellationToken,
    line: Vec<u8>,
    number: u64,
    total: u64,
    result: Option<Result>,
    problem: Option<String>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(recorder: &'a Recorder, enough: CancellationToken) -> Self {
        Self { recorder, enough, line: Vec::new(), number: 0, total: 0, result: None, problem: None }
    }

    /// The result, if there was one.
    ///
    /// # Errors
    /// What was wrong with the lines.
    pub(super) fn said(self) -> std::result::Result<Option<Result>, String> {
        match self.problem {
            Some(problem) => Err(problem),
            None => Ok(self.result),
        }
    }

    fn fail(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
        self.line = Vec::new();
        self.enough.cancel();
    }

    /// The line that is complete now.
    async fn next(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.number += 1;
        if line.trim_ascii().is_empty() {
            return;
        }
        let number = self.number;
        let parsed = match std::str::from_utf8(&line) {
            Ok(text) => serde_json::from_str::<Line>(text).map_err(|error| format!("line {number} is not of the protocol: {error}")),
            Err(_) => Err(format!("line {number} is not UTF-8")),
        };
        match parsed {
            Err(problem) => self.fail(problem),
            Ok(Line::Result(_)) if self.result.is_some() => self.fail(format!("line {number} is a second result")),
            Ok(_) if self.result.is_some() => self.fail(format!("line {number} comes after the result")),
            Ok(Line::Result(result)) => self.result = Some(result),
            Ok(Line::Output(text)) => self.recorder.write(Stream::Stdout, text.as_bytes()).await,
            Ok(Line::Progress(Progress { percent, message })) => self.recorder.progress(percent.clamp(0.0, 100.0) as u8, &message),
        }
    }
}

impl Take for Lines<'_> {
    async fn take(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        if self.problem.is_some() {
            return;
        }
        if self.total > TOTAL_BYTES {
            return self.fail(format!("it wrote more than {TOTAL_BYTES} bytes on standard output"));
        }
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() > LINE_BYTES {
                return self.fail(format!("line {} has more than {LINE_BYTES} bytes", self.number + 1));
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.next().await;
            }
            if self.problem.is_some() {
                return;
            }
        }
    }

    async fn end(&mut self) {
        if self.problem.is_none() && !self.line.is_empty() {
            self.next().await;
        }
    }
}
