//! `muster agents …`: lists and single ones here, what changes them in [`lives`].

mod lives;

use muster_schemas::{
    api::{AgentHealth, AgentStatus, AgentView, CommandView},
    names::AgentId,
    records::Revoked,
    standing::Standing,
    time::Timestamp,
};

use super::jobs;
use crate::{
    api::Api,
    args::{AgentsCommand, AgentsListArgs},
    failure::Failure,
    output, text,
};

/// How many commands of an agent are listed.
const COMMANDS: u32 = 100;

pub(crate) async fn run(api: &Api, command: AgentsCommand, json: bool) -> anyhow::Result<()> {
    match command {
        AgentsCommand::List(args) => {
            let agents: Vec<AgentView> = api.list("/agents", &query(&args)).await?;
            if json { output::json(&agents)? } else { output::line(&table(&agents))? }
        }
        AgentsCommand::Get { agent } => {
            let id = id(api, &agent).await?;
            let agent: AgentView = api.get(&format!("/agents/{id}"), &[]).await?;
            if json { output::json(&agent)? } else { output::line(&show(&agent, Timestamp::now()))? }
        }
        AgentsCommand::Health { agent } => {
            let id = id(api, &agent).await?;
            let health = health(api, &id).await?;
            if json { output::json(&health)? } else { output::line(&show_health(&health, Timestamp::now()))? }
        }
        AgentsCommand::Commands { agent } => {
            let id = id(api, &agent).await?;
            let commands: Vec<CommandView> = api.first(&format!("/agents/{id}/commands"), &[], COMMANDS).await?;
            if json { output::json(&commands)? } else { output::line(&commands_table(&commands, Timestamp::now()))? }
        }
        AgentsCommand::Create(args) => lives::create(api, *args, json).await?,
        AgentsCommand::Edit(args) => lives::edit(api, *args, json).await?,
        AgentsCommand::Disable { agent } => {
            let what = "takes nothing new until it is enabled again; what it runs, it ends";
            lives::stop(api, &agent, "disable", what, json).await?;
        }
        AgentsCommand::Drain { agent } => {
            lives::stop(api, &agent, "drain", "ends what it has and takes nothing new until it is enabled again", json).await?;
        }
        AgentsCommand::Enable { agent } => lives::enable(api, &agent, json).await?,
        AgentsCommand::Revoke { agent, reason } => lives::revoke(api, &agent, reason, json).await?,
        AgentsCommand::RotateKey { agent } => lives::rotate_key(api, &agent, json).await?,
        AgentsCommand::Delete { agent } => lives::delete(api, &agent, json).await?,
    }
    Ok(())
}

fn query(args: &AgentsListArgs) -> Vec<(&'static str, String)> {
    let filters = [
        ("pool", args.pool.as_ref().map(ToString::to_string)),
        ("status", args.status.map(|given| status(given).to_owned())),
        ("tag", args.tag.clone()),
        ("label", args.label.clone()),
        ("capability", args.executor.clone()),
    ];
    filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

pub(super) async fn health(api: &Api, id: &AgentId) -> anyhow::Result<AgentHealth> {
    api.get(&format!("/agents/{id}/health"), &[]).await
}

/// The id of an agent that is given by its id or its name.
pub(super) async fn id(api: &Api, given: &str) -> anyhow::Result<AgentId> {
    if let Ok(id) = given.parse() {
        return Ok(id);
    }
    let agents: Vec<AgentView> = api.list("/agents", &[]).await?;
    let found = agents.into_iter().find(|agent| agent.name.as_str() == given).map(|agent| agent.id);
    found.ok_or_else(|| Failure::new(format!("there is no agent `{given}`")).hint("`muster agents` shows what there is").into())
}

pub(super) fn status(status: AgentStatus) -> &'static str {
    match status {
        AgentStatus::Online => "online",
        AgentStatus::Offline => "offline",
        AgentStatus::Degraded => "degraded",
        AgentStatus::Pending => "pending",
        AgentStatus::Disabled => "disabled",
        AgentStatus::Revoked => "revoked",
    }
}

/// The status, and what it stands by for: all that it has, or some of it.
fn status_with_standby(agent: &AgentView) -> String {
    let status = status(agent.status);
    match agent.standing.as_ref().map(|standing| &standing.standby).filter(|standby| !standby.is_empty()) {
        None => status.to_owned(),
        Some(standby) if agent.capabilities.iter().all(|executor| standby.contains(executor)) => format!("{status}, standby"),
        Some(standby) => format!("{status}, standby for {}", joined(standby)),
    }
}

fn score(standing: Option<&Standing>) -> Option<String> {
    standing.map(|standing| format!("{:.1}", standing.score))
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

fn table(agents: &[AgentView]) -> String {
    let row = |agent: &AgentView| {
        [
            agent.name.to_string(),
            agent.pool.to_string(),
            status_with_standby(agent),
            score(agent.standing.as_ref()).unwrap_or_default(),
            joined(&agent.capabilities),
            agent.version.clone(),
            agent.id.to_string(),
        ]
    };
    let head = ["name", "pool", "status", "score", "executors", "version", "id"];
    output::table(
        head,
        agents.iter().map(row).collect(),
        "There are no agents. `muster join-token create` makes a token with which one joins.",
    )
}

fn commands_table(commands: &[CommandView], now: Timestamp) -> String {
    let row = |command: &CommandView| {
        let job = &command.job;
        [
            job.id.to_string(),
            job.job_type.as_ref().map(ToString::to_string).unwrap_or_default(),
            jobs::state(job, now),
            text::ago(job.queued_at, now),
            jobs::took(job, now).map(text::duration).unwrap_or_default(),
            command.output.as_ref().and_then(|output| text::last_line(&output.to_text())).unwrap_or_default(),
        ]
    };
    let head = ["id", "type", "state", "queued", "took", "output"];
    output::table(head, commands.iter().map(row).collect(), "The agent was told nothing by name. `muster run --agent NAME` does that.")
}

fn show(agent: &AgentView, now: Timestamp) -> String {
    let standing = agent.standing.as_ref();
    output::fields(vec![
        ("id", Some(agent.id.to_string())),
        ("name", Some(agent.name.to_string())),
        ("pool", Some(agent.pool.to_string())),
        ("status", Some(status(agent.status).to_owned())),
        ("reason", standing.and_then(|standing| standing.reason.clone())),
        ("revoked", agent.revoked.as_ref().map(|revoked| revocation(revoked, now))),
        ("draining", agent.draining.then(|| "yes".to_owned())),
        ("twin", standing.filter(|standing| standing.twin).map(|_| "two processes run with its identity".to_owned())),
        ("score", score(standing)),
        ("accepting", standing.map(|standing| if standing.accepting { "yes" } else { "no" }.to_owned())),
        ("standby", standing.and_then(standby)),
        ("description", agent.description.clone()),
        ("tags", Some(joined(&agent.tags))),
        ("labels", Some(text::labels(&agent.labels))),
        ("executors", Some(joined(&agent.capabilities))),
        ("version", Some(agent.version.clone())),
        ("machine", Some(format!("{} ({} {})", agent.hostname, agent.os, agent.arch))),
        ("address", agent.remote_ip.clone()),
        ("public key", agent.public_key.clone()),
        ("platform", agent.platform.clone()),
        ("metadata", Some(text::labels(&agent.metadata))),
        ("ephemeral", agent.ephemeral.then(|| "yes: it is removed once it leaves, or has been away for an hour".to_owned())),
        ("created", Some(format!("{} ({})", agent.created_at, text::ago(agent.created_at, now)))),
        ("registered", agent.registered_at.map(|at| format!("{at} ({})", text::ago(at, now)))),
        ("key replaced", agent.key_rotated_at.map(|at| format!("{at} ({})", text::ago(at, now)))),
    ])
}

/// What an agent does not pull although it could.
fn standby(standing: &Standing) -> Option<String> {
    let executors = joined(&standing.standby);
    (!executors.is_empty()).then(|| format!("for {executors}: enough better agents pull; it is called up when they are full"))
}

fn revocation(revoked: &Revoked, now: Timestamp) -> String {
    let reason = revoked.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{} by {}{reason}", text::ago(revoked.at, now), revoked.by)
}

fn show_health(health: &AgentHealth, now: Timestamp) -> String {
    let standing = health.standing.as_ref();
    let (load, slots) = (&health.load, &health.slots);
    let used = |used: u64, total: u64| (total > 0).then(|| format!("{} of {}", text::bytes(used), text::bytes(total)));
    let parts = standing.map(|s| format!("{:.1} (heartbeat {:.1} of 50, success {:.1} of 50)", s.score, s.heartbeat_part, s.success_part));
    output::fields(vec![
        ("id", Some(health.agent_id.to_string())),
        ("status", Some(status(health.status).to_owned())),
        ("reason", standing.and_then(|standing| standing.reason.clone())),
        ("score", parts),
        ("rank", standing.map(|standing| standing.rank.to_string())),
        ("standby", standing.and_then(standby)),
        ("heartbeat", health.heartbeat_at.map(|at| text::ago(at, now))),
        ("up", health.started_at.map(|at| text::duration(now.since(at)))),
        ("slots", Some(format!("{} of {} in use", slots.running, slots.total))),
        ("cpu", Some(format!("{:.0} %", load.cpu_pct))),
        ("memory", used(load.memory_used, load.memory_total)),
        ("disk", used(load.disk_used, load.disk_total)),
        ("spooled", (health.spooled > 0).then(|| format!("{} results wait for the broker", health.spooled))),
        ("last error", health.last_error.clone()),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use muster_schemas::heartbeat::{Load, Slots};

    use super::*;

    fn at() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn standing() -> Standing {
        Standing { score: 97.5, success_part: 47.5, ..Standing::first(at()) }
    }

    #[test]
    fn a_list_has_a_line_per_agent_and_an_empty_one_says_how_to_get_one() {
        let agent: AgentView = serde_json::from_value(serde_json::json!({
            "id": AgentId::generate(), "name": "agent-1", "pool": "p", "status": "online", "capabilities": ["probe", "shell"], "version": "0.1.0",
            "os": "linux", "arch": "x86_64", "hostname": "h", "created_at": at(), "standing": standing(),
        }))
        .unwrap();
        let text = table(std::slice::from_ref(&agent));
        assert!(text.contains("agent-1") && text.contains("97.5") && text.contains("probe shell"), "{text}");
        assert_eq!(text.lines().count(), 2);
        assert!(table(&[]).contains("join-token create"));
        assert!(show(&agent, at()).contains("h (linux x86_64)"));
    }

    #[test]
    fn an_agent_that_stands_by_is_shown_as_such() {
        let agent = |standby: serde_json::Value| -> AgentView {
            let mut standing = serde_json::to_value(standing()).unwrap();
            standing.as_object_mut().unwrap().insert("standby".into(), standby);
            serde_json::from_value(serde_json::json!({
                "id": AgentId::generate(), "name": "agent-1", "pool": "p", "status": "online", "capabilities": ["probe", "shell"], "version": "0.1.0",
                "os": "linux", "arch": "x86_64", "hostname": "h", "created_at": at(), "standing": standing,
            }))
            .unwrap()
        };
        let (all, some, none) = (agent(["probe", "shell"].into()), agent(["shell"].into()), agent(serde_json::json!([])));
        for (agent, shown) in [(&all, "online, standby "), (&some, "online, standby for shell ")] {
            let text = table(std::slice::from_ref(agent));
            assert!(text.contains(shown), "{text}");
        }
        assert!(show(&all, at()).contains("for probe shell: enough better agents pull"));
        assert!(!table(std::slice::from_ref(&none)).contains("standby") && !show(&none, at()).contains("standby"));
    }

    #[test]
    fn a_command_is_a_row_with_the_last_line_that_it_wrote() {
        let commands: Vec<CommandView> = serde_json::from_value(serde_json::json!([
            {"id": "c1", "pool": "p", "type": "shell.run", "priority": "high", "state": "failed", "queued_at": at(), "exit_code": 3,
             "output": muster_schemas::result::Output::from(b"one\ntwo\n".to_vec())},
            {"id": "c2", "pool": "p", "priority": "high", "state": "pending", "queued_at": at()},
        ]))
        .unwrap();
        let shown = commands_table(&commands, at());
        assert!(shown.contains("failed, exit 3") && shown.contains("two") && !shown.contains("one") && shown.contains("c2"), "{shown}");
        assert!(commands_table(&[], at()).contains("muster run --agent"));
    }

    #[test]
    fn health_shows_both_parts_of_the_score() {
        let health = AgentHealth {
            agent_id: AgentId::generate(),
            status: AgentStatus::Online,
            standing: Some(standing()),
            heartbeat_at: Some(at()),
            started_at: Some(at()),
            load: Load { cpu_pct: 12.4, memory_used: 3 << 30, memory_total: 16 << 30, disk_used: 0, disk_total: 0 },
            slots: Slots { total: 5, running: 1, held: 0 },
            spooled: 2,
            last_error: None,
        };
        let text = show_health(&health, at() + Duration::from_secs(12));
        for part in
            ["97.5 (heartbeat 50.0 of 50, success 47.5 of 50)", "12 s ago", "1 of 5 in use", "12 %", "3072 MiB of 16 GiB", "2 results wait"]
        {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }
}
