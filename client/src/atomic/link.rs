//! Requests that end with their connection.
//!
//! async-nats does not tell a request that the connection is gone over which it went: it waits its whole time, and everybody who waits behind it does too.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{Client, Message, Request, RequestErrorKind, connection::State};

use super::{Outgoing, Refusal, TIMEOUT};

/// How often to look. Nothing tells.
const LOOK: Duration = Duration::from_millis(20);

/// Which connection to the broker it is that there is now, by its number.
pub(crate) fn connection(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

/// Comes when the connection that there is now has gone; at once when there is none.
pub(super) async fn lost(client: &Client) {
    let before = connection(client);
    while client.connection_state() == State::Connected && connection(client) == before {
        tokio::time::sleep(LOOK).await;
    }
}

/// Sends a message and waits for the broker's answer.
///
/// # Errors
/// [`Refusal::Nowhere`], [`Refusal::Refused`] of what cannot be sent, and [`Refusal::Unknown`].
pub(super) async fn request(client: &Client, message: Outgoing) -> Result<Message, Refusal> {
    let Outgoing { subject, headers, payload } = message;
    let request = Request::new().payload(payload).headers(headers).timeout(Some(TIMEOUT));
    client.send_request(subject, request).await.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => Refusal::Nowhere,
        RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => Refusal::Refused { code: 0, reason: error.to_string() },
        RequestErrorKind::TimedOut | RequestErrorKind::Other => Refusal::Unknown(error.to_string()),
    })
}

/// As [`request`], but no longer than the connection lasts.
///
/// # Errors
/// As there.
pub(super) async fn request_while_connected(client: &Client, message: Outgoing) -> Result<Message, Refusal> {
    tokio::select! {
        biased;
        answer = request(client, message) => answer,
        () = lost(client) => Err(Refusal::Unknown("the connection was lost".into())),
    }
}
