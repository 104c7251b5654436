//! Learns what agents can do: their standings name descriptions by digest, and one agent of each digest that is not known is asked.
//!
//! Answers are believed for what they are: the digest is that of the bytes, so nobody can answer for somebody else's. What no agent that is
//! there has any more is forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_nats::Request;
use futures_util::future::join_all;
use muster_schemas::{control::DESCRIBE, describe, names::AgentId, records::AgentState, subjects, wire::Body as _};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::known::{self, Described, Known, There};
use crate::app::App;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions at once: each answer may have half a megabyte.
const AT_ONCE: usize = 3;
/// After how long the same agent is asked again, or the same digest asked for.
const AGAIN: Duration = Duration::from_secs(30);
/// Between two looks at the standings, which change all the time in a fleet at work. A look at ten thousand takes some milliseconds.
const PACE: Duration = Duration::from_millis(500);
/// Agents that are remembered as holders of one digest.
const HOLDERS: usize = 8;
/// The most values that are kept in all, some 60 MB of memory: two hundred descriptions of agents that have everything.
const VALUES_MAX: usize = 400_000;

/// Learns for ever.
pub(crate) async fn run(app: App) -> anyhow::Result<()> {
    let mut asked: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let seen = app.mirror.standings.seen();
        let fleet = look(&app);
        let mut by_digest = app.types.now().by_digest().clone();
        by_digest.retain(|digest, _| fleet.holders.contains_key(digest));
        let now = Instant::now();
        asked.retain(|_, at| now.duration_since(*at) < AGAIN);
        let questions = choose(&fleet, &by_digest, &asked);
        for (digest, agent) in &questions {
            asked.insert(digest.clone(), now);
            asked.insert(agent.to_string(), now);
        }
        let answers = join_all(questions.iter().map(|(digest, agent)| ask(&app, digest, agent))).await;
        for (digest, described) in answers.into_iter().flatten() {
            let values = by_digest.values().map(|described| described.values).sum::<usize>() + described.values;
            if values > VALUES_MAX {
                tracing::warn!(
                    digest,
                    "agents have more different executors than can be kept; params are not checked for the pools of some"
                );
            } else {
                by_digest.insert(digest, described);
            }
        }
        let unknown = fleet.holders.keys().any(|digest| !by_digest.contains_key(digest));
        app.types.replace(Known::of(&fleet.there, by_digest));
        // There may be more to ask at once.
        if questions.len() == AT_ONCE {
            continue;
        }
        tokio::select! {
            () = app.mirror.standings.changed_since(seen) => {}
            () = sleep(AGAIN), if unknown => {}
        }
        sleep(PACE).await;
    }
}

/// Who is there.
#[derive(Debug, Default)]
struct Fleet {
    there: There,
    /// Some agents with each digest.
    holders: BTreeMap<String, Vec<AgentId>>,
}

fn look(app: &App) -> Fleet {
    let mut fleet = Fleet::default();
    for (id, record) in app.mirror.agents.all() {
        if matches!(record.state, AgentState::Revoked | AgentState::Deleting) {
            continue;
        }
        let Some(standing) = app.mirror.standings.get(&id).filter(|standing| known::is_there(standing)) else { continue };
        *fleet.there.entry(record.pool.clone()).or_default().entry(standing.description.clone()).or_default() += 1;
        if let Some(digest) = &standing.description {
            let holders = fleet.holders.entry(digest.clone()).or_default();
            if holders.len() < HOLDERS {
                holders.push(id);
            }
        }
    }
    fleet
}

/// Whom to ask for what.
fn choose(fleet: &Fleet, known: &BTreeMap<String, Arc<Described>>, asked: &BTreeMap<String, Instant>) -> Vec<(String, AgentId)> {
    let mut chosen = BTreeSet::new();
    let unknown = fleet.holders.iter().filter(|(digest, _)| !known.contains_key(*digest) && !asked.contains_key(*digest));
    let question = |(digest, holders): (&String, &Vec<AgentId>)| {
        let agent = holders.iter().find(|agent| !asked.contains_key(agent.as_str()) && chosen.insert((*agent).clone()))?;
        Some((digest.clone(), agent.clone()))
    };
    unknown.filter_map(question).take(AT_ONCE).collect()
}

/// Asks an agent for its description.
async fn ask(app: &App, digest: &str, agent: &AgentId) -> Option<(String, Arc<Described>)> {
    let request = Request::new().payload("".into()).timeout(Some(PATIENCE));
    let answer = app.nats.send_request(subjects::rpc(agent, DESCRIBE), request).await;
    let body = answer.inspect_err(|error| tracing::debug!(%agent, %error, "an agent did not say what it can do")).ok()?.payload;
    if body.len() > describe::Description::LIMIT || describe::digest(&body) != digest {
        tracing::warn!(%agent, digest, bytes = body.len(), "an agent's description is another one than its heartbeats name, or too large");
        return None;
    }
    match spawn_blocking(move || Described::read(&body)).await.ok()? {
        Ok(described) => Some((digest.to_owned(), Arc::new(described))),
        Err(why) => {
            tracing::warn!(%agent, digest, %why, "an agent's description is of no use");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn fleet(holders: &[(&str, usize)]) -> Fleet {
        let holders = holders.iter().map(|(digest, count)| ((*digest).to_owned(), (0..*count).map(|_| AgentId::generate()).collect()));
        Fleet { holders: holders.collect(), ..Fleet::default() }
    }

    #[test]
    fn one_agent_of_each_unknown_digest_is_asked_and_none_of_them_again_so_soon() {
        let fleet = fleet(&[("a", 3), ("b", 1), ("c", 1), ("d", 1)]);
        let known = BTreeMap::from([(
            "b".to_owned(),
            Arc::new(Described::read(&muster_schemas::wire::encode(&describe::Description::default())).unwrap()),
        )]);
        let mut asked = BTreeMap::new();
        let first = choose(&fleet, &known, &asked);
        assert_eq!(first.iter().map(|(digest, _)| digest.as_str()).collect::<Vec<_>>(), ["a", "c", "d"]);
        for (digest, agent) in first {
            asked.insert(digest, Instant::now());
            asked.insert(agent.to_string(), Instant::now());
        }
        assert!(choose(&fleet, &known, &asked).is_empty());
        asked.remove("a");
        let again = choose(&fleet, &known, &asked);
        assert!(again.len() == 1 && !asked.contains_key(again.first().unwrap().1.as_str()), "another holder is asked next");
    }
}
