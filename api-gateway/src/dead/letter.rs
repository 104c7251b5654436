//! A stored dead letter as a value, whatever an agent has stored, and how it is shown.

use std::collections::{BTreeMap, VecDeque};

use muster_schemas::{
    api::{DeadLetterDetail, DeadLetterView},
    code::Code,
    event::DeadLetter,
    job::{Job, JobError},
    lane::Priority,
    log::{LogChunk, OutputStream},
    names::{AgentId, JobId, PoolName},
    queue::Queue,
    result::{ATTEMPT_TAIL_LIMIT, ErrorInfo, Output},
    subjects::{self, About},
    topology::LOGS,
    wire::{self, V},
};

use crate::{
    app::App,
    stored::{self, StoreError, Stored},
};

/// Chunks of a log read at once.
const CHUNKS: usize = 512;

/// A dead letter in its stream.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) pool: PoolName,
    pub(crate) id: JobId,
    pub(crate) priority: Priority,
    /// The one agent that it was for.
    pub(crate) target: Option<AgentId>,
    /// The subject and the place it is stored under.
    pub(crate) stored: Stored,
    pub(crate) body: DeadLetter,
    /// What the job asks for; an error when its body is no job.
    pub(crate) job: Result<Job, JobError>,
}

impl Letter {
    /// Reads a message of the stream. What can't be read as a letter is shown as one that says so. `None` when its subject names no job, and
    /// nobody could ask for it.
    pub(crate) fn read(stored: Stored) -> Option<Self> {
        let (pool, id) = About::Dead.parse(&stored.subject)?;
        let body = wire::decode::<DeadLetter>(&stored.payload).unwrap_or_else(|error| DeadLetter {
            v: V,
            subject: String::new(),
            body: Vec::new(),
            queued_at: stored.at,
            died_at: stored.at,
            error: ErrorInfo::new(Code::BodyMalformed, format!("what is stored as the dead letter can't be read: {error}")),
            attempts: Vec::new(),
        });
        let job = Job::decode(&body.body);
        // Of which pool the job was, the broker says: an agent writes letters of its own pool only, so nothing it claims of another counts.
        let queue = subjects::parse_job(&body.subject).filter(|address| address.pool == pool).map(|address| address.queue);
        let priority = queue.as_ref().map_or_else(Priority::default, Queue::priority);
        let target = queue.as_ref().and_then(Queue::agent).cloned();
        Some(Self { pool, id, priority, target, stored, body, job })
    }

    pub(crate) fn view(&self) -> DeadLetterView {
        let job = self.job.as_ref().ok();
        DeadLetterView {
            id: self.id.clone(),
            pool: self.pool.clone(),
            job_type: job.map(|job| job.job_type.clone()),
            priority: self.priority,
            target_agent: self.target.clone(),
            labels: job.map_or_else(BTreeMap::new, |job| job.labels.clone()),
            queued_at: self.body.queued_at,
            died_at: self.body.died_at,
            stored_at: self.stored.at,
            error: self.body.error.clone(),
            attempt: self.body.attempts.last().map_or(0, |record| record.attempt),
            parent: job.and_then(|job| job.parent.clone()),
        }
    }

    /// All of it. The output of attempts whose agents were lost comes from the job's log, while that is kept.
    pub(crate) async fn detail(self, app: &App) -> Result<DeadLetterDetail, StoreError> {
        let letter = self.view();
        let mut attempts = self.body.attempts;
        if attempts.iter().any(|record| record.tail.is_none()) {
            let mut tails = tails(app, &self.pool, &self.id).await?;
            for record in attempts.iter_mut().filter(|record| record.tail.is_none()) {
                record.tail = tails.remove(&record.attempt).map(|tail| Output::from(Vec::from(tail)));
            }
        }
        Ok(DeadLetterDetail { letter, job: self.job.ok().map(Into::into), attempts })
    }
}

/// The end of what each attempt wrote, from the job's log.
async fn tails(app: &App, pool: &PoolName, id: &JobId) -> Result<BTreeMap<u32, VecDeque<u8>>, StoreError> {
    let (filter, mut from) = (About::Log.job(pool, id), 1);
    let mut tails = BTreeMap::<u32, VecDeque<u8>>::new();
    loop {
        let chunks = stored::from(&app.nats, LOGS, &filter, from, CHUNKS).await?;
        for chunk in chunks.iter().filter_map(|stored| wire::decode::<LogChunk>(&stored.payload).ok()) {
            if matches!(chunk.stream, OutputStream::Stdout | OutputStream::Stderr) {
                let tail = tails.entry(chunk.attempt).or_default();
                tail.extend(chunk.data.as_bytes());
                tail.drain(..tail.len().saturating_sub(ATTEMPT_TAIL_LIMIT));
            }
        }
        match chunks.last().filter(|_| chunks.len() == CHUNKS) {
            Some(last) => from = last.sequence + 1,
            None => return Ok(tails),
        }
    }
}
