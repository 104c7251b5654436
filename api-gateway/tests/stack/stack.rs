//! A broker of the test's own, gateways on free ports, and a small HTTP client. Include it with `#[path]`.

#![allow(dead_code, unreachable_pub, reason = "each test file includes it and uses its part of it")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, kv};
use muster_broker_config::{
    init::{self, Broker, Deployment, InitOptions},
    server::{Places, Server, Start, find_binary},
};
use muster_gateway::{Config, Listeners, run};
use muster_runtime::{
    config::{Overrides, Sources, load},
    shutdown::Shutdown,
    tasks::{Group, Running},
};
use muster_schemas::{
    api::Register,
    names::AgentId,
    records::{AgentRecord, AgentState, keys},
    signature::Signer,
    subjects,
    time::Timestamp,
    topology, wire,
};
use nkeys::KeyPair;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// The pool that every deployment of a test has.
pub const POOL: &str = "default";

/// A broker with its deployment; gateways are started on it.
pub struct Stack {
    pub server: Server,
    pub deployment: Deployment,
    dir: TempDir,
}

/// A gateway that runs in this process.
pub struct Gateway {
    pub url: String,
    ca: Option<Vec<u8>>,
    pub shutdown: Shutdown,
    task: Running<anyhow::Result<()>>,
}

impl Stack {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Broker)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deployment");
        let mut options = InitOptions { broker: Broker::local(None, dir.path().join("store")), pool: POOL.parse().unwrap() };
        change(&mut options.broker);
        let deployment = tokio::task::spawn_blocking(move || init::init(&root, &options)).await.unwrap().unwrap();
        let binary = find_binary(&Places::from_env()).await.unwrap();
        let start = Start::new(binary, deployment.layout.server_config(), dir.path().join("run"));
        let server = Server::start(start).await.unwrap();
        Self { server, deployment, dir }
    }

    /// Starts a gateway with the cheapest hashes, and these settings besides.
    pub async fn gateway(&self, settings: &[(&str, &str)]) -> Gateway {
        let mut gateway = self.gateway_unready(settings).await;
        let probe = gateway.anybody();
        let ready = eventually("the gateway is ready", Duration::from_secs(20), async || {
            probe.try_get("/readyz").await.filter(|answer| answer.status == StatusCode::OK)
        });
        tokio::select! {
            _ = ready => {}
            ended = &mut gateway.task => panic!("the gateway ended: {ended:?}"),
        }
        gateway
    }

    /// The same, without waiting until it is ready.
    pub async fn gateway_unready(&self, settings: &[(&str, &str)]) -> Gateway {
        let deployment = self.deployment.layout.root().display().to_string();
        let mut flags = Overrides::new()
            .set("--set", "deployment", Some(deployment))
            .set("--set", "nats_urls", Some(self.server.url()))
            .set("--set", "bcrypt_cost", Some(4))
            .set("--set", "refusals_per_minute", Some(10_000));
        for (key, value) in settings {
            flags = flags.set("--set", key, Some(value));
        }
        let config = load::<Config>(&Sources { file: None, environment: BTreeMap::new(), flags }).unwrap().settings;
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if self.deployment.tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", http.local_addr().unwrap());
        let ca = self.deployment.tls.then(|| std::fs::read(self.deployment.layout.ca()).unwrap());
        let shutdown = Shutdown::new();
        let task = Group::new("gateway").spawn(run(config, Listeners { http }, shutdown.clone()));
        Gateway { url, ca, shutdown, task }
    }

    /// A connection of its own, with the gateway's rights.
    pub async fn broker(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::with_credentials_file(self.deployment.layout.gateway_creds()).await.unwrap();
        options.custom_inbox_prefix(muster_schemas::subjects::broker::gateway_inbox("test")).connect(self.server.url()).await.unwrap()
    }

    /// Connects as the agent that registered with this key.
    pub async fn connect(&self, registered: &Value, user: KeyPair) -> async_nats::Client {
        let id: AgentId = registered["agent_id"].as_str().unwrap().parse().unwrap();
        let user = Arc::new(user);
        let sign = move |nonce: Vec<u8>| {
            let user = Arc::clone(&user);
            async move { user.sign(&nonce).map_err(async_nats::AuthError::new) }
        };
        let options = async_nats::ConnectOptions::with_jwt(registered["jwt"].as_str().unwrap().to_owned(), sign);
        options.custom_inbox_prefix(subjects::agent_inbox(&id)).connect(self.server.url()).await.unwrap()
    }

    /// A bucket, with the gateway's rights.
    pub async fn bucket(&self, name: &str) -> kv::Store {
        jetstream::new(self.broker().await).get_key_value(name).await.unwrap()
    }

    /// An agent's record as it is stored.
    pub async fn record(&self, id: &AgentId) -> Option<AgentRecord> {
        let found = self.bucket(topology::AGENTS).await.get(keys::agent(id)).await.unwrap();
        found.map(|bytes| wire::decode(&bytes).unwrap())
    }

    /// Changes an agent's record behind the gateway's back.
    pub async fn rewrite(&self, id: &AgentId, change: impl FnOnce(&mut AgentRecord)) {
        let mut record = self.record(id).await.unwrap();
        change(&mut record);
        self.bucket(topology::AGENTS).await.put(keys::agent(id), wire::encode(&record).into()).await.unwrap();
    }

    /// Puts an agent into a state behind the gateway's back.
    pub async fn decide(&self, id: &AgentId, state: AgentState) {
        self.rewrite(id, |record| record.state = state).await;
    }

    /// The names of the broker's streams.
    pub async fn streams(&self) -> Vec<String> {
        let js = async_nats::jetstream::new(self.broker().await);
        futures_util::TryStreamExt::try_collect(js.stream_names()).await.unwrap()
    }

    pub fn admin_key(&self) -> String {
        self.deployment.admin_key.as_ref().unwrap().to_string()
    }

    pub fn join_token(&self) -> String {
        self.deployment.join_token.as_ref().unwrap().to_string()
    }

    /// A client of the gateway with the first admin key.
    pub fn admin(&self, gateway: &Gateway) -> Http {
        gateway.with_key(&self.admin_key())
    }
}

impl Gateway {
    pub fn with_key(&self, key: &str) -> Http {
        Http::knowing(self.ca.as_deref(), &self.url, Some(key))
    }

    pub fn anybody(&self) -> Http {
        Http::knowing(self.ca.as_deref(), &self.url, None)
    }

    /// Stops it and waits until it has ended.
    pub async fn stop(self) {
        self.shutdown.trigger("test");
        self.task.await.unwrap().unwrap();
    }
}

/// Where agents register.
pub const REGISTER: &str = "/api/v1/agents/register";

/// Seeds of the keys that [`user`] made, by their public keys: a test changes bodies as it likes and need not carry the keys along.
static SEEDS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// A key pair for an agent, with which its registrations are proven.
pub fn user() -> KeyPair {
    let user = KeyPair::new_user();
    SEEDS.lock().unwrap().insert(user.public_key(), user.seed().unwrap());
    user
}

/// What an agent of this name says when it registers, with a key pair of its own.
pub fn body(name: &str) -> Value {
    json!({
        "name": name, "version": "0.1.0", "os": "linux", "arch": "x86_64", "hostname": "host", "capabilities": ["shell", "probe"],
        "labels": {"zone": "north"}, "public_key": user().public_key(),
    })
}

/// The body with the proof that its public key is the agent's own, unless it has one or the key is nobody's.
pub fn proven(body: &Value, credential: &str, now: Timestamp) -> Value {
    let mut body = body.clone();
    let seed = body["public_key"].as_str().and_then(|key| SEEDS.lock().unwrap().get(key).cloned());
    if let (Some(seed), true) = (seed, body["proof"].is_null()) {
        let mut register = Register::default();
        register.prove(&Signer::from_seed(&seed).unwrap(), credential, now);
        body["proof"] = register.proof.into();
    }
    body
}

/// Registers with a join token.
pub async fn join(gateway: &Gateway, token: &str, body: &Value) -> Answer {
    let body = proven(body, token, Timestamp::now());
    send(gateway.anybody().request(Method::POST, REGISTER).header("x-agent-token", token).json(&body)).await
}

/// Registers with an agent's API key.
pub async fn come_back(gateway: &Gateway, key: &str, body: &Value) -> Answer {
    gateway.with_key(key).post(REGISTER, &proven(body, key, Timestamp::now())).await
}

/// A caller.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    pub url: String,
    pub key: Option<String>,
}

/// An answer, its body read.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// The code of a problem document; fails when it is none.
    pub fn code(&self) -> &str {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status.as_u16(), "{self:?}");
        assert_eq!(self.body["request_id"], self.header("x-request-id"), "{self:?}");
        self.body["code"].as_str().unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// `data`, of an answer with this status.
    pub fn data(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        &self.body["data"]
    }
}

impl Http {
    pub fn new(url: &str, key: Option<&str>) -> Self {
        Self::knowing(None, url, key)
    }

    /// A caller that trusts this authority (PEM) instead of the system's.
    pub fn knowing(ca: Option<&[u8]>, url: &str, key: Option<&str>) -> Self {
        // Several tests install it at once; the first one counts.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(90));
        let client = match ca {
            Some(pem) => builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem).unwrap()).build(),
            None => builder.build(),
        };
        Self { client: client.unwrap(), url: url.into(), key: key.map(str::to_owned) }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub async fn try_get(&self, path: &str) -> Option<Answer> {
        try_send(self.request(Method::GET, path)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::PATCH, path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::PUT, path).json(body)).await
    }

    /// A new API key with this role.
    pub async fn new_key(&self, role: &str) -> Value {
        self.post("/api/v1/api-keys", &json!({"name": role, "role": role})).await.data(201).clone()
    }
}

pub async fn send(request: RequestBuilder) -> Answer {
    try_send(request).await.expect("no answer")
}

pub async fn try_send(request: RequestBuilder) -> Option<Answer> {
    let response = request.send().await.ok()?;
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.ok()?;
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Some(Answer { status, headers, body, text })
}

/// Waits until `predicate` gives a value.
pub async fn eventually<T>(what: &str, deadline: Duration, mut predicate: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = predicate().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await; // poll
    }
}
