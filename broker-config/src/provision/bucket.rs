//! The few operations on buckets that provisioning needs.

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use muster_schemas::{
    headers,
    subjects::{
        broker::{self, StreamApi},
        js,
    },
    topology::bucket_stream,
    wire::{self, Body},
};
use serde_json::{Value, json};

use super::{Error, api};

/// An entry as it was read.
pub(super) struct Entry<T> {
    /// `None` when there is none, or it was deleted.
    pub(super) value: Option<T>,
    /// What a write must name to replace it; 0 when there has never been one.
    pub(super) revision: u64,
}

fn failed(operation: String) -> impl FnOnce(async_nats::RequestError) -> Error {
    move |source| Error::Unreachable { operation, source }
}

/// Reads an entry.
pub(super) async fn get<T: Body>(client: &Client, bucket: &str, key: &str) -> Result<Entry<T>, Error> {
    let what = || format!("entry {key} of bucket {bucket}");
    let malformed = |problem: String| Error::Malformed { what: what(), problem };
    let subject = js::direct_get(&bucket_stream(bucket), &js::key(bucket, key));
    let message = client.request(subject, Bytes::new()).await.map_err(failed(format!("read {}", what())))?;
    if message.status == Some(async_nats::StatusCode::NOT_FOUND) {
        return Ok(Entry { value: None, revision: 0 });
    }
    let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(ToString::to_string);
    let revision = header(headers::SEQUENCE).and_then(|text| text.parse().ok());
    let revision = revision.ok_or_else(|| malformed("it has no revision".into()))?;
    if header(headers::KV_OPERATION).is_some() {
        return Ok(Entry { value: None, revision });
    }
    let value = wire::decode(&message.payload).map_err(|error| malformed(error.to_string()))?;
    Ok(Entry { value: Some(value), revision })
}

/// Refuses the write unless this is the last revision of the key; 0 is "there has never been one".
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// Writes an entry if `revision` is still its last (see [`Entry::revision`]). Returns whether it was written.
pub(super) async fn put(client: &Client, bucket: &str, key: &str, value: Vec<u8>, revision: u64) -> Result<bool, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED, revision.to_string());
    publish(client, bucket, key, headers, value.into()).await
}

/// Writes an entry if there has never been one under this key, not even one that was deleted since.
pub(super) async fn put_first(client: &Client, bucket: &str, key: &str, value: Vec<u8>) -> Result<bool, Error> {
    put(client, bucket, key, value, 0).await
}

/// Deletes an entry, leaving a marker.
pub(super) async fn delete(client: &Client, bucket: &str, key: &str) -> Result<(), Error> {
    let mut headers = HeaderMap::new();
    headers.insert(headers::KV_OPERATION, "DEL");
    publish(client, bucket, key, headers, Bytes::new()).await.map(drop)
}

async fn publish(client: &Client, bucket: &str, key: &str, headers: HeaderMap, value: Bytes) -> Result<bool, Error> {
    let operation = || format!("write entry {key} of bucket {bucket}");
    let answer = client.request_with_headers(js::key(bucket, key), headers, value).await.map_err(failed(operation()))?;
    let answer: Value = serde_json::from_slice(&answer.payload)
        .map_err(|error| Error::Malformed { what: format!("the broker's answer to: {}", operation()), problem: error.to_string() })?;
    Ok(api::unless(api::refusal(answer, operation), &[api::WRONG_LAST_SEQUENCE])?.is_some())
}

/// The keys of a bucket, those of deleted entries included.
pub(super) async fn keys(client: &Client, bucket: &str) -> Result<Vec<String>, Error> {
    let (stream, operation) = (bucket_stream(bucket), || format!("list the keys of bucket {bucket}"));
    // The state then has the last subjects and how many messages each holds.
    let body = json!({"subjects_filter": broker::keys_of(bucket)});
    let info = api::call(client, StreamApi::Info.subject(&stream), &body, operation).await?;
    let lead = js::key(bucket, "");
    let subjects = info.pointer("/state/subjects").and_then(Value::as_object);
    Ok(subjects.into_iter().flatten().filter_map(|(subject, _)| subject.strip_prefix(&lead).map(ToOwned::to_owned)).collect())
}
