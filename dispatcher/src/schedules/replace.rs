//! Cancels the job of the firing before, where a schedule says `replace`.
//!
//! The order is that of every cancel: a stored `cancelled` result is the fence (the first result wins), then the job leaves its queue,
//! then agents are told to stop it. Each step may be repeated.

use std::collections::BTreeSet;

use async_nats::{Client, HeaderMap, Request};
use muster_schemas::{
    code::Code,
    control::{Order, What},
    event::Event,
    headers::{CONTENT_TYPE, MSGPACK, TTL},
    job::Job,
    names::AgentId,
    result::{ErrorInfo, JobResult, Outcome},
    schedule::FiredJob,
    subjects::{self, About, broker::StreamApi, js},
    time::Timestamp,
    topology::{EVENTS, STANDINGS, bucket_stream, jobs_stream},
    wire::{self, V},
};
use serde_json::json;

use super::store;
use crate::broker::{BrokerError, PATIENCE};

/// Cancels a job in favour of another one. Nothing happens when it has ended.
pub(super) async fn cancel(client: &Client, before: &FiredJob, by: &FiredJob) -> Result<(), BrokerError> {
    let (stream, subject) = (jobs_stream(&before.pool), subjects::job_in_any_lane(&before.pool, &before.id));
    let Some(queued) = store::last(client, &stream, &subject).await? else { return Ok(()) };
    let event = store::last(client, EVENTS, &About::Event.job(&before.pool, &before.id)).await?;
    // The broker's own event of a queued job is no body of an agent's.
    let event = event.and_then(|held| wire::decode::<Event>(&held.payload).ok());

    let (result, ttl) = result(&queued, event.as_ref(), before, by);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, MSGPACK);
    headers.insert(TTL, format!("{ttl}s"));
    // Refused when the job has just ended otherwise: that is as good.
    ask(client, About::Result.job(&before.pool, &before.id), headers, wire::encode(&result)).await?;
    let purge = json!({"filter": queued.subject}).to_string();
    ask(client, StreamApi::Purge.subject(&stream), HeaderMap::new(), purge.into_bytes()).await?;

    let order = wire::encode(&Order { v: V, what: What::Cancel { job_id: before.id.clone() } });
    for agent in agents(client, before, event.as_ref()).await? {
        let told = client.publish(subjects::control(&agent), order.clone().into()).await;
        told.map_err(|error| BrokerError::Interrupted { what: format!("orders to {agent}"), why: error.to_string() })?;
    }
    tracing::info!(job_id = %before.id, by = %by.id, "cancelled the job that a newer one replaces");
    Ok(())
}

async fn ask(client: &Client, subject: String, headers: HeaderMap, body: Vec<u8>) -> Result<(), BrokerError> {
    let request = Request::new().headers(headers).payload(body.into()).timeout(Some(PATIENCE));
    let answer = client.send_request(subject.clone(), request).await;
    answer.map(drop).map_err(|source| BrokerError::Silent { what: subject, source })
}

/// The result of the job that is cancelled, and how many seconds it is kept.
fn result(queued: &store::Held, event: Option<&Event>, before: &FiredJob, by: &FiredJob) -> (JobResult, u64) {
    let error = ErrorInfo::new(Code::Cancelled, format!("job {} of the same schedule replaced it", by.id));
    let mut result = JobResult::never_ran(Outcome::Cancelled, error, before.fired_at, Timestamp::now());
    let job = Job::decode(&queued.payload).ok();
    result.priority = subjects::parse_job(&queued.subject).map_or_else(Default::default, |address| address.lane.priority);
    let ttl = job.as_ref().map_or(muster_schemas::topology::RESULT_TTL, Job::result_ttl);
    if let Some(job) = job {
        (result.job_type, result.labels) = (Some(job.job_type), job.labels);
    }
    if let Some(event) = event {
        result.attempt = event.attempt;
        result.history.clone_from(&event.history);
        result.agent_id = (event.attempt > 0).then(|| event.agent_id.clone());
    }
    (result, ttl.as_secs())
}

/// Who may run the job: the agents of its pool, for which agent has it is only told once it has run a moment.
async fn agents(client: &Client, job: &FiredJob, event: Option<&Event>) -> Result<BTreeSet<AgentId>, BrokerError> {
    let mut agents: BTreeSet<AgentId> = event.map(|event| event.agent_id.clone()).into_iter().collect();
    let prefix = js::key(STANDINGS, &format!("{}.", job.pool));
    for held in store::all(client, &bucket_stream(STANDINGS), &format!("{prefix}*")).await? {
        agents.extend(held.subject.strip_prefix(&prefix).and_then(|id| id.parse::<AgentId>().ok()));
    }
    Ok(agents)
}
