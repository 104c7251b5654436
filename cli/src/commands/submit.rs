//! `muster submit`: send a job, print what it writes as it comes, and end as it ends.

use std::{process::ExitCode, time::Duration};

use muster_runtime::config::Period;
use muster_schemas::{
    api::{JobState, JobView, Submit},
    result::Outcome,
    time::Timestamp,
};
use reqwest::Method;

use super::{
    print::{self, Printed},
    work,
};
use crate::{
    api::Api,
    args::SubmitArgs,
    failure::{EXIT_INTERRUPTED, EXIT_TIMED_OUT, Failure},
    output, text,
};

/// How long a job may wait before that is worth a remark.
const SILENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(api: &Api, args: SubmitArgs, json: bool) -> anyhow::Result<ExitCode> {
    let (detach, wait) = (args.detach, args.wait);
    let submit = request(args, Timestamp::now())?;
    let job: JobView = api.send(Method::POST, "/jobs", &submit, Duration::ZERO).await?;
    if detach {
        if json {
            output::json(&job)?
        } else {
            output::line(job.id.as_str())?
        }
        return Ok(ExitCode::SUCCESS);
    }
    see_through(api, job, wait, json).await
}

/// Waits for the end of a job with its output printed meanwhile, and ends as it ends; or until Ctrl-C.
pub(super) async fn see_through(api: &Api, job: JobView, wait: Option<Period>, json: bool) -> anyhow::Result<ExitCode> {
    let id = job.id.clone();
    tokio::select! {
        // Listened for before anything is said.
        biased;
        signal = tokio::signal::ctrl_c() => {
            signal?;
            output::warn(&format!("job {id} goes on; `muster job get {id}` shows it, `muster job cancel {id}` stops it"));
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        code = follow(api, job, wait, json) => code,
    }
}

fn request(args: SubmitArgs, now: Timestamp) -> anyhow::Result<Submit> {
    let job = Submit { id: args.id.map(|id| id.to_string()), ..work::submit(args.work)? };
    Ok(work::timed(job, args.times, now)?)
}

/// Waits for the end of a job, with its output printed meanwhile.
async fn follow(api: &Api, job: JobView, wait: Option<Period>, json: bool) -> anyhow::Result<ExitCode> {
    let printed = Printed::new(false);
    let output = async {
        // A program wants one document, which has the output in it.
        if json { std::future::pending().await } else { print::live(api, &job.id, &job.pool, &printed).await }
    };
    let ended = tokio::select! {
        ended = print::ended(api, &job.id, &job.pool, wait.map(Period::get)) => ended?,
        closed = output => return Err(closed.into()),
        () = mention_waiting(api, &job) => None,
    };
    let Some(job) = ended else {
        let message = format!("job {} has not ended yet; it goes on", job.id);
        return Err(Failure::new(message).hint(format!("`muster job get {} --wait 60s` waits on", job.id)).exit(EXIT_TIMED_OUT).into());
    };
    if json {
        output::json(&job)?;
    } else {
        print::rest(api, &job, &printed).await?;
        explain(&job);
    }
    Ok(exit_code(&job))
}

/// Says that the job has not started, at once when it is put off: whoever watches a silent terminal wonders. Never returns.
async fn mention_waiting(api: &Api, job: &JobView) {
    if job.state == JobState::Scheduled {
        mention(job);
        let now = Timestamp::now();
        tokio::time::sleep(job.next_at.map_or(Duration::ZERO, |at| at.since(now))).await;
    }
    tokio::time::sleep(SILENCE).await;
    let now: anyhow::Result<JobView> = api.get(&format!("/jobs/{}", job.id), &[("pool", job.pool.to_string())]).await;
    if let Ok(job) = now {
        mention(&job);
    }
    std::future::pending().await
}

fn mention(job: &JobView) {
    if let Some(remark) = waits(job, Timestamp::now()) {
        output::warn(&remark);
    }
}

/// What a job waits for that has not started.
fn waits(job: &JobView, now: Timestamp) -> Option<String> {
    let JobView { id, pool, job_type, next_at, target_agent, .. } = job;
    match job.state {
        JobState::Scheduled => {
            let until = next_at.map(|at| format!(" until {}, in {}", text::second(at), text::until(at, now)));
            Some(format!("job {id} is put off{}; `muster job cancel {id}` takes it back", until.unwrap_or_default()))
        }
        JobState::Pending if let Some(agent) = target_agent => Some(format!(
            "job {id} waits for agent {agent}; `muster job why {id}` says what that does, `muster job cancel {id}` takes the job back"
        )),
        JobState::Pending => {
            let executor = job_type.as_deref().and_then(|kind| kind.split_once('.')).map_or("its", |(executor, _)| executor);
            Some(format!(
                "job {id} waits for an agent with room and the executor {executor}; `muster pools health {pool}` shows how pool {pool} is"
            ))
        }
        _ => None,
    }
}

/// Says why it did not succeed, beside its output.
fn explain(job: &JobView) {
    let Some(result) = job.result.as_ref().filter(|result| result.outcome != Outcome::Succeeded) else { return };
    let why = result.error.as_ref().map(|error| format!(": {} ({})", error.message, error.code)).unwrap_or_default();
    output::warn(&format!("job {} {}{why}", job.id, words(result.outcome)));
}

fn words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::TimedOut => "timed out",
        Outcome::Cancelled => "was cancelled",
        Outcome::Expired => "expired before it could start",
        Outcome::Rejected => "was rejected",
    }
}

/// The exit code that says how a job ended: that of its command when it failed.
pub(super) fn exit_code(job: &JobView) -> ExitCode {
    let status = job.result.as_ref().and_then(|result| result.exit_code);
    ExitCode::from(match job.state {
        JobState::Succeeded => 0,
        JobState::TimedOut => EXIT_TIMED_OUT,
        _ => status.and_then(|status| u8::try_from(status).ok()).filter(|status| *status != 0).unwrap_or(1),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use clap::Parser as _;
    use muster_schemas::{code::Code, names::JobId, result::ErrorInfo, result::JobResult};
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command};

    /// 2027-01-15T08:00:00Z.
    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn parsed(line: &[&str]) -> Submit {
        let cli = Cli::try_parse_from(["muster", "submit"].iter().chain(line)).unwrap();
        let Command::Submit(args) = cli.command else { unreachable!("the command is submit") };
        request(*args, now()).unwrap()
    }

    fn refused(line: &[&str]) -> String {
        Cli::try_parse_from(["muster", "submit"].iter().chain(line)).unwrap_err().to_string()
    }

    #[test]
    fn words_after_two_dashes_are_a_command_without_a_shell() {
        let submit = parsed(&["--pool", "p", "--", "ls", "-l", "--json"]);
        assert_eq!((submit.pool.as_str(), submit.job_type.as_str()), ("p", "shell.run"));
        assert_eq!(submit.params, json!({"argv": ["ls", "-l", "--json"]}));
    }

    #[test]
    fn a_line_goes_to_the_shell_and_a_type_takes_its_params() {
        assert_eq!(parsed(&["--command", "a | b"]).params, json!({"command": "a | b"}));
        let submit = parsed(&["--type", "http.request", "--params", r#"{"url": "u"}"#]);
        assert_eq!((submit.job_type.as_str(), submit.params), ("http.request", json!({"url": "u"})));
        assert_eq!(parsed(&["--type", "probe.ping"]).params, json!({}));
    }

    #[test]
    fn limits_and_labels_are_sent_as_they_are_given() {
        let submit = parsed(&["--timeout", "1500ms", "--retry", "3", "--label", "a=b", "--id", "x-1", "--priority", "high", "--", "true"]);
        assert_eq!((submit.timeout_s, submit.retry.map(|retry| retry.max_attempts)), (Some(2), Some(3)));
        assert_eq!((submit.labels.get("a").map(String::as_str), submit.id.as_deref()), (Some("b"), Some("x-1")));
        assert_eq!(submit.priority.as_deref(), Some("high"));
    }

    #[test]
    fn a_job_without_work_or_with_two_kinds_of_it_is_a_wrong_command_line() {
        for line in [&[][..], &["--command", "a", "--", "b"], &["--type", "a.b", "--", "b"], &["--params", "{}", "--", "b"], &["date"]] {
            refused(line);
        }
        assert!(refused(&["--pool", "A b", "--", "true"]).contains("a-z, 0-9"));
        assert!(refused(&["--priority", "urgent", "--", "true"]).contains("high, normal or low"));
    }

    #[test]
    fn a_job_that_is_put_off_says_until_when_and_one_that_waits_says_for_what() {
        let job = |state: &str, next_at: Option<&str>| -> JobView {
            let job = json!({"id": "j1", "pool": "p", "type": "shell.run", "priority": "normal", "state": state, "next_at": next_at});
            serde_json::from_value(job).unwrap()
        };
        let off = waits(&job("scheduled", Some("2027-01-15T10:05:00Z")), now()).unwrap();
        assert_eq!(off, "job j1 is put off until 2027-01-15T10:05:00Z, in 2 h 5 min; `muster job cancel j1` takes it back");
        assert!(waits(&job("scheduled", None), now()).unwrap().contains("is put off; "));
        let pending = waits(&job("pending", None), now()).unwrap();
        assert!(pending.contains("the executor shell") && pending.contains("pools health p"), "{pending}");
        assert_eq!(waits(&job("running", None), now()), None);
    }

    fn ended(outcome: Outcome, exit: Option<i32>) -> String {
        let at = Timestamp::from_secs(1_800_000_000);
        let mut result = JobResult::never_ran(outcome, ErrorInfo::new(Code::ExitNonzero, "x"), at, at);
        result.exit_code = exit;
        let pool = "p".parse().unwrap();
        let job = JobView {
            id: JobId::generate(&pool),
            pool,
            job_type: None,
            priority: muster_schemas::lane::Priority::Normal,
            state: outcome.into(),
            labels: Default::default(),
            queued_at: None,
            attempt: 1,
            agent_id: None,
            target_agent: None,
            parent: None,
            reason: None,
            next_at: None,
            result: Some(result),
            signature: None,
        };
        format!("{:?}", exit_code(&job))
    }

    #[test]
    fn the_exit_code_is_the_commands_own_and_never_success_for_a_failure() {
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(ended(Outcome::Succeeded, Some(0)), code(0));
        assert_eq!(ended(Outcome::Failed, Some(3)), code(3));
        assert_eq!(ended(Outcome::Failed, Some(137)), code(137));
        for odd in [None, Some(0), Some(-1), Some(256)] {
            assert_eq!(ended(Outcome::Failed, odd), code(1));
        }
        assert_eq!(ended(Outcome::TimedOut, Some(143)), code(124));
        assert_eq!(ended(Outcome::Cancelled, None), code(1));
    }
}
