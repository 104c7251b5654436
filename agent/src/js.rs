//! The few things an agent asks of JetStream: store a message, read the last one under a subject, answer a delivery.
//!
//! Nothing is tried twice here, and nothing is sent while the broker is away: async-nats would keep it and send it after a reconnect, when
//! the caller has long done something else about it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap, Message, Request};
use bytes::Bytes;
use muster_client::{
    atomic::{Outgoing, Refusal},
    commits::{Commits, Driver, FLOW},
    last,
};
use muster_runtime::nats::Broker;
use muster_schemas::{
    signature::{Signed, Signer},
    topology::RESULTS,
};
use serde::Deserialize;

/// How long the broker may take to store a message. It stores in milliseconds; a disk that stalls is worth waiting for.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `JSStreamStoreFailed`: also what a second message on a subject is refused with.
const STORE_FAILED: u64 = 10077;

/// A message that was not stored, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The stream refused it: there may be one under its subject already, or the stream has no room.
    #[error("the broker refused it: {0}")]
    Refused(String),
    /// The stream refused it, and will again.
    #[error("the broker refused it for good: {0}")]
    Invalid(String),
    /// There is no answer. It may have been stored.
    #[error("the broker did not answer: {0}")]
    Unanswered(String),
}

impl StoreError {
    /// What the refusal of a message in a commit means to whoever wants it stored.
    fn of(refusal: Refusal) -> Self {
        let why = refusal.to_string();
        match refusal {
            Refusal::Taken | Refusal::Full | Refusal::Refused { code: STORE_FAILED, .. } => Self::Refused(why),
            // It is too large for the stream, or never reached it.
            Refusal::Refused { code: MESSAGE_TOO_LARGE | 0, .. } => Self::Invalid(why),
            // For example a stream in the middle of a leader election, or one that is not there (yet).
            _ => Self::Unanswered(why),
        }
    }
}

/// A look-up without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a look-up failed: {0}")]
pub(crate) struct LookupError(String);

/// The agent's side of JetStream; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Js {
    broker: Broker,
    results: Commits,
    /// How long the broker takes to store a message, in microseconds.
    latency: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct PubAck {
    error: Option<PubAckError>,
}

#[derive(Deserialize)]
struct PubAckError {
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Js {
    /// And what has to run so that results are signed and stored.
    pub(crate) fn new(broker: Broker, signer: Arc<Signer>) -> (Self, Driver) {
        let (results, driver) = Commits::new(broker.client().clone(), RESULTS, FLOW);
        (Self { broker, results, latency: Arc::default() }, driver.signing(signer, Signed::Result))
    }

    pub(crate) fn client(&self) -> &Client {
        self.broker.client()
    }

    /// How long the broker takes to answer at present: as long as it last took, falling slowly when it gets faster.
    pub(crate) fn latency(&self) -> Duration {
        Duration::from_micros(self.latency.load(Ordering::Relaxed))
    }

    fn took(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let before = self.latency.load(Ordering::Relaxed);
        // A lost update does no harm: there is a next one.
        self.latency.store(time.max(before - before / 8 + time / 8), Ordering::Relaxed);
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client().connection_state() == async_nats::connection::State::Connected
    }

    /// How often the connection came up, known before anything goes over the newest one: as long as it is the same, so is the connection.
    pub(crate) fn connects(&self) -> u64 {
        self.client().statistics().connects.load(Ordering::Relaxed)
    }

    /// Stores a result, signed if it was not before, in one commit with others that come at the same time; over this connection or not at all, if one is named.
    pub(crate) async fn store_result(&self, result: Outgoing, over: Option<u64>) -> Result<(), StoreError> {
        if !self.is_connected() {
            return Err(StoreError::Unanswered("no connection".to_owned()));
        }
        let begin = Instant::now();
        let answer = match over {
            Some(connection) => self.results.store_over(connection, result).await,
            None => self.results.store(result).await,
        };
        self.took(begin.elapsed());
        answer.map(drop).map_err(StoreError::of)
    }

    /// Publishes to a stream's subject and waits for the stream to say that it is stored.
    pub(crate) async fn store(&self, subject: String, headers: Option<HeaderMap>, body: Bytes) -> Result<(), StoreError> {
        if !self.is_connected() {
            return Err(StoreError::Unanswered("no connection".to_owned()));
        }
        let mut request = Request::new().payload(body).timeout(Some(TIMEOUT));
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let begin = Instant::now();
        let answer = self.client().send_request(subject, request).await;
        self.took(begin.elapsed());
        let answer = answer.map_err(|error| match error.kind() {
            async_nats::RequestErrorKind::MaxPayloadExceeded | async_nats::RequestErrorKind::InvalidSubject => {
                StoreError::Invalid(error.to_string())
            }
            _ => StoreError::Unanswered(error.to_string()),
        })?;
        let ack: PubAck = serde_json::from_slice(&answer.payload).map_err(|error| StoreError::Unanswered(format!("no PubAck: {error}")))?;
        match ack.error {
            None => Ok(()),
            Some(error) if error.err_code == STORE_FAILED => Err(StoreError::Refused(error.description)),
            // For example a stream in the middle of a leader election, or one that is not there (yet).
            Some(error) if error.err_code == MESSAGE_TOO_LARGE => Err(StoreError::Invalid(error.description)),
            Some(error) => Err(StoreError::Unanswered(format!("{} ({})", error.description, error.err_code))),
        }
    }

    /// The last message under a subject, if there is one.
    pub(crate) async fn last(&self, stream: &str, subject: &str) -> Result<Option<Message>, LookupError> {
        if !self.is_connected() {
            return Err(LookupError("no connection".to_owned()));
        }
        last::on(self.client(), stream, subject).await.map_err(|error| LookupError(error.to_string()))
    }

    /// Sends something that nobody waits for. Lost when there is no connection.
    pub(crate) async fn send(&self, subject: impl async_nats::subject::ToSubject, body: Bytes) {
        if self.is_connected()
            && let Err(error) = self.client().publish(subject, body).await
        {
            tracing::debug!(%error, "could not send");
        }
    }

    /// Answers a delivery. While the broker is away, an answer waits for the reconnect: it is as true then.
    pub(crate) async fn answer(&self, reply: impl async_nats::subject::ToSubject, word: impl Into<Bytes>) {
        if let Err(error) = self.client().publish(reply, word.into()).await {
            tracing::debug!(%error, "could not answer a delivery");
        }
    }
}

/// `JSStreamMessageExceedsMaximumErr`: no other try can end otherwise.
const MESSAGE_TOO_LARGE: u64 = 10054;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn an_acknowledgement_and_a_refusal_are_told_apart() {
        let read = |text: &str| serde_json::from_str::<PubAck>(text).unwrap().error.map(|error| error.err_code);
        assert_eq!(read(r#"{"stream":"RESULTS","seq":7}"#), None);
        let refusal =
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages per subject exceeded"},"stream":"RESULTS","seq":0}"#;
        assert_eq!(read(refusal), Some(STORE_FAILED));
    }

    #[test]
    fn what_is_not_known_of_a_result_is_no_refusal_of_it() {
        let refused = |code| StoreError::of(Refusal::Refused { code, reason: "x".to_owned() });
        assert!([Refusal::Taken, Refusal::Full].map(StoreError::of).iter().all(|error| matches!(error, StoreError::Refused(_))));
        assert!(matches!(refused(STORE_FAILED), StoreError::Refused(_)));
        assert!([MESSAGE_TOO_LARGE, 0].map(refused).iter().all(|error| matches!(error, StoreError::Invalid(_))));
        for refusal in [Refusal::Nowhere, Refusal::NotSent, Refusal::Busy, Refusal::Unknown("x".to_owned())] {
            assert!(matches!(StoreError::of(refusal), StoreError::Unanswered(_)));
        }
        assert!(matches!(refused(10009), StoreError::Unanswered(_)), "no stream, or one without a leader");
    }
}
