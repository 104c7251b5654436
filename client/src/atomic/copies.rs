//! The copies by which the history learns of queued jobs, where the broker's own do not arrive.
//!
//! The broker republishes a stored job to its events, headers and all; of a batch also those that make it part of one. `EVENTS` takes no
//! batches: it leaves its flushes to the broker, and a stream cannot have both. So it refuses these copies, and whoever made the batch
//! publishes the same without those headers, once the batch is stored. No promise rests on events, so nothing is waited for or repeated.

use async_nats::{Client, HeaderMap, Request};
use bytes::Bytes;
use muster_schemas::{
    headers::{EXPECTED_LAST, FRESH, MSG_ID, REPUBLISHED_SUBJECT, SEQUENCE, STORED_AT},
    names::{GroupId, JobId},
    subjects::{About, broker::StreamApi, parse_job},
};
use serde_json::Value;

use super::{Outgoing, TIMEOUT};

/// The broker's time before the first commit of a call, as it writes it: what comes of a job is dropped from the history when it was stored
/// before the job was, so this must be the broker's clock and not ours. Asked once. `None` when the broker does not answer.
pub(super) async fn time_before<'a>(client: &Client, stream: &str, known: &'a mut Option<String>) -> Option<&'a str> {
    if known.is_none() {
        let request = Request::new().payload(Bytes::new()).timeout(Some(TIMEOUT));
        let answer = client.send_request(StreamApi::Info.subject(stream), request).await.ok()?;
        let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
        *known = Some(answer.get("ts").and_then(Value::as_str).unwrap_or_default().to_owned());
    }
    known.as_deref()
}

/// Publishes the copies of the jobs among these messages, the first of which has the sequence `first`.
pub(super) async fn publish(client: &Client, messages: &[Outgoing], first: u64, time: &str) {
    for (message, sequence) in messages.iter().zip(first..) {
        let Some((subject, headers)) = copy(message, sequence, time) else { continue };
        if let Err(error) = client.publish_with_headers(subject, headers, message.payload.clone()).await {
            tracing::debug!(%error, "the history is not told of a job");
        }
    }
}

/// Where the copy goes, and its headers.
fn copy(message: &Outgoing, sequence: u64, time: &str) -> Option<(String, HeaderMap)> {
    let address = parse_job(&message.subject)?;
    let id: JobId = address.id.parse().ok()?;
    let subject = About::Event.job(&address.pool, &id);
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter() {
        let name: &str = name.as_ref();
        for value in values.iter().filter(|_| name != MSG_ID) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(REPUBLISHED_SUBJECT, message.subject.as_str());
    headers.insert(SEQUENCE, sequence.to_string());
    headers.insert(STORED_AT, time);
    // An agent may have begun meanwhile, and its event is the one to be found last. A chosen id may have older events, which must not keep
    // the copy away; that of a group's job is made for it too.
    if message.headers.get(FRESH).is_some() || GroupId::of(&id).is_some() {
        headers.insert(EXPECTED_LAST, "0");
    }
    Some((subject, headers))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn copied(subject: &str, headers: &[(&str, &str)]) -> Option<(String, HeaderMap)> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        copy(&Outgoing { subject: subject.into(), headers: map, payload: Bytes::new() }, 7, "2026-01-01T00:00:00Z")
    }

    #[test]
    fn a_copy_is_the_job_as_the_broker_tells_of_it() {
        let (subject, headers) = copied("jobs.p.high.shell.j", &[("traceparent", "t"), (MSG_ID, "j")]).unwrap();
        assert_eq!(subject, "events.p.j");
        let get = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!([get("traceparent"), get(REPUBLISHED_SUBJECT), get(SEQUENCE)].map(Option::unwrap), ["t", "jobs.p.high.shell.j", "7"]);
        assert_eq!(get(STORED_AT).unwrap(), "2026-01-01T00:00:00Z");
        assert_eq!([get(MSG_ID), get(EXPECTED_LAST)], [None, None]);
    }

    #[test]
    fn only_a_new_id_has_no_events_yet_and_only_jobs_have_copies() {
        let (_, headers) = copied("jobs.p.high.shell.j", &[(FRESH, "1")]).unwrap();
        assert_eq!(headers.get(EXPECTED_LAST).unwrap().as_str(), "0");
        let command = format!("commands.p.agt_01ARZ3NDEKTSV4RRFFQ69G5FAV.{}", GroupId::generate().job(3));
        assert!(copied(&command, &[]).unwrap().1.get(EXPECTED_LAST).is_some());
        assert!(copied("results.p.j", &[]).is_none());
    }
}
