//! A job's life as it happens: state changes, output and the result, from the moment of asking on.
//!
//! What was told before is not told again (a gateway has it). State changes and output are as they come, so one that is lost
//! with the connection stays lost; the result is not: it is asked for.

use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::{Stream, StreamExt, stream};
use muster_schemas::{
    event::{self, Event},
    headers,
    log::{LogChunk, Progress},
    names::{JobId, PoolName},
    result::JobResult,
    subjects::About,
    time::Timestamp,
    wire,
};
use tokio::time::{Instant, sleep_until};

use crate::{Client, Error, connection::Denials, wait::read};

/// How often a gateway is asked for a result that did not come by itself.
const LOOK: Duration = Duration::from_secs(15);
/// As in waiting: a job that nobody knew is looked for once more after this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What happened to a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// It was stored in the queue.
    Queued,
    /// An agent tells of a state change.
    Event(Event),
    /// It wrote something.
    Log(LogChunk),
    /// It says how far it is.
    Progress {
        /// The attempt that says so.
        attempt: u32,
        /// When it said so.
        at: Timestamp,
        /// How far it is.
        progress: Progress,
    },
    /// It ended. Nothing follows.
    Done(Box<JobResult>),
}

impl Update {
    fn of(chunk: LogChunk) -> Self {
        match chunk.progress() {
            Some(progress) => Self::Progress { attempt: chunk.attempt, at: chunk.at, progress },
            None => Self::Log(chunk),
        }
    }
}

/// A job's life, made by [`Client::watch`].
pub struct Watch {
    client: Client,
    pool: PoolName,
    id: JobId,
    denials: Denials,
    events: Subscriber,
    logs: Subscriber,
    done: Subscriber,
    look: Instant,
    unknown: bool,
    ended: bool,
}

enum Heard {
    Event(Message),
    Log(Message),
    Done(Message),
    Nothing,
}

impl Client {
    /// Watches a job from now on.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed for good. What the credentials do not allow shows in [`Watch::next`].
    pub async fn watch(&self, pool: &PoolName, id: &JobId) -> Result<Watch, Error> {
        let denials = self.listen();
        let subscribe =
            async |about: About| self.nats.subscribe(about.job(pool, id)).await.map_err(|error| Error::Closed(error.to_string()));
        let (events, logs, done) = (subscribe(About::Event).await?, subscribe(About::Log).await?, subscribe(About::Done).await?);
        let (client, pool, id, look) = (self.clone(), pool.clone(), id.clone(), Instant::now());
        Ok(Watch { client, pool, id, denials, events, logs, done, look, unknown: false, ended: false })
    }
}

impl Watch {
    /// The next thing that happens; `None` after [`Update::Done`] or an error. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nobody knows the job, [`Error::Forbidden`], [`Error::Closed`].
    pub async fn next(&mut self) -> Option<Result<Update, Error>> {
        if self.ended {
            return None;
        }
        let update = self.find().await;
        self.ended = matches!(update, Ok(Update::Done(_)) | Err(_));
        Some(update)
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Update, Error>> + Send {
        stream::unfold(self, async |mut watch| watch.next().await.map(|update| (update, watch)))
    }

    async fn find(&mut self) -> Result<Update, Error> {
        let subjects = [About::Event, About::Log, About::Done].map(|about| about.job(&self.pool, &self.id));
        let subjects = subjects.each_ref().map(String::as_str);
        loop {
            let heard = tokio::select! {
                // In the order of the connection: what an agent said before the result is told before it.
                biased;
                Some(message) = self.events.next() => Heard::Event(message),
                Some(message) = self.logs.next() => Heard::Log(message),
                message = self.done.next() => Heard::Done(message.ok_or_else(|| Error::Closed("the subscription ended".into()))?),
                denied = self.denials.of(subjects) => return Err(denied),
                () = sleep_until(self.look) => Heard::Nothing,
            };
            match heard {
                // Of a job that was stored with others: whoever stored it tells of it once more, in the copy that is kept.
                Heard::Event(message) if message.headers.iter().any(|all| all.get(headers::BATCH_ID).is_some()) => {}
                // Told by the broker itself: a copy of the job.
                Heard::Event(message) if is_queued(&message) => return Ok(Update::Queued),
                Heard::Event(message) => match wire::decode(&message.payload) {
                    Ok(event) => return Ok(Update::Event(event)),
                    Err(error) => tracing::debug!(id = %self.id, %error, "an event that cannot be read"),
                },
                Heard::Log(message) => match wire::decode(&message.payload) {
                    Ok(chunk) => return Ok(Update::of(chunk)),
                    Err(error) => tracing::debug!(id = %self.id, %error, "a piece of output that cannot be read"),
                },
                Heard::Done(message) => return read(&message).map(|result| Update::Done(Box::new(result))),
                Heard::Nothing => {
                    if let Some(result) = self.ask().await? {
                        return Ok(Update::Done(Box::new(result)));
                    }
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<Option<JobResult>, Error> {
        // Set first, so that being cancelled here does not end in asking without a pause.
        self.look = Instant::now() + LOOK;
        match self.client.ask(&self.pool, &self.id).await {
            Ok(answer) if answer.result.is_some() || answer.queued => {
                self.unknown = false;
                Ok(answer.result)
            }
            Ok(_) if self.unknown => Err(Error::NotFound { pool: self.pool.clone(), id: self.id.clone() }),
            Ok(_) => {
                self.unknown = true;
                self.look = Instant::now() + LOOK_AGAIN;
                Ok(None)
            }
            Err(error @ (Error::Forbidden { .. } | Error::Closed(_))) => Err(error),
            Err(error) => {
                tracing::debug!(id = %self.id, %error, "could not look for a result");
                Ok(None)
            }
        }
    }
}

fn is_queued(message: &Message) -> bool {
    let subjects = message.headers.iter().flat_map(|all| all.get_all(headers::REPUBLISHED_SUBJECT));
    event::is_queued(subjects.map(|subject| subject.as_str()))
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("pool", &self.pool).field("id", &self.id).finish_non_exhaustive()
    }
}
