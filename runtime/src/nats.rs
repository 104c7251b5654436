//! The connection to the broker: how it is made, kept, and what is known of it.
//!
//! It knows no subject and no stream. What a process may do is decided by its credentials, which
//! come from outside: a file, a text, or a callback that is asked at each connect ([`Identity`]).

mod certificates;
mod login;
mod status;
mod version;

pub use certificates::ClientCertificate;
pub use login::{Identity, IdentityError, Login};
pub use status::Status;
pub use version::{MIN_SERVER_VERSION, VersionError, check_server_version};

use std::{path::PathBuf, time::Duration};

use async_nats::{Client, ConnectOptions, ServerAddr, ServerInfo};
use rand::RngExt as _;

use status::Watch;

/// A dead connection is noticed after three unanswered pings.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Longest delay between two attempts to connect: a broker that is back is found within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How to connect to the broker.
#[derive(Debug, Clone)]
pub struct Connect {
    /// Server URLs: `nats://host:4222`, `tls://…`, several for a cluster; or `ws://`, `wss://` for all of them.
    pub urls: Vec<String>,
    /// Name of this connection in the broker's monitoring.
    pub name: String,
    /// Who connects.
    pub login: Login,
    /// First part of the inbox subjects, for example `_INBOX.a1`; `None` is `_INBOX`.
    pub inbox_prefix: Option<String>,
    /// Certificates that the broker's one must be signed by; `None` trusts the system's.
    pub root_certificates: Option<PathBuf>,
    /// The certificate to show. With one, or with [`Connect::root_certificates`], the connection is made over TLS or not at all.
    pub client_certificate: Option<ClientCertificate>,
    /// Whether to return at once and keep trying, instead of failing when the first attempt fails.
    pub retry_first: bool,
}

/// No connection to the broker.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A URL can't be understood, or there is none. Passwords in it are left out.
    #[error("broker URL {url:?} can't be used: {problem}")]
    Url {
        /// The URL without its password.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The credentials can't be read.
    #[error("can't use the broker credentials{}", path.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default())]
    Credentials {
        /// Their file, if they are in one.
        path: Option<PathBuf>,
        /// Why.
        source: std::io::Error,
    },
    /// The broker refused the credentials.
    #[error("the broker at {urls} refused the credentials")]
    Refused {
        /// Where it was tried.
        urls: String,
        /// What the broker said.
        source: async_nats::ConnectError,
    },
    /// The broker can't be reached.
    #[error("can't reach the broker at {urls}")]
    Unreachable {
        /// Where it was tried.
        urls: String,
        /// Why.
        source: async_nats::ConnectError,
    },
}

/// A connection to the broker that is kept up for ever; clones share it.
#[derive(Debug, Clone)]
pub struct Broker {
    client: Client,
    watch: Watch,
}

impl Connect {
    /// To connect to these servers under this name, without credentials.
    pub fn new(urls: Vec<String>, name: impl Into<String>) -> Self {
        Self {
            urls,
            name: name.into(),
            login: Login::Anonymous,
            inbox_prefix: None,
            root_certificates: None,
            client_certificate: None,
            retry_first: false,
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// When the settings can't be used; and, unless [`Connect::retry_first`] is set, when the first
    /// attempt fails.
    pub async fn connect(self) -> Result<Broker, ConnectError> {
        self.connect_with(|options| options).await
    }

    /// Connects with options of async-nats changed by `adjust`, for what is special (capacities,
    /// time-outs). The event callback and the login are not for it to change.
    ///
    /// # Errors
    /// As [`Connect::connect`].
    pub async fn connect_with(self, adjust: impl FnOnce(ConnectOptions) -> ConnectOptions) -> Result<Broker, ConnectError> {
        let addresses = parse_urls(&self.urls)?;
        let watch = Watch::new();
        let (events, delays) = (watch.clone(), watch.clone());
        let mut options = adjust(self.login.options().await?)
            .name(&self.name)
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(move |attempt| delay(attempt, delays.was_connected()))
            .event_callback(move |event| {
                events.apply(&event);
                std::future::ready(())
            });
        if let Some(prefix) = &self.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        options = certificates::apply(options, self.root_certificates, self.client_certificate, &addresses);
        if self.retry_first {
            options = options.retry_on_initial_connect();
        }
        let client = options.connect(addresses).await.map_err(|source| {
            let urls = self.urls.iter().map(|url| without_password(url));
            let urls = urls.collect::<Vec<_>>().join(", ");
            if status::is_refusal(source.kind()) {
                ConnectError::Refused { urls, source }
            } else {
                ConnectError::Unreachable { urls, source }
            }
        })?;
        let broker = Broker { client, watch };
        if !self.retry_first {
            // The client is connected; its first event, which the status counts, is on its way.
            broker.wait_for(|status| status.connects > 0).await;
        }
        Ok(broker)
    }
}

impl Broker {
    /// The client of async-nats.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What is known of the connection now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.watch.status(&self.client)
    }

    /// Waits until the connection is up. Returns at once when it is. Safe to cancel.
    pub async fn connected(&self) {
        self.wait_for(|status| status.connected).await;
    }

    /// Waits until the status meets a condition, and returns it. Safe to cancel.
    pub async fn wait_for(&self, condition: impl Fn(&Status) -> bool) -> Status {
        self.watch.wait_for(&self.client, condition).await
    }

    /// The server's own description; `None` before the first connect.
    #[must_use]
    pub fn server_info(&self) -> Option<ServerInfo> {
        self.client.try_server_info()
    }

    /// Checks that the server is at least [`MIN_SERVER_VERSION`]. Waits for the first connect.
    ///
    /// # Errors
    /// [`VersionError`], which names both versions.
    pub async fn check_version(&self) -> Result<(), VersionError> {
        self.connected().await;
        check_server_version(&self.client.server_info(), MIN_SERVER_VERSION)
    }
}

/// The first attempt is at once; after a lost connection it is spread over 100 ms, so that a fleet
/// does not come back in one instant. Then 50 ms, doubled each time up to [`BACKOFF_MAX`], each
/// between half and all of it.
fn delay(attempt: usize, was_connected: bool) -> Duration {
    if attempt <= 1 {
        let spread = if was_connected { 100 } else { 0 };
        return Duration::from_millis(rand::rng().random_range(0..=spread));
    }
    let doublings = u32::try_from(attempt - 2).unwrap_or(u32::MAX).min(6);
    let longest = (Duration::from_millis(50) * 2u32.pow(doublings)).min(BACKOFF_MAX);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

fn parse_urls(urls: &[String]) -> Result<Vec<ServerAddr>, ConnectError> {
    if urls.is_empty() {
        return Err(ConnectError::Url { url: String::new(), problem: "there is none".to_owned() });
    }
    urls.iter()
        .map(|url| {
            url.trim().parse().map_err(|error: std::io::Error| ConnectError::Url { url: without_password(url), problem: error.to_string() })
        })
        .collect()
}

/// `nats://user:pass@host` becomes `nats://host`.
fn without_password(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        }
        None => url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn delays_grow_to_two_seconds_and_are_spread() {
        assert_eq!(delay(0, false), Duration::ZERO);
        assert_eq!(delay(1, false), Duration::ZERO);
        assert!((0..100).all(|_| delay(1, true) <= Duration::from_millis(100)));
        for attempt in [2, 3, 7, 8, 9, 1_000, usize::MAX] {
            let delays: Vec<_> = (0..100).map(|_| delay(attempt, true)).collect();
            assert!(delays.iter().all(|d| *d <= BACKOFF_MAX && *d >= Duration::from_millis(25)));
            assert!(delays.iter().any(|d| d != delays.first().unwrap()));
        }
        assert!(delay(50, true) >= BACKOFF_MAX / 2);
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_used_is_named_without_its_password() {
        for urls in [vec![], vec!["nats://me:hunter2@".to_owned()], vec!["http://me:hunter2@h".to_owned()]] {
            let error = Connect::new(urls, "test").connect().await.unwrap_err();
            assert!(matches!(error, ConnectError::Url { .. }), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_an_error_that_names_it() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://me:hunter2@{}", free.local_addr().unwrap());
        drop(free);
        let error = Connect::new(vec![url], "test").connect().await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("nats://127.0.0.1:"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
