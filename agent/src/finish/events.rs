//! What an agent tells of a job on the way: each event carries all that the next agent needs.

use muster_schemas::{
    event::{Event, EventKind},
    names::{AgentId, JobId, JobType, PoolName},
    subjects::About,
    time::Timestamp,
    wire::{self, V},
};

use crate::{
    attempt::count::Past,
    js::{Js, StoreError},
};

/// An event of a job, before what is special about its kind. `attempt` is the newest attempt that has begun and counts.
pub(crate) fn event(kind: EventKind, agent: &AgentId, job_type: Option<JobType>, attempt: u32, past: &Past) -> Event {
    Event {
        v: V,
        kind,
        at: Timestamp::now(),
        agent_id: agent.clone(),
        job_type,
        attempt,
        releases: past.releases,
        reason: None,
        next_at: None,
        history: past.history.clone(),
    }
}

/// A release: what was done so far stays as it was, and the broker's count of deliveries is corrected by one.
pub(crate) fn release(
    agent: &AgentId,
    job_type: Option<JobType>,
    past: &Past,
    reason: impl Into<String>,
    next_at: Option<Timestamp>,
) -> Event {
    let mut event = event(EventKind::Released, agent, job_type, past.attempts, past);
    event.releases = past.releases.saturating_add(1);
    event.reason = Some(reason.into());
    event.next_at = next_at;
    event
}

/// Tells an event that nobody waits for.
pub(crate) async fn tell(js: &Js, pool: &PoolName, id: &JobId, event: &Event) {
    js.send(About::Event.job(pool, id), wire::encode(event).into()).await;
}

/// Tells an event, and waits until it is stored.
pub(crate) async fn record(js: &Js, pool: &PoolName, id: &JobId, event: &Event) -> Result<(), StoreError> {
    js.store(About::Event.job(pool, id), None, wire::encode(event).into()).await
}
