//! What is known of the connection: up or down, since when, and how often the broker refused us.
//!
//! Fed by the client's events, which it drops when too many come at once: so whether the
//! connection is up is always asked from the client itself.

use std::time::{Duration, Instant};

use async_nats::{Client, ClientError, ConnectErrorKind, Event, ServerError, connection::State};
use tokio::sync::watch;

/// How often a waiter looks by itself, in case the event that it waits for was dropped.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The connection as it is known now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether it is up.
    pub connected: bool,
    /// Since when it is up or down.
    pub since: Instant,
    /// How many times it came up.
    pub connects: u64,
    /// How many attempts to connect failed in a row, for whatever reason.
    pub failures: u64,
    /// How often in a row the broker refused our credentials since it last accepted them.
    pub refusals: u64,
    /// How often the broker refused our credentials in all.
    pub refusals_total: u64,
    /// What the broker last said when it refused or cut us off; kept until it accepts us again.
    pub last_refusal: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Watch(watch::Sender<Status>);

impl Watch {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Status {
            connected: false,
            since: Instant::now(),
            connects: 0,
            failures: 0,
            refusals: 0,
            refusals_total: 0,
            last_refusal: None,
        }))
    }

    pub(super) fn was_connected(&self) -> bool {
        self.0.borrow().connects > 0
    }

    pub(super) fn status(&self, client: &Client) -> Status {
        let mut status = self.0.borrow().clone();
        status.connected = client.connection_state() == State::Connected;
        status
    }

    pub(super) async fn wait_for(&self, client: &Client, condition: impl Fn(&Status) -> bool) -> Status {
        let mut changes = self.0.subscribe();
        loop {
            changes.mark_unchanged();
            let status = self.status(client);
            if condition(&status) {
                return status;
            }
            // Neither a time-out nor a closed channel matters: both look again.
            let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
        }
    }

    pub(super) fn apply(&self, event: &Event) {
        self.0.send_if_modified(|status| status.apply(event, Instant::now()));
        log(event, self.0.borrow().failures);
    }
}

impl Status {
    /// Takes an event into account; false when it changes nothing.
    fn apply(&mut self, event: &Event, now: Instant) -> bool {
        match event {
            Event::Connected => {
                self.connected = true;
                self.since = now;
                self.connects += 1;
                self.failures = 0;
                self.refusals = 0;
                self.last_refusal = None;
            }
            Event::Disconnected | Event::Closed if self.connected => {
                self.connected = false;
                self.since = now;
            }
            Event::ClientError(ClientError::Other(text)) => {
                self.failures += 1;
                if is_refusal_text(text) {
                    self.refusals += 1;
                    self.refusals_total += 1;
                    self.last_refusal = Some(text.clone());
                }
            }
            Event::ServerError(error) if cuts_off(error) => {
                self.last_refusal = Some(error.to_string());
            }
            _ => return false,
        }
        true
    }
}

/// Whether a failed connect means that the broker knows us and says no.
pub(super) fn is_refusal(kind: ConnectErrorKind) -> bool {
    kind == ConnectErrorKind::AuthorizationViolation
}

/// The client reports a failed connect as a text that begins with its kind.
fn is_refusal_text(text: &str) -> bool {
    text.starts_with(&ConnectErrorKind::AuthorizationViolation.to_string())
}

/// `User Authentication Expired`, `User Authentication Revoked`, `Account Authentication Expired`:
/// said just before the server closes a connection that was good until now.
fn cuts_off(error: &ServerError) -> bool {
    match error {
        ServerError::AuthorizationViolation => true,
        ServerError::Other(text) => text.to_ascii_lowercase().contains("authentication"),
        ServerError::SlowConsumer(_) => false,
    }
}

fn log(event: &Event, failures: u64) {
    match event {
        Event::Connected => tracing::info!("connected to the broker"),
        Event::Disconnected => tracing::warn!("lost the broker, reconnecting"),
        Event::LameDuckMode => tracing::warn!("the broker is about to stop"),
        Event::Draining | Event::Closed => tracing::debug!(%event, "broker connection"),
        // A failed connect is retried for ever, every second or two: the 1st, 2nd, 4th, 8th … tell enough.
        Event::ClientError(error) if failures.is_power_of_two() => {
            tracing::warn!(%error, failures, "can't connect to the broker, trying again");
        }
        Event::ClientError(error) => tracing::debug!(%error, failures, "can't connect to the broker, trying again"),
        Event::ServerError(error) => tracing::warn!(%error, "the broker reports an error"),
        Event::SlowConsumer(id) => tracing::warn!(subscription = id, "a subscription is too slow"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Event {
        Event::ClientError(ClientError::Other("authorization violation: nats: authorization violation".to_owned()))
    }

    #[test]
    fn refusals_count_in_a_row_until_the_broker_accepts_us() {
        let start = Instant::now();
        let mut status = Watch::new().0.borrow().clone();
        assert!(status.apply(&refused(), start) && status.apply(&refused(), start));
        assert_eq!((status.refusals, status.refusals_total), (2, 2));
        assert!(status.last_refusal.is_some());

        let later = start + Duration::from_secs(1);
        assert!(status.apply(&Event::Connected, later));
        assert_eq!((status.failures, status.refusals, status.refusals_total), (0, 0, 2));
        assert_eq!((status.connected, status.since, status.connects), (true, later, 1));
        assert_eq!(status.last_refusal, None);
    }

    #[test]
    fn being_cut_off_is_kept_as_the_reason_but_other_errors_are_not() {
        let now = Instant::now();
        let mut status = Watch::new().0.borrow().clone();
        let error = |text: &str| Event::ServerError(ServerError::Other(text.to_owned()));
        assert!(!status.apply(&error("Permissions Violation for Publish to \"x\""), now));
        assert!(status.apply(&error("User Authentication Revoked"), now));
        assert_eq!(status.last_refusal.as_deref(), Some("nats: User Authentication Revoked"));
        assert_eq!(status.refusals, 0);
        let failed = ClientError::Other("IO error: refused".to_owned());
        assert!(status.apply(&Event::ClientError(failed), now));
        assert_eq!((status.failures, status.refusals, status.refusals_total), (1, 0, 0));
    }
}
