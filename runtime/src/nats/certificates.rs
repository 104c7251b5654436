//! TLS of the connection: whom it trusts, and what it shows.

use std::{fmt, path::PathBuf};

use async_nats::{ConnectOptions, ServerAddr};
use rustls::ClientConfig;

/// The certificate that is shown to the broker.
#[derive(Clone)]
pub enum ClientCertificate {
    /// Files (PEM), read anew at each connect: whoever renews the certificate replaces its file. Trust is as
    /// [`super::Connect::root_certificates`] says.
    Files {
        /// The certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Settings that show the newest by themselves, and that say whom to trust: see [`crate::tls::Live::client`].
    Live(Box<ClientConfig>),
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files { certificate, .. } => f.debug_tuple("Files").field(certificate).finish(),
            Self::Live(_) => f.write_str("Live"),
        }
    }
}

/// Puts TLS into the options. Whoever says whom to trust, or shows a certificate, means TLS: a broker that offers none, or somebody in between
/// who says that it does, gets no login then.
pub(super) fn apply(
    options: ConnectOptions,
    roots: Option<PathBuf>,
    certificate: Option<ClientCertificate>,
    addresses: &[ServerAddr],
) -> ConnectOptions {
    let mut options = options;
    if roots.is_some() || certificate.is_some() || addresses.iter().any(|address| matches!(address.scheme(), "tls" | "wss")) {
        crate::tls::install_provider();
    }
    // The scheme `ws` is a choice, too: of a proxy on this machine that speaks TLS to the broker.
    if (roots.is_some() || certificate.is_some()) && !addresses.iter().any(|address| address.scheme() == "ws") {
        options = options.require_tls(true);
    }
    if addresses.iter().any(ServerAddr::is_websocket) {
        // Addresses that the broker tells are not reachable from where it takes a proxy to get to it, and of another scheme.
        options = options.ignore_discovered_servers();
    }
    if let Some(path) = roots {
        options = options.add_root_certificates(path);
    }
    match certificate {
        Some(ClientCertificate::Files { certificate, key }) => options.add_client_certificate(certificate, key),
        Some(ClientCertificate::Live(config)) => options.tls_client_config(*config),
        None => options,
    }
}
