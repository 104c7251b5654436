//! Certificates of the deployment's own authority, where TLS is on: the gateway's own, renewed while it runs, and those of agents.
//!
//! Of an agent's request only the public key is believed (`muster_broker_config::tls`): who it is, the API key, the join token or the broker has
//! said before. A certificate gives no rights; it lets somebody in who then has to show a JWT.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use muster_broker_config::{
    layout::{Layout, TlsPart},
    tls::{Authority, Key, Purpose, RequestError, TlsName},
};
use muster_runtime::{nats::ClientCertificate, tls::Live};
use muster_schemas::{api::Certificate, code::Code, names::AgentId, time::Timestamp};
use rustls::ServerConfig;

use crate::{app::App, config::Config, problem::ApiError};

/// How long to wait after a renewal that failed.
const RETRY: Duration = Duration::from_secs(30);

/// What the gateway can certify; nothing where TLS is off.
pub(crate) struct Certificates(Option<Inner>);

struct Inner {
    authority: Authority,
    lifetime: Duration,
    names: Vec<TlsName>,
    https: bool,
    client: Live,
    server: Live,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

/// A file as it is set, or from its place in the deployment. A deployment without TLS has no such files; one that was named has to be there.
fn place(config: &Config, set: &Option<PathBuf>, place: fn(&Layout) -> PathBuf) -> Option<PathBuf> {
    let layout = config.deployment.as_ref().map(Layout::new);
    set.clone().or_else(|| layout.as_ref().map(place).filter(|path| path.exists()))
}

/// The files of the authority's key and certificate, where TLS is on.
fn authority(config: &Config) -> Option<(PathBuf, PathBuf)> {
    let key = place(config, &config.tls_ca_key, |layout| layout.tls_key(TlsPart::Gateway));
    key.zip(place(config, &config.tls_ca, |layout| layout.ca_of(TlsPart::Gateway)))
}

/// The certificate to know this gateway by, where it serves HTTPS.
pub(crate) fn https(config: &Config) -> Option<PathBuf> {
    authority(config).filter(|_| config.https.unwrap_or(true)).map(|(_, certificate)| certificate)
}

/// A certificate and its key.
type Pair = (String, zeroize::Zeroizing<Vec<u8>>);

impl Certificates {
    /// Reads the authority, and makes the gateway's first certificates.
    pub(crate) fn load(config: &Config) -> anyhow::Result<Self> {
        let Some((key, certificate)) = authority(config) else {
            anyhow::ensure!(
                config.https != Some(true),
                "https is on, but there is no authority to make a certificate with (tls_ca, tls_ca_key)"
            );
            return Ok(Self(None));
        };
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let authority = Authority::load(&zeroize::Zeroizing::new(read(&key)?), &read(&certificate)?)
            .with_context(|| format!("cannot use {}", key.display()))?;
        let mut names = TlsName::defaults();
        match place(config, &None, Layout::tls_names).filter(|_| config.tls_names.is_empty()) {
            Some(path) => names = read(&path)?.lines().map(str::parse).collect::<Result<_, _>>()?,
            None => names.extend(config.tls_names.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>()?),
        }
        let (lifetime, now) = (config.certificate_lifetime.get(), Timestamp::now());
        let live = |(certificate, key): Pair| Live::new(&certificate, &key);
        let client = live(make(&authority, Purpose::Client, lifetime, now)?)?;
        let server = live(make(&authority, Purpose::Server(&names), lifetime, now)?)?;
        Ok(Self(Some(Inner { authority, lifetime, names, https: config.https.unwrap_or(true), client, server })))
    }

    /// What the gateway shows to the broker.
    pub(crate) fn for_broker(&self) -> anyhow::Result<Option<ClientCertificate>> {
        let shown = |inner: &Inner| Ok(ClientCertificate::Live(Box::new(inner.client.client(inner.authority.pem())?)));
        self.0.as_ref().map(shown).transpose()
    }

    /// How it serves HTTPS; `None` where it serves HTTP.
    pub(crate) fn for_https(&self) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        Ok(self.0.as_ref().filter(|inner| inner.https).map(|inner| inner.server.server()).transpose()?)
    }

    /// The certificate of an agent that asked for one. `None` where TLS is off, or it did not ask.
    pub(crate) fn for_agent(&self, request: Option<&str>, id: &AgentId) -> Result<Option<Certificate>, ApiError> {
        let (Some(inner), Some(request)) = (&self.0, request) else { return Ok(None) };
        let now = Timestamp::now();
        let chain = inner.authority.answer(request, id.as_str(), inner.lifetime, now).map_err(|error| match error {
            RequestError::Sign(error) => ApiError::internal("sign the agent's certificate", error),
            wrong => ApiError::new(Code::CertificateInvalid, format!("the csr got no certificate: {wrong}")),
        })?;
        Ok(Some(Certificate { chain, authority: inner.authority.pem().to_owned(), expires_at: now + inner.lifetime }))
    }
}

impl Inner {
    /// Fresh certificates, with fresh keys. What is connected stays connected.
    fn renew(&self) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let (client, server) = (
            make(&self.authority, Purpose::Client, self.lifetime, now)?,
            make(&self.authority, Purpose::Server(&self.names), self.lifetime, now)?,
        );
        self.client.replace(&client.0, &client.1)?;
        self.server.replace(&server.0, &server.1)?;
        Ok(())
    }
}

fn make(authority: &Authority, purpose: Purpose<'_>, lifetime: Duration, now: Timestamp) -> anyhow::Result<Pair> {
    let key = Key::generate()?;
    Ok((authority.issue("gateway", purpose, &key, lifetime, now)?, key.to_der()))
}

/// Renews the gateway's own certificates at two thirds of their life, for ever.
pub(crate) async fn run(app: App) -> anyhow::Result<()> {
    let Some(inner) = &app.certificates.0 else { return std::future::pending().await };
    let mut wait = inner.lifetime * 2 / 3;
    loop {
        tokio::time::sleep(wait).await;
        wait = match inner.renew() {
            Ok(()) => {
                tracing::info!("renewed the gateway's certificates");
                inner.lifetime * 2 / 3
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "can't renew the gateway's certificates; trying again");
                RETRY.min(inner.lifetime / 10)
            }
        };
    }
}
