//! What became of messages whose publish or commit got no answer: the broker is asked, and nothing is sent again.
//!
//! First a message that the stream must refuse is sent behind them. A stream takes messages one after the other, so its refusal says that
//! whatever came before it is stored by now or never will be. Then each message is looked for, in its stream and, since a job may have run and
//! left its queue meanwhile, among the results.
//!
//! Those of one commit are stored all or not at all, so one of them speaks for the others, but only if it can have come by this commit alone: it is in the stream with
//! the commit's own id, or it has ended under an id that was made for it. One that was there before, such as a result that comes again from the spool or a
//! job under an id that its caller chose, speaks for itself.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Request, connection::State};
use bytes::Bytes;
use futures_util::future::join_all;
use muster_schemas::{
    headers::{BATCH_ID, EXPECTED_STREAM, FRESH, SEQUENCE, SIGNATURE},
    names::JobId,
    subjects::{About, parse_job},
    topology::RESULTS,
};
use tokio::time::{Instant, sleep};

use super::{AT_ONCE, Answer, Outgoing, Refusal, Stored, TIMEOUT, ack, link};
use crate::last;

/// How long the broker is asked. One that is started again is back within seconds; callers wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two tries.
const LOOK: Duration = Duration::from_millis(100);
/// A name that no stream has.
const NO_STREAM: &str = "-";

/// What became of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// They are stored as one commit; the first one has this sequence.
    Commit(u64),
    /// Each by itself. One that is not stored never will be.
    Each(Vec<Answer>),
    /// The broker does not say.
    Unknown,
}

/// No answer came.
struct Silent;

/// Asks what became of messages that were to be stored in `stream`: those of the commit with this id, or one that went alone.
pub(super) async fn ask(client: &Client, stream: &str, messages: &[Outgoing], commit: Option<&str>) -> Fate {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let looked = tokio::select! {
            looked = look(client, stream, messages, commit) => looked,
            () = link::lost(client) => Err(Silent),
        };
        match looked {
            Ok(fate) => {
                let stored = match &fate {
                    Fate::Each(answers) => answers.iter().flatten().count(),
                    _ => messages.len(),
                };
                tracing::info!(stream, messages = messages.len(), stored, "a publish got no answer; the broker was asked");
                return fate;
            }
            Err(Silent) if Instant::now() >= deadline => return Fate::Unknown,
            Err(Silent) => sleep(LOOK).await,
        }
    }
}

async fn look(client: &Client, stream: &str, messages: &[Outgoing], commit: Option<&str>) -> Result<Fate, Silent> {
    let Some(first) = messages.first() else { return Ok(Fate::Each(Vec::new())) };
    pass(client, &first.subject).await?;
    let mut answers: Vec<Option<Answer>> = Vec::with_capacity(messages.len());
    for some in messages.chunks(AT_ONCE) {
        for found in join_all(some.iter().map(|message| find(client, stream, message, commit))).await {
            let found = found?;
            if let (Some(stored), Some(_)) = (found.filter(|stored| !stored.duplicate), commit) {
                let place = u64::try_from(answers.len()).unwrap_or(u64::MAX);
                return Ok(Fate::Commit(stored.sequence.saturating_sub(place)));
            }
            answers.push(found.map(Ok));
        }
    }
    let mut missing: Vec<_> = messages.iter().zip(&mut answers).filter(|(_, answer)| answer.is_none()).collect();
    for some in missing.chunks_mut(AT_ONCE) {
        let ended = join_all(some.iter().map(|(message, _)| has_ended(client, message))).await;
        for ((message, answer), ended) in some.iter_mut().zip(ended) {
            let ended = ended?;
            if ended && commit.is_some() && is_fresh(message) {
                // None of them is in its queue any more.
                return Ok(Fate::Each(messages.iter().map(|message| Ok(ended_as(message))).collect()));
            }
            **answer = Some(if ended { Ok(ended_as(message)) } else { Err(Refusal::NotSent) });
        }
    }
    Ok(Fate::Each(answers.into_iter().map(|answer| answer.unwrap_or(Err(Refusal::NotSent))).collect()))
}

/// Whether its id was made for it, so that nothing else was ever stored under it.
fn is_fresh(message: &Outgoing) -> bool {
    message.headers.get(FRESH).is_some()
}

/// The answer for a message that was stored and has left its stream. Under an id that was not made for it, another may have been that before.
fn ended_as(message: &Outgoing) -> Stored {
    Stored { sequence: 0, duplicate: !is_fresh(message) }
}

/// Waits until the stream has taken or refused what was sent before.
async fn pass(client: &Client, subject: &str) -> Result<(), Silent> {
    if client.connection_state() != State::Connected {
        return Err(Silent);
    }
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED_STREAM, NO_STREAM);
    let request = Request::new().payload(Bytes::new()).headers(headers).timeout(Some(TIMEOUT));
    let answer = client.send_request(subject.to_owned(), request).await.map_err(|_| Silent)?;
    match ack::read(&answer.payload) {
        Err(Refusal::Unknown(_)) => Err(Silent),
        _ => Ok(()),
    }
}

/// This message, if its stream has it: a duplicate where it did not come by the commit that is asked about.
async fn find(client: &Client, stream: &str, message: &Outgoing, commit: Option<&str>) -> Result<Option<Stored>, Silent> {
    let Some(found) = last::on(client, stream, &message.subject).await.map_err(|_| Silent)? else { return Ok(None) };
    let Some(headers) = found.headers.filter(|_| found.payload == message.payload) else { return Ok(None) };
    // Of two jobs with the same body the signature tells. A result's body is its agent's alone, and is signed anew each time that it is sent.
    let is_job = parse_job(&message.subject).is_some();
    if is_job && headers.get(SIGNATURE).map(|value| value.as_str()) != message.headers.get(SIGNATURE).map(|value| value.as_str()) {
        return Ok(None);
    }
    let duplicate = commit.is_some() && headers.get(BATCH_ID).map(|value| value.as_str()) != commit;
    let sequence = headers.get_last(SEQUENCE).and_then(|value| value.as_str().parse().ok());
    Ok(sequence.map(|sequence| Stored { sequence, duplicate }))
}

/// Whether it is a job that has a result.
async fn has_ended(client: &Client, message: &Outgoing) -> Result<bool, Silent> {
    let Some(address) = parse_job(&message.subject) else { return Ok(false) };
    let Ok(id) = address.id.parse::<JobId>() else { return Ok(false) };
    Ok(last::on(client, RESULTS, &About::Result.job(&address.pool, &id)).await.map_err(|_| Silent)?.is_some())
}
