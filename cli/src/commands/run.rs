//! `muster run`: a command on every agent that matches, or on a certain one.

use std::{process::ExitCode, time::Duration};

use muster_schemas::{
    api::{AgentView, AllAgents, Command, CommandAccepted, GroupView, JobView, Submit, Target},
    time::Timestamp,
};
use reqwest::Method;

use super::{agents, groups::follow, submit, work};
use crate::{api::Api, args::RunArgs, output};

pub(crate) async fn run(api: &Api, mut args: RunArgs, json: bool) -> anyhow::Result<ExitCode> {
    let detach = args.detach;
    match args.agent.take() {
        Some(agent) => on_one(api, &agent, request(args, Timestamp::now())?, detach, json).await,
        None => on_all(api, &request(args, Timestamp::now())?, detach, json).await,
    }
}

/// The job that the flags say: with whom it is for, where that is many.
fn request(args: RunArgs, now: Timestamp) -> anyhow::Result<Submit> {
    let labels = args.labels.into_iter().collect();
    let pool = work::pool(args.pool, args.what.connection.as_ref());
    let all = AllAgents { pool, labels, limit: args.limit, batch: args.batch, stop_after: args.stop_after };
    let target = args.all.then_some(Target::All(all));
    Ok(work::timed(Submit { target, ..work::what(args.what)? }, args.times, now)?)
}

async fn on_all(api: &Api, submit: &Submit, detach: bool, json: bool) -> anyhow::Result<ExitCode> {
    let group: GroupView = api.send(Method::POST, "/jobs", submit, Duration::ZERO).await?;
    if !detach {
        if !json {
            output::warn(&made(&group));
        }
        return follow::follow(api, group, json).await;
    }
    if json {
        output::json(&group)?
    } else {
        output::line(group.id.as_str())?
    }
    Ok(ExitCode::SUCCESS)
}

fn made(group: &GroupView) -> String {
    let many = |count: u32, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut said = format!("group {}: {}", group.id, many(group.members, "agent"));
    if group.members < group.matched {
        said.push_str(&format!(" of {} that match", group.matched));
    }
    if group.waves.len() > 1 {
        said.push_str(&format!(", in {} waves", group.waves.len()));
    }
    said
}

async fn on_one(api: &Api, agent: &str, submit: Submit, detach: bool, json: bool) -> anyhow::Result<ExitCode> {
    let id = agents::id(api, agent).await?;
    let accepted: CommandAccepted = api.send(Method::POST, &format!("/agents/{id}/commands"), &command(submit), Duration::ZERO).await?;
    if detach {
        if json {
            output::json(&accepted)?
        } else {
            output::line(accepted.command_id.as_str())?
        }
        return Ok(ExitCode::SUCCESS);
    }
    let agent: AgentView = api.get(&format!("/agents/{id}"), &[]).await?;
    let job: JobView = api.get(&format!("/jobs/{}", accepted.command_id), &[("pool", agent.pool.to_string())]).await?;
    submit::see_through(api, job, None, json).await
}

fn command(submit: Submit) -> Command {
    Command {
        job_type: submit.job_type,
        params: submit.params,
        timeout_s: submit.timeout_s,
        retry: submit.retry,
        connection: submit.connection,
        labels: submit.labels,
        not_before: submit.not_before,
        expires_at: submit.expires_at,
        result_ttl_s: submit.result_ttl_s,
        id: submit.id,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::args::Cli;

    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn parsed(line: &[&str]) -> Result<RunArgs, String> {
        let cli = Cli::try_parse_from(["muster", "run"].iter().chain(line)).map_err(|error| error.to_string())?;
        let crate::args::Command::Run(args) = cli.command else { unreachable!("the command is run") };
        Ok(*args)
    }

    fn sent(line: &[&str]) -> serde_json::Value {
        serde_json::to_value(request(parsed(line).unwrap(), now()).unwrap()).unwrap()
    }

    #[test]
    fn flags_say_which_agents_and_in_which_waves() {
        let all = |line: &[&str]| sent(&[&["--all"], line, &["--", "true"]].concat())["target"]["all"].clone();
        assert_eq!(all(&[]), json!({"pool": "default"}));
        let line = ["--pool", "p", "--label", "a=b", "--label", "c=d", "--limit", "10%", "--batch", "10%,5,100%", "--stop-after", "3"];
        assert_eq!(
            all(&line),
            json!({"pool": "p", "labels": {"a": "b", "c": "d"}, "limit": "10%", "batch": ["10%", 5, "100%"], "stop_after": 3})
        );
    }

    #[test]
    fn the_job_is_that_of_a_submit_without_a_lane() {
        let job = sent(&["--all", "--timeout", "90s", "--retry", "2", "--expires-in", "1h", "--command", "a | b"]);
        assert_eq!((&job["params"], &job["timeout_s"], &job["type"]), (&json!({"command": "a | b"}), &json!(90), &json!("shell.run")));
        assert_eq!((&job["expires_at"], &job["pool"]), (&json!(now() + Duration::from_secs(3600)), &json!("")));
        assert!(job.get("priority").is_none() && job.get("labels").is_none(), "{job}");
    }

    #[test]
    fn one_agent_gets_a_command() {
        let args = parsed(&["--agent", "web-1", "--timeout", "5s", "--", "ls", "-l"]).unwrap();
        assert_eq!(args.agent.as_deref(), Some("web-1"));
        let command = serde_json::to_value(command(request(args, now()).unwrap())).unwrap();
        assert_eq!(command, json!({"type": "shell.run", "params": {"argv": ["ls", "-l"]}, "timeout_s": 5}));
    }

    #[test]
    fn what_was_made_is_said_in_a_line() {
        let group = |members: u32, matched: u32, waves: &[u32]| -> GroupView {
            serde_json::from_value(json!({
                "id": "grp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "pool": "p", "type": "shell.run", "status": "running", "matched": matched,
                "members": members, "sent": 0, "waves": waves, "counts": {}, "created_at": now(), "created_by": "ci",
            }))
            .unwrap()
        };
        assert!(made(&group(1, 1, &[1])).ends_with(": 1 agent"));
        assert!(made(&group(3, 30, &[1, 2])).ends_with(": 3 agents of 30 that match, in 2 waves"));
    }

    #[test]
    fn whom_it_is_for_and_what_it_is_must_be_said_once() {
        for line in [
            &["--", "true"][..],
            &["--all", "--agent", "a", "--", "true"],
            &["--all"],
            &["--all", "--command", "a", "--", "b"],
            &["--agent", "a", "--pool", "p", "--", "true"],
            &["--agent", "a", "--limit", "1", "--", "true"],
            &["--agent", "a", "--batch", "1", "--", "true"],
            &["--all", "--priority", "low", "--", "true"],
        ] {
            parsed(line).unwrap_err();
        }
        for (flag, wrong, says) in
            [("--limit", "0", "1% to 100%"), ("--batch", "10%,x", "1% to 100%"), ("--stop-after", "0", "0 is not in")]
        {
            let said = parsed(&["--all", flag, wrong, "--", "true"]).unwrap_err();
            assert!(said.contains(flag) && said.contains(says), "{said}");
        }
    }
}
