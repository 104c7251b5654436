//! The requests that the dispatcher makes of the broker, each with its answer as plain values.
//!
//! It decides nothing and keeps nothing. Streams and consumers are followed in [`crate::intake`]; lanes are made by `broker-config`.

mod info;
mod place;
pub(crate) mod queue;

#[cfg(test)]
pub(crate) use info::ConsumerLimits;
pub(crate) use info::{ConsumerInfo, StreamInfo};
pub(crate) use place::place;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_nats::{Client, HeaderMap, Request, RequestErrorKind, StatusCode, header};
use bytes::Bytes;
use muster_schemas::{
    headers,
    names::PoolName,
    subjects::{
        broker::{self, ConsumerApi, StreamApi},
        js,
    },
    time::Timestamp,
    topology::{Nanos, POOLS, bucket_stream, marker_age},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How long an answer may take, unless said otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The operation that deletes.
const DELETE: &str = "DEL";

/// There is no such stream.
const STREAM_NOT_FOUND: u64 = 10059;
/// There is no such consumer.
const CONSUMER_NOT_FOUND: u64 = 10014;
/// The key is at another revision.
const WRONG_LAST_SEQUENCE: u64 = 10071;

/// Why there is no answer to use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    /// The stream, consumer or bucket does not exist.
    #[error("{0} does not exist")]
    Missing(String),
    /// No answer came.
    #[error("no answer about {what}")]
    Silent {
        /// What was asked.
        what: String,
        /// Why.
        source: async_nats::RequestError,
    },
    /// The answer was no.
    #[error("the broker refused {what}: {why}")]
    Refused {
        /// What was asked.
        what: String,
        /// In the broker's words.
        why: String,
    },
    /// The answer can't be understood.
    #[error("the broker's answer about {what} can't be understood: {problem}")]
    Malformed {
        /// What was asked.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// The subscription or the connection ended.
    #[error("reading {what} was interrupted: {why}")]
    Interrupted {
        /// What was read.
        what: String,
        /// Why.
        why: String,
    },
}

/// Where a consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// With the last message of each subject.
    Latest,
    /// With what was stored at this time.
    Time(Timestamp),
    /// With this sequence.
    Sequence(u64),
}

/// A consumer of our own: in memory, without acknowledgements, removed by the broker when nobody pulls.
#[derive(Debug, Serialize)]
struct Wanted<'a> {
    name: &'a str,
    filter_subject: &'a str,
    deliver_policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    opt_start_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opt_start_time: Option<Timestamp>,
    ack_policy: &'static str,
    mem_storage: bool,
    num_replicas: u8,
    inactive_threshold: Nanos,
}

/// The broker's code for every limit of a stream; only the text tells which.
const LIMIT_REACHED: u64 = 10077;

/// What became of a write that named a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// It is there, at this revision.
    Stored(u64),
    /// The key is at another revision.
    Refused,
}

/// An entry of a bucket.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) revision: u64,
    /// `None` when it was deleted.
    pub(crate) value: Option<Bytes>,
}

/// Asks what a stream holds. Missing is an error.
pub(crate) async fn stream_info(client: &Client, stream: &str) -> Result<StreamInfo, BrokerError> {
    api(client, StreamApi::Info.subject(stream), Bytes::new(), stream).await
}

/// The broker's clock, by which what it stores is dated.
pub(crate) async fn clock(client: &Client, stream: &str) -> Result<Timestamp, BrokerError> {
    Ok(stream_info(client, stream).await?.ts.unwrap_or_else(Timestamp::now))
}

/// Takes one message out of a stream. A stream that does not exist has none.
pub(crate) async fn delete(client: &Client, stream: &str, sequence: u64) -> Result<(), BrokerError> {
    let subject = StreamApi::MessageDelete.subject(stream);
    // Without overwriting it on disk, which costs a flush: nothing in a queue is a secret.
    let body = serde_json::json!({ "seq": sequence, "no_erase": true }).to_string();
    let request = Request::new().payload(body.into()).timeout(Some(PATIENCE));
    let answer = client.send_request(subject.clone(), request).await;
    let answer = answer.map_err(|source| BrokerError::Silent { what: subject.clone(), source })?;
    match answered::<serde_json::Value>(&answer.payload, &subject)? {
        Answer::Error { error } if error.err_code != STREAM_NOT_FOUND => {
            Err(BrokerError::Refused { what: subject, why: error.description })
        }
        _ => Ok(()),
    }
}

/// Whether a pool exists. When it is deleted its record goes first, then its stream.
pub(crate) async fn pool_exists(client: &Client, pool: &PoolName) -> Result<bool, BrokerError> {
    Ok(entry(client, POOLS, pool.as_str(), PATIENCE).await?.is_some_and(|entry| entry.value.is_some()))
}

/// The subjects of a stream that match a filter. Missing is an error.
pub(crate) async fn subjects(client: &Client, stream: &str, filter: &str) -> Result<BTreeSet<String>, BrokerError> {
    let mut all = BTreeSet::new();
    each_subject(client, stream, filter, |subject| all.extend([subject])).await?;
    Ok(all)
}

/// As [`subjects`], where there may be more than are to be held at once.
pub(crate) async fn each_subject(client: &Client, stream: &str, filter: &str, mut take: impl FnMut(String)) -> Result<(), BrokerError> {
    #[derive(Deserialize)]
    struct Info {
        state: State,
    }
    #[derive(Deserialize)]
    struct State {
        #[serde(default)]
        subjects: BTreeMap<String, u64>,
    }
    let mut offset = 0;
    loop {
        let body = serde_json::json!({ "subjects_filter": filter, "offset": offset }).to_string();
        let info: Info = api(client, StreamApi::Info.subject(stream), body.into(), stream).await?;
        // The broker answers so many at a time as it likes.
        if info.state.subjects.is_empty() {
            return Ok(());
        }
        offset += info.state.subjects.len();
        info.state.subjects.into_keys().for_each(&mut take);
    }
}

/// Asks what a consumer has to give. Missing is an error.
pub(crate) async fn consumer_info(client: &Client, stream: &str, consumer: &str) -> Result<ConsumerInfo, BrokerError> {
    api(client, ConsumerApi::Info.subject(stream, consumer), Bytes::new(), consumer).await
}

/// Makes a consumer of our own, which lives as long as somebody pulls from it.
pub(crate) async fn make_consumer(
    client: &Client,
    stream: &str,
    name: &str,
    filter: &str,
    from: From,
) -> Result<ConsumerInfo, BrokerError> {
    let (deliver_policy, opt_start_seq, opt_start_time) = match from {
        From::Latest => ("last_per_subject", None, None),
        From::Time(at) => ("by_start_time", None, Some(at)),
        From::Sequence(sequence) => ("by_start_sequence", Some(sequence), None),
    };
    let config = Wanted {
        name,
        filter_subject: filter,
        deliver_policy,
        opt_start_seq,
        opt_start_time,
        ack_policy: "none",
        mem_storage: true,
        num_replicas: 1,
        inactive_threshold: Duration::from_secs(30).into(),
    };
    let body = serde_json::json!({ "stream_name": stream, "config": config, "action": "create" });
    api(client, broker::consumer_create(stream, name, filter), body.to_string().into(), stream).await
}

/// Removes a consumer of our own. It would vanish by itself, so nothing depends on it.
pub(crate) async fn remove_consumer(client: &Client, stream: &str, name: &str) {
    let _ = api::<serde_json::Value>(client, ConsumerApi::Delete.subject(stream, name), Bytes::new(), name).await;
}

/// Reads an entry. `None` when the key was never written, or its entry vanished with age. A missing bucket is an error.
pub(crate) async fn entry(client: &Client, bucket: &str, key: &str, patience: Duration) -> Result<Option<Entry>, BrokerError> {
    let subject = js::direct_get(&bucket_stream(bucket), &js::key(bucket, key));
    let what = format!("{key} in bucket {bucket}");
    let message = client
        .send_request(subject, Request::new().payload(Bytes::new()).timeout(Some(patience)))
        .await
        .map_err(|source| unanswered(&what, source))?;
    match message.status {
        None | Some(StatusCode::OK) => {}
        Some(StatusCode::NOT_FOUND) => return Ok(None),
        Some(status) => {
            return Err(BrokerError::Refused { what, why: format!("{status} {}", message.description.as_deref().unwrap_or_default()) });
        }
    }
    let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(header::HeaderValue::as_str);
    let revision = header(headers::SEQUENCE)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| BrokerError::Malformed { what, problem: "it has no sequence".into() })?;
    let deleted = header(headers::KV_OPERATION).is_some();
    Ok(Some(Entry { revision, value: (!deleted).then_some(message.payload) }))
}

/// Writes an entry, or deletes it when there is no value, if its key is still at `revision`; 0 is "never written".
pub(crate) async fn write(
    client: &Client,
    bucket: &str,
    key: &str,
    value: Option<Vec<u8>>,
    revision: u64,
    patience: Duration,
) -> Result<Write, BrokerError> {
    match value {
        Some(value) => put(client, bucket, key, (HeaderMap::new(), value), revision, patience).await,
        None => bury(client, bucket, key, (Vec::new(), marker_age(bucket)), revision, patience).await,
    }
}

/// Deletes an entry if its key is still at `revision`, and leaves `left` in the marker of its deletion, for those who look there. With an age,
/// the marker vanishes then.
pub(crate) async fn bury(
    client: &Client,
    bucket: &str,
    key: &str,
    (left, age): (Vec<u8>, Option<Duration>),
    revision: u64,
    patience: Duration,
) -> Result<Write, BrokerError> {
    let mut headers = HeaderMap::new();
    headers.insert(headers::KV_OPERATION, DELETE);
    if let Some(age) = age {
        headers.insert(headers::TTL, format!("{}s", age.as_secs()));
    }
    put(client, bucket, key, (headers, left), revision, patience).await
}

async fn put(
    client: &Client,
    bucket: &str,
    key: &str,
    (mut headers, body): (HeaderMap, Vec<u8>),
    revision: u64,
    patience: Duration,
) -> Result<Write, BrokerError> {
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
    let what = format!("{key} in bucket {bucket}");
    let request = Request::new().headers(headers).payload(body.into()).timeout(Some(patience));
    let answer = client.send_request(js::key(bucket, key), request).await.map_err(|source| unanswered(&what, source))?;
    match answered::<Ack>(&answer.payload, &what)? {
        Answer::Ok(Ack { seq }) => Ok(Write::Stored(seq)),
        Answer::Error { error } if error.err_code == WRONG_LAST_SEQUENCE => Ok(Write::Refused),
        Answer::Error { error } => Err(BrokerError::Refused { what, why: error.description }),
    }
}

/// What became of a message of which the stream takes one on its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is there.
    Now,
    /// There is another one, or it was there before.
    Before,
}

/// Stores a message in a stream that takes one on each subject.
pub(crate) async fn store(client: &Client, subject: String, headers: HeaderMap, body: Vec<u8>) -> Result<Stored, BrokerError> {
    let request = Request::new().headers(headers).payload(body.into()).timeout(Some(PATIENCE));
    let answer = client.send_request(subject.clone(), request).await.map_err(|source| unanswered(&subject, source))?;
    match answered::<Ack>(&answer.payload, &subject)? {
        Answer::Ok(_) => Ok(Stored::Now),
        Answer::Error { error } if error.err_code == LIMIT_REACHED && error.description.contains("per subject") => Ok(Stored::Before),
        Answer::Error { error } => Err(BrokerError::Refused { what: subject, why: error.description }),
    }
}

#[derive(Deserialize)]
struct Ack {
    seq: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Error { error: ApiError },
    Ok(T),
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

async fn api<T: DeserializeOwned>(client: &Client, subject: String, body: Bytes, what: &str) -> Result<T, BrokerError> {
    let request = Request::new().payload(body).timeout(Some(PATIENCE));
    let answer = client.send_request(subject, request).await.map_err(|source| unanswered(what, source))?;
    match answered(&answer.payload, what)? {
        Answer::Ok(answer) => Ok(answer),
        Answer::Error { error } if [STREAM_NOT_FOUND, CONSUMER_NOT_FOUND].contains(&error.err_code) => {
            Err(BrokerError::Missing(what.to_owned()))
        }
        Answer::Error { error } => Err(BrokerError::Refused { what: what.to_owned(), why: error.description }),
    }
}

fn answered<T: DeserializeOwned>(payload: &[u8], what: &str) -> Result<Answer<T>, BrokerError> {
    serde_json::from_slice(payload).map_err(|error| BrokerError::Malformed { what: what.to_owned(), problem: error.to_string() })
}

/// Nobody listens on a key's subject, or on a stream's direct gets, when the stream does not exist.
pub(crate) fn unanswered(what: &str, source: async_nats::RequestError) -> BrokerError {
    match source.kind() {
        RequestErrorKind::NoResponders => BrokerError::Missing(what.to_owned()),
        _ => BrokerError::Silent { what: what.to_owned(), source },
    }
}
