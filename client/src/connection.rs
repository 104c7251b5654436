//! The client and its connection. It reconnects for ever; what was waited for goes on being waited for.
//!
//! What the broker refuses by permission it does not answer: it only says so beside the conversation. Those remarks are
//! caught here, so that a call that is not allowed fails at once and with a reason, instead of timing out.

use std::{path::Path, sync::Arc, time::Duration};

use async_nats::{ConnectOptions, Event, ServerError};
use tokio::sync::broadcast;

use crate::{Error, waiters::Waiters};

/// How long the first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A dead connection is noticed after three of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Messages that may wait in one subscription. What comes on top is dropped, and made good by asking a gateway.
const SUBSCRIPTION_CAPACITY: usize = 16 * 1024;
/// Remarks on permissions that may wait to be read. A reader that falls behind times out instead of being told.
const REMARKS: usize = 64;

/// A connection to Muster; clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) nats: async_nats::Client,
    pub(crate) waiters: Arc<Waiters>,
    remarks: Remarks,
}

/// What the broker says of permissions.
#[derive(Debug, Clone)]
pub(crate) struct Remarks(broadcast::Sender<String>);

impl Client {
    /// Connects to the broker at `url` (`nats://`, `tls://` or `ws(s)://`; several for a cluster, joined by commas) as whoever the
    /// credentials file says.
    ///
    /// # Errors
    /// [`Error::Credentials`] when the file cannot be read, [`Error::Connect`] when the first connection fails.
    pub async fn connect(url: &str, credentials: impl AsRef<Path>) -> Result<Self, Error> {
        let path = credentials.as_ref();
        let remarks = Remarks::new();
        let teller = remarks.clone();
        let options = ConnectOptions::with_credentials_file(path)
            .await
            .map_err(|source| Error::Credentials { path: path.display().to_string(), source })?
            .name("muster-client")
            .ping_interval(PING_INTERVAL)
            .connection_timeout(CONNECT_TIMEOUT)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .event_callback(move |event| {
                teller.hear(&event);
                std::future::ready(())
            });
        let refused = |source| Error::Connect { url: without_password(url), source };
        let servers: Vec<&str> = url.split(',').map(str::trim).collect();
        let nats = options.connect(servers).await.map_err(refused)?;
        Ok(Self::assemble(nats, remarks))
    }

    /// Uses a connection that exists. Its inbox prefix must be one that the credentials may subscribe to, and `_INBOX` for services.
    ///
    /// What the credentials do not allow then shows as a time-out rather than as [`Error::Forbidden`], since only the
    /// one who made the connection hears the broker's remarks.
    pub fn from_nats(nats: async_nats::Client) -> Self {
        Self::assemble(nats, Remarks::new())
    }

    /// The connection, for what goes beyond this crate.
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    fn assemble(nats: async_nats::Client, remarks: Remarks) -> Self {
        Self { waiters: Waiters::new(nats.clone()), nats, remarks }
    }

    /// Starts listening for remarks about subjects. Do this before the request that they may answer.
    pub(crate) fn listen(&self) -> Denials {
        Denials(self.remarks.0.subscribe())
    }
}

impl Remarks {
    fn new() -> Self {
        Self(broadcast::channel(REMARKS).0)
    }

    fn hear(&self, event: &Event) {
        if let Event::ServerError(ServerError::Other(text)) = event
            && text.to_ascii_lowercase().contains("permissions violation")
        {
            // Nobody listening is no fault.
            let _ = self.0.send(text.clone());
        }
    }
}

/// Remarks since [`Client::listen`].
pub(crate) struct Denials(broadcast::Receiver<String>);

impl Denials {
    /// Waits until the broker says that one of these subjects is not allowed; for ever if it does not. Safe to cancel.
    pub(crate) async fn of<const N: usize>(&mut self, subjects: [&str; N]) -> Error {
        loop {
            match self.0.recv().await {
                Ok(reason) if subjects.iter().any(|subject| names(&reason, subject)) => return Error::Forbidden { reason },
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending::<()>().await,
            }
        }
    }
}

/// Whether a remark is about a subject: the broker puts it in double quotes.
fn names(remark: &str, subject: &str) -> bool {
    remark.split('"').nth(1) == Some(subject)
}

/// `nats://user:pass@host` becomes `nats://host`.
fn without_password(urls: &str) -> String {
    let shown = urls.split(',').map(|url| {
        let (scheme, rest) = url.trim().split_once("://").unwrap_or(("nats", url.trim()));
        format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
    });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        assert_eq!(without_password("nats://me:hunter2@h:1, me:pw@g"), "nats://h:1,nats://g");
    }

    #[test]
    fn a_remark_is_about_exactly_the_subject_it_quotes() {
        let remark = r#"Permissions Violation for Publish to "jobs.q.normal.shell.a""#;
        assert!(names(remark, "jobs.q.normal.shell.a"));
        assert!(!names(remark, "jobs.q.normal.shell.b"));
        assert!(!names(remark, "jobs.q.normal.shell"));
    }

    #[tokio::test]
    async fn credentials_that_are_not_there_are_an_error_that_names_the_file() {
        let error = Client::connect("nats://127.0.0.1:1", "/nonexistent/service.creds").await.unwrap_err();
        assert!(matches!(error, Error::Credentials { .. }));
        assert!(error.to_string().contains("/nonexistent/service.creds"));
    }
}
