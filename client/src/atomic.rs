//! Many messages stored in one commit: an atomic batch costs the broker one flush to disk, where a message on its own costs one each.
//!
//! For processes with the control plane's permissions, not for services: it asks for the stream's settings. Each message gets an
//! answer of its own, as if it had been published alone. A batch is stored as a whole or refused as a whole, so one that is refused is
//! halved until what spoils it stands alone, and after too many refusals the rest goes one by one. What must never happen is that a
//! message is stored twice: nothing is sent again unless the broker has said that it was not stored. Without an answer a message's fate is
//! unknown ([`Refusal::Unknown`]), and what comes behind it is not sent.
//!
//! The commit itself is in `commit`, what the broker answers in `ack`, and what a batch keeps from the history in `copies`.
//! Why it is so: `docs/decisions/0030-batches-in-one-commit.md`.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use futures_util::future::join_all;

mod ack;
mod commit;
mod copies;

use commit::Commit;

/// How long the broker may take for an answer. A commit of a thousand takes some 30 ms.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Messages in one commit: the most that the broker takes.
const COMMIT_MESSAGES: usize = 1000;
/// Bytes in one commit, so that a thousand large messages are not kept by the broker before one of them is stored.
const COMMIT_BYTES: usize = 4 << 20;
/// So few messages are stored one by one: a commit costs as much as some 16 of them (4 ms against 0.26 ms, measured on 2.15.1).
const FEW: usize = 16;
/// How many batches may be refused until the rest goes one by one. Halving finds one spoiler among a thousand with six; where there are
/// many, as in a full queue, it would only take longer.
const REFUSED_MAX: usize = 8;
/// How many messages that go one by one are under way at once.
const AT_ONCE: usize = 64;

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where.
    pub subject: String,
    /// Its headers, without those of a batch.
    pub headers: HeaderMap,
    /// Its body.
    pub payload: Bytes,
}

/// A message that is on the broker's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the stream.
    pub sequence: u64,
    /// Whether an earlier one with the same `Nats-Msg-Id` was there, and this one was not stored.
    pub duplicate: bool,
}

/// Why a message is not known to be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is as much on its subject as may be: one message, where it is a job.
    #[error("there is a message on this subject")]
    Taken,
    /// The stream holds as many messages or bytes as it may.
    #[error("the stream is full")]
    Full,
    /// No stream takes the subject.
    #[error("no stream takes the subject")]
    Nowhere,
    /// The broker refused it for another reason. It is not stored.
    #[error("the broker answered: {reason} ({code})")]
    Refused {
        /// The broker's error code; 0 when it was not asked.
        code: u64,
        /// Its words.
        reason: String,
    },
    /// It was not sent, since one before it got no answer, or the broker none at all. It is not stored.
    #[error("not sent: the broker does not answer")]
    NotSent,
    /// There was no answer, so it may be stored or not, and may still be.
    #[error("the broker gave no answer: {0}")]
    Unknown(String),
}

/// What became of a message.
pub type Answer = Result<Stored, Refusal>;

/// Stores one message.
///
/// # Errors
/// See [`Refusal`].
pub async fn publish(client: &Client, message: &Outgoing) -> Answer {
    let request = Request::new().payload(message.payload.clone()).headers(message.headers.clone()).timeout(Some(TIMEOUT));
    match client.send_request(message.subject.clone(), request).await {
        Ok(answer) => ack::read(&answer.payload).map(|ack| ack.stored()),
        Err(error) => Err(match error.kind() {
            RequestErrorKind::NoResponders => Refusal::Nowhere,
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
                Refusal::Refused { code: 0, reason: error.to_string() }
            }
            RequestErrorKind::TimedOut | RequestErrorKind::Other => Refusal::Unknown(error.to_string()),
        }),
    }
}

/// Stores many messages in `stream`, in this order; one answer for each. Subjects that another stream takes are no error, only slower.
///
/// May be dropped half-way, and then any of them may be stored.
pub async fn publish_all(client: &Client, stream: &str, messages: &[Outgoing]) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::with_capacity(messages.len());
    let mut runs: Vec<&[Outgoing]> = chunks(messages);
    runs.reverse();
    let mut refused = 0;
    let mut silent = false;
    let mut before = None;
    while let Some(run) = runs.pop() {
        if silent {
            answers.extend(run.iter().map(|_| Err(Refusal::NotSent)));
            continue;
        }
        let one_by_one = run.len() <= FEW || refused >= REFUSED_MAX;
        if one_by_one {
            let (now, later) = run.split_at(run.len().min(AT_ONCE));
            if !later.is_empty() {
                runs.push(later);
            }
            let told = join_all(now.iter().map(|message| publish(client, message))).await;
            silent = told.iter().any(|answer| matches!(answer, Err(Refusal::Unknown(_))));
            answers.extend(told);
            continue;
        }
        let Some(time) = copies::time_before(client, stream, &mut before).await else {
            silent = true;
            runs.push(run);
            continue;
        };
        match commit::commit(client, run).await {
            Commit::Stored(first) => {
                copies::publish(client, run, first, time).await;
                answers.extend((first..).take(run.len()).map(|sequence| Ok(Stored { sequence, duplicate: false })));
            }
            Commit::Refused => {
                refused += 1;
                let (first, second) = run.split_at(run.len() / 2);
                runs.extend([second, first]);
            }
            Commit::Unknown(reason) => {
                silent = true;
                answers.extend(run.iter().map(|_| Err(Refusal::Unknown(reason.clone()))));
            }
        }
    }
    answers
}

/// The messages in runs that each fit a commit.
fn chunks(mut messages: &[Outgoing]) -> Vec<&[Outgoing]> {
    let mut chunks = Vec::new();
    while !messages.is_empty() {
        let mut bytes = 0;
        let fits = |message: &&Outgoing| {
            bytes += message.payload.len();
            bytes <= COMMIT_BYTES
        };
        let count = messages.iter().take(COMMIT_MESSAGES).take_while(fits).count().max(1);
        let (chunk, rest) = messages.split_at(count);
        chunks.push(chunk);
        messages = rest;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sizes: impl IntoIterator<Item = usize>) -> Vec<Outgoing> {
        let message = |size| Outgoing { subject: "s".into(), headers: HeaderMap::new(), payload: vec![0; size].into() };
        sizes.into_iter().map(message).collect()
    }

    #[test]
    fn a_commit_is_bounded_in_messages_and_bytes() {
        let lengths = |messages: &[Outgoing]| chunks(messages).iter().map(|chunk| chunk.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&of([])), [0_usize; 0]);
        assert_eq!(lengths(&of(vec![1; 2_001])), [1_000, 1_000, 1]);
        assert_eq!(lengths(&of([3 << 20, 1 << 20, 1, 5 << 20, 5 << 20])), [2, 1, 1, 1]);
    }
}
