//! `muster job get|cancel|why|retry|events|logs`.

mod events;
mod why;

use std::process::ExitCode;

use muster_runtime::config::Period;
use muster_schemas::{
    api::{JobView, Why},
    names::{JobId, PoolName},
    signature::Mark,
    time::Timestamp,
};

use super::print::{self, Printed};
use crate::{api::Api, args::JobCommand, failure::EXIT_TIMED_OUT, output, text};

pub(crate) async fn run(api: &Api, command: JobCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        JobCommand::Get { id, pool, wait } => get(api, &id, pool.as_ref(), wait, json).await,
        JobCommand::Cancel { id, pool } => {
            let job: JobView = api.act(&format!("/jobs/{id}/cancel"), &in_pool(pool.as_ref())).await?;
            if json {
                output::json(&job)?
            } else {
                output::line(&format!("job {id} is cancelled"))?
            }
            Ok(ExitCode::SUCCESS)
        }
        JobCommand::Why { id, pool } => {
            let why: Why = api.get(&format!("/jobs/{id}/why"), &in_pool(pool.as_ref())).await?;
            if json {
                output::json(&why)?
            } else {
                output::line(&why::show(&why, Timestamp::now()))?
            }
            Ok(ExitCode::SUCCESS)
        }
        JobCommand::Retry { id, pool } => {
            let job: JobView = api.act(&format!("/jobs/{id}/retry"), &in_pool(pool.as_ref())).await?;
            if json {
                output::json(&job)?
            } else {
                output::line(job.id.as_str())?
            }
            Ok(ExitCode::SUCCESS)
        }
        JobCommand::Events { id, pool } => {
            events::follow(api, &id, &in_pool(pool.as_ref()), json).await?;
            Ok(ExitCode::SUCCESS)
        }
        JobCommand::Logs { id, pool, follow } => logs(api, &id, pool.as_ref(), follow, json).await,
    }
}

fn in_pool(pool: Option<&PoolName>) -> Vec<(&'static str, String)> {
    pool.map(|pool| ("pool", pool.to_string())).into_iter().collect()
}

async fn look(api: &Api, id: &JobId, pool: Option<&PoolName>) -> anyhow::Result<JobView> {
    api.get(&format!("/jobs/{id}"), &in_pool(pool)).await
}

async fn get(api: &Api, id: &JobId, pool: Option<&PoolName>, wait: Option<Period>, json: bool) -> anyhow::Result<ExitCode> {
    let mut job = look(api, id, pool).await?;
    if let Some(wait) = wait.filter(|_| !job.state.is_final()) {
        job = match print::ended(api, id, &job.pool, Some(wait.get())).await? {
            Some(job) => job,
            None => look(api, id, pool).await?,
        };
    }
    if json {
        output::json(&job)?
    } else {
        output::line(&show(&job, Timestamp::now()))?
    }
    let late = wait.is_some() && !job.state.is_final();
    Ok(if late { ExitCode::from(EXIT_TIMED_OUT) } else { ExitCode::SUCCESS })
}

async fn logs(api: &Api, id: &JobId, pool: Option<&PoolName>, follow: bool, json: bool) -> anyhow::Result<ExitCode> {
    let job = look(api, id, pool).await?;
    let printed = Printed::new(json);
    if follow && !job.state.is_final() {
        tokio::select! {
            ended = print::ended(api, id, &job.pool, None) => drop(ended?),
            closed = print::live(api, id, &job.pool, &printed) => return Err(closed.into()),
        }
    }
    print::stored(api, id, &job.pool, &printed).await?;
    Ok(ExitCode::SUCCESS)
}

fn show(job: &JobView, now: Timestamp) -> String {
    let result = job.result.as_ref();
    let ran = result.and_then(|result| Some(result.finished_at.since(result.started_at?)));
    let mut shown = output::fields(vec![
        ("id", Some(job.id.to_string())),
        ("pool", Some(job.pool.to_string())),
        ("type", job.job_type.clone()),
        ("priority", Some(job.priority.to_string())),
        ("state", Some(job.state.as_str().to_owned())),
        ("reason", job.reason.clone()),
        ("labels", Some(text::labels(&job.labels))),
        ("queued", job.queued_at.map(|at| format!("{at} ({})", text::ago(at, now)))),
        ("next", job.next_at.map(|at| at.to_string())),
        ("attempt", (job.attempt > 0).then(|| job.attempt.to_string())),
        ("agent", job.agent_id.as_ref().map(ToString::to_string)),
        ("ran", ran.map(text::duration)),
        ("exit", result.and_then(|result| result.exit_code).map(|code| code.to_string())),
        ("error", result.and_then(|result| result.error.as_ref()).map(|error| format!("{} ({})", error.message, error.code))),
        ("signature", job.signature.and_then(doubt).map(str::to_owned)),
        ("data", result.and_then(|result| result.data.as_ref()).map(ToString::to_string)),
    ]);
    for (name, stream) in result.map(|result| [("stdout", &result.stdout), ("stderr", &result.stderr)]).into_iter().flatten() {
        if !stream.is_empty() {
            shown.push_str(&format!("\n\n{name}:\n{}", text::safe(stream.to_text().trim_end_matches('\n'))));
        }
    }
    shown
}

/// What to think of a result whose signature is not valid.
fn doubt(signature: Mark) -> Option<&'static str> {
    match signature {
        Mark::Valid => None,
        Mark::Missing => Some("MISSING: nobody has signed this result, so it may be anybody's"),
        Mark::Wrong => Some("WRONG: this result is not signed by the agent that it names"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use muster_schemas::{
        api::JobState,
        code::Code,
        lane::Priority,
        result::{ErrorInfo, JobResult, Outcome, Output},
    };

    use super::*;

    #[test]
    fn a_finished_job_shows_how_it_ended_and_what_it_wrote() {
        let at = Timestamp::from_secs(1_800_000_000);
        let mut result = JobResult::never_ran(Outcome::Failed, ErrorInfo::new(Code::ExitNonzero, "exit status 3"), at, at);
        result.started_at = Some(at);
        result.finished_at = at + Duration::from_millis(1500);
        result.exit_code = Some(3);
        result.stdout = Output::from(b"one\n\x1b[31mtwo\n".to_vec());
        let job = JobView {
            id: "j1".parse().unwrap(),
            pool: "p".parse().unwrap(),
            job_type: Some("shell.run".into()),
            priority: Priority::Normal,
            state: JobState::Failed,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            queued_at: Some(at),
            attempt: 1,
            agent_id: None,
            target_agent: None,
            parent: None,
            reason: None,
            next_at: None,
            result: Some(result),
            signature: Some(Mark::Valid),
        };
        let shown = show(&job, at + Duration::from_secs(90));
        for part in
            ["state     failed", "labels    a=b", "(1 min 30 s ago)", "ran       1.5 s", "exit status 3 (exit_nonzero)", "stdout:\none\n"]
        {
            assert!(shown.contains(part), "{part:?} in {shown}");
        }
        assert!(!shown.contains('\u{1b}') && !shown.contains("stderr") && !shown.contains("signature"), "{shown}");
        for (mark, word) in [(Mark::Missing, "signature  MISSING"), (Mark::Wrong, "signature  WRONG")] {
            let shown = show(&JobView { signature: Some(mark), ..job.clone() }, at);
            assert!(shown.contains(word), "{shown}");
        }
    }
}
