//! A pool of the bench's own, and agents that join it as processes of their own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use muster_client::Client;
use muster_schemas::{
    api::BASE,
    names::{AgentName, PoolName},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::Rig;

/// How long agents may take to join and be ready, or to say goodbye.
const READY_MAX: Duration = Duration::from_secs(60);

/// A pool made for one bench.
pub(in crate::bench) struct Pool {
    /// Its name.
    pub(in crate::bench) name: PoolName,
    /// A client with a service's credentials for it.
    pub(in crate::bench) client: Client,
    end: PoolEnd,
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
    /// Makes a pool with a name of its own, and lets `agents` agents with `slots` slots each join it.
    ///
    /// # Errors
    /// When the gateway refuses, or the agents are not ready in time.
    pub(in crate::bench) async fn pool(&self, agents: usize, slots: usize) -> Result<Pool> {
        let mut pool = self.queue("", None).await?;
        pool.join(self, agents, slots).await?;
        Ok(pool)
    }

    /// Makes a pool without agents, in which `max_queued` jobs may wait. `mark` tells it from others of the same bench.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub(in crate::bench) async fn queue(&self, mark: &str, max_queued: Option<usize>) -> Result<Pool> {
        let name: PoolName = format!("bench-{}{mark}", std::process::id()).parse()?;
        let mut put = json!({"executors": ["probe"]});
        if let (Some(most), Some(put)) = (max_queued, put.as_object_mut()) {
            put.insert("limits".into(), json!({"max_queued": most}));
        }
        self.call(reqwest::Method::PUT, &format!("/pools/{name}"), &put).await?;
        let folder = self.scratch.join(name.as_str());
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("service.creds");
        crate::commands::issue(&self.layout, "bench", crate::commands::May { publish: std::slice::from_ref(&name), watch: &[] }, &file)?;
        let signer = crate::commands::key_of(&file)?;
        self.call(reqwest::Method::POST, "/signers", &json!({"name": "bench", "public_key": signer, "pools": [name]})).await?;
        let client = Client::connect_with(&self.nats_url, &file, &self.tls()).await?;
        let end = PoolEnd {
            url: self.url.clone(),
            key: self.key.clone(),
            http: self.http.clone(),
            folder,
            ca: self.tls().authority,
            signer,
            agents: Vec::new(),
        };
        Ok(Pool { name, client, end })
    }
}

impl Pool {
    /// Lets agents with `slots` slots each join, and waits until they accept jobs.
    ///
    /// # Errors
    /// When the gateway refuses, or they are not ready in time.
    pub(in crate::bench) async fn join(&mut self, rig: &Rig, agents: usize, slots: usize) -> Result<()> {
        if agents == 0 {
            return Ok(());
        }
        let token = rig.call(reqwest::Method::POST, "/join-tokens", &json!({"pool": self.name, "uses": agents})).await?;
        let token = token.pointer("/data/token").and_then(Value::as_str).context("no join token in the answer")?;
        for number in 1..=agents {
            self.end.start_agent(&format!("{}-{number}", self.name).parse()?, token, slots)?;
        }
        let start = Instant::now();
        loop {
            let health = rig.call(reqwest::Method::GET, &format!("/pools/{}/health", self.name), &Value::Null).await?;
            let accepting = health.pointer("/data/agents/accepting").and_then(Value::as_u64).unwrap_or(0);
            if accepting >= u64::try_from(agents)? {
                return Ok(());
            }
            ensure!(start.elapsed() < READY_MAX, "only {accepting} of {agents} agents are ready after {READY_MAX:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The agents' processes, by name.
    pub(in crate::bench) fn agents(&self) -> Vec<(String, u32)> {
        self.end.agents.iter().zip(1..).map(|(child, number)| (format!("bench agent {number}"), child.id())).collect()
    }

    /// Where the agents keep their state.
    pub(in crate::bench) fn folder(&self) -> &Path {
        &self.end.folder
    }

    /// Stops the agents and removes the pool with what is left in it.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub(in crate::bench) async fn close(mut self) -> Result<()> {
        self.end.dismiss_agents().await?;
        let signer = format!("{}/signers/{}", self.end.url, self.end.signer);
        self.end.http.delete(&signer).bearer_auth(&self.end.key).send().await?;
        let url = format!("{}/pools/{}?force=true", self.end.url, self.name);
        let start = Instant::now();
        loop {
            let answer = self.end.http.delete(&url).bearer_auth(&self.end.key).send().await?;
            if answer.status().is_success() {
                return Ok(());
            }
            // The dispatcher has yet to take note that the agents are gone.
            ensure!(start.elapsed() < READY_MAX, "the bench's pool {} could not be removed: {}", self.name, answer.text().await?);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Stops the agents and leaves the pool as it is, on a stack that ends with the bench.
    ///
    /// # Errors
    /// When an agent cannot be waited for.
    pub(in crate::bench) async fn leave(mut self) -> Result<()> {
        self.end.dismiss_agents().await
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
