//! The stack under measurement: what `muster up` left in its data folder, a pool of the bench's own, and agents that join it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use async_nats::ConnectOptions;
use muster_broker_config::layout::{Layout, TlsPart};
use muster_client::{Client, Tls};
use muster_schemas::{
    api::BASE,
    names::{AgentName, PoolName},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// How long agents may take to join and be ready.
const READY_MAX: Duration = Duration::from_secs(60);

/// A running stack on this machine.
pub(super) struct Rig {
    /// Its deployment.
    pub(super) layout: Layout,
    /// Where its broker is.
    pub(super) nats_url: String,
    url: String,
    key: String,
    http: reqwest::Client,
}

/// A pool made for one bench.
pub(super) struct Pool {
    /// Its name.
    pub(super) name: PoolName,
    /// A client with a service's credentials for it.
    pub(super) client: Client,
    rig: PoolEnd,
}

/// What it takes to remove the pool again.
struct PoolEnd {
    url: String,
    key: String,
    http: reqwest::Client,
    folder: PathBuf,
    ca: Option<PathBuf>,
    signer: String,
    agents: Vec<Child>,
}

impl Rig {
    /// The stack that `muster up` runs on `data_dir`.
    ///
    /// # Errors
    /// When none runs there.
    pub(super) async fn open(data_dir: &Path) -> Result<Self> {
        let running =
            crate::up::running(data_dir).with_context(|| format!("no stack runs on {}; start one with `muster up`", data_dir.display()))?;
        // A second install is refused, which does no harm.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            http: http(&running.layout)?,
            layout: running.layout,
            nats_url: running.nats_url,
            url: format!("{}{BASE}", running.url),
            key: running.api_key,
        })
    }

    /// Makes a pool with a name of its own, and lets `agents` agents with `slots` slots each join it.
    ///
    /// # Errors
    /// When the gateway refuses, or the agents are not ready in time.
    pub(super) async fn pool(&self, agents: usize, slots: usize) -> Result<Pool> {
        let name: PoolName = format!("bench-{}", std::process::id()).parse()?;
        self.call(reqwest::Method::PUT, &format!("/pools/{name}"), &json!({"executors": ["probe"]})).await?;
        let folder = std::env::temp_dir().join(format!("muster-{name}"));
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("service.creds");
        crate::commands::issue(&self.layout, "bench", crate::commands::May { publish: std::slice::from_ref(&name), watch: &[] }, &file)?;
        let signer = crate::commands::key_of(&file)?;
        self.call(reqwest::Method::POST, "/signers", &json!({"name": "bench", "public_key": signer, "pools": [name]})).await?;
        let client = Client::connect_with(&self.nats_url, &file, &self.tls()).await?;
        let mut end = PoolEnd {
            url: self.url.clone(),
            key: self.key.clone(),
            http: self.http.clone(),
            folder,
            ca: self.tls().authority,
            signer,
            agents: Vec::new(),
        };
        if agents > 0 {
            let token = self.call(reqwest::Method::POST, "/join-tokens", &json!({"pool": name, "uses": agents})).await?;
            let token = token.pointer("/data/token").and_then(Value::as_str).context("no join token in the answer")?;
            for number in 1..=agents {
                end.start_agent(&format!("{name}-{number}").parse()?, token, slots)?;
            }
            self.ready(&name, agents).await?;
        }
        Ok(Pool { name, client, rig: end })
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

    /// Waits until so many agents of the pool accept jobs.
    async fn ready(&self, pool: &PoolName, agents: usize) -> Result<()> {
        let start = Instant::now();
        loop {
            let health = self.call(reqwest::Method::GET, &format!("/pools/{pool}/health"), &Value::Null).await?;
            let accepting = health.pointer("/data/agents/accepting").and_then(Value::as_u64).unwrap_or(0);
            if accepting >= u64::try_from(agents)? {
                return Ok(());
            }
            ensure!(start.elapsed() < READY_MAX, "only {accepting} of {agents} agents are ready after {READY_MAX:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
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

impl Pool {
    /// Stops the agents and removes the pool with what is left in it.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub(super) async fn close(mut self) -> Result<()> {
        self.rig.dismiss_agents().await?;
        let signer = format!("{}/signers/{}", self.rig.url, self.rig.signer);
        self.rig.http.delete(&signer).bearer_auth(&self.rig.key).send().await?;
        let url = format!("{}/pools/{}?force=true", self.rig.url, self.name);
        let start = Instant::now();
        loop {
            let answer = self.rig.http.delete(&url).bearer_auth(&self.rig.key).send().await?;
            if answer.status().is_success() {
                return Ok(());
            }
            // The dispatcher has yet to take note that the agents are gone.
            ensure!(start.elapsed() < READY_MAX, "the bench's pool {} could not be removed: {}", self.name, answer.text().await?);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl PoolEnd {
    fn start_agent(&mut self, name: &AgentName, token: &str, slots: usize) -> Result<()> {
        let state = self.folder.join(name.as_str());
        std::fs::create_dir_all(&state)?;
        let log = std::fs::File::create(self.folder.join(format!("{name}.log")))?;
        let gateway = self.url.trim_end_matches(BASE).to_owned();
        let child = Command::new(std::env::current_exe()?)
            .args(["service", "agent"])
            .env("AGENT_API_URL", gateway)
            .env("AGENT_CA_FILE", self.ca.as_deref().unwrap_or(Path::new("")))
            .env("AGENT_JOIN_TOKEN", token)
            .env("AGENT_NAME", name.as_str())
            .env("STATE_DIR", &state)
            .env("MAX_CONCURRENT_JOBS", slots.to_string())
            .env("ADMIN_PORT", "0")
            .env("EXECUTORS", "probe")
            .env("LOG_LEVEL", "WARN")
            .env(muster_runtime::process::DIE_WITH_PARENT, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.agents.push(child);
        Ok(())
    }

    /// Lets the agents say goodbye.
    async fn dismiss_agents(&mut self) -> Result<()> {
        for agent in &self.agents {
            let _gone = kill(Pid::from_raw(i32::try_from(agent.id())?), Signal::SIGTERM);
        }
        let start = Instant::now();
        while self.agents.iter_mut().any(|agent| matches!(agent.try_wait(), Ok(None))) && start.elapsed() < READY_MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.agents.clear();
        Ok(())
    }

    fn stop_agents(&mut self) {
        for agent in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        self.agents.clear();
    }
}

impl Drop for PoolEnd {
    fn drop(&mut self) {
        self.stop_agents();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
