//! `muster connections credentials`: seals a connection's credentials to each agent of its pool, sends them, and says when each has them.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use muster_schemas::{
    api::{ConnectionView, Delivery, PutCredentials, Recipient, SealedFor},
    names::AgentId,
    sealed::{Credentials, Purpose},
    time::Timestamp,
};
use reqwest::Method;
use tokio::time::Instant;

use super::{explained, fields, recipients, tell};
use crate::{
    api::Api,
    args::CredentialsArgs,
    failure::{EXIT_TIMED_OUT, Failure, may_pass},
    output,
};

/// How often a delivery is sent again whose answer did not come. The gateway takes the same one once.
const SENDS: usize = 4;
/// The pause before it is.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked how far the agents are.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(api: &Api, args: CredentialsArgs, json: bool) -> anyhow::Result<ExitCode> {
    let path = format!("/connections/{}", args.connection);
    // Before anything is asked: there may be no such connection.
    let connection: ConnectionView = api.get(&path, &[]).await?;
    if !json {
        output::warn(&format!("credentials of {}, for {} at {}", connection.name, connection.kind.as_str(), connection.settings));
    }
    let credentials = fields::gather(&args, &connection, std::io::stdin().lock(), &mut fields::prompt)?;
    // Whoever typed may have taken a while.
    let connection: ConnectionView = api.get(&path, &[]).await?;
    let put = seal(&connection, &credentials, Timestamp::now())?;
    drop(credentials);
    let sent = send(api, &format!("{path}/credentials"), &put).await?;
    if !json {
        output::warn(&told(&connection, &put));
    }
    let connection = if args.no_wait { sent } else { follow(api, &path, sent, args.wait.get(), json).await? };
    if json {
        tell(&connection, true)?;
    } else {
        output::line(&recipients(connection.agents.as_deref().unwrap_or_default()))?;
    }
    let late = connection.agents.iter().flatten().filter(|agent| waits(agent)).count();
    if late > 0 && !args.no_wait {
        let message = format!("{late} agents have not said yet that they have them");
        return Err(Failure::new(message).hint("they get them when they are back").exit(EXIT_TIMED_OUT).into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Seals the credentials to every agent that has a key.
///
/// # Errors
/// When there is none; when a key is not signed by its agent: then nothing is sealed to anybody.
fn seal(connection: &ConnectionView, credentials: &Credentials, at: Timestamp) -> anyhow::Result<PutCredentials> {
    let revision = connection.revision.saturating_add(1);
    let mut sealed = BTreeMap::new();
    for Recipient { agent_id, name, public_key, sealing, .. } in connection.agents.iter().flatten() {
        let (Some(key), Some(identity)) = (sealing, public_key) else { continue };
        key.check(agent_id, identity).map_err(|error| {
            let message = format!("agent {name} ({agent_id}): {error}");
            Failure::new(message).hint("nothing was sent: somebody between here and the agent shows another key than its own")
        })?;
        let purpose = Purpose { agent: agent_id, connection: &connection.name, revision };
        let entry = key.seal(credentials, purpose, at)?;
        sealed.insert(agent_id.clone(), SealedFor { key: entry.key, sealed: entry.sealed });
    }
    if sealed.is_empty() {
        let message = format!("no agent of pool {} can be given credentials", connection.pool);
        let hint = format!("`muster connections show {}` says why; agents need a vault, and have to have been there", connection.name);
        return Err(Failure::new(message).hint(hint).into());
    }
    Ok(PutCredentials { revision, sealed })
}

/// Sends a delivery until it is answered.
async fn send(api: &Api, path: &str, put: &PutCredentials) -> anyhow::Result<ConnectionView> {
    let mut left = SENDS;
    loop {
        left = left.saturating_sub(1);
        match api.send(Method::PUT, path, put, Duration::ZERO).await {
            Err(error) if left > 0 && may_pass(&error) => tokio::time::sleep(AGAIN).await,
            answer => return answer,
        }
    }
}

fn told(connection: &ConnectionView, put: &PutCredentials) -> String {
    let (all, sealed) = (connection.agents.as_ref().map_or(0, Vec::len), put.sealed.len());
    let without = if all > sealed { format!("; {} without a key get none", all.saturating_sub(sealed)) } else { String::new() };
    format!("sealed to {sealed} agents and sent, as revision {} of {}{without}", put.revision, connection.name)
}

/// Whether an agent is still to say that it has them.
fn waits(agent: &Recipient) -> bool {
    agent.status == Delivery::Sent
}

/// Looks until every agent has them, and says so of each as it does.
async fn follow(api: &Api, path: &str, sent: ConnectionView, wait: Duration, json: bool) -> anyhow::Result<ConnectionView> {
    let (deadline, mut now) = (Instant::now() + wait, sent);
    let mut has: BTreeMap<AgentId, Delivery> = BTreeMap::new();
    loop {
        for agent in now.agents.iter().flatten().filter(|agent| !waits(agent)) {
            if has.insert(agent.agent_id.clone(), agent.status) != Some(agent.status) && !json {
                output::warn(&format!("{}: {}", agent.name, explained(agent)));
            }
        }
        if !now.agents.iter().flatten().any(waits) || Instant::now() >= deadline {
            return Ok(now);
        }
        tokio::time::sleep(LOOK).await;
        match api.get(path, &[]).await {
            Ok(view) => now = view,
            Err(error) if may_pass(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use muster_schemas::{
        connection::SealedEntry,
        sealed::{OpeningKey, SealingKey},
        wire::V,
    };
    use nkeys::KeyPair;
    use serde_json::json;

    use super::*;

    fn recipient(id: &AgentId, identity: &KeyPair, sealing: Option<SealingKey>) -> Recipient {
        let public_key = Some(identity.public_key());
        Recipient { agent_id: id.clone(), name: "a".parse().unwrap(), status: Delivery::Missing, revision: None, public_key, sealing }
    }

    fn view(agents: Vec<Recipient>) -> ConnectionView {
        let at = Timestamp::from_secs(0);
        let view = json!({"name": "c", "kind": "secret", "pool": "p", "settings": {}, "revision": 4, "created_at": at, "updated_at": at});
        ConnectionView { agents: Some(agents), ..serde_json::from_value(view).unwrap() }
    }

    #[test]
    fn each_agent_gets_what_only_it_can_open_as_the_next_revision() {
        let credentials = Credentials { v: V, fields: [("token".to_owned(), "hunter2".to_owned())].into(), shared: true, bound: None };
        let (id, identity, key) = (AgentId::generate(), KeyPair::new_user(), OpeningKey::generate());
        let away = recipient(&AgentId::generate(), &KeyPair::new_user(), None);
        let connection = view(vec![recipient(&id, &identity, Some(key.public(&id, &identity).unwrap())), away.clone()]);
        let put = seal(&connection, &credentials, Timestamp::from_secs(0)).unwrap();
        assert_eq!((put.revision, put.sealed.len()), (5, 1));
        let SealedFor { key: to, sealed } = put.sealed[&id].clone();
        assert!(!serde_json::to_string(&put).unwrap().contains("hunter2"));
        let entry = SealedEntry { revision: 5, key: to, sealed, at: Timestamp::from_secs(0) };
        assert_eq!(key.open(&entry, Purpose { agent: &id, connection: &connection.name, revision: 5 }).unwrap(), credentials);
        assert!(seal(&view(vec![away]), &credentials, Timestamp::from_secs(0)).unwrap_err().to_string().contains("no agent of pool p"));
    }

    #[test]
    fn a_key_that_its_agent_has_not_signed_stops_the_whole_delivery() {
        let (id, identity, key) = (AgentId::generate(), KeyPair::new_user(), OpeningKey::generate());
        let honest = recipient(&id, &identity, Some(key.public(&id, &identity).unwrap()));
        // Somebody in between puts a key of their own, signed with an identity of their own.
        let theirs = OpeningKey::generate().public(&id, &KeyPair::new_user()).unwrap();
        let connection = view(vec![honest, recipient(&id, &identity, Some(theirs))]);
        let refused = seal(&connection, &Credentials::default(), Timestamp::from_secs(0)).unwrap_err();
        assert!(refused.to_string().contains("is not signed by the agent"), "{refused}");
    }
}
