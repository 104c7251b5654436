//! One atomic batch (ADR-50 of NATS): messages that the broker keeps aside until the last one says that they are to be stored.
//!
//! How 2.15.1 behaves, each tried: a message that is too large, or that another stream takes, leaves a gap, and the commit is refused as
//! incomplete; one on a taken subject, with a known `Nats-Msg-Id`, or one more than the stream may hold has the whole commit refused;
//! a refused batch leaves nothing behind, no ids either; one without a commit is forgotten after ten seconds, and at most fifty are open
//! in a stream. The messages of a commit follow each other in the stream.

use async_nats::{Client, HeaderMap};
use muster_schemas::headers::{BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE};

use super::{Outgoing, Refusal, ack, link};

/// What became of a batch.
pub(super) enum Commit {
    /// All of it is stored; the first message has this sequence.
    Stored(u64),
    /// None of it is stored.
    Refused,
    /// None of it is stored, since a part of it is missing at the broker: it took none of the batch, because too many are open in the stream, or it did not
    /// take one of the messages.
    Incomplete,
    /// There was no answer.
    Unknown(String),
}

/// The broker's error code for a commit that misses messages.
const INCOMPLETE: u64 = 10176;

/// An id that no other commit has.
pub(super) fn id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Stores the messages in one commit with this id. They are sent without waiting for each other.
pub(super) async fn commit(client: &Client, messages: &[Outgoing], id: &str) -> Commit {
    let Some((last, others)) = messages.split_last() else { return Commit::Refused };
    for (place, message) in (1_usize..).zip(others) {
        let headers = headers(message, id, place);
        if let Err(error) = client.publish_with_headers(message.subject.clone(), headers, message.payload.clone()).await {
            // Without its commit the broker stores none of the batch.
            tracing::debug!(%error, "a message of a batch cannot be sent");
            return Commit::Refused;
        }
    }
    let mut headers = headers(last, id, messages.len());
    headers.insert(BATCH_COMMIT, "1");
    let last = Outgoing { headers, ..last.clone() };
    let answer = link::request_while_connected(client, last).await.and_then(|answer| ack::read(&answer.payload));
    let count = u64::try_from(messages.len()).unwrap_or(u64::MAX);
    match answer {
        Ok(ack) if ack.count == Some(count) && ack.sequence >= count => Commit::Stored(ack.sequence - count + 1),
        Ok(_) => Commit::Unknown("its acknowledgement is of another batch".into()),
        Err(Refusal::Unknown(reason)) => Commit::Unknown(reason),
        Err(Refusal::Refused { code: INCOMPLETE, .. }) => Commit::Incomplete,
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
