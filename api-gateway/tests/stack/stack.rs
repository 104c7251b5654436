//! A broker of the test's own, gateways on free ports, and a small HTTP client. Include it with `#[path]`.

#![allow(dead_code, unreachable_pub, reason = "each test file includes it and uses its part of it")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

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
    pub shutdown: Shutdown,
    task: Running<anyhow::Result<()>>,
}

impl Stack {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deployment");
        let options = InitOptions { broker: Broker::local(None, dir.path().join("store")), pool: POOL.parse().unwrap() };
        let deployment = tokio::task::spawn_blocking(move || init::init(&root, &options)).await.unwrap().unwrap();
        let binary = find_binary(&Places::from_env()).await.unwrap();
        let start = Start::new(binary, deployment.layout.server_config(), dir.path().join("run"));
        let server = Server::start(start).await.unwrap();
        Self { server, deployment, dir }
    }

    /// Starts a gateway with the cheapest hashes, and these settings besides.
    pub async fn gateway(&self, settings: &[(&str, &str)]) -> Gateway {
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
        let url = format!("http://{}", http.local_addr().unwrap());
        let shutdown = Shutdown::new();
        let task = Group::new("gateway").spawn(run(config, Listeners { http }, shutdown.clone()));
        let mut gateway = Gateway { url, shutdown, task };
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

    /// A connection of its own, with the gateway's rights.
    pub async fn broker(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::with_credentials_file(self.deployment.layout.gateway_creds()).await.unwrap();
        options.custom_inbox_prefix(muster_schemas::subjects::broker::gateway_inbox("test")).connect(self.server.url()).await.unwrap()
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
        Http::new(&self.url, Some(key))
    }

    pub fn anybody(&self) -> Http {
        Http::new(&self.url, None)
    }

    /// Stops it and waits until it has ended.
    pub async fn stop(self) {
        self.shutdown.trigger("test");
        self.task.await.unwrap().unwrap();
    }
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
        // Several tests install it at once; the first one counts.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(90)).build();
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
