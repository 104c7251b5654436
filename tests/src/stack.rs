//! The whole of Muster as real processes in a folder of its own: broker, gateways, dispatchers and agents, each of which can be hurt.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use muster_broker_config::{
    creds,
    init::{self, Broker, Deployment, Endpoint, InitOptions},
    layout::{Account, TlsPart},
    server::{Places, Server, Start, find_binary},
};
use muster_schemas::{
    headers::SIGNATURE,
    names::PoolName,
    signature::{Signed, Signer},
    time::Timestamp,
};
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::{binaries, eventually, process::Process, rest::Rest};

/// How long a part may take to be ready, on a busy machine with two cores.
pub const READY: Duration = Duration::from_secs(60);
/// The pool of every agent that is not told otherwise.
pub const POOL: &str = "default";

/// What a stack is made of.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// Agents of the pool `default`.
    pub agents: usize,
    /// Slots of each agent.
    pub slots: usize,
    /// Gateways.
    pub gateways: usize,
    /// Dispatchers.
    pub dispatchers: usize,
    /// Environment of every agent beside the usual.
    pub agent_env: Vec<(&'static str, String)>,
    /// Settings of every dispatcher beside the usual.
    pub dispatcher_settings: Vec<(&'static str, String)>,
    /// Whether TLS is on, with certificates of gateway and agents that live this long; the broker then listens for WebSocket as well.
    pub tls: Option<Duration>,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self { agents: 2, slots: 5, gateways: 1, dispatchers: 1, agent_env: Vec::new(), dispatcher_settings: Vec::new(), tls: None }
    }
}

/// A running stack. Everything is killed and removed when it is dropped.
pub struct Stack {
    options: StackOptions,
    /// The broker.
    pub broker: Server,
    /// The gateways.
    pub gateways: Vec<Process>,
    /// The dispatchers.
    pub dispatchers: Vec<Process>,
    /// The agents, in the order they were started; a killed one keeps its place.
    pub agents: Vec<Process>,
    /// A caller of the first gateway with the admin key.
    pub rest: Rest,
    gateway_addresses: Vec<SocketAddr>,
    admin_key: String,
    deployment: Deployment,
    folder: Arc<TempDir>,
}

impl Stack {
    /// Starts a stack and waits until all of it is ready.
    ///
    /// # Panics
    /// When a part does not start.
    pub async fn start(options: StackOptions) -> Self {
        let folder = Arc::new(tempfile::Builder::new().prefix("muster-").tempdir().unwrap());
        let dir = folder.path().join("deploy");
        let mut broker = Broker::local(None, folder.path().join("jetstream"));
        if options.tls.is_some() {
            broker.tls = Some(Vec::new());
            // Of its own, so that it is the same after a restart.
            broker.websocket = Some(Endpoint { host: "127.0.0.1".into(), port: Some(free_address().port()) });
        }
        let init = InitOptions { broker, pool: POOL.parse().unwrap() };
        let deployment = tokio::task::spawn_blocking(move || init::init(&dir, &init).unwrap()).await.unwrap();
        let binary = find_binary(&Places::from_env()).await.unwrap();
        let broker = Server::start(Start::new(binary, deployment.layout.server_config(), folder.path().join("broker"))).await.unwrap();
        let admin_key = deployment.admin_key.as_ref().unwrap().to_string();
        let gateway_addresses: Vec<SocketAddr> = (0..options.gateways).map(|_| free_address()).collect();
        let rest = rest_at(&deployment, gateway_addresses[0], &admin_key);
        let mut stack = Self {
            broker,
            gateways: Vec::new(),
            dispatchers: Vec::new(),
            agents: Vec::new(),
            rest,
            gateway_addresses,
            admin_key,
            deployment,
            folder,
            options: options.clone(),
        };
        for number in 0..options.gateways {
            let gateway = stack.gateway(number);
            stack.gateways.push(gateway);
            stack.gateway_ready(number).await;
        }
        for number in 0..options.dispatchers {
            let dispatcher = stack.dispatcher(number);
            stack.dispatchers.push(dispatcher);
        }
        for number in 0..options.agents {
            let agent = stack.agent(number, &stack.broker.url(), &[]);
            stack.agents.push(agent);
        }
        stack.accepting(POOL, options.agents).await;
        stack
    }

    /// A stack of one gateway, one dispatcher and two agents.
    pub async fn usual() -> Self {
        Self::start(StackOptions::default()).await
    }

    /// The folder of everything, with the logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The deployment's files.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// A caller of one of the gateways with the admin key.
    pub fn rest_of(&self, gateway: usize) -> Rest {
        rest_at(&self.deployment, self.gateway_addresses[gateway], &self.admin_key)
    }

    /// Where a gateway listens.
    pub fn gateway_address(&self, gateway: usize) -> SocketAddr {
        self.gateway_addresses[gateway]
    }

    /// Starts a gateway on its own address; for a start after a kill, too.
    pub fn gateway(&self, number: usize) -> Process {
        let layout = &self.deployment.layout;
        let mut command = Command::new(binaries::path("muster-gateway"));
        command
            .env("MUSTER_GATEWAY_LISTEN", self.gateway_addresses[number].to_string())
            .env("MUSTER_NATS_URL", self.broker.url())
            .env("MUSTER_GATEWAY_CREDENTIALS", layout.gateway_creds())
            .env("MUSTER_SIGNING_KEY", layout.signing_key(Account::Fleet))
            .env("MUSTER_DEPLOYMENT", layout.root());
        if let Some(life) = self.options.tls {
            command.env("MUSTER_CERTIFICATE_LIFETIME", format!("{}s", life.as_secs()));
        }
        self.process(&format!("gateway-{number}"), &mut command)
    }

    /// Waits until a gateway is ready.
    pub async fn gateway_ready(&self, number: usize) {
        let rest = self.rest_of(number);
        eventually("a gateway that is ready", READY, || async { rest.is_ready().await.then_some(()) }).await;
    }

    /// Starts a dispatcher.
    pub fn dispatcher(&self, number: usize) -> Process {
        let mut command = Command::new(binaries::path("muster-dispatcher"));
        command
            .env("MUSTER_DISPATCHER_LISTEN", "127.0.0.1:0")
            .env("MUSTER_NATS_URL", self.broker.url())
            .env("MUSTER_DEPLOYMENT", self.deployment.layout.root())
            .env("MUSTER_DISPATCHER_DATA_DIR", self.folder.path().join(format!("dispatcher-{number}")));
        for (key, value) in &self.options.dispatcher_settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        self.process(&format!("dispatcher-{number}"), &mut command)
    }

    /// Starts agent `number` of the pool `default`, which reaches the broker at `nats`; for a start after a kill, too.
    pub fn agent(&self, number: usize, nats: &str, env: &[(&str, &str)]) -> Process {
        let token = self.deployment.join_token.as_ref().unwrap();
        self.agent_of(&format!("agent-{number}"), token, nats, env)
    }

    /// Starts an agent with a name and a join token.
    pub fn agent_of(&self, name: &str, token: &str, nats: &str, env: &[(&str, &str)]) -> Process {
        let mut command = Command::new(binaries::path("muster-agent"));
        command
            .env("AGENT_API_URL", url_of(&self.deployment, self.gateway_addresses[0]))
            .env("AGENT_CA_FILE", if self.deployment.tls { self.deployment.layout.ca() } else { PathBuf::new() })
            .env("AGENT_JOIN_TOKEN", token)
            .env("AGENT_NAME", name)
            .env("NATS_URL", nats)
            .env("STATE_DIR", self.state_of(name))
            .env("ADMIN_PORT", "0")
            .env("ALLOW_PRIVATE_NETWORK", "true")
            .env("HEARTBEAT_INTERVAL", "2")
            .env("MAX_CONCURRENT_JOBS", self.options.slots.to_string())
            .envs(self.options.agent_env.iter().map(|(key, value)| (key, value)))
            .envs(env.iter().copied());
        self.process(name, &mut command)
    }

    /// Where an agent keeps its state.
    pub fn state_of(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn process(&self, name: &str, command: &mut Command) -> Process {
        command.env("MUSTER_DIE_WITH_PARENT", std::process::id().to_string());
        Process::start(name, self.folder(), command)
    }

    /// Waits until so many agents of a pool accept jobs.
    pub async fn accepting(&self, pool: &str, agents: usize) {
        let what = format!("{agents} agents of {pool} accept jobs");
        eventually(&what, READY, || async {
            let answer = self.rest.try_send(self.rest.request(reqwest::Method::GET, &format!("/pools/{pool}/health"))).await?;
            (answer.data()["agents"]["accepting"].as_u64()? >= agents as u64).then_some(())
        })
        .await;
    }

    /// Makes a pool with agents of its own, which get the next places in `agents`.
    pub async fn pool(&mut self, name: &str, agents: usize) {
        let put = self.rest.put(&format!("/pools/{name}"), &json!({})).await;
        assert!(put.status.is_success(), "{put:?}");
        let token = self.rest.post("/join-tokens", &json!({"pool": name, "uses": agents.max(1)})).await;
        let token = token.text("/data/token").to_string();
        for number in 0..agents {
            let agent = self.agent_of(&format!("{name}-{number}"), &token, &self.broker.url(), &[]);
            self.agents.push(agent);
        }
        self.accepting(name, agents).await;
    }

    /// The id of the agent with a name.
    pub async fn agent_id(&self, name: &str) -> String {
        let answer = self.rest.get("/agents?limit=500").await;
        let agents = answer.body["data"].as_array().unwrap();
        agents.iter().find(|agent| agent["name"] == name).unwrap_or_else(|| panic!("no agent {name} in {agents:?}"))["id"]
            .as_str()
            .unwrap()
            .into()
    }

    /// The place in `agents` of the agent that runs a job.
    pub async fn runner_of(&self, job: &str) -> usize {
        let id = eventually("an agent that runs the job", READY, || async {
            let answer = self.rest.get(&format!("/jobs/{job}")).await;
            (answer.text("/data/state") == "running").then(|| answer.text("/data/agent_id").to_string())
        })
        .await;
        for number in 0..self.agents.len() {
            if self.agent_id(&format!("agent-{number}")).await == id {
                return number;
            }
        }
        panic!("{id} is no agent of this stack")
    }

    /// Kills an agent.
    pub fn kill_agent(&mut self, number: usize) {
        self.agents[number].kill9();
    }

    /// Starts an agent again that was killed.
    pub fn revive_agent(&mut self, number: usize) {
        self.agents[number] = self.agent(number, &self.broker.url(), &[]);
    }

    /// Kills the broker with KILL; what it has not flushed is lost to it.
    pub fn kill_broker(&self) {
        self.broker.signal(Signal::SIGKILL).unwrap();
    }

    /// The path of credentials for a service that may publish to these pools, and whose signature counts there.
    ///
    /// # Panics
    /// When the gateway does not take its key.
    pub async fn service_creds(&self, pools: &[&str]) -> PathBuf {
        let pools: Vec<PoolName> = pools.iter().map(|pool| pool.parse().unwrap()).collect();
        let seed = std::fs::read_to_string(self.deployment.layout.signing_key(Account::Core)).unwrap();
        let issued = creds::issue_service(seed.trim(), &self.deployment.core.account, "test", &pools).unwrap();
        let path = self.folder().join(format!("service-{}.creds", pools.iter().map(PoolName::as_str).collect::<Vec<_>>().join("-")));
        std::fs::write(&path, issued.to_text()).unwrap();
        let public_key = signer_of(&path).public_key().to_owned();
        let answer = self.rest.post("/signers", &json!({"name": "test", "public_key": public_key, "pools": pools})).await;
        assert!(answer.status.is_success(), "{answer:?}");
        path
    }

    /// A client of the library with a service's credentials for the pool `default`.
    pub async fn service(&self) -> muster_client::Client {
        muster_client::Client::connect_with(&self.broker.url(), self.service_creds(&[POOL]).await, &self.tls()).await.unwrap()
    }

    /// A plain NATS connection with the credentials of the gateway: it may do what the gateway may.
    pub async fn core(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::with_credentials_file(self.deployment.layout.gateway_creds()).await.unwrap();
        let muster_client::Tls { authority, certificate } = self.tls();
        let options = authority.into_iter().fold(options, async_nats::ConnectOptions::add_root_certificates);
        let options = certificate.into_iter().fold(options, |options, (certificate, key)| options.add_client_certificate(certificate, key));
        options.custom_inbox_prefix("_GW.test").connect(self.broker.url()).await.unwrap()
    }

    /// What it takes to connect: where TLS is on, any certificate of the deployment's.
    fn tls(&self) -> muster_client::Tls {
        let layout = &self.deployment.layout;
        let own = (layout.tls_certificate(TlsPart::Dispatcher), layout.tls_key(TlsPart::Dispatcher));
        let on = self.deployment.tls;
        muster_client::Tls { authority: on.then(|| layout.ca()), certificate: on.then_some(own) }
    }
}

/// The key of a credentials file, which signs a service's jobs.
///
/// # Panics
/// When the file holds none.
pub fn signer_of(creds: &Path) -> Signer {
    std::fs::read_to_string(creds).unwrap().lines().find_map(Signer::from_seed).unwrap()
}

/// Headers with the signature of a job.
pub fn signed(signer: &Signer, subject: &str, body: &[u8]) -> async_nats::HeaderMap {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(SIGNATURE, signer.sign(Signed::Job { fresh: false }, subject, body, Timestamp::now()).to_string());
    headers
}

fn url_of(deployment: &Deployment, gateway: SocketAddr) -> String {
    format!("{}://{gateway}", if deployment.tls { "https" } else { "http" })
}

fn rest_at(deployment: &Deployment, gateway: SocketAddr, key: &str) -> Rest {
    let ca = deployment.tls.then(|| std::fs::read(deployment.layout.ca()).unwrap());
    Rest::knowing(ca.as_deref(), &url_of(deployment, gateway), key)
}

/// An address on loopback whose port was free a moment ago.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
