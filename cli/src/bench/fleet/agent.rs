//! One simulated agent. To the broker it is as a real idle one: its own login and subscriptions, a heartbeat every half minute, a pull of its own
//! queue once a minute, pulls of its lanes as its standing says, and a look at the dispatcher's lease while it stands by.
//!
//! It runs nothing. A job of the executor that the real agents have should never come to it, and is given back; the other executor
//! ([`called_only`]) it pulls only when it is called up, as if it had no slot free otherwise, and what comes then it ends at once.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use async_nats::{Client, HeaderMap, Message, Request, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use muster_schemas::{
    code::Code,
    connection,
    control::{Order, What},
    headers::SIGNATURE,
    heartbeat::{Heartbeat, INTERVAL_DEFAULT, Slots},
    lane::Lane,
    names::{AgentId, ExecutorName, JobId, PoolName},
    queue::Queue,
    records::keys,
    result::{ErrorInfo, JobResult, Outcome},
    signature::{SIGNERS_KEY, Signed, Signer},
    standing::Standing,
    subjects::{self, About, js},
    time::Timestamp,
    topology::{self, PRIORITY_GROUP, bucket_stream},
    wire,
};

use super::crowd::Told;

/// How long a pull waits at the broker, as of a real agent that is idle.
const EXPIRES: Duration = Duration::from_secs(60);

/// How long it does not ask its own queue that was not there. It looks at its clock with each heartbeat.
const REST: Duration = Duration::from_secs(45);

/// The executor that the real agents have.
pub(super) fn pulled() -> ExecutorName {
    executor("probe")
}

/// The executor that is pulled by those only who are called up.
pub(super) fn called_only() -> ExecutorName {
    executor("http")
}

#[expect(clippy::expect_used, reason = "a name that is written here")]
fn executor(name: &str) -> ExecutorName {
    name.parse().expect("an executor's name")
}

/// A simulated agent that is connected.
pub(super) struct Simulated {
    /// Its id.
    pub(super) id: AgentId,
    /// Its pool.
    pub(super) pool: PoolName,
    /// Its connection.
    pub(super) nats: Client,
    /// Signs its results.
    pub(super) signer: Signer,
}

/// What it knows and has asked for.
struct Life<'a> {
    agent: &'a Simulated,
    /// What it can pull, and whether a pull waits there.
    queues: Vec<(Queue, bool)>,
    inbox: String,
    standing: Option<Standing>,
    called_until: BTreeMap<ExecutorName, Instant>,
    /// Until when it does not ask its own queue, which was not there, unless it is told to.
    rests_until: Option<Instant>,
    /// Whether nobody could call it up.
    unled: bool,
    told: &'a Told,
}

impl Simulated {
    /// Lives until it is aborted. `phase`, from 0 to 1, is its place among all that have the same interval between heartbeats.
    ///
    /// # Errors
    /// When the connection ends.
    pub(super) async fn live(&self, phase: f64, told: &Told) -> Result<()> {
        let mut queues = vec![(Queue::Agent(self.id.clone()), false)];
        queues.extend([pulled(), called_only()].iter().flat_map(Lane::of).map(|lane| (Queue::Lane(lane), false)));
        let own_standing = js::key(topology::STANDINGS, &keys::standing(&self.pool, &self.id));
        let mut life = Life {
            agent: self,
            queues,
            inbox: self.nats.new_inbox(),
            standing: None,
            called_until: BTreeMap::new(),
            rests_until: None,
            unled: false,
            told,
        };
        let mut orders = self.nats.subscribe(subjects::control(&self.id)).await?;
        let mut standings = self.nats.subscribe(own_standing.clone()).await?;
        let mut jobs = self.nats.subscribe(format!("{}.*", life.inbox)).await?;
        // A real agent listens there too.
        let _requests = self.nats.subscribe(subjects::rpc_of(&self.id)).await?;
        let _signers = self.nats.subscribe(js::key(topology::TRUST, SIGNERS_KEY)).await?;
        let _mailbox = self.nats.subscribe(js::key(topology::MAILBOXES, &connection::keys::mailbox(&self.id))).await?;
        let mut seq = 0;
        self.past().await?;
        self.beat(seq).await?;
        life.ask().await?;
        let start = tokio::time::Instant::now() + INTERVAL_DEFAULT.mul_f64(phase);
        let mut beats = tokio::time::interval_at(start, INTERVAL_DEFAULT);
        loop {
            tokio::select! {
                order = orders.next() => life.obey(&order.context("the connection ended")?).await?,
                told = standings.next() => life.ranked(&told.context("the connection ended")?).await?,
                message = jobs.next() => life.take(message.context("the connection ended")?).await?,
                _ = beats.tick() => {
                    seq += 1;
                    self.beat(seq).await?;
                    // Its past may have come before its record, and counted for nobody.
                    if life.standing.as_ref().is_some_and(|standing| standing.accepting && !is_ranked(standing)) {
                        // The next heartbeat tries again.
                        let _ = self.past().await;
                    }
                    if seq % 2 == 0 {
                        life.look().await?;
                    }
                    life.ask().await?;
                }
            }
        }
    }

    async fn beat(&self, seq: u64) -> Result<()> {
        let beat = Heartbeat {
            seq,
            executors: vec![pulled(), called_only()],
            slots: Slots { total: 1, running: 0, held: 0 },
            ..Heartbeat::first("idle".parse()?, self.id.to_string(), Timestamp::now())
        };
        Ok(self.nats.publish(subjects::heartbeat(&self.pool, &self.id), wire::encode(&beat).into()).await?)
    }

    /// A failed job, so that the real agents are better.
    async fn past(&self) -> Result<()> {
        self.ends(&JobId::generate(&self.pool), Outcome::Failed).await
    }

    /// Stores a signed result.
    async fn ends(&self, job: &JobId, outcome: Outcome) -> Result<()> {
        let now = Timestamp::now();
        let failed = ErrorInfo::new(Code::ProbeFailed, "a past of the bench's making");
        let mut result = JobResult::never_ran(outcome, failed, now, now);
        (result.agent_id, result.attempt) = (Some(self.id.clone()), 1);
        result.error = result.error.filter(|_| outcome == Outcome::Failed);
        let (subject, body) = (About::Result.job(&self.pool, job), wire::encode(&result));
        let mut headers = HeaderMap::new();
        headers.insert(SIGNATURE, self.signer.sign(Signed::Result, &subject, &body, now).to_string());
        self.nats.request_with_headers(subject, headers, body.into()).await?;
        Ok(())
    }
}

/// Whether it accepts, behind the real agents.
fn is_ranked(standing: &Standing) -> bool {
    standing.accepting && standing.pull_priority > 0
}

impl Life<'_> {
    /// Pulls what is to be pulled and is not.
    async fn ask(&mut self) -> Result<()> {
        let now = Instant::now();
        for number in 0..self.queues.len() {
            let Some((queue, false)) = self.queues.get(number) else { continue };
            let Some(expires) = self.wanted(queue, now) else { continue };
            let (consumer, body) = match queue {
                Queue::Agent(agent) => (agent.to_string(), format!(r#"{{"batch":1,"expires":{}}}"#, expires.as_nanos())),
                Queue::Lane(lane) => {
                    let priority = self.standing.as_ref().map_or(0, |standing| standing.pull_priority);
                    let expires = expires.as_nanos();
                    let body = format!(r#"{{"batch":1,"expires":{expires},"group":"{PRIORITY_GROUP}","priority":{priority}}}"#);
                    (lane.consumer(), body)
                }
            };
            let next = js::next(&queue.stream(&self.agent.pool), &consumer);
            self.agent.nats.publish_with_reply(next, format!("{}.{number}", self.inbox), body.into()).await?;
            if let Some((_, waits)) = self.queues.get_mut(number) {
                *waits = true;
            }
        }
        Ok(())
    }

    /// For how long a queue is to be pulled, if it is.
    fn wanted(&self, queue: &Queue, now: Instant) -> Option<Duration> {
        let Queue::Lane(lane) = queue else {
            return Some(EXPIRES).filter(|_| self.rests_until.is_none_or(|until| until <= now));
        };
        // Before its past is known it would be as good as the real ones.
        let standing = self.standing.as_ref().filter(|standing| is_ranked(standing))?;
        let stands_by = standing.standby.contains(&lane.executor) || lane.executor == called_only();
        let left = self.called_until.get(&lane.executor).map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero());
        match stands_by {
            true if self.unled && lane.executor != called_only() => Some(EXPIRES),
            true => left,
            false => Some(EXPIRES),
        }
    }

    async fn ranked(&mut self, message: &Message) -> Result<()> {
        let Ok(standing) = wire::decode::<Standing>(&message.payload) else { return Ok(()) };
        if is_ranked(&standing) && !self.standing.as_ref().is_some_and(is_ranked) {
            self.told.ranked.fetch_add(1, Ordering::Relaxed);
            self.told.standing_by.fetch_add(standing.standby.contains(&pulled()).into(), Ordering::Relaxed);
        }
        self.standing = Some(standing);
        self.ask().await
    }

    async fn obey(&mut self, message: &Message) -> Result<()> {
        match wire::decode::<Order>(&message.payload).map(|order| order.what) {
            Ok(What::CallUp { executors, for_s }) => {
                let until = Instant::now() + Duration::from_secs(for_s.into());
                self.called_until.extend(executors.into_iter().map(|executor| (executor, until)));
            }
            Ok(What::AskQueue) => self.rests_until = None,
            _ => return Ok(()),
        }
        self.ask().await
    }

    async fn take(&mut self, message: Message) -> Result<()> {
        let job = subjects::parse_job(&message.subject);
        let lane = job.as_ref().and_then(|job| job.queue.lane());
        let number = match lane {
            Some(lane) => self.queues.iter().position(|(queue, _)| queue.lane() == Some(lane)),
            None => message.subject.rsplit('.').next().and_then(|number| number.parse().ok()),
        };
        if let Some((queue, waits)) = number.and_then(|number| self.queues.get_mut(number)) {
            *waits = false;
            // Not there, or not any more. A pull that ran out is asked again.
            if queue.lane().is_none() && message.status.is_some_and(|status| status != StatusCode::TIMEOUT) {
                self.rests_until = Some(Instant::now() + REST);
            }
        }
        if let (Some(lane), Some(id), Some(reply), None) = (lane, job.as_ref().map(|job| job.id), &message.reply, message.status) {
            if lane.executor == called_only() {
                // It has no slot free any more.
                self.called_until.remove(&lane.executor);
                self.agent.ends(&id.parse()?, Outcome::Succeeded).await?;
                self.agent.nats.publish(reply.clone(), Bytes::from_static(b"+ACK")).await?;
            } else {
                self.told.served.fetch_add(1, Ordering::Relaxed);
                self.agent.nats.publish(reply.clone(), Bytes::from_static(b"-NAK")).await?;
            }
        }
        self.ask().await
    }

    /// Looks whether there is somebody who could call it up.
    async fn look(&mut self) -> Result<()> {
        if self.standing.as_ref().is_none_or(|standing| standing.standby.is_empty()) {
            return Ok(());
        }
        let key = js::key(topology::LEASES, topology::DISPATCHER_LEASE);
        let lease = js::direct_get(&bucket_stream(topology::LEASES), &key);
        if let Ok(answer) = self.agent.nats.send_request(lease, Request::new()).await {
            self.unled = answer.status == Some(StatusCode::NOT_FOUND);
            self.ask().await?;
        }
        Ok(())
    }
}
