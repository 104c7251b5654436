//! `muster dead list|show|replay|delete`.

mod bulk;

use std::{process::ExitCode, time::Duration};

use muster_schemas::{
    api::{DeadLetterDetail, DeadLetterView, JobView, ReplayTo},
    names::PoolName,
    result::AttemptRecord,
    time::Timestamp,
};
use reqwest::Method;
use serde_json::json;

use crate::{
    api::Api,
    args::{DeadCommand, DeadListArgs, Which},
    output, text,
};
use bulk::Act;

/// How many are listed when nobody says.
const LIMIT: u32 = 50;

pub(crate) async fn run(api: &Api, command: DeadCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        DeadCommand::List(args) => {
            let limit = args.limit.unwrap_or(LIMIT);
            let letters: Vec<DeadLetterView> = api.first("/dead-letters", &query(&args, Timestamp::now()), limit).await?;
            if json { output::json(&letters)? } else { output::line(&table(&letters, Timestamp::now()))? }
        }
        DeadCommand::Show { id, pool } => {
            let letter: DeadLetterDetail = api.get(&format!("/dead-letters/{id}"), &in_pool(pool.as_ref())).await?;
            if json { output::json(&letter)? } else { output::line(&show(&letter, Timestamp::now()))? }
        }
        DeadCommand::Replay { which, to } => match &*which.ids {
            [id] if is_one(&which) => {
                let to = ReplayTo { pool: to.map(|to| to.to_string()) };
                let path = with_pool(&format!("/dead-letters/{id}/replay"), which.pool.as_ref());
                let job: JobView = api.send(Method::POST, &path, &to, Duration::ZERO).await?;
                if json { output::json(&job)? } else { output::line(job.id.as_str())? }
            }
            _ => return bulk::run(api, Act::Replay { to }, which, json).await,
        },
        DeadCommand::Delete { which } => match &*which.ids {
            [id] if is_one(&which) => {
                api.delete_with(&format!("/dead-letters/{id}"), &in_pool(which.pool.as_ref())).await?;
                if json {
                    output::json(&json!({"deleted": id}))?
                } else {
                    output::line(&format!("the dead letter of job {id} is deleted"))?
                }
            }
            _ => return bulk::run(api, Act::Delete, which, json).await,
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether one job is named and nothing but its pool beside it.
fn is_one(which: &Which) -> bool {
    which.ids.len() == 1 && which.job_type.is_none() && which.until.is_none()
}

fn in_pool(pool: Option<&PoolName>) -> Vec<(&'static str, String)> {
    pool.map(|pool| ("pool", pool.to_string())).into_iter().collect()
}

/// A path for a request that has a body. Names of pools need no escaping.
fn with_pool(path: &str, pool: Option<&PoolName>) -> String {
    pool.map_or_else(|| path.to_owned(), |pool| format!("{path}?pool={pool}"))
}

fn query(args: &DeadListArgs, now: Timestamp) -> Vec<(&'static str, String)> {
    let filters = [
        ("pool", args.pool.as_ref().map(ToString::to_string)),
        ("type", args.job_type.as_ref().map(ToString::to_string)),
        ("since", args.since.map(|moment| moment.at(now).to_string())),
        ("until", args.until.map(|moment| moment.at(now).to_string())),
    ];
    filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn table(letters: &[DeadLetterView], now: Timestamp) -> String {
    let row = |letter: &DeadLetterView| {
        [
            letter.id.to_string(),
            letter.job_type.as_ref().map(ToString::to_string).unwrap_or_default(),
            letter.pool.to_string(),
            letter.attempt.to_string(),
            letter.error.code.to_string(),
            text::ago(letter.died_at, now),
        ]
    };
    let head = ["id", "type", "pool", "attempts", "error", "died"];
    output::table(head, letters.iter().map(row).collect(), "There are no such dead letters.")
}

fn show(detail: &DeadLetterDetail, now: Timestamp) -> String {
    let letter = &detail.letter;
    let mut shown = output::fields(vec![
        ("id", Some(letter.id.to_string())),
        ("pool", Some(letter.pool.to_string())),
        ("type", letter.job_type.as_ref().map(ToString::to_string)),
        ("priority", Some(letter.priority.to_string())),
        ("labels", Some(text::labels(&letter.labels))),
        ("params", detail.job.as_ref().map(|job| job.params.to_string())),
        ("queued", Some(format!("{} ({})", letter.queued_at, text::ago(letter.queued_at, now)))),
        ("died", Some(format!("{} ({})", letter.died_at, text::ago(letter.died_at, now)))),
        ("error", Some(format!("{} ({})", letter.error.message, letter.error.code))),
        ("attempts", Some(letter.attempt.to_string())),
        ("parent", letter.parent.as_ref().map(ToString::to_string)),
    ]);
    for attempt in &detail.attempts {
        shown.push_str(&format!("\n\nattempt {}\n{}", attempt.attempt, show_attempt(attempt)));
    }
    shown
}

fn show_attempt(attempt: &AttemptRecord) -> String {
    let ran = attempt.started_at.zip(attempt.finished_at).map(|(started, finished)| text::duration(finished.since(started)));
    let mut shown = output::fields(vec![
        ("agent", attempt.agent_id.as_ref().map(ToString::to_string)),
        ("started", attempt.started_at.map(|at| at.to_string())),
        ("ended", Some(attempt.finished_at.map_or_else(|| "never; its agent was lost".to_owned(), |at| at.to_string()))),
        ("ran", ran),
        ("exit", attempt.exit_code.map(|code| code.to_string())),
        ("error", attempt.error.as_ref().map(|error| format!("{} ({})", error.message, error.code))),
    ]);
    if let Some(tail) = attempt.tail.as_ref().filter(|tail| !tail.is_empty()) {
        shown.push_str(&format!("\noutput:\n{}", text::safe(tail.to_text().trim_end_matches('\n'))));
    }
    shown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &[&str]) -> Result<DeadCommand, String> {
        let cli = Cli::try_parse_from(["muster", "dead"].iter().chain(line)).map_err(|error| error.to_string())?;
        let Command::Dead(listed) = cli.command else { unreachable!("the command is dead") };
        listed.or(DeadCommand::List).map_err(|failure| failure.to_string())
    }

    #[test]
    fn nothing_said_is_not_all() {
        for verb in ["replay", "delete"] {
            for line in [&[verb][..], &[verb, "--all", "--pool", "p"], &[verb, "--all", "job-1"]] {
                assert!(parsed(line).is_err(), "{line:?}");
            }
            for line in [&[verb, "--all"][..], &[verb, "job-1", "job-2"], &[verb, "--pool", "p", "--until", "1d"]] {
                assert!(parsed(line).is_ok(), "{line:?}");
            }
        }
    }

    #[test]
    fn one_job_is_asked_for_by_its_id_and_more_by_a_filter() {
        let one = |line: &[&str]| {
            let Ok(DeadCommand::Delete { which }) = parsed(line) else { unreachable!("the command is delete") };
            is_one(&which)
        };
        assert!(one(&["delete", "job-1"]) && one(&["delete", "job-1", "--pool", "p"]));
        assert!(!one(&["delete", "job-1", "job-2"]) && !one(&["delete", "job-1", "--until", "1d"]) && !one(&["delete", "--pool", "p"]));
    }

    #[test]
    fn a_dead_letter_shows_each_attempt_and_what_it_wrote() {
        let now = Timestamp::from_secs(1_800_000_000);
        let letter: DeadLetterDetail = serde_json::from_value(json!({
            "id": "j", "pool": "p", "type": "shell.run", "priority": "normal", "labels": {"a": "b"}, "queued_at": now, "died_at": now,
            "stored_at": now, "error": {"code": "exit_nonzero", "message": "exit status 3"}, "attempt": 2, "parent": "first",
            "job": {"v": 1, "type": "shell.run", "params": {"command": "exit 3"}},
            "attempts": [
                {"attempt": 1, "started_at": now},
                {"attempt": 2, "started_at": now, "finished_at": now + Duration::from_secs(2), "exit_code": 3,
                 "tail": muster_schemas::result::Output::from(b"almost\n\x1b[2J".to_vec())},
            ],
        }))
        .unwrap();
        let shown = show(&letter, now + Duration::from_secs(9));
        for part in ["exit status 3 (exit_nonzero)", "parent    first", "its agent was lost", "ran      2.0 s", "output:\nalmost", "exit 3"]
        {
            assert!(shown.contains(part), "{part:?} in {shown}");
        }
        assert!(!shown.contains('\u{1b}'), "{shown}");
        let listed = table(&[letter.letter], now + Duration::from_secs(9));
        assert!(listed.contains("exit_nonzero") && listed.contains("9.0 s ago"), "{listed}");
        assert!(table(&[], now).contains("no such dead letters"));
    }
}
