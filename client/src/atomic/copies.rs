//! The copies by which the history learns of queued jobs, where the broker's own do not arrive.
//!
//! The broker republishes a stored job to its events, headers and all; of a batch also those that make it part of one. `EVENTS` takes no
//! batches: it leaves its flushes to the broker, and a stream cannot have both. So it refuses these copies, and whoever made the batch
//! publishes the same without those headers, once the batch is stored. No promise rests on events, so nothing is waited for or repeated.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap, Request};
use bytes::Bytes;
use muster_schemas::{
    headers::{EXPECTED_LAST, FRESH, MSG_ID, REPUBLISHED_SUBJECT, SEQUENCE, STORED_AT},
    names::{GroupId, JobId},
    subjects::{About, broker::StreamApi, parse_job},
    time::Timestamp,
};
use serde_json::Value;

use super::{Outgoing, TIMEOUT};

/// The broker's time: what comes of a job is dropped from the history when it was stored before the job was, so this must be the broker's clock and
/// not ours. Asked now and then; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BrokerTime(Arc<Mutex<Option<(Timestamp, Instant)>>>);

/// How long the time goes on by our clock until it is asked for again.
const TIME_AGE: Duration = Duration::from_secs(10);
/// By so much two clocks may drift apart meanwhile, and more.
const DRIFT: Duration = Duration::from_millis(2);

/// The broker gave no answer.
pub(super) struct Silent;

impl BrokerTime {
    /// A time shortly before now, by the broker's clock. `None` where it is not needed, since there is no job among the messages.
    pub(super) async fn before(&self, client: &Client, stream: &str, messages: &[Outgoing]) -> Result<Option<Timestamp>, Silent> {
        if !messages.iter().any(|message| parse_job(&message.subject).is_some()) {
            return Ok(None);
        }
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((time, at)) = known.filter(|(_, at)| at.elapsed() < TIME_AGE) {
            return Ok(Some(time + at.elapsed() - DRIFT));
        }
        let request = Request::new().payload(Bytes::new()).timeout(Some(TIMEOUT));
        let answer = client.send_request(StreamApi::Info.subject(stream), request).await.map_err(|_| Silent)?;
        let at = Instant::now();
        let answer: Value = serde_json::from_slice(&answer.payload).map_err(|_| Silent)?;
        let time: Timestamp = answer.get("ts").and_then(Value::as_str).and_then(|time| time.parse().ok()).ok_or(Silent)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, at));
        Ok(Some(time - DRIFT))
    }
}

/// Publishes the copies of the jobs among these messages, the first of which has the sequence `first`.
pub(super) async fn publish(client: &Client, messages: &[Outgoing], first: u64, time: Option<Timestamp>) {
    let Some(time) = time.map(|time| time.to_string()) else { return };
    for (message, sequence) in messages.iter().zip(first..) {
        let Some((subject, headers)) = copy(message, sequence, &time) else { continue };
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
