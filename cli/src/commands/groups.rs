//! `muster groups list|show|cancel|watch`.

pub(super) mod follow;

use std::process::ExitCode;

use muster_schemas::{
    api::{GroupMember, GroupView},
    names::GroupId,
    time::Timestamp,
};

use super::jobs;
use crate::{
    api::Api,
    args::{GroupsCommand, GroupsListArgs},
    output, text,
};

/// How many groups are listed when nobody says.
const LIMIT: u32 = 20;
/// Members that are fetched at once: the most that the gateway gives.
const PAGE: &str = "500";

pub(crate) async fn run(api: &Api, command: GroupsCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        GroupsCommand::List(args) => {
            let groups: Vec<GroupView> = api.first("/groups", &query(&args), args.limit.unwrap_or(LIMIT)).await?;
            if json { output::json(&groups)? } else { output::line(&table(&groups, Timestamp::now()))? }
        }
        GroupsCommand::Show { id, state } => {
            let group = get(api, &id).await?;
            let agents = members(api, &id, state.as_deref()).await?;
            if json {
                output::json(&serde_json::json!({"group": group, "agents": agents}))?
            } else {
                output::line(&format!("{}\n\n{}", show(&group, Timestamp::now()), rows(&agents, Timestamp::now())))?
            }
        }
        GroupsCommand::Cancel { id } => {
            let group: GroupView = api.act(&format!("/groups/{id}/cancel"), &[]).await?;
            if json { output::json(&group)? } else { output::line(&format!("group {id} is {}", group.status.as_str()))? }
        }
        GroupsCommand::Watch { id } => {
            let group = get(api, &id).await?;
            return follow::follow(api, group, json).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(api: &Api, id: &GroupId) -> anyhow::Result<GroupView> {
    api.get(&format!("/groups/{id}"), &[]).await
}

/// All members of a group, or those whose job is in a state.
async fn members(api: &Api, id: &GroupId, state: Option<&str>) -> anyhow::Result<Vec<GroupMember>> {
    let mut query = vec![("limit", PAGE.to_owned())];
    query.extend(state.map(|state| ("state", state.to_owned())));
    api.list(&format!("/groups/{id}/agents"), &query).await
}

fn query(args: &GroupsListArgs) -> Vec<(&'static str, String)> {
    let pool = args.pool.as_ref().map(|pool| ("pool", pool.to_string()));
    let status = args.status.map(|status| ("status", status.as_str().to_owned()));
    pool.into_iter().chain(status).collect()
}

/// `3 succeeded, 1 failed, 2 not sent`.
fn counts(group: &GroupView) -> String {
    group.counts.iter().map(|(state, count)| format!("{count} {}", state.replace('_', " "))).collect::<Vec<_>>().join(", ")
}

fn table(groups: &[GroupView], now: Timestamp) -> String {
    let row = |group: &GroupView| {
        [
            group.id.to_string(),
            group.job_type.clone(),
            group.pool.to_string(),
            group.status.as_str().to_owned(),
            format!("{} of {}", group.sent, group.members),
            text::ago(group.created_at, now),
            group.created_by.clone(),
        ]
    };
    let head = ["id", "type", "pool", "status", "sent", "created", "by"];
    output::table(head, groups.iter().map(row).collect(), "There are no such groups. `muster run --all` makes one.")
}

fn show(group: &GroupView, now: Timestamp) -> String {
    let waves = group.waves.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let stop = group.stop_after.map(|failures| format!("after {failures} that did not succeed"));
    output::fields(vec![
        ("id", Some(group.id.to_string())),
        ("pool", Some(group.pool.to_string())),
        ("type", Some(group.job_type.clone())),
        ("labels", Some(text::labels(&group.labels))),
        ("status", Some(group.status.as_str().to_owned())),
        ("reason", group.reason.clone()),
        ("agents", Some(format!("{} of {} that matched, {} sent", group.members, group.matched, group.sent))),
        ("jobs", Some(counts(group))),
        ("waves", (group.waves.len() > 1).then_some(waves)),
        ("stops", stop),
        ("created", Some(format!("{} ({}), by {}", group.created_at, text::ago(group.created_at, now), group.created_by))),
    ])
}

fn name(member: &GroupMember) -> &str {
    member.agent_name.as_ref().map_or(member.agent_id.as_str(), |name| name.as_str())
}

fn rows(members: &[GroupMember], now: Timestamp) -> String {
    let row = |member: &GroupMember| {
        let job = member.job.as_ref();
        [
            name(member).to_owned(),
            member.wave.to_string(),
            job.map(|job| jobs::state(job, now)).unwrap_or_default(),
            job.and_then(|job| jobs::took(job, now)).map(text::duration).unwrap_or_default(),
            member.job_id.to_string(),
        ]
    };
    output::table(["agent", "wave", "state", "took", "job"], members.iter().map(row).collect(), "There are no such agents in it.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &[&str]) -> Result<GroupsCommand, String> {
        let cli = Cli::try_parse_from(["muster", "groups"].iter().chain(line)).map_err(|error| error.to_string())?;
        let Command::Groups(listed) = cli.command else { unreachable!("the command is groups") };
        listed.or(GroupsCommand::List).map_err(|failure| failure.to_string())
    }

    #[test]
    fn filters_are_sent_as_the_gateway_takes_them_and_wrong_ones_refused() {
        for line in [&["list", "--pool", "p", "--status", "stopped"][..], &["--pool", "p", "--status", "stopped"]] {
            let GroupsCommand::List(args) = parsed(line).unwrap() else { unreachable!("it is the list") };
            assert_eq!(query(&args), [("pool", "p".to_owned()), ("status", "stopped".to_owned())]);
        }
        let id = "grp_01ARZ3NDEKTSV4RRFFQ69G5FAV";
        for line in [&["show", id][..], &["show", id, "--state", "not_sent"], &["cancel", id], &["watch", id]] {
            assert!(parsed(line).is_ok(), "{line:?}");
        }
        assert!(parsed(&["show", "x"]).unwrap_err().contains("grp_ and 26"));
        assert!(parsed(&["show", id, "--state", "done"]).unwrap_err().contains("not_sent"));
        assert!(parsed(&["list", "--status", "done"]).unwrap_err().contains("running"));
    }

    fn group() -> GroupView {
        serde_json::from_value(json!({
            "id": "grp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "pool": "p", "type": "shell.run", "status": "stopped", "reason": "1 failed", "matched": 9,
            "members": 5, "sent": 3, "waves": [1, 2, 2], "stop_after": 1, "counts": {"failed": 1, "not_sent": 2, "succeeded": 2},
            "created_at": Timestamp::from_secs(1_800_000_000), "created_by": "ci",
        }))
        .unwrap()
    }

    #[test]
    fn a_group_shows_how_far_it_is_and_why_it_went_no_further() {
        let now = Timestamp::from_secs(1_800_000_009);
        let shown = show(&group(), now);
        for part in ["5 of 9 that matched, 3 sent", "1 failed, 2 not sent, 2 succeeded", "1, 2, 2", "after 1 that", "9.0 s ago", "by ci"] {
            assert!(shown.contains(part), "{part:?} in {shown}");
        }
        let listed = table(&[group()], now);
        assert!(listed.contains("stopped") && listed.contains("3 of 5"), "{listed}");
        assert!(table(&[], now).contains("muster run --all"));
    }

    #[test]
    fn each_member_is_a_row_sent_or_not() {
        let at = Timestamp::from_secs(1_800_000_000);
        let agent = "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV";
        let members: Vec<GroupMember> = serde_json::from_value(json!([
            {"agent_id": agent, "agent_name": "web-1", "job_id": "g-0", "wave": 1,
             "job": {"id": "g-0", "pool": "p", "priority": "high", "state": "failed", "queued_at": at, "started_at": at,
                     "finished_at": "2027-01-15T08:00:02Z", "exit_code": 3}},
            {"agent_id": agent, "job_id": "g-1", "wave": 2},
        ]))
        .unwrap();
        let shown = rows(&members, at);
        let lines: Vec<_> = shown.lines().collect();
        for part in ["web-1", "1", "failed, exit 3", "2.0 s", "g-0"] {
            assert!(lines[1].contains(part), "{part} in {shown}");
        }
        assert!(lines[2].starts_with(agent) && lines[2].ends_with("g-1"), "{shown}");
    }
}
