//! What follows from the facts: the reason for which a job waits, and the sentence that says so. Pure.
//!
//! The reasons are tried in a fixed order: what would hold the job back even if everything behind it were solved comes first.

use muster_schemas::{
    api::{JobState, JobView, WhyAgent, WhyAgents, WhyFacts, WhyQueue, WhyReason},
    records::AgentState,
    standing::Status,
    time::Timestamp,
    topology::ACK_WAIT,
};

use super::command;

/// Agents that a sentence names; the facts have more.
const NAMED: usize = 5;

/// What tells more of a connection.
const TOLD: &str = "`muster connections show";

/// The reason and its sentence.
pub(super) fn conclude(view: &JobView, facts: &WhyFacts, now: Timestamp) -> (WhyReason, String) {
    if let Some(ended) = ended(view).or_else(|| running(view, facts)) {
        return ended;
    }
    if view.state == JobState::Running {
        return lost(view, facts);
    }
    if let Some(target) = &facts.target {
        return credentials(command::conclude(target, facts, || put_off(view, facts, now), now), facts);
    }
    let (reason, mut sentence) = credentials(put_off(view, facts, now).unwrap_or_else(|| waits(view, facts)), facts);
    if let Some(paused) = facts.paused.as_ref().filter(|_| reason != WhyReason::PoolPaused) {
        sentence = format!("{sentence} Its pool is {paused}.");
    }
    (reason, sentence)
}

/// What is said instead where the job would be taken, but for credentials that nobody has who may run it.
fn credentials(otherwise: (WhyReason, String), facts: &WhyFacts) -> (WhyReason, String) {
    let waits = matches!(otherwise.0, WhyReason::Released | WhyReason::RunningLimit | WhyReason::Busy | WhyReason::Next);
    let Some(connection) = facts.connection.as_ref().filter(|connection| waits && connection.held != Some(true)) else { return otherwise };
    let name = &connection.name;
    let sentence = match (connection.held, &facts.target) {
        (None, _) => format!("There is no connection `{name}` any more: an agent will reject it."),
        (_, Some(target)) => format!(
            "Its {} does not have the credentials of connection `{name}`. {TOLD} {name}` says how far they are.",
            self::name(&target.agent)
        ),
        (_, None) => {
            format!("No agent that could run it has the credentials of connection `{name}`. {TOLD} {name}` says how far they are.")
        }
    };
    (WhyReason::Credentials, sentence)
}

fn ended(view: &JobView) -> Option<(WhyReason, String)> {
    let result = view.result.as_ref()?;
    let why = result.error.as_ref().map_or_else(String::new, |error| format!(": {}", error.message));
    Some((WhyReason::Finished, format!("It does not wait: it ended at {}, {}{why}.", result.finished_at, view.state.as_str())))
}

fn running(view: &JobView, facts: &WhyFacts) -> Option<(WhyReason, String)> {
    let gone = |agent: &WhyAgent| agent.state.is_none() || cut_off(agent).is_some() || agent.status == Some(Status::Offline);
    let gone = facts.agent.as_ref().is_some_and(gone);
    if view.state != JobState::Running || gone {
        return None;
    }
    let who = facts.agent.as_ref().map_or_else(|| "an agent".to_owned(), name);
    Some((WhyReason::Running, format!("It does not wait: {who} runs attempt {} of it{}.", facts.attempt, since(facts))))
}

/// What was done to an agent whose identity has ended: what it ran is stopped.
fn cut_off(agent: &WhyAgent) -> Option<&'static str> {
    match agent.state? {
        AgentState::Revoked => Some("was revoked"),
        AgentState::Deleting => Some("is being removed"),
        _ => None,
    }
}

/// A job that was begun by an agent that is gone: who gets it next, and what keeps them from it.
fn lost(view: &JobView, facts: &WhyFacts) -> (WhyReason, String) {
    let who = facts.agent.as_ref().map_or_else(|| "an agent".to_owned(), name);
    let ended = facts.agent.as_ref().and_then(cut_off);
    let became = ended.unwrap_or("is not heard of any more");
    let begun = format!("{} began attempt {} of it{}, and {became}", capital(&who), facts.attempt, at(facts));
    if let Some(target) = &facts.target {
        let (reason, sentence) =
            command::absent(target).unwrap_or((WhyReason::Running, "It gets the command again when it is back.".into()));
        return (reason, format!("{begun}. {sentence}"));
    }
    let lease = ACK_WAIT.as_secs();
    let begun = match ended {
        Some(_) => format!("{begun}: once its lease has run out, in {lease} s at most, the job goes to another one."),
        None => format!("{begun}: {lease} s after its last sign of life the job goes to another one."),
    };
    match waits(view, facts) {
        (reason @ (WhyReason::PoolPaused | WhyReason::NoAgent | WhyReason::NoneOnline | WhyReason::NoneAccepting), sentence) => {
            (reason, format!("{begun} {sentence}"))
        }
        // It is not queued behind others: what is given out anew goes to the next agent that asks.
        _ => (WhyReason::Running, format!("{begun} {} can run it.", capital(&count(accepting(facts), "agent")))),
    }
}

fn accepting(facts: &WhyFacts) -> u64 {
    facts.agents.as_ref().map_or(0, |agents| agents.accepting)
}

fn put_off(view: &JobView, facts: &WhyFacts, now: Timestamp) -> Option<(WhyReason, String)> {
    let at = facts.next_at.or(view.next_at).filter(|at| *at > now)?;
    let said = facts.said.as_ref().map_or_else(String::new, |said| format!(" ({said})"));
    Some(match view.state {
        JobState::Retrying => {
            (WhyReason::Backoff, format!("Attempt {} failed{said}; the next one comes after its backoff, at {at}.", facts.attempt))
        }
        JobState::Scheduled => (WhyReason::NotBefore, format!("Its time has not come: it starts at {at} at the earliest.")),
        _ => {
            let who = facts.agent.as_ref().map_or_else(|| "an agent".to_owned(), name);
            (WhyReason::Released, format!("{} gave it back{said}; it is given out again at {at}.", capital(&who)))
        }
    })
}

fn waits(view: &JobView, facts: &WhyFacts) -> (WhyReason, String) {
    let executor = facts.executor.as_ref().map_or("", |executor| executor.as_str());
    let (pool, none) = (&view.pool, (WhyAgents::default(), WhyQueue::default()));
    let agents = facts.agents.as_ref().unwrap_or(&none.0);
    let queue = facts.queue.as_ref().unwrap_or(&none.1);
    if let Some(paused) = &facts.paused {
        return (WhyReason::PoolPaused, format!("Its pool `{pool}` is {paused}."));
    }
    if agents.able == 0 {
        let others = match agents.registered {
            0 => "it has no agents at all".to_owned(),
            n => format!("it has {} for other jobs", count(n, "agent")),
        };
        return (WhyReason::NoAgent, format!("No agent of pool `{pool}` runs `{executor}` jobs: {others}."));
    }
    if agents.online == 0 {
        let sentence = format!("No agent of pool `{pool}` that runs `{executor}` jobs is online: {}.", listed(agents));
        return (WhyReason::NoneOnline, sentence);
    }
    if agents.accepting == 0 {
        let online = count(agents.online, "agent");
        let sentence = format!("Of pool `{pool}`, {online} online can run `{executor}` jobs, and none accepts any: {}.", listed(agents));
        return (WhyReason::NoneAccepting, sentence);
    }
    if queue.no_share {
        return (WhyReason::RunningLimit, format!("As many jobs run in pool `{pool}` as it allows, all of them of other lanes."));
    }
    if queue.limit > 0 && queue.running >= queue.limit {
        let sentence = format!("As many jobs of its lane run as pool `{pool}` allows at present: {}.", queue.limit);
        return (WhyReason::RunningLimit, sentence);
    }
    let ahead = match queue.ahead {
        0 => "nothing is ahead of it".to_owned(),
        1 => "1 job is ahead of it".to_owned(),
        n => format!("{n} jobs are ahead of it"),
    };
    match (queue.asking, queue.ahead) {
        (0, _) => {
            let accepting = match agents.accepting {
                1 => "of the one agent that accepts".to_owned(),
                n => format!("of the {n} agents that accept"),
            };
            (WhyReason::Busy, format!("All slots {accepting} `{executor}` jobs are busy, and {ahead}."))
        }
        (_, 0) => (WhyReason::Next, "Nothing is in its way: an agent is about to take it.".to_owned()),
        _ => (WhyReason::Busy, format!("{}, and agents are asking for work.", capital(&ahead))),
    }
}

/// Agents with what keeps them from the job, and how many more there are.
fn listed(agents: &WhyAgents) -> String {
    let mut shown: Vec<String> = agents.listed.iter().take(NAMED).map(|agent| format!("{} ({})", name(agent), obstacle(agent))).collect();
    let more = agents.able.saturating_sub(shown.len() as u64);
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}

fn obstacle(agent: &WhyAgent) -> String {
    if let Some(reason) = &agent.reason {
        return reason.clone();
    }
    match agent.status {
        None => "never heard of".to_owned(),
        Some(Status::Offline) => "offline".to_owned(),
        Some(Status::Online | Status::Degraded) => "takes no jobs".to_owned(),
    }
}

pub(super) fn name(agent: &WhyAgent) -> String {
    match &agent.name {
        Some(name) => format!("agent `{name}`"),
        None => format!("agent {}, which is not registered any more,", agent.id),
    }
}

fn at(facts: &WhyFacts) -> String {
    facts.since.map_or_else(String::new, |at| format!(" at {at}"))
}

fn since(facts: &WhyFacts) -> String {
    facts.since.map_or_else(String::new, |since| format!(" since {since}"))
}

pub(super) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::{api::WhyConnection, lane::Priority, names::AgentId};

    use super::*;

    fn view(state: JobState) -> JobView {
        JobView {
            id: "j".parse().unwrap(),
            pool: "p".parse().unwrap(),
            job_type: None,
            priority: Priority::Normal,
            state,
            labels: [].into(),
            queued_at: None,
            attempt: 0,
            agent_id: None,
            target_agent: None,
            parent: None,
            reason: None,
            next_at: None,
            result: None,
            signature: None,
        }
    }

    fn agent(name: Option<&str>) -> WhyAgent {
        let name = name.map(|name| name.parse().unwrap());
        WhyAgent { id: AgentId::generate(), name, state: None, status: Some(Status::Offline), accepting: false, reason: None }
    }

    fn facts(queue: WhyQueue) -> WhyFacts {
        let agents = WhyAgents { registered: 3, able: 2, online: 2, accepting: 2, listed: vec![agent(Some("a"))] };
        WhyFacts { executor: Some("shell".parse().unwrap()), agents: Some(agents), queue: Some(queue), ..WhyFacts::default() }
    }

    fn says(queue: WhyQueue) -> (WhyReason, String) {
        conclude(&view(JobState::Pending), &facts(queue), Timestamp::from_secs(0))
    }

    #[test]
    fn the_queue_says_what_is_ahead_and_whether_anybody_asks() {
        let queue = WhyQueue { limit: 10, ..WhyQueue::default() };
        let busy = says(WhyQueue { ahead: 1, ..queue });
        assert_eq!(
            busy,
            (WhyReason::Busy, "All slots of the 2 agents that accept `shell` jobs are busy, and 1 job is ahead of it.".into())
        );
        assert_eq!(says(WhyQueue { ahead: 7, asking: 2, ..queue }).1, "7 jobs are ahead of it, and agents are asking for work.");
        assert_eq!(says(WhyQueue { asking: 2, ..queue }).0, WhyReason::Next);
        assert_eq!(says(WhyQueue { running: 10, asking: 2, ..queue }).0, WhyReason::RunningLimit);
        assert_eq!(says(WhyQueue { no_share: true, ..queue }).0, WhyReason::RunningLimit);
    }

    #[test]
    fn many_agents_are_counted_and_a_removed_one_has_its_id() {
        let mut many = facts(WhyQueue::default());
        let listed = (0..7).map(|n| agent(Some(&format!("a{n}")))).collect();
        many.agents = Some(WhyAgents { registered: 9, able: 9, online: 0, accepting: 0, listed });
        let (reason, sentence) = conclude(&view(JobState::Pending), &many, Timestamp::from_secs(0));
        assert_eq!(reason, WhyReason::NoneOnline);
        assert!(sentence.contains("agent `a4` (offline), 4 more") && !sentence.contains("a5"), "{sentence}");
    }

    #[test]
    fn a_job_begun_by_an_agent_that_is_gone_says_who_gets_it_next() {
        let gone = |agent| WhyFacts { agent: Some(agent), attempt: 1, ..facts(WhyQueue::default()) };
        let says = |facts: &WhyFacts| conclude(&view(JobState::Running), facts, Timestamp::from_secs(0));
        let (reason, sentence) = says(&gone(agent(None)));
        assert_eq!(reason, WhyReason::Running);
        assert!(sentence.contains("which is not registered any more, began attempt 1 of it, and is not heard of any more"), "{sentence}");
        assert!(sentence.ends_with("last sign of life the job goes to another one. 2 agents can run it."), "{sentence}");
        let mut none = gone(agent(Some("a")));
        none.agents = Some(WhyAgents { registered: 1, able: 1, online: 0, accepting: 0, listed: vec![agent(Some("a"))] });
        let (reason, sentence) = says(&none);
        assert_eq!(reason, WhyReason::NoneOnline);
        assert!(sentence.starts_with("Agent `a` began attempt 1") && sentence.ends_with("is online: agent `a` (offline)."), "{sentence}");
        let revoked = WhyAgent { state: Some(AgentState::Revoked), status: Some(Status::Online), ..agent(Some("a")) };
        let sentence = says(&gone(revoked)).1;
        assert!(sentence.starts_with("Agent `a` began attempt 1 of it, and was revoked: once its lease has run out"), "{sentence}");
        let there = WhyAgent { state: Some(AgentState::Active), status: Some(Status::Online), ..agent(Some("a")) };
        assert!(says(&gone(there)).1.starts_with("It does not wait: agent `a` runs attempt 1"));
    }

    #[test]
    fn a_time_that_has_passed_holds_nothing_back() {
        let mut late = facts(WhyQueue { asking: 1, limit: 5, ..WhyQueue::default() });
        late.next_at = Some(Timestamp::from_secs(10));
        let at = |now| conclude(&view(JobState::Retrying), &late, Timestamp::from_secs(now)).0;
        assert_eq!((at(9), at(10)), (WhyReason::Backoff, WhyReason::Next));
    }

    #[test]
    fn credentials_that_nobody_has_are_the_reason_where_nothing_else_keeps_the_job() {
        let named = |held, queue| WhyFacts { connection: Some(WhyConnection { name: "db".parse().unwrap(), held }), ..facts(queue) };
        let says = |facts: &WhyFacts| conclude(&view(JobState::Pending), facts, Timestamp::from_secs(0));
        let next = WhyQueue { asking: 1, limit: 5, ..WhyQueue::default() };
        let (reason, sentence) = says(&named(Some(false), next));
        assert_eq!(reason, WhyReason::Credentials);
        assert!(sentence.contains("credentials of connection `db`") && sentence.contains("`muster connections show db`"), "{sentence}");
        assert_eq!(says(&named(Some(true), next)).0, WhyReason::Next);
        assert!(says(&named(None, next)).1.contains("no connection `db` any more"));
        let released = WhyFacts { next_at: Some(Timestamp::from_secs(9)), said: Some("no credentials".into()), ..named(Some(false), next) };
        assert_eq!(says(&released).0, WhyReason::Credentials);
        let mut nobody = named(Some(false), next);
        nobody.agents = Some(WhyAgents::default());
        assert_eq!(says(&nobody).0, WhyReason::NoAgent);
    }
}
