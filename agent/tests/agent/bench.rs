//! A broker with a pool, clients in each role, and agents in this process or as processes of their own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectOptions, HeaderMap, Message, Subscriber};
use futures_util::StreamExt as _;
use muster_agent::{Config, Listeners, identity::Stored};
use muster_broker_config::{
    creds,
    init::{self, Broker, Deployment, InitOptions},
    layout::Account,
    provision,
    server::{Places, Server, Start, find_binary},
};
use muster_runtime::{
    config::{Overrides, Sources, load},
    shutdown::Shutdown,
    tasks::{Group, Running},
};
use muster_schemas::{
    control::{Order, What},
    event::Event,
    lane::{Lane, Priority},
    names::{AgentId, JobId, PoolName},
    records::{PoolDefaults, keys},
    result::JobResult,
    standing::Standing,
    subjects::{self, About, broker, js},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take that should happen; a test that waits this long has failed.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await; // poll
    }
}

/// A running broker with the pool `p`, whose lanes are probe, shell and http; dropping it ends everything.
pub(crate) struct Bench {
    pub(crate) deployment: Deployment,
    pub(crate) server: Server,
    pub(crate) dir: TempDir,
    /// In `CORE`, with what a gateway may do.
    pub(crate) gateway: Client,
    pub(crate) pool: PoolName,
    agents: AtomicU32,
    group: Group,
}

/// An agent in this process.
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) state_dir: PathBuf,
    /// Where its local endpoints are.
    pub(crate) ops: String,
    pub(crate) shutdown: Shutdown,
    running: Option<Running<anyhow::Result<()>>>,
}

/// An agent in a process of its own, killed when dropped.
pub(crate) struct Process {
    pub(crate) id: AgentId,
    pub(crate) state_dir: PathBuf,
    pub(crate) child: tokio::process::Child,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        if let Some(level) = muster_runtime::env::var("TEST_LOG").unwrap() {
            muster_runtime::logs::init(&level.parse().unwrap(), muster_runtime::logs::LogFormat::Text);
        }
        let dir = tempfile::tempdir().unwrap();
        let pool: PoolName = "p".parse().unwrap();
        let options = InitOptions { broker: Broker::local(None, dir.path().join("store")), pool: pool.clone() };
        let deployment = init::init(&dir.path().join("deployment"), &options).unwrap();
        let binary = find_binary(&Places::from_env()).await.unwrap();
        let server = Server::start(Start::new(binary, deployment.layout.server_config(), dir.path().join("run"))).await.unwrap();
        let text = std::fs::read_to_string(deployment.layout.gateway_creds()).unwrap();
        let gateway = connect(&server.url(), &text, &broker::gateway_inbox("g1")).await;
        provision::provision_fixed(&gateway).await.unwrap();
        let mut record = provision::default_pool(pool.clone(), Timestamp::now());
        record.executors = ["probe", "shell", "http"].map(|name| name.parse().unwrap()).into();
        provision::ensure_pool(&gateway, &record).await.unwrap();
        Self { deployment, server, dir, gateway, pool, agents: AtomicU32::new(0), group: Group::new("agent") }
    }

    /// Writes an identity as if the agent had registered, and returns its id and state directory.
    pub(crate) async fn enrolled(&self, lifetime: Duration) -> (AgentId, PathBuf) {
        let (id, key) = (AgentId::generate(), KeyPair::new_user());
        let seed = std::fs::read_to_string(self.deployment.layout.signing_key(Account::Fleet)).unwrap();
        let jwt = creds::mint_agent_jwt(&seed, &self.deployment.fleet.account, &self.pool, &id, &key.public_key(), lifetime).unwrap();
        let state_dir = self.dir.path().join(format!("agent-{}", self.agents.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&state_dir).unwrap();
        let stored = Stored {
            agent_id: id.clone(),
            name: None,
            pool: self.pool.clone(),
            api_key: "mst_agent_aaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb".into(),
            seed: key.seed().unwrap(),
            jwt,
            issued_at: Timestamp::now(),
            nats_urls: vec![self.server.url()],
            heartbeat_interval_s: None,
            labels: BTreeMap::new(),
            joined_with: None,
            ephemeral: false,
        };
        stored.save(&state_dir).unwrap();
        (id, state_dir)
    }

    /// An agent with these slots, ready to pull.
    pub(crate) async fn agent(&self, slots: u32) -> Agent {
        self.agent_with(slots, &[]).await
    }

    pub(crate) async fn agent_with(&self, slots: u32, settings: &[(&str, &str)]) -> Agent {
        let (id, state_dir) = self.enrolled(Duration::from_secs(3600)).await;
        let agent = self.agent_in(id, state_dir, slots, settings).await;
        agent.ready().await;
        agent
    }

    pub(crate) async fn agent_in(&self, id: AgentId, state_dir: PathBuf, slots: u32, settings: &[(&str, &str)]) -> Agent {
        let mut flags = Overrides::new()
            .set("test", "state_dir", Some(state_dir.display()))
            .set("test", "name", Some("agent-1"))
            .set("test", "max_concurrent_jobs", Some(slots))
            .set("test", "admin_port", Some(0))
            // Tests of signatures say otherwise.
            .set("test", "accept_unsigned", Some(true))
            .set("test", "executors", Some("shell,http"));
        for (key, value) in settings {
            flags = flags.set("test", key, Some(value));
        }
        let config = load::<Config>(&Sources { flags, ..Sources::default() }).unwrap().settings;
        let listeners = Listeners::bind(&config).await.unwrap();
        let ops = listeners.ops.local_addr().unwrap().to_string();
        let shutdown = Shutdown::new();
        let running = self.group.spawn(muster_agent::run(config, listeners, shutdown.clone()));
        Agent { id, state_dir, ops, shutdown, running: Some(running) }
    }

    /// The real binary.
    pub(crate) async fn process(&self, slots: u32) -> Process {
        let (id, state_dir) = self.enrolled(Duration::from_secs(3600)).await;
        self.process_in(id, &state_dir, slots).await
    }

    pub(crate) async fn process_in(&self, id: AgentId, state_dir: &Path, slots: u32) -> Process {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster-agent"));
        command.args(["--name", "agent-1", "--admin-port", "0", "--executors", "shell", "--log-format", "text", "--accept-unsigned"]);
        command.arg("--state-dir").arg(state_dir).args(["--max-concurrent-jobs", &slots.to_string()]);
        command.env_clear().stdin(Stdio::null()).stderr(std::fs::File::create(state_dir.join("log")).unwrap()).kill_on_drop(true);
        let process = Process { id, state_dir: state_dir.to_owned(), child: command.spawn().unwrap() };
        self.heartbeat_of(&process.id, |_| true).await;
        process
    }

    /// Waits for a heartbeat of an agent that meets a condition, and returns it.
    pub(crate) async fn heartbeat_of(
        &self,
        id: &AgentId,
        wanted: impl Fn(&muster_schemas::heartbeat::Heartbeat) -> bool,
    ) -> muster_schemas::heartbeat::Heartbeat {
        let subject = subjects::heartbeat(&self.pool, id);
        let end = Instant::now() + SOON;
        loop {
            if let Some(message) = self.last(topology::HEARTBEATS, &subject).await {
                let beat = wire::decode(&message.payload).unwrap();
                if wanted(&beat) {
                    return beat;
                }
            }
            assert!(Instant::now() < end, "no heartbeat of {id} in time");
            tokio::time::sleep(Duration::from_millis(5)).await; // poll
        }
    }

    pub(crate) fn id(&self) -> JobId {
        JobId::generate(&self.pool)
    }

    pub(crate) fn subject(&self, priority: Priority, executor: &str, id: &JobId) -> String {
        subjects::job(&self.pool, &Lane { priority, executor: executor.parse().unwrap() }, id)
    }

    /// Queues a job of normal priority.
    pub(crate) async fn submit(&self, body: Value) -> JobId {
        let id = self.id();
        self.submit_as(&id, Priority::Normal, body).await;
        id
    }

    pub(crate) async fn submit_as(&self, id: &JobId, priority: Priority, body: Value) {
        let executor = body["type"].as_str().unwrap().split('.').next().unwrap().to_owned();
        self.publish(self.subject(priority, &executor, id), None, body.to_string().into_bytes()).await;
    }

    pub(crate) async fn publish(&self, subject: String, headers: Option<HeaderMap>, body: Vec<u8>) {
        let ack = self.gateway.request_with_headers(subject, headers.unwrap_or_default(), body.into()).await.unwrap();
        let ack: Value = serde_json::from_slice(&ack.payload).unwrap();
        assert!(ack.get("error").is_none(), "{ack}");
    }

    /// Does what is done once a command is stored: makes sure of the agent's consumer, and tells it.
    pub(crate) async fn reach(&self, agent: &AgentId) {
        provision::ensure_commands(&self.gateway, &self.pool, agent).await.unwrap();
        self.order(agent).await;
    }

    /// Tells an agent that a command waits.
    pub(crate) async fn order(&self, agent: &AgentId) {
        let order = wire::encode(&Order { v: V, what: What::AskQueue });
        self.gateway.publish(subjects::control(agent), order.into()).await.unwrap();
        self.gateway.flush().await.unwrap();
    }

    /// The stored result of a job, once there is one.
    pub(crate) async fn result(&self, id: &JobId) -> JobResult {
        self.result_within(id, SOON).await
    }

    pub(crate) async fn result_within(&self, id: &JobId, limit: Duration) -> JobResult {
        let end = Instant::now() + limit;
        loop {
            if let Some(message) = self.last(topology::RESULTS, &About::Result.job(&self.pool, id)).await {
                return wire::decode(&message.payload).unwrap();
            }
            assert!(Instant::now() < end, "no result of {id} in time");
            tokio::time::sleep(Duration::from_millis(5)).await; // poll
        }
    }

    /// The last message under a subject.
    pub(crate) async fn last(&self, stream: &str, subject: &str) -> Option<Message> {
        let answer = self.gateway.request(js::direct_get(stream, subject), "".into()).await.ok()?;
        answer.status.is_none().then_some(answer)
    }

    /// All events that agents told of a job, oldest first.
    pub(crate) async fn events(&self, id: &JobId) -> Vec<Event> {
        let subject = About::Event.job(&self.pool, id);
        let (mut events, mut from) = (Vec::new(), 1_u64);
        loop {
            let request = json!({"next_by_subj": subject, "seq": from}).to_string();
            let answer = self.gateway.request(js::direct_get_by_request(topology::EVENTS), request.into()).await.unwrap();
            if answer.status.is_some() {
                return events;
            }
            let headers = answer.headers.as_ref().unwrap();
            // The broker's own copy of the queued job has the headers of the queue first, and those of this stream last.
            from = headers.get_last(muster_schemas::headers::SEQUENCE).unwrap().as_str().parse::<u64>().unwrap() + 1;
            let subjects = headers.get_all(muster_schemas::headers::REPUBLISHED_SUBJECT);
            if !muster_schemas::event::is_queued(subjects.map(|subject| subject.as_str())) {
                events.push(wire::decode(&answer.payload).unwrap());
            }
        }
    }

    pub(crate) async fn api(&self, subject: String, body: Value) -> Value {
        let answer = self.gateway.request(subject, body.to_string().into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// Jobs in the pool's queue, waiting or running.
    pub(crate) async fn queued(&self) -> u64 {
        let info = self.api(broker::StreamApi::Info.subject(&topology::jobs_stream(&self.pool)), json!({})).await;
        info["state"]["messages"].as_u64().unwrap()
    }

    /// Shortens the lease of a lane, so that a test need not wait for the real one.
    pub(crate) async fn lease(&self, priority: Priority, executor: &str, lease: Duration) {
        let stream = topology::jobs_stream(&self.pool);
        let lane = Lane { priority, executor: executor.parse().unwrap() };
        let mut consumer = serde_json::to_value(topology::lane_consumer(&self.pool, &lane, 1000)).unwrap();
        consumer["ack_wait"] = json!(u64::try_from(lease.as_nanos()).unwrap());
        let body = json!({"stream_name": stream, "config": consumer, "action": ""});
        let subject = broker::consumer_create(&stream, &lane.consumer(), consumer["filter_subject"].as_str().unwrap());
        let answer = self.api(subject, body).await;
        assert!(answer.get("error").is_none(), "{answer}");
    }

    /// Says what the dispatcher would say of an agent.
    pub(crate) async fn standing(&self, id: &AgentId, accepting: bool, priority: u8) {
        self.standing_among(id, accepting, priority, 1).await;
    }

    /// The same, with what the pool gives to jobs that say nothing themselves.
    pub(crate) async fn standing_with(&self, id: &AgentId, accepting: bool, priority: u8, defaults: Option<PoolDefaults>) {
        self.tell_standing(id, accepting, priority, 1, defaults).await;
    }

    /// The same, with how many agents of the pool accept.
    pub(crate) async fn standing_among(&self, id: &AgentId, accepting: bool, priority: u8, accepting_agents: u32) {
        self.tell_standing(id, accepting, priority, accepting_agents, None).await;
    }

    async fn tell_standing(&self, id: &AgentId, accepting: bool, priority: u8, accepting_agents: u32, defaults: Option<PoolDefaults>) {
        let now = Standing::first(Timestamp::now());
        let standing = Standing { rank: priority.into(), pull_priority: priority, accepting_agents, accepting, defaults, ..now };
        self.tell(id, &standing).await;
    }

    /// A connection with what a dispatcher may do.
    pub(crate) async fn dispatcher(&self) -> Client {
        let text = std::fs::read_to_string(self.deployment.layout.dispatcher_creds()).unwrap();
        connect(&self.server.url(), &text, &broker::dispatcher_inbox("d1")).await
    }

    /// Stores this standing of an agent, as the dispatcher does.
    pub(crate) async fn tell(&self, id: &AgentId, standing: &Standing) {
        let dispatcher = self.dispatcher().await;
        let subject = js::key(topology::STANDINGS, &keys::standing(&self.pool, id));
        dispatcher.request(subject, wire::encode(standing).into()).await.unwrap();
    }

    pub(crate) async fn done(&self) -> Subscriber {
        let subscriber = self.gateway.subscribe(About::Done.pool(&self.pool)).await.unwrap();
        // A round trip behind the subscription, so that it stands.
        self.queued().await;
        subscriber
    }

    /// A client with what an agent may do, and its inbox.
    pub(crate) async fn fake_agent(&self) -> (AgentId, Client) {
        let (id, state_dir) = self.enrolled(Duration::from_secs(3600)).await;
        let stored = Stored::load(&state_dir).unwrap().unwrap();
        let text = creds::Creds { jwt: stored.jwt, seed: stored.seed.into() }.to_text();
        let client = connect(&self.server.url(), &text, &subjects::agent_inbox(&id)).await;
        (id, client)
    }

    /// Takes one job from a lane, as an agent would.
    pub(crate) async fn take(&self, client: &Client, priority: Priority, executor: &str) -> Message {
        let lane = Lane { priority, executor: executor.parse().unwrap() };
        let inbox = client.new_inbox();
        let mut messages = client.subscribe(inbox.clone()).await.unwrap();
        let pull = json!({"batch": 1, "expires": 10_000_000_000_u64, "group": topology::PRIORITY_GROUP, "priority": 0}).to_string();
        let next = js::next(&topology::jobs_stream(&self.pool), &lane.consumer());
        client.publish_with_reply(next, inbox, pull.into()).await.unwrap();
        next_message(&mut messages).await
    }
}

pub(crate) async fn next_message(messages: &mut Subscriber) -> Message {
    tokio::time::timeout(SOON, messages.next()).await.expect("a message in time").expect("an open subscription")
}

impl Agent {
    /// Waits until it can take jobs.
    pub(crate) async fn ready(&self) {
        eventually("the agent is ready", async || self.get("/readyz").await.starts_with("HTTP/1.1 200")).await;
        // It asks one lane after the other: settled once two looks see the same.
        let mut before = 0.0;
        let pulls = async || {
            let now = self.figure("muster_agent_pulls_total").await;
            now > 0.0 && std::mem::replace(&mut before, now) == now
        };
        eventually("the agent pulls", pulls).await;
    }

    /// One of its figures.
    pub(crate) async fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(name) && line[name.len()..].starts_with([' ', '{']));
        line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut stream) = tokio::net::TcpStream::connect(&self.ops).await else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut text = String::new();
        if stream.write_all(request.as_bytes()).await.is_ok() {
            let _ = stream.read_to_string(&mut text).await;
        }
        text
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(mut self) -> anyhow::Result<()> {
        self.running.take().unwrap().await.unwrap()
    }

    /// Ends it in good order.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.trigger("the test");
        tokio::time::timeout(SOON, self.running.take().unwrap()).await.expect("it ends in time").unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shutdown.trigger("the test is over");
    }
}

impl Process {
    /// As `kill -9`.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }
}

pub(crate) async fn connect(url: &str, creds: &str, inbox: &str) -> Client {
    ConnectOptions::with_credentials(creds).unwrap().custom_inbox_prefix(inbox).connect(url).await.unwrap()
}
