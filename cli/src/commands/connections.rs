//! `muster connections list|show|put|rm|test|credentials`.

mod deliver;
mod fields;

use std::{process::ExitCode, time::Duration};

use muster_schemas::{
    api::{ConnectionView, Delivery, JobState, JobView, PutConnection, Recipient, TestConnection},
    time::Timestamp,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{agents, submit};
use crate::{
    api::Api,
    args::{ConnectionPutArgs, ConnectionsCommand, ConnectionsListArgs},
    output, text,
};

/// How long the gateway waits for a try.
const TRY: Duration = Duration::from_secs(30);

pub(crate) async fn run(api: &Api, command: ConnectionsCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        ConnectionsCommand::List(args) => {
            let connections: Vec<ConnectionView> = api.list("/connections", &query(&args)).await?;
            if json { output::json(&connections)? } else { output::line(&table(&connections, Timestamp::now()))? }
        }
        ConnectionsCommand::Show { connection } => tell(&api.get(&format!("/connections/{connection}"), &[]).await?, json)?,
        ConnectionsCommand::Put(args) => {
            let path = format!("/connections/{}", args.connection);
            tell(&api.send(Method::PUT, &path, &request(args), Duration::ZERO).await?, json)?;
        }
        ConnectionsCommand::Rm { connection } => {
            api.delete(&format!("/connections/{connection}")).await?;
            if json {
                output::json(&json!({"deleted": connection}))?
            } else {
                output::line(&format!("connection {connection} is removed"))?
            }
        }
        ConnectionsCommand::Test { connection, agent } => {
            let agent_id = match agent {
                Some(agent) => Some(agents::id(api, &agent).await?),
                None => None,
            };
            let job: JobView = api.send_long(&format!("/connections/{connection}/test"), &TestConnection { agent_id }, TRY).await?;
            if json {
                output::json(&job)?
            } else {
                output::line(&tried(connection.as_str(), &job))?
            }
            return Ok(submit::exit_code(&job));
        }
        ConnectionsCommand::Credentials(args) => return deliver::run(api, args, json).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn query(args: &ConnectionsListArgs) -> Vec<(&'static str, String)> {
    let pool = args.pool.iter().map(|pool| ("pool", pool.to_string()));
    pool.chain(args.kind.iter().map(|kind| ("kind", kind.as_str().to_owned()))).collect()
}

fn request(args: ConnectionPutArgs) -> PutConnection {
    PutConnection { kind: args.kind, pool: args.pool, settings: Value::Object(args.settings.into_iter().collect()) }
}

fn tried(name: &str, job: &JobView) -> String {
    let by = job.agent_id.as_ref().map_or_else(String::new, |agent| format!(" by {agent}"));
    let said =
        job.result.as_ref().and_then(|result| result.error.as_ref()).map_or_else(String::new, |error| format!(": {}", error.message));
    match job.state {
        JobState::Succeeded => format!("connection {name} works, tried{by}"),
        state if state.is_final() => format!("connection {name} does not work, tried{by}: {}{}", state.as_str(), text::safe(&said)),
        _ => format!("connection {name} is not tried yet; `muster job why {}` says what for it waits", job.id),
    }
}

fn tell(connection: &ConnectionView, json: bool) -> anyhow::Result<()> {
    if json { output::json(connection) } else { Ok(output::line(&show(connection, Timestamp::now()))?) }
}

/// The word for how far they are.
fn status(status: Delivery) -> &'static str {
    match status {
        Delivery::Delivered => "delivered",
        Delivery::Sent => "sent",
        Delivery::Stale => "stale",
        Delivery::Local => "local",
        Delivery::Missing => "missing",
        Delivery::NoKey => "no_key",
    }
}

/// The word with what follows from it.
fn explained(recipient: &Recipient) -> String {
    let word = status(recipient.status);
    match recipient.status {
        Delivery::Delivered | Delivery::Sent => word.to_owned(),
        Delivery::Stale => format!("{word}: it has revision {}", recipient.revision.unwrap_or_default()),
        Delivery::Local => format!("{word}: put into its vault by hand"),
        Delivery::Missing => format!("{word}: deliver them"),
        Delivery::NoKey => format!("{word}: its vault can't be used, or it has never been there"),
    }
}

fn table(connections: &[ConnectionView], now: Timestamp) -> String {
    let row = |connection: &ConnectionView| {
        let revision = if connection.revision == 0 { "none".to_owned() } else { format!("revision {}", connection.revision) };
        [
            connection.name.to_string(),
            connection.kind.as_str().to_owned(),
            connection.pool.to_string(),
            revision,
            text::ago(connection.updated_at, now),
        ]
    };
    let head = ["name", "kind", "pool", "credentials", "changed"];
    output::table(head, connections.iter().map(row).collect(), "There are no connections. `muster connections put NAME` makes one.")
}

fn show(connection: &ConnectionView, now: Timestamp) -> String {
    let settings = connection.settings.as_object().into_iter().flatten();
    let settings: Vec<_> =
        settings.map(|(name, value)| value.as_str().map_or_else(|| format!("{name}:={value}"), |text| format!("{name}={text}"))).collect();
    let name = &connection.name;
    let credentials = match connection.revision {
        0 => format!("none; `muster connections credentials {name}` delivers them"),
        revision => format!("revision {revision}"),
    };
    let fields = output::fields(vec![
        ("name", Some(name.to_string())),
        ("kind", Some(connection.kind.as_str().to_owned())),
        ("pool", Some(connection.pool.to_string())),
        ("settings", Some(settings.join("\n"))),
        ("credentials", Some(credentials)),
        ("changed", Some(format!("{} ({})", connection.updated_at, text::ago(connection.updated_at, now)))),
    ]);
    match &connection.agents {
        None => fields,
        Some(agents) => format!("{fields}\n\n{}", recipients(agents)),
    }
}

/// How far the credentials are with each agent.
fn recipients(agents: &[Recipient]) -> String {
    let row = |agent: &Recipient| [agent.name.to_string(), agent.agent_id.to_string(), explained(agent)];
    output::table(["agent", "id", "credentials"], agents.iter().map(row).collect(), "Its pool has no agents.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::names::AgentId;

    use super::*;

    #[test]
    fn a_connection_shows_its_settings_and_how_far_its_credentials_are() {
        let now = Timestamp::from_secs(1_800_000_000);
        let view = |revision: u64, statuses: &[&str]| -> ConnectionView {
            let agents: Vec<_> = statuses
                .iter()
                .map(|status| json!({"agent_id": AgentId::generate(), "name": "a", "status": status, "revision": 1}))
                .collect();
            let settings = json!({"host": "db\u{1b}[31m", "port": 22});
            let view = json!({"name": "db", "kind": "ssh", "pool": "p", "settings": settings, "revision": revision, "agents": agents, "created_at": now, "updated_at": now});
            serde_json::from_value(view).unwrap()
        };
        let shown = show(&view(2, &["delivered", "sent", "stale", "local", "missing", "no_key"]), now);
        for part in ["port:=22", "revision 2", "sent", "stale: it has revision 1", "local: put", "missing: deliver", "no_key: its vault"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        assert!(!shown.contains('\u{1b}'));
        assert!(show(&view(0, &[]), now).contains("`muster connections credentials db`"));
        assert!(table(&[view(0, &[])], now).contains("none") && table(&[], now).contains("connections put"));
    }
}
