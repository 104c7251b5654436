//! `muster job why`: one sentence, and the facts behind it.

use muster_schemas::{
    api::{Why, WhyAgent, WhyFacts},
    standing::Status,
    time::Timestamp,
};

use crate::{output, text};

/// An explanation for a person.
pub(super) fn show(why: &Why, now: Timestamp) -> String {
    let facts = &why.facts;
    let facts_shown = output::fields(vec![
        ("state", Some(why.state.as_str().to_owned())),
        ("since", facts.since.map(|at| format!("{at} ({})", text::ago(at, now)))),
        ("next", facts.next_at.map(|at| format!("{at} (in {})", text::duration(at.since(now))))),
        ("attempt", (facts.attempt > 0).then(|| facts.attempt.to_string())),
        ("last told", facts.said.clone()),
        ("needs", needs(why, facts)),
        ("priority", facts.priority.map(|priority| priority.to_string())),
        ("pool", facts.paused.as_ref().map(ToString::to_string)),
        (
            "queue",
            facts.queue.map(|queue| {
                format!(
                    "{} ahead of it, {} of at most {} running; {} requests of agents are open",
                    queue.ahead, queue.running, queue.limit, queue.asking
                )
            }),
        ),
        (
            "agents",
            facts.agents.as_ref().map(|agents| {
                format!(
                    "{} registered, {} of them with its executor; {} of these online, {} accept jobs",
                    agents.registered, agents.able, agents.online, agents.accepting
                )
            }),
        ),
    ]);
    let mut shown = format!("{}\n\n{facts_shown}", text::safe(&why.sentence));
    if let Some(agents) = facts.agents.as_ref().filter(|agents| !agents.listed.is_empty()) {
        let head = ["agent", "status", "accepts", "reason"];
        shown.push_str(&format!("\n\n{}", output::table(head, agents.listed.iter().map(agent).collect(), "")));
    }
    shown
}

/// Who could run it: any agent of the pool with its executor, or the one that a command is for.
fn needs(why: &Why, facts: &WhyFacts) -> Option<String> {
    match (&facts.target, &facts.executor) {
        (Some(target), Some(executor)) => Some(format!("agent {}, with {executor}", name(&target.agent))),
        (Some(target), None) => Some(format!("agent {}", name(&target.agent))),
        (None, executor) => executor.as_ref().map(|executor| format!("an agent with {executor} in pool {}", why.pool)),
    }
}

fn name(agent: &WhyAgent) -> String {
    agent.name.as_ref().map_or_else(|| agent.id.to_string(), ToString::to_string)
}

fn agent(agent: &WhyAgent) -> [String; 4] {
    let status = match agent.status {
        Some(Status::Online) => "online",
        Some(Status::Degraded) => "degraded",
        Some(Status::Offline) => "offline",
        None => "never seen",
    };
    let accepts = if agent.accepting { "yes" } else { "no" };
    [name(agent), status.to_owned(), accepts.to_owned(), agent.reason.clone().unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_begins_with_its_sentence_and_shows_what_it_rests_on() {
        let at = Timestamp::from_secs(1_800_000_000);
        let why: Why = serde_json::from_value(json!({
            "id": "j", "pool": "p", "state": "pending", "reason": "pool_paused", "sentence": "Somebody paused the pool.",
            "facts": {
                "attempt": 0, "executor": "shell", "since": at, "paused": {"by": "ci", "key_id": "k", "note": "the disk is full", "at": at},
                "queue": {"ahead": 7, "running": 1, "limit": 9, "no_share": false, "asking": 2, "given_out": false},
                "agents": {"registered": 3, "able": 2, "online": 1, "accepting": 0, "listed": [
                    {"id": "agt_01JZZZZZZZZZZZZZZZZZZZZZZZ", "name": "agent-1", "status": "offline", "accepting": false, "reason": "no heartbeat"},
                ]},
            },
        }))
        .unwrap();
        let shown = show(&why, at + Duration::from_secs(3));
        assert!(shown.starts_with("Somebody paused the pool.\n\nstate"), "{shown}");
        for part in ["paused by ci", "the disk is full", "7 ahead of it", "1 of these online", "agent-1  offline  no", "3.0 s ago"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }

    #[test]
    fn a_command_needs_its_one_agent() {
        let mut why: Why = serde_json::from_value(json!({
            "id": "j", "pool": "p", "state": "pending", "reason": "agent_offline", "sentence": "Its agent web-1 is offline.",
            "facts": {"executor": "shell", "target": {"id": "agt_01JZZZZZZZZZZZZZZZZZZZZZZZ", "name": "web-1", "accepting": false}},
        }))
        .unwrap();
        assert_eq!(needs(&why, &why.facts).as_deref(), Some("agent web-1, with shell"));
        why.facts.target = None;
        assert_eq!(needs(&why, &why.facts).as_deref(), Some("an agent with shell in pool p"));
    }
}
