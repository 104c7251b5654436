//! The client and its connection. It reconnects for ever; what was waited for goes on being waited for.
//!
//! What the broker refuses by permission it does not answer: it only says so beside the conversation. Those remarks are
//! caught here, so that a call that is not allowed fails at once and with a reason, instead of timing out.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_nats::{ConnectOptions, Event, ServerError};
use muster_schemas::signature::Signer;
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
    /// Signs jobs: the key of the credentials.
    pub(crate) signer: Option<Arc<Signer>>,
    remarks: Remarks,
}

/// Certificates, as PEM files: of whom to trust, and what to show. They are read anew at each connect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// The authority's certificate, `ca.pem`; `None` trusts the system's.
    pub authority: Option<PathBuf>,
    /// The certificate to show and its key: `muster creds issue` writes both beside the credentials.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// With either of the two, a broker without TLS is refused.
    fn apply(&self, options: ConnectOptions) -> ConnectOptions {
        let mut options = options;
        if self.authority.is_some() || self.certificate.is_some() {
            options = options.require_tls(true);
        }
        if let Some(authority) = &self.authority {
            options = options.add_root_certificates(authority.clone());
        }
        match &self.certificate {
            Some((certificate, key)) => options.add_client_certificate(certificate.clone(), key.clone()),
            None => options,
        }
    }
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
        Self::connect_with(url, credentials, &Tls::default()).await
    }

    /// As [`Client::connect`], to a broker with TLS on.
    ///
    /// # Errors
    /// As [`Client::connect`]; certificates that cannot be read are an [`Error::Connect`].
    pub async fn connect_with(url: &str, credentials: impl AsRef<Path>, tls: &Tls) -> Result<Self, Error> {
        let path = credentials.as_ref();
        let remarks = Remarks::new();
        let teller = remarks.clone();
        let unreadable = |source| Error::Credentials { path: path.display().to_string(), source };
        // What it signs with stays the same for as long as it lives.
        let credentials = tokio::fs::read_to_string(path).await.map_err(unreadable)?;
        let signer = signer(&credentials).map(Arc::new);
        let options = ConnectOptions::with_credentials(&credentials).map_err(unreadable)?;
        let options = login(options, &credentials, signer.as_ref())
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
        let nats = tls.apply(options).connect(servers).await.map_err(refused)?;
        Ok(Self::assemble(nats, signer, remarks))
    }

    /// Uses a connection that exists. Its inbox prefix must be one that the credentials may subscribe to, and `_INBOX` for services.
    ///
    /// What the credentials do not allow then shows as a time-out rather than as [`Error::Forbidden`], since only the
    /// one who made the connection hears the broker's remarks. Jobs are not signed, and agents run none of those unless they were told to:
    /// see [`Client::signing_with`].
    pub fn from_nats(nats: async_nats::Client) -> Self {
        Self::assemble(nats, None, Remarks::new())
    }

    /// Signs jobs with this seed of a user (`SU…`), which has to be registered for their pools (`muster signers add`). `None` when it is none.
    #[must_use]
    pub fn signing_with(self, seed: &str) -> Option<Self> {
        Some(Self { signer: Some(Arc::new(Signer::from_seed(seed)?)), ..self })
    }

    /// The connection, for what goes beyond this crate.
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    fn assemble(nats: async_nats::Client, signer: Option<Arc<Signer>>, remarks: Remarks) -> Self {
        Self { waiters: Waiters::new(nats.clone()), nats, signer, remarks }
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

/// Logs in with the key that signs jobs, if that is what it is: with nothing but a nonce, or the broker could have jobs signed.
fn login(options: ConnectOptions, credentials: &str, signer: Option<&Arc<Signer>>) -> ConnectOptions {
    let jwt = credentials.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("---"));
    let (Some(jwt), Some(signer)) = (jwt, signer.cloned()) else { return options };
    options.jwt(jwt.to_owned(), move |nonce| std::future::ready(signer.sign_nonce(&nonce).map_err(async_nats::AuthError::new)))
}

/// The key of a credentials file.
fn signer(credentials: &str) -> Option<Signer> {
    credentials.lines().find_map(Signer::from_seed)
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

    #[test]
    fn the_key_of_the_credentials_signs() {
        let key = nkeys::KeyPair::new_user();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\ney.SU.x\n------END\n-----BEGIN USER NKEY SEED-----\n{}\n------END",
            key.seed().unwrap()
        );
        assert_eq!(signer(&text).unwrap().public_key(), key.public_key());
        assert!(signer("no seed here").is_none());
    }

    #[tokio::test]
    async fn credentials_that_are_not_there_are_an_error_that_names_the_file() {
        let error = Client::connect("nats://127.0.0.1:1", "/nonexistent/service.creds").await.unwrap_err();
        assert!(matches!(error, Error::Credentials { .. }));
        assert!(error.to_string().contains("/nonexistent/service.creds"));
    }
}
