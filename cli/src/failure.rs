//! What the command line says when something failed: what it was, and what to do. And the exit codes.

use std::{io::Write as _, process::ExitCode};

use muster_schemas::{api::Problem, code::Code};
use serde_json::json;

use crate::text::safe;

/// The command line is wrong, as clap has it.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Timed out, as `timeout(1)` has it.
pub(crate) const EXIT_TIMED_OUT: u8 = 124;
/// Interrupted by Ctrl-C, as shells have it.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Something failed, and this is what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// What failed.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: Option<String>,
    /// What to exit with.
    pub(crate) exit: u8,
}

/// The gateway refused a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", problem.code, problem.detail)]
pub(crate) struct Refused {
    /// Its answer.
    pub(crate) problem: Problem,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: 1 }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn exit(self, exit: u8) -> Self {
        Self { exit, ..self }
    }
}

/// Whether an error may pass by itself: the gateway is away, or the broker or the dispatcher behind it.
pub(crate) fn may_pass(error: &anyhow::Error) -> bool {
    const PASSING: [Code; 3] = [Code::BrokerUnavailable, Code::HistoryUnavailable, Code::RateLimited];
    error.is::<Failure>() || error.downcast_ref::<Refused>().is_some_and(|refused| PASSING.contains(&refused.problem.code))
}

/// Prints an error and gives its exit code.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    let refused = error.chain().find_map(|cause| cause.downcast_ref::<Refused>());
    // Whoever reads has closed the pipe (`muster … | head`): nothing to say, and nobody to say it to.
    let closed =
        error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|io| io.kind() == std::io::ErrorKind::BrokenPipe);
    let exit = failure.map_or(1, |failure| failure.exit);
    if closed {
        return ExitCode::from(exit);
    }
    let hint = failure
        .and_then(|failure| failure.hint.clone())
        .or_else(|| refused.and_then(|refused| hint(refused.problem.code).map(str::to_owned)));
    let message = muster_runtime::process::chain(error);
    let text = if json {
        let problem = refused.map(|refused| &refused.problem);
        format!("{}\n", json!({"error": message, "hint": hint, "problem": problem}))
    } else {
        let mut text = format!("muster: {}\n", safe(&message));
        if let Some(hint) = hint {
            text.push_str(&format!("  hint: {}\n", safe(&hint)));
        }
        if let Some(Refused { problem }) = refused {
            text.push_str(&format!("  more: {}, request {}\n", safe(&problem.kind), safe(&problem.request_id)));
        }
        text
    };
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(exit)
}

/// What to do about a refusal, where the gateway's own words leave that open.
fn hint(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::Unauthenticated => "give a key with MUSTER_API_KEY, --api-key or --profile; `muster keys create` makes one",
        Code::Forbidden => "use a key with a larger role; `muster keys create --role` makes one",
        Code::PoolNotFound => "`muster pools list` shows what there is, `muster pools put NAME` makes one",
        Code::PoolNotEmpty => {
            "stop the agents that are there (`muster agents --pool NAME` shows them): --force does not, it cancels the pool's jobs and groups"
        }
        Code::JobNotFinished => "`muster job why ID` says what it waits for; `muster job cancel ID` ends it",
        Code::DeadLetterNotFound => "`muster dead` shows what there is; `muster job retry ID` runs a job again that just failed",
        Code::BodyNotKept => "`muster submit` it anew",
        Code::HistoryUnavailable => "try again in a moment; jobs run all the same, and `muster job get ID` looks one up",
        Code::JobNotFound => "results are kept for a day unless the job says otherwise; is the id complete?",
        Code::JobAmbiguous => "say which with --pool",
        Code::AgentNotFound => "`muster agents` shows what there is",
        Code::KeyNotFound => "`muster keys list` shows what there is",
        Code::ConnectionNotFound => "`muster connections` shows what there is, `muster connections put NAME` makes one",
        Code::RevisionConflict => "`muster connections show NAME` says what was delivered; deliver again if yours are the newer ones",
        Code::GroupNotFound => "`muster groups list` shows what there is",
        Code::NoAgentMatches => "`muster agents` shows what there is, with states and executors",
        Code::QueueFull => "wait until jobs have run, or raise the limit with `muster pools put NAME --max-queued`",
        Code::TypeUnknown => "a type is EXECUTOR.VERB, such as shell.run, http.request or probe.ping",
        Code::BrokerUnavailable | Code::RateLimited => "try again in a moment",
        Code::Internal => "the gateway's log has the details under this request",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_failure_keeps_its_exit_code_under_context() {
        let error: anyhow::Error = Failure::new("too late").exit(EXIT_TIMED_OUT).into();
        let wrapped = Err::<(), _>(error).context("can't ping").unwrap_err();
        assert_eq!(format!("{:?}", report(&wrapped, false)), format!("{:?}", ExitCode::from(124)));
    }

    #[test]
    fn hints_name_commands_that_exist() {
        use clap::CommandFactory as _;
        let command = crate::args::Cli::command();
        let known: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        for hint in Code::ALL.iter().filter_map(|code| hint(*code)) {
            for quoted in hint.split('`').filter_map(|part| part.strip_prefix("muster ")) {
                let name = quoted.split_whitespace().next().unwrap();
                assert!(known.contains(&name), "{hint}");
            }
        }
    }
}
