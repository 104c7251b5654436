//! A broker, agents that only send heartbeats and results, and dispatchers that can be killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectOptions, HeaderMap, jetstream};
use muster_broker_config::{
    creds::{self, Creds},
    init::{self, Broker, Deployment, InitOptions},
    layout::Account,
    provision,
    server::{Places, Server, Start, find_binary},
};
use muster_dispatcher::{Config, Listeners, run};
use muster_runtime::{
    config::{Overrides, Sources, load},
    shutdown::Shutdown,
    tasks::{Group, Running},
};
use muster_schemas::{
    code::Code,
    headers::SIGNATURE,
    heartbeat::Heartbeat,
    names::{AgentId, JobId, PoolName},
    records::{AgentRecord, keys},
    result::{ErrorInfo, JobResult, Outcome},
    signature::{Signed, Signer},
    standing::Standing,
    subjects::{self, About, broker::gateway_inbox},
    time::Timestamp,
    topology::{AGENTS, STANDINGS},
    wire,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The pool that every deployment of a test has.
pub(crate) const POOL: &str = "default";
/// For what should take milliseconds, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A broker with its deployment, and a gateway's connection to it.
pub(crate) struct Stack {
    pub(crate) server: Server,
    pub(crate) deployment: Deployment,
    pub(crate) gateway: Client,
    dir: TempDir,
    /// Public keys of agents, for their records.
    public: Mutex<BTreeMap<AgentId, String>>,
}

impl Stack {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deployment");
        let options = InitOptions { broker: Broker::local(None, dir.path().join("store")), pool: POOL.parse().unwrap() };
        let deployment = tokio::task::spawn_blocking(move || init::init(&root, &options)).await.unwrap().unwrap();
        let binary = find_binary(&Places::from_env()).await.unwrap();
        let server = Server::start(Start::new(binary, deployment.layout.server_config(), dir.path().join("run"))).await.unwrap();
        let options = ConnectOptions::with_credentials_file(deployment.layout.gateway_creds()).await.unwrap();
        let gateway = options.custom_inbox_prefix(gateway_inbox("test")).connect(server.url()).await.unwrap();
        provision::provision(&gateway, &deployment.bootstrap).await.unwrap();
        Self { server, deployment, gateway, dir, public: Mutex::default() }
    }

    /// Where the broker keeps its streams.
    pub(crate) fn store(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    pub(crate) async fn bucket(&self, name: &str) -> jetstream::kv::Store {
        jetstream::new(self.gateway.clone()).get_key_value(name).await.unwrap()
    }

    pub(crate) async fn dispatcher(&self) -> Dispatcher {
        self.dispatcher_at(&self.server.url()).await
    }

    /// A dispatcher that finds the broker there, ready.
    pub(crate) async fn dispatcher_at(&self, url: &str) -> Dispatcher {
        let dispatcher = Dispatcher::start(self.deployment.layout.root().display().to_string(), url);
        eventually("the dispatcher is ready", SOON, async || {
            dispatcher.get("/readyz").await.filter(|text| text.starts_with("HTTP/1.1 200"))
        })
        .await;
        dispatcher
    }

    /// Writes an agent's record, as the gateway does.
    pub(crate) async fn record(&self, pool: &str, id: &AgentId, change: impl FnOnce(&mut AgentRecord)) {
        let mut record = AgentRecord::new(id.clone(), "agent".parse().unwrap(), pool.parse().unwrap(), Timestamp::now());
        record.public_key = self.public.lock().unwrap().get(id).cloned();
        change(&mut record);
        self.bucket(AGENTS).await.put(keys::agent(id), wire::encode(&record).into()).await.unwrap();
    }

    /// An agent with a record and a connection of its own.
    pub(crate) async fn agent(&self, pool: &str) -> Agent {
        let agent = Agent::connect(self, pool, AgentId::generate()).await;
        self.record(pool, &agent.id, |_| {}).await;
        agent
    }

    pub(crate) async fn entry(&self, pool: &str, id: &AgentId) -> Option<(Standing, u64)> {
        let entry = self.bucket(STANDINGS).await.entry(keys::standing(&pool.parse().unwrap(), id)).await.unwrap()?;
        (entry.operation == jetstream::kv::Operation::Put).then(|| (wire::decode(&entry.value).unwrap(), entry.revision))
    }

    /// Waits until the standing of an agent is as wanted.
    pub(crate) async fn standing(&self, agent: &Agent, what: &str, wanted: impl Fn(&Standing) -> bool) -> Standing {
        self.standing_within(agent, what, SOON, wanted).await
    }

    pub(crate) async fn standing_within(
        &self,
        agent: &Agent,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Standing) -> bool,
    ) -> Standing {
        let mut last = None;
        let started = Instant::now();
        while started.elapsed() < deadline {
            last = self.entry(agent.pool.as_str(), &agent.id).await.map(|(standing, _)| standing);
            if let Some(standing) = last.as_ref().filter(|standing| wanted(standing)) {
                return standing.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await; // poll
        }
        panic!("not within {deadline:?}: {what}; the standing is {last:?}");
    }
}

/// An agent that runs nothing, and says what it is told to.
pub(crate) struct Agent {
    pub(crate) pool: PoolName,
    pub(crate) id: AgentId,
    pub(crate) public_key: String,
    /// Its credentials, as in a file.
    pub(crate) creds: String,
    pub(crate) client: Client,
    pub(crate) beat: Heartbeat,
    pub(crate) signer: Signer,
}

impl Agent {
    pub(crate) async fn connect(stack: &Stack, pool: &str, id: AgentId) -> Self {
        let pool: PoolName = pool.parse().unwrap();
        let seed = std::fs::read_to_string(stack.deployment.layout.signing_key(Account::Fleet)).unwrap();
        let pair = nkeys::KeyPair::new_user();
        let fleet = &stack.deployment.fleet.account;
        let jwt = creds::mint_agent_jwt(seed.trim(), fleet, &pool, &id, &pair.public_key(), creds::AGENT_JWT_LIFETIME).unwrap();
        let creds = Creds { jwt, seed: pair.seed().unwrap().into() };
        let options = ConnectOptions::with_credentials(&creds.to_text()).unwrap().custom_inbox_prefix(subjects::agent_inbox(&id));
        let client = options.connect(stack.server.url()).await.unwrap();
        let beat = Heartbeat::first("agent".parse().unwrap(), "first", Timestamp::now());
        let signer = Signer::from_seed(&pair.seed().unwrap()).unwrap();
        stack.public.lock().unwrap().insert(id.clone(), pair.public_key());
        Self { pool, id, public_key: pair.public_key(), creds: creds.to_text(), client, beat, signer }
    }

    /// Sends the next heartbeat, changed, and waits until the broker has stored it.
    pub(crate) async fn beats(&mut self, change: impl FnOnce(&mut Heartbeat)) {
        self.beat.seq += 1;
        let mut beat = self.beat.clone();
        change(&mut beat);
        self.says(subjects::heartbeat(&self.pool, &self.id), wire::encode(&beat)).await;
    }

    /// Publishes something, and waits until the broker has stored it. Nobody listens while a restarted broker has no stream for it yet.
    pub(crate) async fn says(&self, subject: String, body: Vec<u8>) {
        eventually("the broker stores it", SOON, async || self.client.request(subject.clone(), body.clone().into()).await.ok()).await;
    }

    /// Stores the result of a job that this agent has run, in its own pool.
    pub(crate) async fn finishes(&self, outcome: Outcome) {
        self.says_of(&self.id, outcome).await;
    }

    /// Stores a result that names some agent, in this agent's pool, signed by this one.
    pub(crate) async fn says_of(&self, id: &AgentId, outcome: Outcome) {
        self.stores(&JobId::generate(&self.pool), &ran_by(id, outcome)).await;
    }

    /// Stores a result in this agent's pool, signed.
    pub(crate) async fn stores(&self, job: &JobId, result: &JobResult) {
        let body = wire::encode(result);
        let signature = self.signs(job, &body, Timestamp::now());
        eventually("the broker stores it", SOON, async || self.publishes(job, &body, Some(&signature)).await).await;
    }

    /// The signature of a result of this agent's pool.
    pub(crate) fn signs(&self, job: &JobId, body: &[u8], at: Timestamp) -> String {
        self.signer.sign(Signed::Result, &About::Result.job(&self.pool, job), body, at).to_string()
    }

    /// Publishes a result in this agent's pool. Answers what the broker says, if it does.
    pub(crate) async fn publishes(&self, job: &JobId, body: &[u8], signature: Option<&str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        signature.into_iter().for_each(|signature| headers.insert(SIGNATURE, signature));
        let subject = About::Result.job(&self.pool, job);
        let answer = self.client.request_with_headers(subject, headers, body.to_vec().into()).await.ok()?;
        Some(String::from_utf8_lossy(&answer.payload).into_owned())
    }
}

/// A result of a job that this agent has run, as it says.
pub(crate) fn ran_by(id: &AgentId, outcome: Outcome) -> JobResult {
    let now = Timestamp::now();
    let mut result = JobResult::never_ran(outcome, ErrorInfo::new(Code::Internal, "none"), now, now);
    (result.agent_id, result.started_at, result.attempt) = (Some(id.clone()), Some(now), 1);
    result
}

/// A dispatcher on a runtime of its own, so that it can vanish between one instruction and the next.
pub(crate) struct Dispatcher {
    runtime: Option<tokio::runtime::Runtime>,
    shutdown: Shutdown,
    address: SocketAddr,
    task: Running<anyhow::Result<()>>,
}

impl Dispatcher {
    /// Starts one; it may not be ready yet.
    pub(crate) fn start(deployment: String, url: &str) -> Self {
        Self::start_with(deployment, url, &[])
    }

    /// As [`Dispatcher::start`], with these settings besides.
    pub(crate) fn start_with(deployment: String, url: &str, settings: &[(&'static str, String)]) -> Self {
        let flags = Overrides::new().set("--set", "deployment", Some(deployment)).set("--set", "nats_urls", Some(url)).set(
            "--set",
            "tick",
            Some("100ms"),
        );
        let flags = settings.iter().fold(flags, |flags, (key, value)| flags.set("--set", key, Some(value)));
        let config = load::<Config>(&Sources { flags, ..Sources::default() }).unwrap().settings;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let task = {
            let _inside = runtime.enter();
            let until = shutdown.clone();
            Group::new("dispatcher")
                .spawn(async move { run(config, Listeners { ops: TcpListener::from_std(listener).unwrap() }, until).await })
        };
        Self { runtime: Some(runtime), shutdown, address, task }
    }

    /// Ends it as kill -9 would: nothing is given back, the connection is cut.
    pub(crate) fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Ends it in good order.
    pub(crate) async fn stop(mut self) {
        self.shutdown.trigger("test");
        tokio::time::timeout(SOON, &mut self.task).await.expect("it ends").unwrap().unwrap();
    }

    /// The whole answer to a GET, if there is one.
    pub(crate) async fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    /// A figure of `/metrics`, zero when it is not there.
    pub(crate) async fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0.0)
    }

    pub(crate) async fn is_active(&self) -> bool {
        self.figure("muster_dispatcher_active").await == 1.0
    }

    pub(crate) async fn becomes_active(&self) {
        eventually("the dispatcher is active", SOON, async || self.is_active().await.then_some(())).await;
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A way to the broker that can be cut.
pub(crate) struct Proxy {
    pub(crate) url: String,
    cut: tokio::sync::watch::Sender<bool>,
    severed: tokio::sync::watch::Sender<()>,
}

impl Proxy {
    pub(crate) async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let (cut, watch) = tokio::sync::watch::channel(false);
        let (severed, sever) = tokio::sync::watch::channel(());
        let group = Group::new("proxy");
        let connections = group.clone();
        group.spawn(async move {
            while let Ok((mut inward, _)) = listener.accept().await {
                let (mut watch, mut sever) = (watch.clone(), sever.clone());
                sever.mark_unchanged();
                connections.spawn(async move {
                    // A way that is cut swallows everything and closes nothing.
                    until(&mut watch, false).await;
                    let mut outward = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                    let mut copy = std::pin::pin!(tokio::io::copy_bidirectional(&mut inward, &mut outward));
                    loop {
                        tokio::select! {
                            _ = &mut copy => return,
                            _ = sever.changed() => return,
                            () = until(&mut watch, true) => until(&mut watch, false).await,
                        }
                    }
                });
            }
        });
        Self { url, cut, severed }
    }

    /// Closes the connections there are.
    pub(crate) fn sever(&self) {
        self.severed.send_replace(());
    }

    /// Holds everything back, or lets it through again.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

async fn until(watch: &mut tokio::sync::watch::Receiver<bool>, wanted: bool) {
    let _ = watch.wait_for(|cut| *cut == wanted).await;
}

/// Waits until `predicate` gives a value.
pub(crate) async fn eventually<T>(what: &str, deadline: Duration, mut predicate: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = predicate().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
}
