//! What the broker holds: messages of streams read by direct get, and messages stored with a clear answer.
//!
//! It knows no jobs and no pools. Every call ends within [`TIMEOUT`]; nothing here retries.

mod commits;
pub(crate) mod walk;

pub(crate) use commits::Commits;

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_client::{
    atomic::{self, Outgoing, Refusal},
    last::{self, Unread},
};
use muster_runtime::nats::Broker;
use muster_schemas::{headers, subjects::js, time::Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::problem::ApiError;

/// How long the broker may take for an answer. With a flush to disk per message an answer takes about a millisecond, so five seconds
/// are a broker that is not there.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for a lost connection to come back.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status that ends the answers to one direct get of several messages.
const END_OF_BATCH: u16 = 204;

/// A message of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// The subject it was stored under.
    pub(crate) subject: String,
    /// Its place in the stream.
    pub(crate) sequence: u64,
    /// When it was stored.
    pub(crate) at: Timestamp,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

impl Stored {
    /// A message as a direct get answers it. `None` when the broker's own headers are missing.
    fn read(message: Message) -> Option<Self> {
        let headers = message.headers?;
        // A message that came from another stream by republish has that one's headers first, and this one's last **[measured on 2.15.1]**.
        let text = |name: &str| headers.get_last(name).map(|value| value.as_str());
        let subject = text(headers::REPUBLISHED_SUBJECT)?.to_owned();
        let (sequence, at) = (text(headers::SEQUENCE)?.parse().ok()?, text(headers::STORED_AT)?.parse().ok()?);
        Some(Self { subject, sequence, at, payload: message.payload, headers })
    }
}

/// Why the broker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("stream {0} does not exist")]
    NoStream(String),
    #[error("not connected to the broker")]
    Disconnected,
    #[error("no answer within {} seconds", TIMEOUT.as_secs())]
    Timeout,
    #[error("cannot send to the broker: {0}")]
    Send(String),
    #[error("the broker answered: {0}")]
    Answer(String),
    #[error("not sent, since the broker does not answer")]
    NotSent,
    #[error("not sent, since too many messages wait for the broker already")]
    Busy,
    #[error(transparent)]
    Refused(Refusal),
}

impl StoreError {
    /// The error that a caller gets; `doing` completes "the broker did not …".
    pub(crate) fn while_doing(self, doing: &str) -> ApiError {
        ApiError::broker(doing, self)
    }
}

/// Waits a moment for the connection, which comes back within a fraction of a second when a broker restarts. Without this, messages would
/// be kept by the client and sent whenever the broker is back, long after their callers were told that it failed.
pub(crate) async fn reachable(broker: &Broker) -> Result<(), StoreError> {
    if broker.status().connected {
        return Ok(());
    }
    tokio::time::timeout(PATIENCE, broker.connected()).await.map_err(|_| StoreError::Disconnected)
}

/// What a direct get of several messages asks for. The fields are the broker's.
#[derive(Serialize, Default)]
struct Get<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_last: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_by_subj: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<usize>,
}

impl Get<'_> {
    fn body(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// The newest message of `stream` on `subject`, which may hold wildcards: with 200 000 subjects a look-up by the last token alone took the
/// broker 0.3 ms, as long as one by the exact subject.
pub(crate) async fn last(client: &Client, stream: &str, subject: &str) -> Result<Option<Stored>, StoreError> {
    let found = last::matching(client, stream, subject).await.map_err(|error| match error {
        Unread::Refused(why) => StoreError::Answer(why),
        Unread::Unanswered(error) => match error.kind() {
            RequestErrorKind::NoResponders => StoreError::NoStream(stream.into()),
            RequestErrorKind::TimedOut => StoreError::Timeout,
            other => StoreError::Send(other.to_string()),
        },
    })?;
    Ok(found.and_then(Stored::read))
}

/// The newest message of each subject of `stream` that matches `filter`, in the order in which they were stored.
pub(crate) async fn last_of_each(client: &Client, stream: &str, filter: &str) -> Result<Vec<Stored>, StoreError> {
    several(client, stream, Get { multi_last: Some([filter]), ..Get::default() }).await
}

/// Up to `count` messages of `stream` on subjects that match `filter`, from the sequence `from` on.
pub(crate) async fn from(client: &Client, stream: &str, filter: &str, from: u64, count: usize) -> Result<Vec<Stored>, StoreError> {
    several(client, stream, Get { next_by_subj: Some(filter), seq: Some(from.max(1)), batch: Some(count), ..Get::default() }).await
}

async fn several(client: &Client, stream: &str, get: Get<'_>) -> Result<Vec<Stored>, StoreError> {
    let send = |error: &dyn std::fmt::Display| StoreError::Send(error.to_string());
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| send(&error))?;
    let subject = js::direct_get_by_request(stream);
    client.publish_with_reply(subject, inbox, get.body()).await.map_err(|error| send(&error))?;
    let deadline = Instant::now() + TIMEOUT;
    let mut found = Vec::new();
    loop {
        let message = timeout_at(deadline, answers.next()).await.map_err(|_| StoreError::Timeout)?;
        let message = message.ok_or_else(|| StoreError::Send("the connection was closed".into()))?;
        match message.status {
            None => found.extend(Stored::read(message)),
            Some(StatusCode::NOT_FOUND) => return Ok(found),
            Some(StatusCode::NO_RESPONDERS) => return Err(StoreError::NoStream(stream.into())),
            Some(status) if status.as_u16() == END_OF_BATCH => return Ok(found),
            Some(status) => return Err(StoreError::Answer(describe(status, &message))),
        }
    }
}

fn describe(status: StatusCode, message: &Message) -> String {
    format!("{} {}", status.as_u16(), message.description.as_deref().unwrap_or_default())
}

/// What became of a message that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is on the broker's disk.
    Stored,
    /// A message with the same `Nats-Msg-Id` was stored in the last two minutes, or one is on this subject.
    Taken,
    /// The stream holds as many messages or bytes as it may.
    Full,
    /// No stream takes the subject.
    Nowhere,
}

/// Publishes a message and waits until the broker has stored it.
pub(crate) async fn store(client: &Client, message: &Outgoing) -> Result<Kept, StoreError> {
    kept(atomic::publish(client, message).await)
}

/// What an answer of the broker says.
pub(crate) fn kept(answer: atomic::Answer) -> Result<Kept, StoreError> {
    match answer {
        Ok(stored) if stored.duplicate => Ok(Kept::Taken),
        Ok(_) => Ok(Kept::Stored),
        Err(Refusal::Taken) => Ok(Kept::Taken),
        Err(Refusal::Full) => Ok(Kept::Full),
        Err(Refusal::Nowhere) => Ok(Kept::Nowhere),
        Err(Refusal::NotSent) => Err(StoreError::NotSent),
        Err(Refusal::Busy) => Err(StoreError::Busy),
        Err(refusal) => Err(StoreError::Refused(refusal)),
    }
}

/// A request of the broker's own interface. `None` when what it is about does not exist.
pub(crate) async fn call(client: &Client, subject: String, body: &impl Serialize) -> Result<Option<Value>, StoreError> {
    let body = serde_json::to_vec(body).map_err(|error| StoreError::Send(error.to_string()))?;
    let request = Request::new().payload(body.into()).timeout(Some(TIMEOUT));
    let message = client.send_request(subject, request).await.map_err(|error| match error.kind() {
        RequestErrorKind::TimedOut => StoreError::Timeout,
        other => StoreError::Send(other.to_string()),
    })?;
    let answer: Value = serde_json::from_slice(&message.payload).map_err(|error| StoreError::Answer(error.to_string()))?;
    match answer.get("error") {
        None => Ok(Some(answer)),
        Some(error) if error.get("code") == Some(&json!(404)) => Ok(None),
        Some(error) => Err(StoreError::Answer(error.to_string())),
    }
}
