//! Messages that the broker holds, read by direct get: the last one on a subject, or all that a filter lets through.

use async_nats::{Client, HeaderMap, Message, Request, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_client::last::{self, Unread};
use muster_schemas::{
    headers::{KV_OPERATION, REPUBLISHED_SUBJECT, SEQUENCE, STORED_AT},
    names::PoolName,
    queue::Place,
    subjects::js,
    time::Timestamp,
    topology::{bucket_stream, jobs_stream},
    wire::{self, Body},
};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::broker::{self, BrokerError, PATIENCE};

/// Messages that one request asks for.
const PAGE: usize = 256;
/// The status that ends the answers to one request for several messages.
const END_OF_PAGE: u16 = 204;

/// A message that the broker holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

impl Held {
    fn read(message: Message) -> Option<Self> {
        let headers = message.headers?;
        let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        let (subject, sequence) = (text(REPUBLISHED_SUBJECT)?, text(SEQUENCE)?.parse().ok()?);
        Some(Self { subject, sequence, headers, payload: message.payload })
    }

    /// When the broker stored it.
    pub(crate) fn stored_at(&self) -> Option<Timestamp> {
        self.headers.get(STORED_AT)?.as_str().parse().ok()
    }
}

/// The newest message of a stream on a subject, which may hold wildcards. A missing stream is an error.
pub(crate) async fn last(client: &Client, stream: &str, subject: &str) -> Result<Option<Held>, BrokerError> {
    let found = last::matching(client, stream, subject).await.map_err(|error| match error {
        Unread::Unanswered(source) => broker::unanswered(stream, source),
        Unread::Refused(why) => BrokerError::Refused { what: subject.to_owned(), why },
    })?;
    Ok(found.and_then(Held::read))
}

/// As [`last`], of a stream in which jobs of a pool wait. The pool's own is gone for good, and holds nothing, when the pool was deleted.
pub(crate) async fn last_queued(client: &Client, pool: &PoolName, stream: &str, subject: &str) -> Result<Option<Held>, BrokerError> {
    match last(client, stream, subject).await {
        Err(BrokerError::Missing(_)) if stream == jobs_stream(pool) && !broker::pool_exists(client, pool).await? => Ok(None),
        other => other,
    }
}

/// The first message of a pool's queue from a sequence on: where it is. A missing stream is an error.
pub(crate) async fn next_queued(client: &Client, pool: &PoolName, from: u64) -> Result<Option<Place>, BrokerError> {
    let stream = jobs_stream(pool);
    let body = json!({"next_by_subj": ">", "seq": from}).to_string();
    let request = Request::new().payload(body.into()).timeout(Some(PATIENCE));
    let answer = client.send_request(js::direct_get_by_request(&stream), request).await;
    let message = answer.map_err(|source| broker::unanswered(&stream, source))?;
    match message.status {
        None => {
            let place = Held::read(message).and_then(|held| Some(Place { sequence: held.sequence, stored_at: held.stored_at()? }));
            let problem = "it does not say where it is".to_owned();
            place.map(Some).ok_or(BrokerError::Malformed { what: stream, problem })
        }
        Some(StatusCode::NOT_FOUND) => Ok(None),
        Some(status) => Err(refused(&stream, status, &message)),
    }
}

fn refused(what: &str, status: StatusCode, message: &Message) -> BrokerError {
    let why = format!("{} {}", status.as_u16(), message.description.as_deref().unwrap_or_default());
    BrokerError::Refused { what: what.to_owned(), why }
}

/// All messages of a stream on subjects that match a filter.
pub(crate) async fn all(client: &Client, stream: &str, filter: &str) -> Result<Vec<Held>, BrokerError> {
    let mut all: Vec<Held> = Vec::new();
    loop {
        let from = all.last().map_or(1, |held| held.sequence + 1);
        let page = page(client, stream, filter, from).await?;
        let full = page.len() >= PAGE;
        all.extend(page);
        if !full {
            return Ok(all);
        }
    }
}

/// The first messages of a stream from a sequence on that match a filter; none when there are no more.
pub(crate) async fn page(client: &Client, stream: &str, filter: &str, from: u64) -> Result<Vec<Held>, BrokerError> {
    let interrupted = |why: &dyn std::fmt::Display| BrokerError::Interrupted { what: filter.to_owned(), why: why.to_string() };
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| interrupted(&error))?;
    let body = json!({"next_by_subj": filter, "seq": from, "batch": PAGE}).to_string();
    let asked = client.publish_with_reply(js::direct_get_by_request(stream), inbox, body.into()).await;
    asked.map_err(|error| interrupted(&error))?;
    let deadline = Instant::now() + PATIENCE;
    let mut page = Vec::new();
    loop {
        let message = timeout_at(deadline, answers.next()).await.map_err(|_| interrupted(&"no answer in time"))?;
        let message = message.ok_or_else(|| interrupted(&"the connection was closed"))?;
        match message.status {
            None => page.extend(Held::read(message)),
            Some(StatusCode::NOT_FOUND) => return Ok(page),
            Some(StatusCode::NO_RESPONDERS) => return Err(BrokerError::Missing(stream.to_owned())),
            Some(status) if status.as_u16() == END_OF_PAGE => return Ok(page),
            Some(status) => return Err(refused(filter, status, &message)),
        }
    }
}

/// What an entry of a bucket holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record<T> {
    /// It was never written, or was deleted.
    Absent,
    /// Something else, which the log tells: perhaps of another version. It must not be taken for absent and written over.
    Unreadable,
    /// This.
    Value(T),
}

impl<T> Record<T> {
    /// What is there and can be read.
    pub(crate) fn readable(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Unreadable => None,
        }
    }
}

/// A record of a bucket, with the revision to name when it is written again; 0 when it was never written.
pub(crate) async fn record<T: Body>(client: &Client, bucket: &str, key: &str) -> Result<(Record<T>, u64), BrokerError> {
    let held = last(client, &bucket_stream(bucket), &js::key(bucket, key)).await?;
    Ok(held.map_or((Record::Absent, 0), |held| (decoded(&held), held.sequence)))
}

/// What an entry of a bucket holds.
pub(crate) fn decoded<T: Body>(held: &Held) -> Record<T> {
    if held.headers.get(KV_OPERATION).is_some() {
        return Record::Absent;
    }
    wire::decode(&held.payload).map_or_else(
        |error| {
            tracing::warn!(key = held.subject, %error, "a record can't be read");
            Record::Unreadable
        },
        Record::Value,
    )
}

#[cfg(test)]
mod tests;
