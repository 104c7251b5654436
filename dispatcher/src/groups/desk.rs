//! Does what was decided: sends jobs as commands, cancels them, and looks for those of which the history knows nothing.
//!
//! All of it may be repeated: a job is refused where it is, and is not sent where its result is.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_client::atomic::{self, Outgoing, Refusal};
use muster_runtime::nats::Broker;
use muster_schemas::{
    group::{GroupRecord, GroupState, keys},
    headers::{CONTENT_TYPE, MSG_ID, MSGPACK, msg_id},
    job::Job,
    names::JobId,
    queue::Queue,
    result::{JobResult, Outcome},
    signature::Signed,
    subjects::About,
    topology::{COMMANDS, GROUPS, RESULTS},
    wire,
};

use crate::{
    broker::{self, BrokerError, PATIENCE, Write},
    cancel, expiry,
    figures::Figures,
    held::{self, Held},
    history::Fate,
    lease::keeper::Leadership,
    queues::Hint,
    signing::{self, Signing},
};

/// Jobs that are sent before the lease is looked at again: one commit.
const CHUNK: usize = 1000;
/// Jobs that are looked up at once.
const LOOKUPS: usize = 64;
/// Jobs that are cancelled at once: each waits for the broker's disk.
const CANCELS: usize = 32;

/// Works on groups; clones share the connection.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    pub(super) broker: Broker,
    pub(super) leadership: Leadership,
    pub(super) figures: Figures,
    pub(super) signing: Signing,
    /// How long after its expiry a job is ended that no agent began.
    pub(super) expire_after: Duration,
    /// Sees to it that members get what was sent.
    pub(super) hint: Hint,
}

/// What became of a wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    /// All of its jobs are stored, or have ended.
    All,
    /// Some are not taken now, for this reason.
    Not(String),
}

impl Desk {
    pub(super) fn client(&self) -> &Client {
        self.broker.client()
    }

    /// A dispatcher that is not the active one any longer must not go on.
    fn still_active(&self) -> Result<(), BrokerError> {
        let lost = || BrokerError::Interrupted { what: "a group".into(), why: "this dispatcher is not the active one any longer".into() };
        self.leadership.is_mine().then_some(()).ok_or_else(lost)
    }

    /// Writes down how far a group is, if nobody else has meanwhile.
    pub(super) async fn write(&self, record: &GroupRecord, state: &GroupState, revision: u64) -> Result<Write, BrokerError> {
        self.still_active()?;
        broker::write(self.client(), GROUPS, &keys::state(&record.id), Some(wire::encode(state)), revision, PATIENCE).await
    }

    /// Whether there is a pool to send to.
    pub(super) async fn pool_exists(&self, record: &GroupRecord) -> Result<bool, BrokerError> {
        broker::pool_exists(self.client(), &record.pool).await
    }

    /// Sends the jobs of members.
    pub(super) async fn send(&self, record: &GroupRecord, places: &[usize]) -> Result<Sent, BrokerError> {
        let body = match Job::try_from(record.job.clone()) {
            Ok(job) => bytes::Bytes::from(wire::encode(&job)),
            Err(error) => return Ok(Sent::Not(error.to_string())),
        };
        for chunk in places.chunks(CHUNK) {
            let results = each(record, LOOKUPS, chunk, |id, _| async move { self.result(record, &id).await }).await?;
            let unfinished = chunk.iter().zip(results).filter(|(_, result)| result.is_none());
            let messages = unfinished.filter_map(|(place, _)| message(&self.signing, record, *place, &body));
            let messages: Vec<Outgoing> = messages.collect::<Result<_, _>>()?;
            self.still_active()?;
            let answers = atomic::publish_all(self.client(), COMMANDS, &messages).await;
            self.hint.look();
            for answer in answers {
                match answer {
                    Ok(_) | Err(Refusal::Taken) => {}
                    Err(Refusal::Full) => return Ok(Sent::Not("the queue of commands is full; trying again".into())),
                    Err(Refusal::Refused { reason, .. }) => return Ok(Sent::Not(reason)),
                    Err(Refusal::Nowhere) => return Err(BrokerError::Missing(COMMANDS.into())),
                    Err(error @ (Refusal::NotSent | Refusal::Busy | Refusal::Unknown(_))) => {
                        return Err(BrokerError::Interrupted { what: format!("group {}", record.id), why: error.to_string() });
                    }
                }
            }
        }
        Ok(Sent::All)
    }

    /// Cancels the jobs of members, where they wait or run.
    pub(super) async fn cancel(&self, record: &GroupRecord, places: &[usize]) -> Result<(), BrokerError> {
        let why = &format!("group {} was cancelled", record.id);
        let cancel = |id, queue| async move {
            self.still_active()?;
            match cancel::find_in(self.client(), &record.pool, &id, &queue).await? {
                Some(waiting) => waiting.cancel(self.client(), &self.signing, why).await.map(drop),
                None => Ok(()),
            }
        };
        each(record, CANCELS, places, cancel).await.map(drop)
    }

    /// Looks for jobs that were sent. One that is neither queued nor has a result was lost, or its result is not kept any longer.
    /// One that has expired is ended: the history, which knows nothing of it, will not see to that.
    pub(super) async fn look(&self, record: &GroupRecord, places: &[usize]) -> Result<Vec<Fate>, BrokerError> {
        let late = broker::clock(self.client(), COMMANDS).await? - self.expire_after;
        let look = |id: JobId, queue: Queue| async move {
            // In this order: a result is stored before its job leaves the queue.
            if let Some(waiting) = cancel::find_in(self.client(), &record.pool, &id, &queue).await? {
                self.still_active()?;
                let ended = expiry::end(self.client(), &self.signing, &waiting, late, &self.figures).await?;
                return Ok(if ended.is_some() { Fate::Ended(false) } else { Fate::Open });
            }
            let result = self.result(record, &id).await?;
            let succeeded = result.and_then(|held| wire::decode::<JobResult>(&held.payload).ok());
            Ok(Fate::Ended(succeeded.is_some_and(|result| result.outcome == Outcome::Succeeded)))
        };
        each(record, LOOKUPS, places, look).await
    }

    async fn result(&self, record: &GroupRecord, id: &JobId) -> Result<Option<Held>, BrokerError> {
        held::last(self.client(), RESULTS, &About::Result.job(&record.pool, id)).await
    }
}

/// The command to a member.
fn message(signing: &Signing, record: &GroupRecord, place: usize, body: &bytes::Bytes) -> Option<Result<Outgoing, BrokerError>> {
    let (id, queue) = (record.id.job(place), Queue::Agent(record.members.get(place)?.clone()));
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, MSGPACK);
    // So that a second one is refused although an agent has taken, run and forgotten the first.
    headers.insert(MSG_ID, msg_id(&record.pool, &id));
    let subject = queue.subject(&record.pool, &id);
    let signed = signing::sign(signing, Signed::Job { fresh: false }, &subject, &mut headers, body);
    Some(signed.map(|()| Outgoing { subject, headers, payload: body.clone() }))
}

/// Does something about the jobs of members, so many at once. Answers in their order.
async fn each<T, F: Future<Output = Result<T, BrokerError>>>(
    record: &GroupRecord,
    at_once: usize,
    places: &[usize],
    work: impl Fn(JobId, Queue) -> F,
) -> Result<Vec<T>, BrokerError> {
    let member = |place: &usize| Some(work(record.id.job(*place), Queue::Agent(record.members.get(*place)?.clone())));
    // Collected, since the compiler cannot tell that a stream of borrowed places may move between threads. None has begun.
    let jobs: Vec<F> = places.iter().filter_map(member).collect();
    stream::iter(jobs).buffered(at_once).try_collect().await
}
