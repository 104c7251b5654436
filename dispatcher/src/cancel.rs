//! Ends jobs that wait or run, without their agents: cancelled, or expired.
//!
//! The order is that of every cancel: a stored result is the fence (the first result wins), then the job leaves its queue, then agents are
//! told to stop it. Each step may be repeated.

use std::collections::BTreeSet;

use async_nats::{Client, HeaderMap};
use muster_schemas::{
    code::Code,
    control::{Order, What},
    event::{self, Event, EventKind},
    headers::{CONTENT_TYPE, MSGPACK, REPLY_TO, REPUBLISHED_SUBJECT, SIGNATURE, TTL},
    job::Job,
    names::{AgentId, JobId, PoolName},
    queue::{self, Queue},
    records::keys,
    result::{ErrorInfo, JobResult, Outcome},
    signature::Signed,
    standing::{Standing, Status},
    subjects::{self, About, js},
    time::Timestamp,
    topology::{EVENTS, RESULT_TTL, RESULTS, STANDINGS, bucket_stream},
    wire::{self, V},
};

use crate::{
    broker::{self, BrokerError, PATIENCE, Stored},
    held::{self, Held},
    signing::Signing,
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
    let Some(message) = held::last_queued(client, pool, &stream, filter).await? else { return Ok(None) };
    let Some(queue) = subjects::parse_job(&message.subject).map(|address| address.queue) else { return Ok(None) };
    waiting(client, pool, id, queue, message).await.map(Some)
}

/// The job that a message of a queue is.
pub(crate) async fn waiting(client: &Client, pool: &PoolName, id: &JobId, queue: Queue, message: Held) -> Result<Waiting, BrokerError> {
    let event = held::last(client, EVENTS, &About::Event.job(pool, id)).await?;
    let told = event.filter(|event| is_told_of(event, &message)).and_then(|event| wire::decode(&event.payload).ok());
    let job = Job::decode(&message.payload).ok();
    Ok(Waiting { pool: pool.clone(), id: id.clone(), stream: queue.stream(pool), queue, message, job, told })
}

/// Whether the last event under a job's id is an agent's, and of this very job: not the broker's own copy of it, nor of an earlier one.
fn is_told_of(event: &Held, message: &Held) -> bool {
    let subjects = event.headers.get_all(REPUBLISHED_SUBJECT).map(|subject| subject.as_str());
    !event::is_queued(subjects) && event.stored_at() >= message.stored_at()
}

/// Cancels a job, wherever it waits. Nothing happens when it has ended.
pub(crate) async fn cancel(client: &Client, signing: &Signing, pool: &PoolName, id: &JobId, why: &str) -> Result<Cancelled, BrokerError> {
    match find(client, pool, id).await? {
        Some(waiting) => waiting.cancel(client, signing, why).await,
        None => Ok(Cancelled::Nowhere),
    }
}

impl Waiting {
    /// Where it waits.
    pub(crate) fn subject(&self) -> &str {
        &self.message.subject
    }

    /// When the broker stored it.
    fn queued_at(&self) -> Timestamp {
        self.message.stored_at().unwrap_or_else(Timestamp::now)
    }

    /// When it is too late to start it, as agents have it.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        let (own, not_before) = self.job.as_ref().map_or((None, None), |job| (job.expires_at, job.not_before));
        self.queue.expires_at(own, not_before, self.queued_at())
    }

    /// Whether an agent may be running it: one has told that it began, and nothing since, and it is not known to be away. Between two attempts
    /// nobody runs it.
    pub(crate) async fn may_run(&self, client: &Client) -> Result<bool, BrokerError> {
        let Some(told) = self.told.as_ref().filter(|event| !matches!(event.kind, EventKind::Released | EventKind::Retrying)) else {
            return Ok(false);
        };
        let key = keys::standing(&self.pool, &told.agent_id);
        let standing = broker::entry(client, STANDINGS, &key, PATIENCE).await?.and_then(|entry| entry.value);
        let standing = standing.and_then(|value| wire::decode::<Standing>(&value).ok());
        Ok(standing.is_none_or(|standing| standing.status != Status::Offline))
    }

    /// Cancels it: it never starts, or is stopped.
    pub(crate) async fn cancel(&self, client: &Client, signing: &Signing, why: &str) -> Result<Cancelled, BrokerError> {
        let stored = self.end(client, signing, Outcome::Cancelled, ErrorInfo::new(Code::Cancelled, why)).await?;
        self.stop(client).await?;
        Ok(if stored == Stored::Now { Cancelled::Now } else { Cancelled::Ended })
    }

    /// Does what is left of an end that was begun: when its result is stored, takes it out of its queue and stops it. Answers whether it was.
    pub(crate) async fn finish(&self, client: &Client) -> Result<bool, BrokerError> {
        let result = held::last(client, RESULTS, &About::Result.job(&self.pool, &self.id)).await?;
        // One from before it was queued is of an earlier job of the same id.
        if result.is_none_or(|result| result.stored_at() < self.message.stored_at()) {
            return Ok(false);
        }
        self.take_out(client).await?;
        self.stop(client).await?;
        Ok(true)
    }

    /// Takes it out of its queue. By its sequence: see `docs/decisions/0033-no-purge-of-a-queue.md`.
    async fn take_out(&self, client: &Client) -> Result<(), BrokerError> {
        match broker::delete(client, &self.stream, self.message.sequence).await {
            // The broker has several words for a message that is gone, so the stream itself is asked.
            Err(refused @ BrokerError::Refused { .. }) => {
                let there = held::last_queued(client, &self.pool, &self.stream, &self.message.subject).await?;
                if there.is_some_and(|there| there.sequence == self.message.sequence) { Err(refused) } else { Ok(()) }
            }
            other => other,
        }
    }

    /// Has it stopped by whoever may run it.
    async fn stop(&self, client: &Client) -> Result<(), BrokerError> {
        let order = wire::encode(&Order { v: V, what: What::Cancel { job_id: self.id.clone() } });
        for agent in self.agents(client).await? {
            let told = client.publish(subjects::control(&agent), order.clone().into()).await;
            told.map_err(|error| BrokerError::Interrupted { what: format!("orders to {agent}"), why: error.to_string() })?;
        }
        Ok(())
    }

    /// Stores how it ended, unless that is known already, and takes it out of its queue.
    pub(crate) async fn end(&self, client: &Client, signing: &Signing, outcome: Outcome, error: ErrorInfo) -> Result<Stored, BrokerError> {
        let times = (self.queued_at(), Timestamp::now());
        let result = JobResult::ended_in(&self.queue, self.job.as_ref(), self.told.as_ref(), outcome, error, times);
        let ttl = self.job.as_ref().map_or(RESULT_TTL, Job::result_ttl);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, MSGPACK);
        headers.insert(TTL, format!("{}s", ttl.as_secs()));
        if let Some(reply_to) = self.message.headers.get(REPLY_TO) {
            headers.insert(REPLY_TO, reply_to.clone());
        }
        let (subject, body) = (About::Result.job(&self.pool, &self.id), wire::encode(&result));
        // Without a key it is shown as not signed; that nobody waits for this job any longer matters more.
        if let Some(signature) = signing.sign(Signed::Result, &subject, &body) {
            headers.insert(SIGNATURE, signature.to_string());
        }
        // Refused when the job has just ended otherwise: that is as good, and nobody is given it any more.
        let stored = broker::store(client, subject, headers, body).await?;
        self.take_out(client).await?;
        Ok(stored)
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
