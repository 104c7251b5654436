//! Follows a group until it has ended: a line per agent as its job ends, how far it is, and a table at the end.
//!
//! The gateway is asked again and again, at first often, since many commands are short, then each second.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use muster_schemas::{
    api::{GroupMember, GroupView, JobRow, JobState, JobView, NOT_SENT},
    group::GroupStatus,
    names::JobId,
    result::{JobResult, Outcome, Output},
    time::Timestamp,
};
use tokio::time::Instant;

use super::{get, members, name};
use crate::{
    api::Api,
    commands::jobs,
    failure::{self, EXIT_INTERRUPTED, Failure},
    output, text,
};

/// The first pause between two looks, and the longest one: each is half as long again as the one before.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a gateway or its dispatcher may be away.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the counts may be behind the group's status, and the rows behind the counts: the history is a little late, and another dispatcher
/// may have answered. Jobs that it has forgotten never come.
const LAG: Duration = Duration::from_secs(5);

/// Follows a group to its end, or until Ctrl-C.
pub(in crate::commands) async fn follow(api: &Api, group: GroupView, json: bool) -> anyhow::Result<ExitCode> {
    let id = group.id.clone();
    let group = tokio::select! {
        // Listened for before anything is said.
        biased;
        signal = tokio::signal::ctrl_c() => {
            signal?;
            output::warn(&format!("group {id} goes on; `muster groups watch {id}` follows it, `muster groups cancel {id}` stops it"));
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
        group = watch(api, group, json) => group?,
    };
    if json {
        output::json(&serde_json::json!({"group": group, "agents": members(api, &id, None).await?}))?;
    } else {
        output::line(&format!("\n{}", summary(&group)))?;
    }
    Ok(exit_code(&group))
}

/// Tells of each agent as its job ends; answers the group when all have.
async fn watch(api: &Api, mut group: GroupView, json: bool) -> anyhow::Result<GroupView> {
    let (mut told, mut width) = (BTreeSet::<JobId>::new(), 0);
    let (mut pause, mut heard, mut ended_at) = (PAUSE_FIRST, Instant::now(), None);
    let mut said = String::new();
    loop {
        if !json && ended(&group) > told.len() as u64 {
            let asked = Instant::now();
            match members(api, &group.id, None).await {
                Ok(members) => {
                    width = members.iter().map(|member| name(member).chars().count()).max().unwrap_or(0).max(width);
                    for member in members.iter().filter(|member| member.job.as_ref().is_some_and(|job| job.state.is_final())) {
                        if told.insert(member.job_id.clone()) {
                            output::line(&line(api, member, width).await)?;
                        }
                    }
                }
                Err(error) => tolerable(error, heard, &group)?,
            }
            // The rows of a large group are work for the dispatcher: it has other things to do as well.
            pause = pause.max(2 * asked.elapsed());
        }
        let progress = progress(&group);
        if !json && progress != said {
            output::warn(&progress);
            said = progress;
        }
        if is_over(&group) {
            let since = *ended_at.get_or_insert_with(Instant::now);
            if (open(&group) == 0 && (json || told.len() as u64 >= ended(&group))) || since.elapsed() > LAG {
                return Ok(group);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause + pause / 2).min(PAUSE_MAX);
        match get(api, &group.id).await {
            Ok(now) => (group, heard) = (now, Instant::now()),
            Err(error) => tolerable(error, heard, &group)?,
        }
    }
}

/// Passes over an error that may pass by itself, for a while.
fn tolerable(error: anyhow::Error, heard: Instant, group: &GroupView) -> anyhow::Result<()> {
    if !failure::may_pass(&error) {
        return Err(error);
    }
    if heard.elapsed() > PATIENCE {
        let hint = format!("the group goes on; `muster groups watch {}` follows it again", group.id);
        return Err(Failure::new(format!("can't follow group {} any more: {error}", group.id)).hint(hint).into());
    }
    Ok(())
}

fn count(group: &GroupView, which: impl Fn(JobState) -> bool) -> u64 {
    let state = |word: &str| text::word::<JobState>(word).is_ok_and(&which);
    group.counts.iter().filter(|(word, _)| state(word)).map(|(_, count)| count).sum()
}

/// How many jobs have ended.
fn ended(group: &GroupView) -> u64 {
    count(group, JobState::is_final)
}

/// How many jobs wait or run.
fn open(group: &GroupView) -> u64 {
    count(group, |state| !state.is_final())
}

/// Whether nothing more will happen. What a stopped group has sent runs on.
fn is_over(group: &GroupView) -> bool {
    match group.status {
        GroupStatus::Running | GroupStatus::Cancelling => false,
        GroupStatus::Stopped => open(group) == 0,
        GroupStatus::Cancelled | GroupStatus::Finished => true,
    }
}

/// `12/50 ended, 1 failed, 3 not sent`, in the words of the table at the end.
fn progress(group: &GroupView) -> String {
    let bad = |state: &str| text::word::<JobState>(state).is_ok_and(|state| state.is_final() && state != JobState::Succeeded);
    let told = group.counts.iter().filter(|(state, count)| **count > 0 && (*state == NOT_SENT || bad(state)));
    let parts: String = told.map(|(state, count)| format!(", {count} {}", state.replace('_', " "))).collect();
    format!("{}/{} ended{parts}", ended(group), group.members)
}

/// How the job of an agent ended, on one line.
async fn line(api: &Api, member: &GroupMember, width: usize) -> String {
    let Some(job) = &member.job else { return name(member).to_owned() };
    // Its output is not in the row. Without it the line says what there is.
    let view: Option<JobView> = api.get(&format!("/jobs/{}", job.id), &[("pool", job.pool.to_string())]).await.ok();
    let last = view.and_then(|view| view.result).and_then(|result| last_line(&result));
    text::safe(&told(name(member), job, last.as_deref(), width))
}

fn told(name: &str, job: &JobRow, last: Option<&str>, width: usize) -> String {
    let now = Timestamp::now();
    let took = jobs::took(job, now).map(text::duration).unwrap_or_default();
    let error = job.error.as_ref().map(|error| error.message.as_str());
    let rest = last.or(error).unwrap_or_default();
    format!("{name:<width$}  {:<15}  {took:>7}  {rest}", jobs::state(job, now)).trim_end().to_owned()
}

/// The last line that a job wrote: of its errors where it failed and wrote some.
fn last_line(result: &JobResult) -> Option<String> {
    let last = |output: &Output| text::last_line(&output.to_text());
    if result.outcome == Outcome::Succeeded { last(&result.stdout) } else { last(&result.stderr).or_else(|| last(&result.stdout)) }
}

/// A table of how many ended how.
fn summary(group: &GroupView) -> String {
    let rows = group.counts.iter().map(|(state, count)| [state.replace('_', " "), count.to_string()]).collect();
    let mut shown = output::table(["outcome", "agents"], rows, "Nothing is known of its jobs any more.");
    if group.status != GroupStatus::Finished {
        let why = group.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        shown.push_str(&format!("\n\ngroup {} was {}{}", group.id, group.status.as_str(), text::safe(&why)));
    }
    shown
}

fn exit_code(group: &GroupView) -> ExitCode {
    let good = count(group, |state| state == JobState::Succeeded) == u64::from(group.members);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{code::Code, result::ErrorInfo};
    use serde_json::json;

    use super::*;

    fn group(status: &str, members: u32, counts: serde_json::Value) -> GroupView {
        serde_json::from_value(json!({
            "id": "grp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "pool": "p", "type": "shell.run", "status": status, "reason": "1 failed", "matched": members,
            "members": members, "sent": members, "waves": [members], "counts": counts, "created_at": "2027-01-15T08:00:00Z", "created_by": "ci",
        }))
        .unwrap()
    }

    #[test]
    fn a_group_is_over_when_nothing_more_happens_and_good_when_every_job_succeeded() {
        let code = |code: ExitCode| format!("{code:?}");
        for (status, counts, over, good) in [
            ("running", json!({"succeeded": 2, "running": 1}), false, false),
            ("running", json!({"succeeded": 3}), false, true),
            ("finished", json!({"succeeded": 3}), true, true),
            ("finished", json!({"succeeded": 2, "expired": 1}), true, false),
            ("finished", json!({"succeeded": 2}), true, false),
            ("stopped", json!({"failed": 1, "running": 1, "not_sent": 1}), false, false),
            ("stopped", json!({"failed": 1, "succeeded": 1, "not_sent": 1}), true, false),
            ("cancelling", json!({"cancelled": 2, "pending": 1}), false, false),
            ("cancelled", json!({"cancelled": 3}), true, false),
        ] {
            let group = group(status, 3, counts);
            assert_eq!(is_over(&group), over, "{group:?}");
            assert_eq!(code(exit_code(&group)), code(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }), "{group:?}");
        }
    }

    #[test]
    fn how_far_it_is_fits_a_line() {
        let counts = json!({"succeeded": 11, "timed_out": 1, "cancelled": 2, "failed": 0, "pending": 28, "running": 5, "not_sent": 3});
        assert_eq!(progress(&group("running", 50, counts)), "14/50 ended, 2 cancelled, 3 not sent, 1 timed out");
        assert_eq!(progress(&group("finished", 2, json!({"succeeded": 2}))), "2/2 ended");
    }

    #[test]
    fn an_agents_line_says_how_it_ended_and_what_it_wrote_last() {
        let job: JobRow = serde_json::from_value(json!({
            "id": "g-0", "pool": "p", "priority": "high", "state": "failed", "queued_at": "2027-01-15T08:00:00Z", "exit_code": 3,
            "started_at": "2027-01-15T08:00:00Z", "finished_at": "2027-01-15T08:00:02Z", "error": {"code": "exit_nonzero", "message": "exit status 3"},
        }))
        .unwrap();
        assert_eq!(told("web-1", &job, Some("no space left"), 7), "web-1    failed, exit 3     2.0 s  no space left");
        assert!(told("web-1", &job, None, 0).ends_with("exit status 3"));
        let at = Timestamp::from_secs(0);
        let mut result = JobResult::never_ran(Outcome::Succeeded, ErrorInfo::new(Code::Internal, ""), at, at);
        assert_eq!(last_line(&result), None);
        (result.stdout, result.stderr) = (Output::from(b"one\ntwo\n\n".to_vec()), Output::from(b"oops\n".to_vec()));
        assert_eq!(last_line(&result).as_deref(), Some("two"));
        result.outcome = Outcome::Failed;
        assert_eq!(last_line(&result).as_deref(), Some("oops"));
    }

    #[test]
    fn the_end_is_a_table_and_says_why_it_went_no_further() {
        let shown = summary(&group("stopped", 3, json!({"failed": 1, "not_sent": 2})));
        assert!(shown.contains("not sent  2") && shown.ends_with("was stopped: 1 failed"), "{shown}");
        assert!(!summary(&group("finished", 3, json!({"succeeded": 3}))).contains("was"));
    }
}
