//! Many messages stored in one commit: an atomic batch costs the broker one flush to disk, where a message on its own costs one each.
//!
//! For the control plane and for agents, not for services, which may not look at streams. Each message gets an
//! answer of its own, as if it had been published alone. A batch is stored as a whole or refused as a whole, so one that is refused is
//! halved until what spoils it stands alone, and after too many refusals the rest goes one by one. What must never happen is that a
//! message is stored twice: nothing is sent again unless the broker has said that it was not stored. Without an answer the broker is asked what
//! became of a message; only while it does not answer that either is a message's fate unknown ([`Refusal::Unknown`]), and what comes behind it is not
//! sent.
//!
//! The commit itself is in `commit`, what the broker answers in `ack`, how it is asked in `fate`, what a batch keeps from the history in
//! `copies`, and how a request ends with its connection in `link`. Messages that come one by one share commits by [`crate::commits`].
//! Why it is so: `docs/decisions/0030-batches-in-one-commit.md` and `0044-group-commit.md`.

use std::time::Duration;

use async_nats::{Client, HeaderMap, connection::State};
use bytes::Bytes;
use futures_util::future::join_all;
use muster_schemas::signature::{Signed, Unsigned};

mod ack;
mod commit;
mod copies;
mod fate;
mod link;

pub(crate) use copies::BrokerTime;
pub(crate) use link::connection;

use commit::Commit;
use fate::Fate;

/// How long the broker may take for an answer. A commit of a thousand takes some 30 ms.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Messages in one commit: the most that the broker takes.
pub(crate) const COMMIT_MESSAGES: usize = 1000;
/// Bytes in one commit, so that a thousand large messages are not kept by the broker before one of them is stored.
const COMMIT_BYTES: usize = 4 << 20;
/// So few messages are stored one by one: a commit costs as much as some 13 of them (3 ms and 0.02 ms a message against 0.25 ms, measured on
/// 2.15.1), and those that go alone do not wait for each other.
pub(crate) const FEW: usize = 16;
/// How many batches may be refused until the rest goes one by one. Halving finds one spoiler among a thousand with six; where there are
/// many, as in a full queue, it would only take longer.
const REFUSED_MAX: usize = 8;
/// For so many a refusal counts that may mean that too many batches are open in the stream, which takes fifty: sending all of it again by halves would only
/// add to that.
const INCOMPLETE_COSTS: usize = 3;
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

impl Outgoing {
    /// What of it is signed, as this.
    pub fn unsigned(&self, signed: Signed) -> Unsigned<'_> {
        Unsigned { signed, subject: &self.subject, body: &self.payload }
    }
}

/// A message that is on the broker's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the stream; 0 where that cannot be told any more.
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
    /// It was not sent, since one before it got no answer, or the broker gives none at all, or it was lost on its way. It is not stored.
    #[error("not sent: the broker does not answer")]
    NotSent,
    /// It was not sent, since too many wait for the broker already. It is not stored.
    #[error("not sent: the broker does not keep up, and too many messages wait")]
    Busy,
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
    let answer = link::request(client, message.clone()).await?;
    ack::read(&answer.payload).map(|ack| ack.stored())
}

/// As [`publish`], and asks what became of a message that got no answer.
pub(crate) async fn publish_known(client: &Client, stream: &str, message: &Outgoing) -> Answer {
    let answer = link::request_while_connected(client, message.clone()).await.and_then(|answer| ack::read(&answer.payload));
    match answer.map(|ack| ack.stored()) {
        Err(Refusal::Unknown(reason)) => match fate::ask(client, stream, std::slice::from_ref(message), None).await {
            Fate::Each(answers) => answers.into_iter().next().unwrap_or(Err(Refusal::Unknown(reason))),
            Fate::Commit(sequence) => Ok(Stored { sequence, duplicate: false }),
            Fate::Unknown => Err(Refusal::Unknown(reason)),
        },
        answer => answer,
    }
}

/// Stores many messages in `stream`, in this order; one answer for each. Subjects that another stream takes are no error, only slower.
///
/// May be dropped half-way, and then any of them may be stored.
pub async fn publish_all(client: &Client, stream: &str, messages: &[Outgoing]) -> Vec<Answer> {
    publish_all_at(client, stream, messages, &BrokerTime::default()).await
}

/// [`publish_all`] by somebody who has asked for the broker's time before.
pub(crate) async fn publish_all_at(client: &Client, stream: &str, messages: &[Outgoing], time: &BrokerTime) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::with_capacity(messages.len());
    let mut runs: Vec<&[Outgoing]> = chunks(messages);
    runs.reverse();
    let mut refused = 0;
    let mut silent = false;
    let connection = link::connection(client);
    let is_still_there = || client.connection_state() == State::Connected && link::connection(client) == connection;
    while let Some(run) = runs.pop() {
        // What follows a lost connection is not sent over the next one: whoever asked may have meant this one.
        silent |= !answers.is_empty() && !is_still_there();
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
            let told = join_all(now.iter().map(|message| publish_known(client, stream, message))).await;
            silent = told.iter().any(|answer| matches!(answer, Err(Refusal::Unknown(_))));
            answers.extend(told);
            continue;
        }
        let Ok(before) = time.before(client, stream, run).await else {
            silent = true;
            runs.push(run);
            continue;
        };
        let id = commit::id();
        let commit = match commit::commit(client, run, &id).await {
            Commit::Unknown(reason) => match fate::ask(client, stream, run, Some(&id)).await {
                Fate::Commit(first) => Commit::Stored(first),
                Fate::Each(each) => {
                    answers.extend(each);
                    continue;
                }
                Fate::Unknown => Commit::Unknown(reason),
            },
            known => known,
        };
        let mut halve = |weight| {
            refused += weight;
            let (first, second) = run.split_at(run.len() / 2);
            runs.extend([second, first]);
        };
        match commit {
            Commit::Stored(first) => {
                copies::publish(client, run, first, before).await;
                answers.extend((first..).take(run.len()).map(|sequence| Ok(Stored { sequence, duplicate: false })));
            }
            Commit::Refused => halve(1),
            Commit::Incomplete => halve(INCOMPLETE_COSTS),
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
