//! Ends jobs that wait or run, without their agents: cancelled, or expired.
//!
//! The order is that of every cancel: a stored result is the fence (the first result wins), then the job leaves its queue, then agents are
//! told to stop it. Each step may be repeated.

use std::collections::BTreeSet;

use async_nats::{Client, HeaderMap, Request};
use muster_schemas::{
    code::Code,
    control::{Order, What},
    event::{Event, EventKind},
    headers::{CONTENT_TYPE, MSGPACK, REPLY_TO, TTL},
    job::Job,
    names::{AgentId, JobId, PoolName},
    queue::{self, Queue},
    result::{ErrorInfo, JobResult, Outcome},
    subjects::{self, About, broker::StreamApi, js},
    time::Timestamp,
    topology::{COMMAND_EXPIRES, EVENTS, RESULT_TTL, STANDINGS, bucket_stream},
    wire::{self, V},
};
use serde_json::json;

use crate::{
    broker::{self, BrokerError, PATIENCE, Stored},
    held::{self, Held},
};

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// It is cancelled.
    Now,
    /// It had ended.
    Ended,
    /// It is in no queue.
    Nowhere,
}

/// A job in its queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    pool: PoolName,
    id: JobId,
    queue: Queue,
    stream: String,
    message: Held,
    job: Option<Job>,
    /// What an agent told of it last.
    told: Option<Event>,
}

/// Looks for a job wherever jobs of its pool may wait.
pub(crate) async fn find(client: &Client, pool: &PoolName, id: &JobId) -> Result<Option<Waiting>, BrokerError> {
    for (stream, filter) in queue::places(pool, id) {
        if let Some(waiting) = find_at(client, pool, id, stream, &filter).await? {
            return Ok(Some(waiting));
        }
    }
    Ok(None)
}

/// Looks for a job in one queue.
pub(crate) async fn find_in(client: &Client, pool: &PoolName, id: &JobId, queue: &Queue) -> Result<Option<Waiting>, BrokerError> {
    find_at(client, pool, id, queue.stream(pool), &queue.subject(pool, id)).await
}

async fn find_at(client: &Client, pool: &PoolName, id: &JobId, stream: String, filter: &str) -> Result<Option<Waiting>, BrokerError> {
    let Some(message) = held::last(client, &stream, filter).await? else { return Ok(None) };
    let Some(queue) = subjects::parse_job(&message.subject).map(|address| address.queue) else { return Ok(None) };
    let event = held::last(client, EVENTS, &About::Event.job(pool, id)).await?;
    // The broker's own event of a queued job is no body of an agent's.
    let told = event.and_then(|held| wire::decode::<Event>(&held.payload).ok());
    let job = Job::decode(&message.payload).ok();
    Ok(Some(Waiting { pool: pool.clone(), id: id.clone(), queue, stream, message, job, told }))
}

/// Cancels a job, wherever it waits. Nothing happens when it has ended.
pub(crate) async fn cancel(client: &Client, pool: &PoolName, id: &JobId, why: &str) -> Result<Cancelled, BrokerError> {
    match find(client, pool, id).await? {
        Some(waiting) => waiting.cancel(client, why).await,
        None => Ok(Cancelled::Nowhere),
    }
}

impl Waiting {
    /// When the broker stored it.
    fn queued_at(&self) -> Timestamp {
        self.message.stored_at().unwrap_or_else(Timestamp::now)
    }

    /// When it is too late to start it, as agents have it.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        let at = self.queued_at();
        let not_before = self.job.as_ref().and_then(|job| job.not_before);
        let own = self.queue.agent().map(|_| not_before.unwrap_or(at).max(at) + COMMAND_EXPIRES);
        self.job.as_ref().and_then(|job| job.expires_at).or(own)
    }

    /// Whether an agent has told that it ran it.
    pub(crate) fn is_begun(&self) -> bool {
        self.told.as_ref().is_some_and(|event| event.kind != EventKind::Released || event.attempt > 0)
    }

    /// Cancels it: it never starts, or is stopped.
    pub(crate) async fn cancel(&self, client: &Client, why: &str) -> Result<Cancelled, BrokerError> {
        let stored = self.end(client, Outcome::Cancelled, ErrorInfo::new(Code::Cancelled, why)).await?;
        let order = wire::encode(&Order { v: V, what: What::Cancel { job_id: self.id.clone() } });
        for agent in self.agents(client).await? {
            let told = client.publish(subjects::control(&agent), order.clone().into()).await;
            told.map_err(|error| BrokerError::Interrupted { what: format!("orders to {agent}"), why: error.to_string() })?;
        }
        Ok(if stored == Stored::Now { Cancelled::Now } else { Cancelled::Ended })
    }

    /// Stores how it ended, unless that is known already, and takes it out of its queue.
    pub(crate) async fn end(&self, client: &Client, outcome: Outcome, error: ErrorInfo) -> Result<Stored, BrokerError> {
        let result = self.result(outcome, error, Timestamp::now());
        let ttl = self.job.as_ref().map_or(RESULT_TTL, Job::result_ttl);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, MSGPACK);
        headers.insert(TTL, format!("{}s", ttl.as_secs()));
        if let Some(reply_to) = self.message.headers.get(REPLY_TO) {
            headers.insert(REPLY_TO, reply_to.clone());
        }
        // Refused when the job has just ended otherwise: that is as good, and nobody is given it any more.
        let stored = broker::store(client, About::Result.job(&self.pool, &self.id), headers, wire::encode(&result)).await?;
        purge(client, &self.stream, &self.message.subject).await?;
        Ok(stored)
    }

    fn result(&self, outcome: Outcome, error: ErrorInfo, now: Timestamp) -> JobResult {
        let mut result = JobResult::never_ran(outcome, error, self.queued_at(), now);
        result.priority = self.queue.priority();
        if let Some(job) = &self.job {
            (result.job_type, result.labels) = (Some(job.job_type.clone()), job.labels.clone());
        }
        if let Some(event) = &self.told {
            result.attempt = event.attempt;
            result.history.clone_from(&event.history);
            // A result has no room for the output of earlier attempts.
            result.history.iter_mut().for_each(|record| record.tail = None);
            result.agent_id = (event.attempt > 0).then(|| event.agent_id.clone());
            result.started_at = (event.kind == EventKind::Started).then_some(event.at);
        }
        result
    }

    /// Who may run it: its one agent, or the agents of its pool, for which of them has it is only told once it has run a moment.
    async fn agents(&self, client: &Client) -> Result<BTreeSet<AgentId>, BrokerError> {
        if let Some(agent) = self.queue.agent() {
            return Ok(BTreeSet::from([agent.clone()]));
        }
        let mut agents: BTreeSet<AgentId> = self.told.iter().map(|event| event.agent_id.clone()).collect();
        let prefix = js::key(STANDINGS, &format!("{}.", self.pool));
        for held in held::all(client, &bucket_stream(STANDINGS), &format!("{prefix}*")).await? {
            agents.extend(held.subject.strip_prefix(&prefix).and_then(|id| id.parse::<AgentId>().ok()));
        }
        Ok(agents)
    }
}

/// Takes jobs out of a queue. A stream that is not there has none.
pub(crate) async fn purge(client: &Client, stream: &str, filter: &str) -> Result<(), BrokerError> {
    let subject = StreamApi::Purge.subject(stream);
    let request = Request::new().payload(json!({"filter": filter}).to_string().into()).timeout(Some(PATIENCE));
    let answer = client.send_request(subject.clone(), request).await;
    answer.map(drop).map_err(|source| BrokerError::Silent { what: subject, source })
}
