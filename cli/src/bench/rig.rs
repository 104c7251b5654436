//! The stack under measurement: how to reach its gateway and its broker. Pools and agents of the bench's own: `rig/pool.rs`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use async_nats::ConnectOptions;
use muster_broker_config::layout::{Layout, TlsPart};
use muster_client::Tls;
use muster_schemas::{api::BASE, subjects};
use serde_json::Value;

use super::{floor::Bare, line::Line, stage::Flush};

mod pool;
pub(super) use pool::Pool;

/// A running stack on this machine.
pub(super) struct Rig {
    /// Its deployment.
    pub(super) layout: Layout,
    /// Where its broker is.
    pub(super) nats_url: String,
    /// The folder of its data.
    pub(super) data_dir: PathBuf,
    /// What its broker flushes, which the floor's does as well.
    pub(super) flush: Flush,
    scratch: PathBuf,
    url: String,
    key: String,
    http: reqwest::Client,
}

impl Rig {
    /// The stack that runs on `data_dir`. What the bench makes goes into `scratch`.
    ///
    /// # Errors
    /// When none runs there.
    pub(super) fn open(data_dir: &Path, scratch: &Path, flush: Flush) -> Result<Self> {
        let running = crate::up::running(data_dir)?;
        // A second install is refused, which does no harm.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            http: http(&running.layout)?,
            layout: running.layout,
            nats_url: running.nats_url,
            data_dir: data_dir.to_owned(),
            flush,
            scratch: scratch.to_owned(),
            url: format!("{}{BASE}", running.url),
            key: running.api_key,
        })
    }

    /// A bare broker that flushes as this stack's does, on the same disk.
    pub(super) fn bare(&self) -> Bare {
        Bare { folder: self.scratch.join("floor"), durable: self.flush == Flush::Always, nats_server: None }
    }

    /// A folder for files that go with the bench.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// A connection to the broker that may do what a gateway may.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(super) async fn core(&self) -> Result<async_nats::Client> {
        let options = self.secured(ConnectOptions::with_credentials_file(self.layout.gateway_creds()).await?);
        Ok(options.custom_inbox_prefix(subjects::broker::gateway_inbox("bench")).connect(&self.nats_url).await?)
    }

    /// What a stack with TLS on asks of whoever connects. The dispatcher's will do: a certificate gives no rights.
    fn tls(&self) -> Tls {
        let authority = Some(self.layout.ca()).filter(|path| path.exists());
        Tls { certificate: authority.is_some().then(|| self.certificate()), authority }
    }

    fn certificate(&self) -> (PathBuf, PathBuf) {
        (self.layout.tls_certificate(TlsPart::Dispatcher), self.layout.tls_key(TlsPart::Dispatcher))
    }

    /// Options that connect to this stack's broker.
    pub(super) fn secured(&self, options: ConnectOptions) -> ConnectOptions {
        let ca = self.layout.ca();
        if !ca.exists() {
            return options;
        }
        let (certificate, key) = self.certificate();
        options.add_root_certificates(ca).add_client_certificate(certificate, key)
    }

    /// A connection to the gateway that sends the same POST again and again.
    ///
    /// # Errors
    /// When the gateway is away.
    pub(super) async fn line(&self, path: &str, body: &Value) -> Result<Line> {
        Line::open(&self.http, &format!("{}{path}", self.url), &self.key, body).await
    }

    /// POST with a JSON body; gives back the status once the answer is read.
    ///
    /// # Errors
    /// When no answer comes.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<u16> {
        let answer = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.key).json(body).send().await?;
        let status = answer.status().as_u16();
        answer.bytes().await?;
        Ok(status)
    }

    /// A request with a JSON body, or none; gives back the answer's.
    ///
    /// # Errors
    /// When no answer comes, or one that is no success.
    pub(super) async fn call(&self, method: reqwest::Method, path: &str, body: &Value) -> Result<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await.context("the gateway does not answer")?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("the gateway refused {path}: {text}");
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}

fn http(layout: &Layout) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));
    if layout.ca().exists() {
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(&std::fs::read(layout.ca())?)?);
    }
    Ok(builder.build()?)
}
