//! What became of messages whose publish or commit got no answer: the broker is asked, and nothing is sent again.
//!
//! First a message that the stream must refuse is sent behind them. A stream takes messages one after the other, so its refusal says that
//! whatever came before it is stored by now or never will be. Then each message is looked for, in its stream and, since a job may have run and
//! left its queue meanwhile, among the results. Those of one commit are stored all or not at all, so finding one is enough.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Request, StatusCode, connection::State};
use bytes::Bytes;
use futures_util::future::join_all;
use muster_schemas::{
    headers::{EXPECTED_STREAM, SEQUENCE, SIGNATURE},
    names::JobId,
    subjects::{About, js, parse_job},
    topology::RESULTS,
};
use tokio::time::{Instant, sleep};

use super::{AT_ONCE, Outgoing, Refusal, TIMEOUT, ack};

/// How long the broker is asked. One that is started again is back within seconds; callers wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two tries.
const LOOK: Duration = Duration::from_millis(100);
/// A name that no stream has.
const NO_STREAM: &str = "-";

/// What became of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// They are stored; the first one has this sequence.
    Stored(u64),
    /// They were stored, and have ended since.
    Ended,
    /// None of them is stored, nor will be.
    NotStored,
    /// The broker does not say.
    Unknown,
}

/// No answer came.
struct Silent;

/// Asks what became of messages that were to be stored in `stream`: one, or those of one commit.
pub(super) async fn ask(client: &Client, stream: &str, messages: &[Outgoing]) -> Fate {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look(client, stream, messages).await {
            Ok(fate) => {
                tracing::info!(stream, messages = messages.len(), ?fate, "a publish got no answer; the broker was asked");
                return fate;
            }
            Err(Silent) if Instant::now() >= deadline => return Fate::Unknown,
            Err(Silent) => sleep(LOOK).await,
        }
    }
}

async fn look(client: &Client, stream: &str, messages: &[Outgoing]) -> Result<Fate, Silent> {
    let Some(first) = messages.first() else { return Ok(Fate::NotStored) };
    pass(client, &first.subject).await?;
    let places = (0_u64..).zip(messages).collect::<Vec<_>>();
    for some in places.chunks(AT_ONCE) {
        let found = join_all(some.iter().map(async |(place, message)| Ok((*place, find(client, stream, message).await?)))).await;
        for found in found {
            if let (place, Some(sequence)) = found? {
                return Ok(Fate::Stored(sequence.saturating_sub(place)));
            }
        }
    }
    for some in messages.chunks(AT_ONCE) {
        for ended in join_all(some.iter().map(|message| has_ended(client, message))).await {
            if ended? {
                return Ok(Fate::Ended);
            }
        }
    }
    Ok(Fate::NotStored)
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

/// The sequence of this very message, if its stream has it.
async fn find(client: &Client, stream: &str, message: &Outgoing) -> Result<Option<u64>, Silent> {
    let Some(found) = last(client, stream, &message.subject).await? else { return Ok(None) };
    let Some(headers) = found.headers.filter(|_| found.payload == message.payload) else { return Ok(None) };
    // Of two with the same body the signature tells.
    if headers.get(SIGNATURE).map(|value| value.as_str()) != message.headers.get(SIGNATURE).map(|value| value.as_str()) {
        return Ok(None);
    }
    Ok(headers.get_last(SEQUENCE).and_then(|value| value.as_str().parse().ok()))
}

/// Whether it is a job that has a result.
async fn has_ended(client: &Client, message: &Outgoing) -> Result<bool, Silent> {
    let Some(address) = parse_job(&message.subject) else { return Ok(false) };
    let Ok(id) = address.id.parse::<JobId>() else { return Ok(false) };
    Ok(last(client, RESULTS, &About::Result.job(&address.pool, &id)).await?.is_some())
}

async fn last(client: &Client, stream: &str, subject: &str) -> Result<Option<async_nats::Message>, Silent> {
    let request = Request::new().payload(Bytes::new()).timeout(Some(TIMEOUT));
    let answer = client.send_request(js::direct_get(stream, subject), request).await.map_err(|_| Silent)?;
    match answer.status {
        None => Ok(Some(answer)),
        Some(StatusCode::NOT_FOUND) => Ok(None),
        Some(_) => Err(Silent),
    }
}
