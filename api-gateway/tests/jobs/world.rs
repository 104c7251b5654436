//! A deployment with its broker and gateways, and clients in each role.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectOptions};
use muster_broker_config::{
    creds::{self, AGENT_JWT_LIFETIME, Creds},
    init::{self, Broker, Deployment, InitOptions},
    layout::Account,
    provision,
    server::{Places, Server, Start, find_binary},
};
use muster_gateway::{Config, Listeners};
use muster_runtime::{
    config::{Overrides, Sources, load},
    shutdown::Shutdown,
    tasks::{Group, Running},
};
use muster_schemas::{
    names::{AgentId, PoolName},
    records::{AgentRecord, keys},
    signature::Signer,
    subjects::{self, broker, js},
    time::Timestamp,
    topology, wire,
};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::agent::Agent;

/// How long anything may take that should happen; a test that waits this long has failed.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

/// Waits until `holds` answers something.
pub(crate) async fn eventually<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = holds().await {
            return found;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
}

/// A running deployment with the pools `default` and `other`; dropping it kills the server and removes the files.
pub(crate) struct World {
    pub(crate) deployment: Deployment,
    pub(crate) server: Server,
    pub(crate) gateways: Vec<Gateway>,
    _dir: TempDir,
}

/// A gateway of this process.
pub(crate) struct Gateway {
    pub(crate) rest: Rest,
    shutdown: Shutdown,
    running: Running<anyhow::Result<()>>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.trigger("the test ends");
    }
}

impl Gateway {
    /// Stops it, and waits until it has ended.
    pub(crate) async fn stop(mut self) {
        self.shutdown.trigger("stopped by the test");
        tokio::time::timeout(SOON, &mut self.running).await.unwrap().unwrap().unwrap();
    }
}

impl World {
    /// With one gateway.
    pub(crate) async fn start() -> Self {
        Self::with_gateways(1).await
    }

    pub(crate) async fn with_gateways(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = InitOptions { broker: Broker::local(None, dir.path().join("store")), pool: pool("default") };
        let deployment = init::init(&dir.path().join("deployment"), &options).unwrap();
        let binary = find_binary(&Places::from_env()).await.unwrap();
        let server = Server::start(Start::new(binary, deployment.layout.server_config(), dir.path().join("run"))).await.unwrap();
        let mut world = Self { deployment, server, gateways: Vec::new(), _dir: dir };
        for _ in 0..count {
            world.add_gateway().await;
        }
        let core = world.core().await;
        provision::ensure_pool(&core, &provision::default_pool(pool("other"), Timestamp::now())).await.unwrap();
        world
    }

    pub(crate) async fn add_gateway(&mut self) {
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", http.local_addr().unwrap());
        let flags = Overrides::new()
            .set("--deployment", "deployment", Some(self.deployment.layout.root().display()))
            .set("--nats-url", "nats_urls", Some(self.server.url()))
            .set("--bcrypt-cost", "bcrypt_cost", Some(4));
        let config = load::<Config>(&Sources { flags, ..Sources::default() }).unwrap().settings;
        let shutdown = Shutdown::new();
        let running = Group::new("gateway").spawn(muster_gateway::run(config, Listeners { http }, shutdown.clone()));
        let key = self.deployment.admin_key.as_ref().unwrap().to_string();
        // Not on the way to a gateway, but a client cannot be made without. An error says that another test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let rest = Rest { url, key, http: reqwest::Client::new() };
        eventually("the gateway serves", async || rest.http.get(format!("{}/healthz", rest.url)).send().await.ok()).await;
        self.gateways.push(Gateway { rest, shutdown, running });
    }

    /// The first gateway.
    pub(crate) fn rest(&self) -> &Rest {
        &self.gateways[0].rest
    }

    /// A connection with the gateway's own credentials, to look at what is stored.
    pub(crate) async fn core(&self) -> Client {
        let text = std::fs::read_to_string(self.deployment.layout.gateway_creds()).unwrap();
        self.connect(&text, &broker::gateway_inbox("test")).await
    }

    /// A connection with the dispatcher's credentials, to say what only it may say.
    pub(crate) async fn dispatcher(&self) -> Client {
        let text = std::fs::read_to_string(self.deployment.layout.dispatcher_creds()).unwrap();
        self.connect(&text, &broker::dispatcher_inbox("test")).await
    }

    /// A connection with the system account's credentials, to ask the broker about itself.
    pub(crate) async fn system(&self) -> Client {
        let text = std::fs::read_to_string(self.deployment.layout.system_creds()).unwrap();
        self.connect(&text, "_INBOX").await
    }

    /// A service of these pools.
    pub(crate) async fn service(&self, pools: &[&str]) -> Client {
        let pools: Vec<_> = pools.iter().map(|name| pool(name)).collect();
        let creds = creds::issue_service(&self.seed(Account::Core), &self.deployment.core.account, "svc", &pools).unwrap();
        self.connect(&creds.to_text(), "_INBOX").await
    }

    /// An agent of this pool.
    pub(crate) async fn agent(&self, name: &str) -> Agent {
        let (id, pool) = (AgentId::generate(), pool(name));
        let user = nkeys::KeyPair::new_user();
        let (seed, account) = (self.seed(Account::Fleet), &self.deployment.fleet.account);
        let jwt = creds::mint_agent_jwt(&seed, account, &pool, &id, &user.public_key(), AGENT_JWT_LIFETIME).unwrap();
        let creds = Creds { jwt, seed: user.seed().unwrap().into() };
        let signer = Arc::new(Signer::from_seed(&user.seed().unwrap()).unwrap());
        Agent { client: self.connect(&creds.to_text(), &subjects::agent_inbox(&id)).await, id, pool, signer, identity: Arc::new(user) }
    }

    /// Stores the record of an agent, as a registration does.
    pub(crate) async fn enlist(&self, agent: &Agent, name: &str, change: impl FnOnce(&mut AgentRecord)) {
        let mut record = AgentRecord::new(agent.id.clone(), name.parse().unwrap(), agent.pool.clone(), Timestamp::now());
        record.public_key = Some(agent.signer.public_key().into());
        change(&mut record);
        let key = js::key(topology::AGENTS, &keys::agent(&agent.id));
        self.core().await.request(key, wire::encode(&record).into()).await.unwrap();
    }

    fn seed(&self, account: Account) -> String {
        std::fs::read_to_string(self.deployment.layout.signing_key(account)).unwrap()
    }

    async fn connect(&self, creds: &str, inbox: &str) -> Client {
        let options = ConnectOptions::with_credentials(creds).unwrap().custom_inbox_prefix(inbox).retry_on_initial_connect();
        options.connect(self.server.url()).await.unwrap()
    }
}

/// A gateway's REST interface, as an administrator.
#[derive(Clone)]
pub(crate) struct Rest {
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) http: reqwest::Client,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// What is under `data` of an answer with this status.
    #[track_caller]
    pub(crate) fn data(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body["data"].clone()
    }

    /// The code of a problem with this status.
    #[track_caller]
    pub(crate) fn code(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        self.body["code"].as_str().unwrap()
    }
}

impl Rest {
    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        let mut request = self.http.request(method, format!("{}/api/v1{path}", self.url)).bearer_auth(&self.key);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = tokio::time::timeout(3 * SOON, request.send()).await.unwrap().unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status, headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, &[], Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], None).await
    }

    /// Submits a `shell.run` job with these fields to the pool `default`.
    pub(crate) async fn submit(&self, fields: Value) -> Answer {
        self.post("/jobs", &job(fields)).await
    }

    pub(crate) async fn cancel(&self, id: &str) -> Answer {
        self.send(Method::POST, &format!("/jobs/{id}/cancel"), &[], None).await
    }

    /// Where a job is.
    pub(crate) async fn state(&self, id: &str) -> String {
        self.get(&format!("/jobs/{id}")).await.data(200)["state"].as_str().unwrap().to_owned()
    }
}

/// A job for the pool `default`, with these fields.
pub(crate) fn job(fields: Value) -> Value {
    let mut body = json!({"pool": "default", "type": "shell.run"});
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}
