//! `muster-gateway --check`: asks the gateway that runs with the same settings whether it is ready, for health checks of containers.
//!
//! With TLS on, that takes more than a shell has. It starts nothing.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{certificates, config::Config};

/// How long the gateway has to answer.
const WITHIN: Duration = Duration::from_secs(4);
/// More than any answer's first line.
const LINE_MAX: u64 = 256;

/// Fails unless the gateway says that it is ready.
pub(crate) async fn ready(config: &Config) -> anyhow::Result<()> {
    let line = tokio::time::timeout(WITHIN, ask(config)).await.context("the gateway does not answer in time")??;
    anyhow::ensure!(line.split(' ').nth(1) == Some("200"), "the gateway is not ready: {line}");
    Ok(())
}

async fn ask(config: &Config) -> anyhow::Result<String> {
    let mut address = config.listen;
    if address.ip().is_unspecified() {
        address = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    }
    let stream = TcpStream::connect(address).await.with_context(|| format!("nothing listens on {address}"))?;
    let Some(authority) = certificates::https(config) else { return first_line(stream).await };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority).with_context(|| format!("cannot read {}", authority.display()))?)?;
    muster_runtime::tls::install_provider();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    // A gateway's certificate always has this name.
    let name = ServerName::try_from("localhost")?;
    first_line(TlsConnector::from(Arc::new(config)).connect(name, stream).await?).await
}

async fn first_line<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> anyhow::Result<String> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(LINE_MAX).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
