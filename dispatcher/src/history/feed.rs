//! What is heard of EVENTS and RESULTS, passed on to the projection with the position that it stands for.

use muster_schemas::time::Timestamp;
use tokio::sync::mpsc;

use super::{
    decode::{self, Decoded},
    projection::Input,
    store::Reached,
};
use crate::{
    intake::follow::{Heard, Listener, Message, Position},
    keyring::Keyring,
};

/// How the messages of a stream become changes.
pub(crate) enum Decode {
    /// Those of EVENTS.
    Events,
    /// Those of RESULTS, each with the mark of its signature.
    Results(Keyring),
}

impl Decode {
    async fn decode(&self, message: &Message) -> Decoded {
        match self {
            Self::Events => decode::event(message),
            Self::Results(keyring) => decode::result(message, keyring).await,
        }
    }
}

/// Listens to one stream.
pub(crate) struct Feed {
    stream: &'static str,
    created: Timestamp,
    decode: Decode,
    inputs: mpsc::Sender<Input>,
}

impl Feed {
    pub(crate) fn new(stream: &'static str, decode: Decode, inputs: mpsc::Sender<Input>) -> Self {
        Self { stream, created: Timestamp::from_micros(0), decode, inputs }
    }

    async fn tell(&self, input: Input) {
        // Refused only when the projection has ended, and then this is dropped.
        let _ = self.inputs.send(input).await;
    }
}

/// A position as it is kept.
pub(crate) fn reached(position: Position) -> Reached {
    Reached { created: position.created.micros(), sequence: position.sequence, stored: position.stored.micros() }
}

impl Listener for Feed {
    async fn hear(&mut self, heard: Heard<'_>) {
        match heard {
            Heard::Begin(created) => self.created = created,
            Heard::CaughtUp => self.tell(Input::CaughtUp(self.stream)).await,
            Heard::Message(message) => {
                let reached = reached(Position { created: self.created, sequence: message.sequence, stored: message.stored });
                self.tell(Input::Message { stream: self.stream, reached, decoded: self.decode.decode(message).await }).await;
            }
        }
    }

    async fn clock(&mut self, _: Timestamp) {}

    async fn looked(&mut self) {
        self.tell(Input::Looked(self.stream)).await;
    }

    async fn rewound(&mut self, seen: Position, now: Position) {
        self.tell(Input::Rewound { stream: self.stream, anew: seen.created != now.created, seen: seen.sequence, now: reached(now) }).await;
    }
}
