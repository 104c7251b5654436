//! `muster agents create|edit|disable|enable|drain|revoke|rotate-key|delete`.
//!
//! A secret is the one line on standard output, so that it can be piped; what it is, and what to do with it, is said beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use muster_schemas::api::{AgentSecret, AgentView, ChangeAgent, CreateAgent, Revoke};
use reqwest::Method;
use serde_json::json;

use super::{super::keys::once, id, status};
use crate::{
    api::Api,
    args::{AgentCreateArgs, AgentEditArgs},
    output,
};

pub(super) async fn create(api: &Api, args: AgentCreateArgs, json: bool) -> anyhow::Result<()> {
    let create = CreateAgent {
        name: args.name,
        pool: args.pool.to_string(),
        description: args.description,
        tags: args.tags.into_iter().collect(),
        labels: args.labels.into_iter().collect(),
        metadata: args.metadata.into_iter().collect(),
        platform: args.platform,
        credential: args.credential,
    };
    let made: AgentSecret = api.send(Method::POST, "/agents", &create, Duration::ZERO).await?;
    secret(&made, json)
}

pub(super) async fn edit(api: &Api, args: AgentEditArgs, json: bool) -> anyhow::Result<()> {
    let id = id(api, &args.agent).await?;
    let agent: AgentView = api.send(Method::PATCH, &format!("/agents/{id}"), &change(args), Duration::ZERO).await?;
    if json {
        output::json(&agent)?
    } else {
        output::line(&format!("agent {} of pool {} is changed", agent.name, agent.pool))?
    }
    Ok(())
}

/// What is not named stays absent, so that it stays.
fn change(args: AgentEditArgs) -> ChangeAgent {
    let labels: BTreeMap<String, String> = args.labels.into_iter().collect();
    let (tags, executors): (BTreeSet<String>, BTreeSet<String>) = (args.tags.into_iter().collect(), args.executors.into_iter().collect());
    ChangeAgent {
        description: if args.no_description { Some(None) } else { args.description.map(Some) },
        labels: (args.no_labels || !labels.is_empty()).then_some(labels),
        tags: (args.no_tags || !tags.is_empty()).then_some(tags),
        capabilities: match (args.all_executors, args.no_executors || !executors.is_empty()) {
            (true, _) => Some(None),
            (false, true) => Some(Some(executors)),
            (false, false) => None,
        },
        pool: args.pool.map(|pool| pool.to_string()),
    }
}

pub(super) async fn stop(api: &Api, agent: &str, deed: &str, what: &str, json: bool) -> anyhow::Result<()> {
    let id = id(api, agent).await?;
    let agent: AgentView = api.act(&format!("/agents/{id}/{deed}"), &[]).await?;
    if json {
        output::json(&agent)?
    } else {
        output::line(&format!("agent {} {what}", agent.name))?
    }
    Ok(())
}

pub(super) async fn enable(api: &Api, agent: &str, json: bool) -> anyhow::Result<()> {
    let id = id(api, agent).await?;
    let enabled: AgentSecret = api.act(&format!("/agents/{id}/enable"), &[]).await?;
    if enabled.join_token.is_some() || json {
        return secret(&enabled, json);
    }
    output::line(&format!("agent {} takes jobs again; it is {}", enabled.agent.name, status(enabled.agent.status)))?;
    Ok(())
}

pub(super) async fn revoke(api: &Api, agent: &str, reason: Option<String>, json: bool) -> anyhow::Result<()> {
    let id = id(api, agent).await?;
    let agent: AgentView = api.send(Method::POST, &format!("/agents/{id}/revoke"), &Revoke { reason }, Duration::ZERO).await?;
    if json {
        return output::json(&agent);
    }
    output::line(&format!("agent {} is cut off, and nothing it had works any more", agent.name))?;
    output::warn(&format!("`muster agents enable {0}` lets it in again, `muster agents delete {0}` removes it", agent.name));
    Ok(())
}

pub(super) async fn rotate_key(api: &Api, agent: &str, json: bool) -> anyhow::Result<()> {
    let id = id(api, agent).await?;
    let rotated: AgentSecret = api.act(&format!("/agents/{id}/rotate-key"), &[]).await?;
    secret(&rotated, json)
}

pub(super) async fn delete(api: &Api, agent: &str, json: bool) -> anyhow::Result<()> {
    let id = id(api, agent).await?;
    api.delete(&format!("/agents/{id}")).await?;
    if json {
        output::json(&json!({"deleted": id}))?
    } else {
        output::line(&format!("agent {agent} is gone, and its name is free"))?
    }
    Ok(())
}

fn secret(given: &AgentSecret, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(given);
    }
    let (what, how) = told(given);
    once(given.join_token.as_deref().or(given.api_key.as_deref()), &what)?;
    output::warn(&how);
    Ok(())
}

/// What the secret is, and what to do with it.
fn told(given: &AgentSecret) -> (String, String) {
    let agent = &given.agent;
    let (what, how) = match given.expires_at {
        Some(at) => {
            let what = format!("join token for agent {} of pool {} alone, for use once until {at}", agent.name, agent.pool);
            (what, "start the agent with AGENT_JOIN_TOKEN=<this> and AGENT_API_URL=<this gateway>")
        }
        None => (
            format!("API key of agent {} of pool {}", agent.name, agent.pool),
            "start the agent with AGENT_API_KEY=<this> and AGENT_API_URL=<this gateway>",
        ),
    };
    (what, given.note.as_deref().map_or_else(|| how.to_owned(), |note| format!("{how}; {note}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use clap::Parser as _;
    use muster_schemas::{names::AgentId, time::Timestamp};

    use super::*;
    use crate::args::{AgentsCommand, Cli, Command};

    fn edit(line: &str) -> Result<ChangeAgent, clap::Error> {
        let Command::Agents(listed) = Cli::try_parse_from(line.split(' '))?.command else { unreachable!("the command is agents") };
        let Ok(AgentsCommand::Edit(args)) = listed.or(|list| AgentsCommand::List(Box::new(list))) else { unreachable!("{line}") };
        Ok(change(*args))
    }

    #[test]
    fn what_is_not_named_stays_and_none_is_not_all() {
        let absent = ChangeAgent::default();
        assert_eq!(edit("muster agents edit a --pool p").unwrap(), ChangeAgent { pool: Some("p".into()), ..absent.clone() });
        let none = edit("muster agents edit a --no-executors --no-tags --no-labels --no-description").unwrap();
        let empty = ChangeAgent {
            description: Some(None),
            labels: Some(BTreeMap::new()),
            tags: Some([].into()),
            capabilities: Some(Some([].into())),
            pool: None,
        };
        assert_eq!(none, empty);
        assert_eq!(edit("muster agents edit a --all-executors").unwrap(), ChangeAgent { capabilities: Some(None), ..absent.clone() });
        let some = edit("muster agents edit a --executor shell --executor http --label k=v").unwrap();
        assert_eq!(some.capabilities.unwrap().unwrap().len(), 2);
        assert_eq!(some.labels.unwrap().len(), 1);
        assert!(edit("muster agents edit a").is_err(), "a change has to be named");
        assert!(edit("muster agents edit a --executor shell --no-executors").is_err());
    }

    #[test]
    fn a_secret_comes_with_what_it_is_and_what_to_do_with_it() {
        let at = Timestamp::from_secs(1_800_000_000);
        let secret = |fields: serde_json::Value| -> AgentSecret {
            let mut agent = json!({
                "id": AgentId::generate(), "name": "web-3", "pool": "p", "status": "pending", "capabilities": [], "version": "", "os": "",
                "arch": "", "hostname": "", "created_at": at,
            });
            for (key, value) in fields.as_object().unwrap() {
                agent.as_object_mut().unwrap().insert(key.clone(), value.clone());
            }
            serde_json::from_value(agent).unwrap()
        };
        let (what, how) = told(&secret(json!({"join_token": "mst_join_x", "expires_at": at})));
        assert!(what.contains("web-3") && what.contains("once until") && how.contains("AGENT_JOIN_TOKEN"), "{what} {how}");
        let (what, how) = told(&secret(json!({"api_key": "mst_agent_x", "note": "the vault is void"})));
        assert!(what.contains("API key") && how.contains("AGENT_API_KEY") && how.contains("the vault is void"), "{what} {how}");
        assert!(!format!("{what}{how}").contains("mst_agent_x"));
    }
}
