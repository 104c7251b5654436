//! Follows one stream for ever: across reconnects, restarts of the broker, and streams that were made anew.
//!
//! It pulls with a consumer of its own, without acknowledgements, and keeps its place itself. After whatever goes wrong it begins again
//! from the place it has reached, so each message is handed on once; buckets are read again as a whole, so that nothing deleted
//! meanwhile is missed. What messages mean is not known here.

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, StatusCode, Subscriber, jetstream};
use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_runtime::nats::Broker;
use muster_schemas::{subjects::js, time::Timestamp, topology::Nanos};
use serde::Serialize;

use crate::{
    broker::{self, BrokerError, From, StreamInfo},
    figures::Figures,
    fixed::Fixed,
    trail::Trail,
    window,
};

/// Messages asked for at once.
const BATCH: u64 = 256;
/// Bytes asked for at once: sixteen results of the largest size.
const BATCH_BYTES: u64 = 4 << 20;
/// How long a pull waits in the broker.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the broker shows that it still knows of the pull.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(5);
/// After so much silence the pull is lost.
const SILENCE: Duration = Duration::from_secs(12);
/// Between two looks at a stream that is on the path of jobs. A pull that waits there would make the broker hand each result to us in the
/// very moment in which it stores it and tells those who wait for it, which cost every job 8 % of its time (2 cores); and what is read
/// here may well be this old.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long to wait before beginning again after an error.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Which messages of the stream are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    /// The last one of each subject, and all later ones; everything again after each interruption. For buckets.
    Everything,
    /// The last one of each subject, and all later ones.
    Latest,
    /// Those of the sliding hour, and all later ones, looked for every [`LOOK_EVERY`].
    Hour,
    /// All from a position on, looked for every [`LOOK_EVERY`]. Of a stream whose end was lost, or that was made anew, that is told. After an
    /// interruption some messages come twice.
    Whole,
}

impl Range {
    /// How it is asked for more.
    fn pull(self) -> Pull {
        let waits = !matches!(self, Self::Hour | Self::Whole);
        Pull {
            batch: BATCH,
            max_bytes: BATCH_BYTES,
            no_wait: !waits,
            expires: waits.then(|| EXPIRES.into()),
            idle_heartbeat: waits.then(|| IDLE_HEARTBEAT.into()),
        }
    }
}

/// What a stream is followed for.
#[derive(Debug)]
pub(crate) enum Heard<'a> {
    /// Reading begins: of a stream that was made at that time.
    Begin(Timestamp),
    /// A message.
    Message(&'a Message),
    /// All that was there when reading began has been heard.
    CaughtUp,
}

/// A message of a stream.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    pub(crate) sequence: u64,
    /// When the broker stored it, by the broker's clock.
    pub(crate) stored: Timestamp,
}

/// Where followed messages go.
pub(crate) trait Listener: Send {
    /// Is told on which connection to the broker, by its number, it will be told what is read from now on.
    fn connected(&mut self, _connection: u64) {}
    /// Takes in what was heard. Waits while the receiver is busy.
    fn hear(&mut self, heard: Heard<'_>) -> impl Future<Output = ()> + Send;
    /// Is told what the broker's clock shows.
    fn clock(&mut self, now: Timestamp) -> impl Future<Output = ()> + Send;
    /// Is told that a look at a stream found nothing more.
    fn looked(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// Is told that a stream that is read as a [`Range::Whole`] has lost its end, or all of it, and from where it is read on.
    fn rewound(&mut self, _seen: Position, _now: Position) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Where streams are followed.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) broker: Broker,
    pub(crate) fixed: Arc<Fixed>,
    pub(crate) figures: Figures,
    /// Which run of the dispatcher this is: part of the names of consumers.
    pub(crate) instance: String,
    pub(crate) trail: Trail,
}

/// One stream to follow.
#[derive(Debug)]
pub(crate) struct Follower {
    source: Source,
    stream: String,
    filter: String,
    range: Range,
    position: Option<Position>,
    readings: u64,
}

/// How far a stream has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// When the stream was made.
    pub(crate) created: Timestamp,
    pub(crate) sequence: u64,
    /// When the broker stored the message of that sequence.
    pub(crate) stored: Timestamp,
}

#[derive(Serialize)]
struct Pull {
    batch: u64,
    max_bytes: u64,
    no_wait: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Nanos>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_heartbeat: Option<Nanos>,
}

impl Follower {
    pub(crate) fn new(source: Source, stream: String, filter: String, range: Range) -> Self {
        Self { source, stream, filter, range, position: None, readings: 0 }
    }

    /// Begins behind this position.
    pub(crate) fn behind(self, position: Option<Position>) -> Self {
        Self { position, ..self }
    }

    /// Follows the stream until the future is dropped.
    pub(crate) async fn run(mut self, mut listener: impl Listener) {
        loop {
            let connection = self.source.broker.wait_for(|status| status.connected).await.connects;
            listener.connected(connection);
            let broker = self.source.broker.clone();
            let error = tokio::select! {
                error = self.read(&mut listener) => error,
                _ = broker.wait_for(|status| status.connects != connection) => continue,
            };
            if let BrokerError::Missing(_) = error {
                self.source.fixed.ensure(&self.source.broker).await;
            }
            self.source.figures.interrupted(&self.stream);
            tracing::debug!(stream = self.stream, error = &error as &dyn std::error::Error, "begin to read again");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Reads until something goes wrong.
    async fn read(&mut self, listener: &mut impl Listener) -> BrokerError {
        let name = self.consumer_name();
        let error = match self.read_with(&name, listener).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if !matches!(error, BrokerError::Missing(_)) {
            broker::remove_consumer(self.source.broker.client(), &self.stream, &name).await;
        }
        error
    }

    async fn read_with(&mut self, name: &str, listener: &mut impl Listener) -> Result<std::convert::Infallible, BrokerError> {
        let client = self.source.broker.client().clone();
        let info = broker::stream_info(&client, &self.stream).await?;
        if let Some(now) = info.ts {
            listener.clock(now).await;
        }
        let seen = self.position;
        let from = self.start(&info);
        if let (Range::Whole, Some(seen), Some(now)) = (self.range, seen, self.position)
            && seen != now
        {
            listener.rewound(seen, now).await;
        }
        let there = broker::make_consumer(&client, &self.stream, name, &self.filter, from).await?;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| self.interrupted(error))?;
        listener.hear(Heard::Begin(info.created)).await;
        let mut behind = there.num_pending > 0;
        if !behind {
            listener.hear(Heard::CaughtUp).await;
        }
        let context = jetstream::new(client.clone());
        let mut number = 0;
        let pull = self.range.pull();
        let request = Bytes::from(serde_json::to_vec(&pull).map_err(|error| self.interrupted(error))?);
        let subject = js::next(&self.stream, name);
        loop {
            client.publish_with_reply(subject.clone(), inbox.clone(), request.clone()).await.map_err(|error| self.interrupted(error))?;
            let mut wanted = BATCH;
            while wanted > 0 {
                let message = self.next(&mut answers).await?;
                match message.status {
                    None | Some(StatusCode::OK) => {}
                    Some(status @ (StatusCode::IDLE_HEARTBEAT | StatusCode::TIMEOUT | StatusCode::NOT_FOUND)) => {
                        // There was something when reading began, and it has gone before it could be given.
                        if std::mem::take(&mut behind) {
                            listener.hear(Heard::CaughtUp).await;
                        }
                        if status == StatusCode::IDLE_HEARTBEAT {
                            continue;
                        }
                        if pull.no_wait {
                            listener.looked().await;
                            tokio::time::sleep(LOOK_EVERY).await;
                        }
                        break;
                    }
                    Some(status) => {
                        let why = message.description.as_deref().unwrap_or_default();
                        // Follows the last message of a pull that was filled, behind which the next pull is already under way.
                        if why.contains("Batch Completed") {
                            continue;
                        }
                        // The next message would not fit into what is left of the bytes asked for: the pull is done.
                        if why.contains("MaxBytes") {
                            break;
                        }
                        return Err(self.interrupted(format!("{status} {why}")));
                    }
                }
                wanted -= 1;
                let message = jetstream::Message { message, context: context.clone() };
                let place = broker::place(&message).ok_or_else(|| self.interrupted("a message that no consumer gave out"))?;
                number += 1;
                if place.number != number {
                    return Err(self.interrupted(format!("message {} came after {}", place.number, number - 1)));
                }
                let jetstream::Message { message, .. } = message;
                let message = Message {
                    subject: message.subject.as_str().to_owned(),
                    headers: message.headers.unwrap_or_default(),
                    payload: message.payload,
                    sequence: place.sequence,
                    stored: place.stored,
                };
                let position = Position { created: info.created, sequence: place.sequence, stored: place.stored };
                // Read on from that time, and there is another message under a sequence that was read before: the broker had lost
                // the end of the stream, and has used its sequences again.
                if let (Range::Whole, 1, Some(seen)) = (self.range, number, self.position)
                    && seen.sequence >= position.sequence
                    && seen.stored < position.stored
                {
                    listener.rewound(seen, Position { sequence: position.sequence - 1, ..position }).await;
                }
                listener.hear(Heard::Message(&message)).await;
                self.position = Some(position);
                if behind && (place.pending == 0 || place.sequence >= info.state.last_seq) {
                    behind = false;
                    listener.hear(Heard::CaughtUp).await;
                }
            }
        }
    }

    async fn next(&self, answers: &mut Subscriber) -> Result<async_nats::Message, BrokerError> {
        match tokio::time::timeout(SILENCE, answers.next()).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.interrupted("the connection was closed")),
            Err(_) => Err(self.interrupted("the broker is silent")),
        }
    }

    /// Where to begin in the stream as it is now.
    fn start(&mut self, info: &StreamInfo) -> From {
        let first = match self.range {
            Range::Everything => return From::Latest,
            Range::Latest => From::Latest,
            Range::Hour => From::Time(window::start(info.ts.unwrap_or_else(Timestamp::now))),
            Range::Whole => From::Sequence(1),
        };
        match &mut self.position {
            // A stream that was made anew begins to count again.
            Some(position) if position.created == info.created => {
                // Alarmed by the history, which reads every stream that this can happen to.
                position.sequence = position.sequence.min(info.state.last_seq);
                match self.range {
                    // By time: sequences may have been used again. See below for the message that is read twice.
                    Range::Whole if position.sequence > 0 => From::Time(position.stored),
                    _ => From::Sequence(position.sequence + 1),
                }
            }
            // It was made anew.
            Some(position) if self.range == Range::Whole => {
                *position = Position { created: info.created, sequence: 0, stored: info.created };
                first
            }
            _ => first,
        }
    }

    fn consumer_name(&mut self) -> String {
        self.readings += 1;
        format!("dispatcher_{}_{}", self.source.instance, self.readings)
    }

    fn interrupted(&self, why: impl ToString) -> BrokerError {
        BrokerError::Interrupted { what: self.stream.clone(), why: why.to_string() }
    }
}
