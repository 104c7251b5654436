//! Why a command waits: facts about its one agent, and what follows from them.
//!
//! A paused pool is none of the reasons: its lanes stand still, but whoever sends a command names the agent on purpose.

use muster_schemas::{
    api::{WhyFacts, WhyQueue, WhyReason, WhyTarget},
    heartbeat::Heartbeat,
    names::AgentId,
    records::AgentState,
    standing::Status,
    subjects,
    time::Timestamp,
    topology::{COMMANDS, HEARTBEATS},
    wire,
};

use super::{
    super::view::Queued,
    ahead,
    sentence::{capital, count, name},
    spoken_of,
};
use crate::{
    app::App,
    stored::{self, StoreError},
};

/// The facts, beside those that the job and its last event tell.
pub(super) async fn gather(app: &App, queued: &Queued, agent: &AgentId, told: WhyFacts) -> Result<WhyFacts, StoreError> {
    let (beat_of, own) = (subjects::heartbeat(&queued.pool, agent), subjects::commands_to(&queued.pool, agent));
    let (queue, beat) =
        tokio::try_join!(ahead(app, queued, COMMANDS, agent.as_str(), &own), stored::last(&app.nats, HEARTBEATS, &beat_of),)?;
    let slots = beat.as_ref().and_then(|beat| wire::decode::<Heartbeat>(&beat.payload).ok()).map(|beat| beat.slots);
    let job = queued.job.as_ref().ok();
    Ok(WhyFacts {
        executor: job.map(|job| job.job_type.executor()),
        expires_at: job.and_then(|job| queued.queue.expires_at(job.expires_at, job.not_before, queued.at)),
        queue: Some(queue),
        target: Some(WhyTarget { agent: spoken_of(app, agent.clone()), heartbeat_at: beat.map(|beat| beat.at), slots }),
        ..told
    })
}

/// The reason and its sentence, for a command that waits. `put_off` says whether it is put off.
pub(super) fn conclude(
    target: &WhyTarget,
    facts: &WhyFacts,
    put_off: impl FnOnce() -> Option<(WhyReason, String)>,
    now: Timestamp,
) -> (WhyReason, String) {
    if let Some(at) = facts.expires_at.filter(|at| *at <= now) {
        return (WhyReason::Overdue, format!("It was to begin before {at} and did not: it ends as expired."));
    }
    let (reason, sentence) = never(target).or_else(put_off).or_else(|| away(target)).unwrap_or_else(|| waits(target, facts));
    match facts.expires_at {
        Some(at) if reason != WhyReason::Next => (reason, format!("{sentence} Unless it begins before, it expires at {at}.")),
        _ => (reason, sentence),
    }
}

/// What to say of a command's agent that is not there.
pub(super) fn absent(target: &WhyTarget) -> Option<(WhyReason, String)> {
    never(target).or_else(|| away(target))
}

/// What no passing of time changes.
fn never(target: &WhyTarget) -> Option<(WhyReason, String)> {
    let who = name(&target.agent);
    match target.agent.state {
        None => Some((WhyReason::AgentGone, format!("Its agent {} is not registered any more.", target.agent.id))),
        Some(AgentState::Revoked) => {
            Some((WhyReason::AgentRevoked, format!("Its {who} is revoked: it gets nothing until an operator enables it again.")))
        }
        _ => None,
    }
}

/// An agent that is not there, or may take nothing.
fn away(target: &WhyTarget) -> Option<(WhyReason, String)> {
    let (agent, who) = (&target.agent, name(&target.agent));
    let why = agent.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    match (agent.state, agent.status) {
        (Some(AgentState::Pending), _) => {
            Some((WhyReason::AgentPending, format!("Its {who} has never registered: it gets the command once it does.")))
        }
        (Some(AgentState::Disabled), _) => {
            Some((WhyReason::AgentDisabled, format!("Its {who} is disabled: it takes nothing until an operator enables it again.")))
        }
        (Some(AgentState::Draining), _) => Some((
            WhyReason::AgentDraining,
            format!("Its {who} is draining: it finishes what it has, and takes nothing new until an operator enables it again."),
        )),
        (_, None) => Some((WhyReason::AgentOffline, format!("Its {who} has not been heard of yet: it gets the command once it is there."))),
        (_, Some(Status::Offline)) => {
            let since = target.heartbeat_at.map_or_else(String::new, |at| format!("; its last heartbeat came at {at}"));
            Some((WhyReason::AgentOffline, format!("Its {who} is offline{why}{since}. It gets the command when it is back.")))
        }
        (_, Some(Status::Online | Status::Degraded)) if !agent.accepting => {
            Some((WhyReason::AgentRefuses, format!("Its {who} is there, and takes nothing at present{why}.")))
        }
        _ => None,
    }
}

/// An agent that is there and takes commands.
fn waits(target: &WhyTarget, facts: &WhyFacts) -> (WhyReason, String) {
    let (who, none) = (name(&target.agent), WhyQueue::default());
    let queue = facts.queue.as_ref().unwrap_or(&none);
    if queue.limit > 0 && queue.running >= queue.limit && !queue.given_out {
        let sentence = format!("Its {who} has as many commands as it may at once, running ones and those put off: {}.", queue.limit);
        return (WhyReason::RunningLimit, sentence);
    }
    let ahead = match queue.ahead {
        0 => "nothing is ahead of it".to_owned(),
        1 => "1 command is ahead of it".to_owned(),
        n => format!("{n} commands are ahead of it"),
    };
    match (queue.asking, queue.ahead, target.slots) {
        (0, _, Some(slots)) if slots.running < slots.total => {
            let busy = format!("{} of its {} ran jobs at its last heartbeat", slots.running, count(slots.total.into(), "slot"));
            (WhyReason::Busy, format!("Its {who} does not ask for commands at this moment ({busy}), and {ahead}."))
        }
        (0, _, Some(slots)) => (WhyReason::Busy, format!("Its {who} is busy with {}, and {ahead}.", count(slots.running.into(), "job"))),
        (0, _, None) => (WhyReason::Busy, format!("Its {who} does not ask for commands at this moment, and {ahead}.")),
        (_, 0, _) => (WhyReason::Next, format!("Nothing is in its way: {who} is about to take it.")),
        _ => (WhyReason::Busy, format!("{}, and {who} is asking for work.", capital(&ahead))),
    }
}
