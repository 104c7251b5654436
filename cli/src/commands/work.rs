//! Makes a job of the flags that say what it is and when it may start.

use muster_runtime::config::Period;
use muster_schemas::{
    api::Submit,
    job::{DraftRetry, PUT_OFF_MAX},
    names::{ConnectionName, PoolName},
    time::Timestamp,
};
use serde_json::{Value, json};

use crate::{
    args::{TimeArgs, WhatArgs, WorkArgs},
    failure::{EXIT_USAGE, Failure},
    text,
};

/// The pool of a job that names neither a pool nor a connection: the first one of every deployment.
const POOL: &str = "default";

/// The job of a pool that the flags say, to start at once.
pub(super) fn submit(args: WorkArgs) -> anyhow::Result<Submit> {
    let (pool, priority) = (pool(args.pool, args.what.connection.as_ref()), Some(args.priority.to_string()));
    Ok(Submit { pool, priority, labels: args.labels.into_iter().collect(), ..what(args.what)? })
}

/// The pool that was named, or the one there is at first. A connection has one of its own, which the gateway knows.
pub(super) fn pool(named: Option<PoolName>, connection: Option<&ConnectionName>) -> String {
    named.map_or_else(|| if connection.is_some() { String::new() } else { POOL.to_owned() }, |pool| pool.to_string())
}

/// What the flags say that a job does, wherever it is to run.
pub(super) fn what(args: WhatArgs) -> anyhow::Result<Submit> {
    let (job_type, params) = work(args.job_type, args.params, args.given, args.command, args.argv)?;
    Ok(Submit {
        job_type,
        params,
        timeout_s: args.timeout.map(whole_seconds),
        connection: args.connection.map(|name| name.to_string()),
        retry: args.retry.map(|max_attempts| DraftRetry { max_attempts, ..DraftRetry::default() }),
        result_ttl_s: args.result_ttl.map(whole_seconds),
        ..Submit::default()
    })
}

/// Type and params: what was named, or a command.
fn work(
    job_type: Option<String>,
    params: Option<String>,
    given: Vec<(String, Value)>,
    command: Option<String>,
    argv: Vec<String>,
) -> anyhow::Result<(String, Value)> {
    Ok(match (job_type, command) {
        (Some(job_type), _) => {
            let mut params = params.as_deref().map_or(Ok(json!({})), text::params)?;
            if let Some(map) = params.as_object_mut() {
                map.extend(given);
            }
            (job_type, params)
        }
        (None, Some(line)) => ("shell.run".into(), json!({"command": line})),
        (None, None) => ("shell.run".into(), json!({"argv": argv})),
    })
}

/// The same job, to start when the flags say. The gateway checks all this as well, but does not know which flag it was.
pub(super) fn timed(job: Submit, times: TimeArgs, now: Timestamp) -> Result<Submit, Failure> {
    let from_now = |period: Period| now + period.get();
    let start = times.at.map(|at| ("--at", at)).or_else(|| times.delay.map(|delay| ("--in", from_now(delay))));
    let end = times.expires_at.map(|at| ("--expires-at", at)).or_else(|| times.expires_in.map(|in_| ("--expires-in", from_now(in_))));
    let wrong = |message: String| Failure::new(message).exit(EXIT_USAGE);
    if let Some((flag, at)) = start.filter(|(_, at)| at.since(now) > PUT_OFF_MAX) {
        let (at, days) = (text::second(at), PUT_OFF_MAX.as_secs() / (24 * 3600));
        return Err(wrong(format!("{flag} puts the job off until {at}, which is more than {days} days away")));
    }
    if let (Some((starting, start)), Some((ending, end))) = (start, end)
        && end <= start
    {
        let (start, end) = (text::second(start), text::second(end));
        let refused =
            wrong(format!("the job could never run: {starting} does not let it start before {start}, and {ending} not after {end}"));
        let relative = times.expires_in.is_some();
        return Err(if relative { refused.hint("--expires-in counts from now, not from when the job may start") } else { refused });
    }
    Ok(Submit { not_before: start.map(|(_, at)| at), expires_at: end.map(|(_, at)| at), ..job })
}

/// Seconds, rounded up.
pub(super) fn whole_seconds(period: Period) -> i64 {
    let up = u64::from(period.get().subsec_nanos() > 0);
    i64::try_from(period.get().as_secs().saturating_add(up)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, SchedulesCommand};

    /// 2027-01-15T08:00:00Z.
    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn command(line: &[&str]) -> Result<Command, String> {
        Cli::try_parse_from(["muster"].iter().chain(line)).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    fn refused(line: &[&str]) -> String {
        command(line).unwrap_err()
    }

    fn asked(line: &[&str]) -> anyhow::Result<Submit> {
        let Command::Submit(args) = command(&[&["submit"], line].concat()).unwrap() else { unreachable!("the command is submit") };
        Ok(timed(submit(args.work)?, args.times, now())?)
    }

    #[test]
    fn a_schedule_takes_the_job_of_a_submit_in_the_same_words() {
        let flags = ["--pool", "p", "--priority", "low", "--timeout", "9m", "--label", "a=b", "--retry", "3", "--result-ttl", "1h"];
        for job in [&["--command", "a | b"][..], &["--type", "probe.echo", "--params", "{}"], &["--", "ls", "-l"]] {
            let line = [&["schedules", "put", "s", "--every", "1h"], &flags[..], job].concat();
            let Command::Schedules { command: Some(SchedulesCommand::Put(put)) } = command(&line).unwrap() else {
                unreachable!("the command is schedules put")
            };
            assert_eq!(submit(put.work).unwrap(), asked(&[&flags[..], job].concat()).unwrap());
        }
        for work in [&[][..], &["--command", "a", "--", "b"], &["--type", "a.b", "--", "b"], &["--params", "{}", "--", "b"]] {
            refused(&[&["schedules", "put", "s", "--every", "1h"], work].concat());
        }
    }

    #[test]
    fn params_are_given_as_json_or_one_by_one() {
        let params = |line: &[&str]| asked(&[&["--type", "a.b"], line].concat()).unwrap().params;
        assert_eq!(params(&["-P", "a=1", "-P", "b:=1", "--param", "c=x=y:=z"]), json!({"a": "1", "b": 1, "c": "x=y:=z"}));
        assert_eq!(params(&["--params", r#"{"a": 1, "b": 2}"#, "-P", "b="]), json!({"a": 1, "b": ""}));
        for wrong in [&["-P", "a"][..], &["-P", "=x"], &["-P", "a:=x"], &["-P", ":=1"]] {
            assert!(refused(&[&["submit", "--type", "a.b"], wrong].concat()).contains("NAME:=JSON"), "{wrong:?}");
        }
        refused(&["submit", "-P", "a=1", "--", "true"]);
    }

    #[test]
    fn a_job_is_put_off_and_expires_at_times_or_so_long_from_now() {
        let times = |line: &[&str]| {
            let Submit { not_before, expires_at, result_ttl_s, .. } = asked(&[line, &["--", "true"]].concat()).unwrap();
            (not_before, expires_at, result_ttl_s)
        };
        let at = |seconds| Some(now() + Duration::from_secs(seconds));
        assert_eq!(times(&[]), (None, None, None));
        assert_eq!(times(&["--in", "10m", "--expires-in", "1h", "--result-ttl", "7d"]), (at(600), at(3600), Some(604_800)));
        assert_eq!(times(&["--at", "2027-01-15T09:00:07+01:00", "--expires-at", "2027-01-15T08:00:09Z"]), (at(7), at(9), None));
        assert_eq!(times(&["--at", "2027-01-15T08:00:07Z", "--expires-in", "9"]), (at(7), at(9), None));
        assert_eq!(times(&["--in", "365d", "--result-ttl", "1500ms"]), (at(365 * 86_400), None, Some(2)));
        let past = "2020-01-01T00:00:00Z";
        assert_eq!(times(&["--at", past, "--expires-in", "9"]), (past.parse().ok(), at(9), None));
    }

    #[test]
    fn a_wrong_time_is_refused_in_words_that_name_its_flag() {
        for (flag, wrong, says) in [
            ("--at", "tomorrow", "2026-01-02T03:04:05Z"),
            ("--at", "2027-01-15 08:00", "2026-01-02T03:04:05Z"),
            ("--in", "soon", "1h30m"),
            ("--expires-at", "1h", "2026-01-02T03:04:05Z"),
            ("--expires-in", "1w", "1h30m"),
            ("--result-ttl", "31d", "1s to 30d"),
        ] {
            let said = refused(&["submit", flag, wrong, "--", "true"]);
            assert!(said.contains(&format!("for '{flag} <")) && said.contains(wrong) && said.contains(says), "{said}");
        }
        for both in [["--at", "2027-01-15T08:00:07Z", "--in", "7"], ["--expires-at", "2027-01-15T08:00:07Z", "--expires-in", "7"]] {
            let said = refused(&[&["submit"], &both[..], &["--", "true"]].concat());
            assert!(said.contains(both[0]) && said.contains(both[2]), "{said}");
        }
    }

    #[test]
    fn times_that_no_job_can_have_are_a_wrong_command_line() {
        for (line, named) in [
            (["--in", "366d", "--wait", "1s"], ["--in", "365 days"]),
            (["--at", "2030-01-01T00:00:00Z", "--wait", "1s"], ["--at", "365 days"]),
            (["--in", "1h", "--expires-in", "1h"], ["--in", "--expires-in"]),
            (
                ["--at", "2027-01-16T00:00:00Z", "--expires-at", "2027-01-15T23:00:00Z"],
                ["--at", "--expires-at not after 2027-01-15T23:00:00Z"],
            ),
        ] {
            let failure = asked(&[&line[..], &["--", "true"]].concat()).unwrap_err().downcast::<Failure>().unwrap();
            assert_eq!(failure.exit, 2);
            assert!(named.iter().all(|name| failure.message.contains(name)), "{failure}");
        }
    }
}
