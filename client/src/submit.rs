//! How a job is stored, once. The broker's confirmation means that the job is on disk.
//!
//! A publish that is not confirmed in time is repeated under the same id. That is safe: while the first one is queued the broker
//! refuses the second, and afterwards the agent finds the stored result. Only the promise that no result can exist yet
//! (the header for fresh ids) must not be repeated.

use std::time::Duration;

use async_nats::{
    HeaderMap, HeaderValue, Message, Request, RequestErrorKind, jetstream::publish::PublishAck, jetstream::response::Response,
};
use muster_schemas::{
    headers,
    names::{JobId, PoolName},
    result::JobResult,
    signature::{Signed, Signer},
    time::Timestamp,
};
use tokio::time::{Instant, timeout_at};

use crate::{Client, Error, NewJob, job::Prepared};

/// How long a submit may take, repeats included.
pub(crate) const SUBMIT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one publish may stay unconfirmed. A flush to a slow disk takes tens of milliseconds.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before a repeat after the connection was lost.
const PAUSE: Duration = Duration::from_millis(100);
/// JetStream could not store the message: a limit of the stream was reached.
const STORE_FAILED: u64 = 10077;

/// A job that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Its id.
    pub id: JobId,
    /// Its pool.
    pub pool: PoolName,
    /// Whether it had been submitted before, under the same id. Then the first one counts, and nothing was added.
    pub already: bool,
}

/// What became of a publish.
#[derive(Debug)]
pub(crate) enum Stored {
    /// It is queued now.
    New,
    /// A job of that id was there.
    Already,
    /// A job of that id had ended before, like this.
    Finished(Box<JobResult>),
}

impl Client {
    /// Stores a job in a pool's queue. It returns once the broker has it on disk.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::TooLarge`], [`Error::Traceparent`] before anything is sent; [`Error::NoLane`], [`Error::QueueFull`], [`Error::Forbidden`] and
    /// [`Error::Refused`] when the broker does not take it; [`Error::Unconfirmed`] when that is not known.
    pub async fn submit(&self, pool: &PoolName, job: NewJob) -> Result<Submitted, Error> {
        let job = job.prepare(pool)?;
        let stored = self.store(&job, Instant::now() + SUBMIT_TIMEOUT).await?;
        Ok(Submitted { already: !matches!(stored, Stored::New), id: job.id, pool: job.pool })
    }

    /// Stores a prepared job, trying until `deadline`.
    pub(crate) async fn store(&self, job: &Prepared, deadline: Instant) -> Result<Stored, Error> {
        let began = Instant::now();
        let mut denials = self.listen();
        if job.own_id {
            // Its queue entry may be long gone while its result still stands. Without a gateway the agent finds that out.
            if let Ok(answer) = self.ask(&job.pool, &job.id).await {
                match answer.result {
                    Some(result) => return Ok(Stored::Finished(Box::new(result))),
                    None if answer.queued => return Ok(Stored::Already),
                    None => {}
                }
            }
        }
        let mut fresh = !job.own_id;
        loop {
            let connects = self.connects();
            let request = Request::new()
                .payload(job.body.clone())
                .headers(message_headers(job, fresh, self.signer.as_deref()))
                .timeout(Some(CONFIRM_TIMEOUT));
            let answer = tokio::select! {
                answer = timeout_at(deadline, self.nats.send_request(job.subject.clone(), request)) => answer,
                denied = denials.of([&job.subject]) => return Err(denied),
            };
            let unconfirmed = || Error::Unconfirmed { pool: job.pool.clone(), id: job.id.clone(), after: began.elapsed() };
            match answer {
                Err(_) => return Err(unconfirmed()),
                Ok(Ok(message)) => return confirmed(job, &message),
                Ok(Err(error)) => match error.kind() {
                    RequestErrorKind::MaxPayloadExceeded => {
                        return Err(Error::TooLarge { size: job.body.len(), limit: self.nats.max_payload() });
                    }
                    // A broker that has only just come back has no streams for a moment.
                    RequestErrorKind::NoResponders if self.connects() == connects => {
                        return Err(Error::NoLane { pool: job.pool.clone(), lane: job.lane.clone() });
                    }
                    RequestErrorKind::InvalidSubject => return Err(Error::Refused { code: 0, reason: error.to_string() }),
                    _ => {}
                },
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(unconfirmed());
            }
            fresh = false;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How often the connection was made.
    fn connects(&self) -> u64 {
        self.nats.statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Signed anew for each try: what is promised differs, and so does the time.
fn message_headers(job: &Prepared, fresh: bool, signer: Option<&Signer>) -> HeaderMap {
    let mut map = HeaderMap::new();
    if let Some(signer) = signer {
        let signature = signer.sign(Signed::Job { fresh }, &job.subject, &job.body, Timestamp::now());
        map.insert(headers::SIGNATURE, signature.to_string());
    }
    map.insert(headers::CONTENT_TYPE, headers::MSGPACK);
    if fresh {
        map.insert(headers::FRESH, "1");
    }
    if job.own_id {
        map.insert(headers::MSG_ID, HeaderValue::from(headers::msg_id(&job.pool, &job.id)));
    }
    if let Some(traceparent) = &job.traceparent {
        map.insert(headers::TRACEPARENT, traceparent.clone());
    }
    map
}

/// Reads the broker's confirmation.
fn confirmed(job: &Prepared, message: &Message) -> Result<Stored, Error> {
    let answer: Response<PublishAck> = serde_json::from_slice(&message.payload)
        .map_err(|error| Error::Refused { code: 0, reason: format!("the answer to the job is not JetStream's: {error}") })?;
    match answer {
        Response::Ok(ack) if ack.duplicate => Ok(Stored::Already),
        Response::Ok(_) => Ok(Stored::New),
        Response::Err { error } => {
            let code = error.error_code().0;
            let reason = error.to_string();
            match code {
                // One code for every limit of a stream: only the words tell them apart.
                STORE_FAILED if reason.contains("per subject") => Ok(if job.own_id { Stored::Already } else { Stored::New }),
                STORE_FAILED if reason.contains("maximum") => Err(Error::QueueFull { pool: job.pool.clone() }),
                _ => Err(Error::Refused { code, reason }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn answer(own_id: bool, payload: &str) -> Result<Stored, Error> {
        let job = NewJob::new("probe.ping", serde_json::json!({}));
        let job = if own_id { job.id("mine".parse().unwrap()) } else { job };
        let prepared = job.prepare(&"p".parse().unwrap()).unwrap();
        let message = Message {
            subject: "_INBOX.x".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        confirmed(&prepared, &message)
    }

    #[test]
    fn a_job_that_is_there_already_answers_the_first_one() {
        let twice = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"}}"#;
        assert!(matches!(answer(true, twice), Ok(Stored::Already)));
        assert!(matches!(answer(true, r#"{"stream":"JOBS_p","seq":4,"duplicate":true}"#), Ok(Stored::Already)));
        // Under an id that was made here, only our own repeat can have been there before.
        assert!(matches!(answer(false, twice), Ok(Stored::New)));
        assert!(matches!(answer(false, r#"{"stream":"JOBS_p","seq":4}"#), Ok(Stored::New)));
    }

    #[test]
    fn a_full_queue_and_other_refusals_are_told_apart() {
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}"#;
        assert!(matches!(answer(false, full), Err(Error::QueueFull { .. })));
        let other = r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"}}"#;
        assert!(matches!(answer(false, other), Err(Error::Refused { code: 10054, .. })));
        assert!(matches!(answer(false, "hello"), Err(Error::Refused { code: 0, .. })));
    }

    #[test]
    fn only_a_first_publish_under_a_made_id_promises_that_no_result_exists() {
        let pool = "p".parse().unwrap();
        let made = NewJob::new("probe.ping", serde_json::json!({})).prepare(&pool).unwrap();
        let own = NewJob::new("probe.ping", serde_json::json!({})).id("mine".parse().unwrap()).prepare(&pool).unwrap();
        let names = |map: HeaderMap| [headers::FRESH, headers::MSG_ID].map(|name| map.get(name).map(ToString::to_string));
        assert_eq!(names(message_headers(&made, true, None)), [Some("1".into()), None]);
        assert_eq!(names(message_headers(&made, false, None)), [None, None]);
        assert_eq!(names(message_headers(&own, false, None)), [None, Some("p.mine".into())]);
    }

    #[test]
    fn each_try_is_signed_as_it_is_sent() {
        let signer = Signer::generate();
        let made = NewJob::new("probe.ping", serde_json::json!({})).prepare(&"p".parse().unwrap()).unwrap();
        for fresh in [true, false] {
            let map = message_headers(&made, fresh, Some(&signer));
            let signature = muster_schemas::signature::Signature::parse(map.get(headers::SIGNATURE).unwrap().as_str()).unwrap();
            signature.verify(Signed::Job { fresh }, &made.subject, &made.body).unwrap();
        }
    }
}
