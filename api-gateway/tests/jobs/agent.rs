//! A small agent: it pulls lanes as real ones do and says what a test wants it to say.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap, Message};
use futures_util::StreamExt as _;
use muster_runtime::tasks::{Group, Running};
use muster_schemas::{
    code::Code,
    event::{Event, EventKind},
    headers::{REPLY_TO, SIGNATURE},
    job::Job,
    lane::{Lane, Priority},
    log::{LogChunk, OutputStream},
    names::{AgentId, JobId, PoolName},
    result::{ErrorInfo, JobResult, Outcome, Output},
    signature::{Signed, Signer},
    subjects::{self, About, js},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use serde_json::{Value, json};

use crate::world::SOON;

#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) client: Client,
    pub(crate) id: AgentId,
    pub(crate) pool: PoolName,
    pub(crate) signer: Arc<Signer>,
    pub(crate) identity: Arc<nkeys::KeyPair>,
}

/// A job that an agent has.
pub(crate) struct Taken {
    pub(crate) id: JobId,
    pub(crate) message: Message,
}

impl Taken {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.message.headers.as_ref()?.get(name).map(ToString::to_string)
    }
}

impl Agent {
    /// Asks a lane for one job, and waits for it at most this long.
    pub(crate) async fn pull(&self, lane: &Lane, wait: Duration) -> Option<Taken> {
        let ask = json!({"batch": 1, "expires": u64::try_from(wait.as_nanos()).unwrap(), "group": topology::PRIORITY_GROUP, "priority": 0});
        self.next(js::next(&topology::jobs_stream(&self.pool), &lane.consumer()), ask, wait).await
    }

    /// Takes the next command to it, and waits for one at most this long.
    pub(crate) async fn command(&self, wait: Duration) -> Option<Taken> {
        let ask = json!({"batch": 1, "expires": u64::try_from(wait.as_nanos()).unwrap()});
        self.next(js::next(topology::COMMANDS, self.id.as_str()), ask, wait).await
    }

    async fn next(&self, next: String, ask: Value, wait: Duration) -> Option<Taken> {
        let inbox = self.client.new_inbox();
        let mut jobs = self.client.subscribe(inbox.clone()).await.unwrap();
        self.client.publish_with_reply(next, inbox, ask.to_string().into()).await.unwrap();
        let message = tokio::time::timeout(wait + Duration::from_secs(2), jobs.next()).await.ok()??;
        if message.status.is_some() {
            return None;
        }
        let id = subjects::parse_job(&message.subject).unwrap().id.parse().unwrap();
        Some(Taken { id, message })
    }

    /// Takes the next job of the shell lane of this priority.
    pub(crate) async fn take_of(&self, priority: Priority) -> Taken {
        let lane = Lane { priority, executor: "shell".parse().unwrap() };
        self.pull(&lane, SOON).await.expect("a job in time")
    }

    pub(crate) async fn take(&self) -> Taken {
        self.take_of(Priority::Normal).await
    }

    /// Whether nothing is in the normal shell lane.
    pub(crate) async fn finds_nothing(&self) -> bool {
        let lane = Lane { priority: Priority::Normal, executor: "shell".parse().unwrap() };
        self.pull(&lane, Duration::from_millis(200)).await.is_none()
    }

    /// The result that a well-behaved agent stores.
    pub(crate) fn result(&self, taken: &Taken, stdout: &str) -> JobResult {
        // $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<nanoseconds>.<pending>
        let queued_at: i64 = taken.message.reply.as_ref().unwrap().rsplit('.').nth(1).unwrap().parse().unwrap();
        let queued_at = Timestamp::from_micros(queued_at / 1000);
        let mut result = JobResult::never_ran(Outcome::Succeeded, ErrorInfo::new(Code::Internal, ""), queued_at, Timestamp::now());
        result.error = None;
        if let Ok(job) = Job::decode(&taken.message.payload) {
            (result.job_type, result.labels) = (Some(job.job_type), job.labels);
        }
        result.priority = subjects::parse_job(&taken.message.subject).unwrap().queue.priority();
        (result.agent_id, result.attempt, result.stdout) = (Some(self.id.clone()), 1, Output::from(stdout.as_bytes().to_vec()));
        result
    }

    /// Publishes a result; answers whether the broker stored it.
    pub(crate) async fn store(&self, pool: &PoolName, id: &JobId, body: Vec<u8>, headers: HeaderMap) -> bool {
        let subject = About::Result.job(pool, id);
        let answer = self.client.request_with_headers(subject, headers, body.into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        answer.get("error").is_none()
    }

    /// The signature of a result of its pool.
    pub(crate) fn signs(&self, id: &JobId, body: &[u8]) -> String {
        self.signer.sign(Signed::Result, &About::Result.job(&self.pool, id), body, Timestamp::now()).to_string()
    }

    pub(crate) async fn ack(&self, taken: &Taken) {
        self.client.publish(taken.message.reply.clone().unwrap(), "+ACK".into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// Stores the result, then acks; answers whether the result was stored.
    pub(crate) async fn finish(&self, taken: &Taken, stdout: &str) -> bool {
        let stored = self.end(taken, stdout).await;
        self.ack(taken).await;
        stored
    }

    /// Stores the result, and leaves the ack for later; answers whether it was stored.
    pub(crate) async fn end(&self, taken: &Taken, stdout: &str) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(reply_to) = taken.header(REPLY_TO) {
            headers.insert(REPLY_TO, reply_to);
        }
        let body = wire::encode(&self.result(taken, stdout));
        headers.insert(SIGNATURE, self.signs(&taken.id, &body));
        self.store(&self.pool, &taken.id, body, headers).await
    }

    pub(crate) async fn tell(&self, id: &JobId, kind: EventKind, attempt: u32) {
        let (at, agent_id) = (Timestamp::now(), self.id.clone());
        let event = Event {
            v: V,
            kind,
            at,
            agent_id,
            job_type: None,
            attempt,
            releases: 0,
            reason: Some("told by a test".into()),
            next_at: None,
            history: Vec::new(),
        };
        let subject = About::Event.job(&self.pool, id);
        self.client.request(subject, wire::encode(&event).into()).await.unwrap();
    }

    pub(crate) async fn write(&self, id: &JobId, seq: u64, text: &[u8]) {
        let data = Output::from(text.to_vec());
        let chunk = LogChunk { v: V, attempt: 1, seq, stream: OutputStream::Stdout, at: Timestamp::now(), data };
        self.client.request(About::Log.job(&self.pool, id), wire::encode(&chunk).into()).await.unwrap();
    }

    /// Finishes every job of the normal shell lane, until the test ends.
    pub(crate) fn work(&self) -> Running<()> {
        let agent = self.clone();
        Group::new("agent").spawn(async move {
            let lane = Lane { priority: Priority::Normal, executor: "shell".parse().unwrap() };
            loop {
                if let Some(taken) = agent.pull(&lane, Duration::from_secs(5)).await {
                    agent.finish(&taken, "done").await;
                }
            }
        })
    }
}
