//! One atomic batch (ADR-50 of NATS): messages that the broker keeps aside until the last one says that they are to be stored.
//!
//! How 2.15.1 behaves, each tried: a message that is too large, or that another stream takes, leaves a gap, and the commit is refused as
//! incomplete; one on a taken subject, with a known `Nats-Msg-Id`, or one more than the stream may hold has the whole commit refused;
//! a refused batch leaves nothing behind, no ids either; one without a commit is forgotten after ten seconds, and at most fifty are open
//! in a stream. The messages of a commit follow each other in the stream.

use async_nats::{Client, HeaderMap, Request, RequestErrorKind};
use muster_schemas::headers::{BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE};

use super::{Outgoing, Refusal, TIMEOUT, ack};

/// What became of a batch.
pub(super) enum Commit {
    /// All of it is stored; the first message has this sequence.
    Stored(u64),
    /// None of it is stored.
    Refused,
    /// There was no answer.
    Unknown(String),
}

/// Stores the messages in one commit. They are sent without waiting for each other.
pub(super) async fn commit(client: &Client, messages: &[Outgoing]) -> Commit {
    let id = format!("{:032x}", rand::random::<u128>());
    let Some((last, others)) = messages.split_last() else { return Commit::Refused };
    for (place, message) in (1_usize..).zip(others) {
        let headers = headers(message, &id, place);
        if let Err(error) = client.publish_with_headers(message.subject.clone(), headers, message.payload.clone()).await {
            // Without its commit the broker stores none of the batch.
            tracing::debug!(%error, "a message of a batch cannot be sent");
            return Commit::Refused;
        }
    }
    let mut headers = headers(last, &id, messages.len());
    headers.insert(BATCH_COMMIT, "1");
    let request = Request::new().payload(last.payload.clone()).headers(headers).timeout(Some(TIMEOUT));
    let answer = match client.send_request(last.subject.clone(), request).await {
        Ok(answer) => ack::read(&answer.payload),
        Err(error) => match error.kind() {
            RequestErrorKind::NoResponders | RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
                return Commit::Refused;
            }
            RequestErrorKind::TimedOut | RequestErrorKind::Other => return Commit::Unknown(error.to_string()),
        },
    };
    let count = u64::try_from(messages.len()).unwrap_or(u64::MAX);
    match answer {
        Ok(ack) if ack.count == Some(count) && ack.sequence >= count => Commit::Stored(ack.sequence - count + 1),
        Ok(_) => Commit::Unknown("its acknowledgement is of another batch".into()),
        Err(Refusal::Unknown(reason)) => Commit::Unknown(reason),
        Err(refusal) => {
            tracing::debug!(%refusal, messages = messages.len(), "a batch is refused; taking it apart");
            Commit::Refused
        }
    }
}

fn headers(message: &Outgoing, batch: &str, place: usize) -> HeaderMap {
    let mut headers = message.headers.clone();
    headers.insert(BATCH_ID, batch);
    headers.insert(BATCH_SEQUENCE, place.to_string());
    headers
}
