//! A broker of a test's own with a deployment, and the two whom a service deals with, played with their real permissions:
//! an agent in `FLEET` that pulls a lane, and a gateway that answers queries.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{ConnectOptions, HeaderMap, Message};
use futures_util::StreamExt;
use muster_broker_config::{
    creds::{AGENT_JWT_LIFETIME, Creds, issue_service, mint_agent_jwt},
    init::{Broker, Deployment, InitOptions, init},
    layout::Account,
    provision,
    server::{Places, Server, Start, find_binary},
};
use muster_client::{
    Client,
    schemas::{
        code::Code,
        control::QueryAnswer,
        event::{Event, EventKind},
        headers,
        job::Job,
        lane::{Lane, Priority},
        log::{LogChunk, OutputStream, Progress},
        names::{AgentId, PoolName},
        result::{ErrorInfo, JobResult, Outcome, Output},
        subjects::{self, About, Query, js},
        time::Timestamp,
        topology,
        wire::{self, V},
    },
};
use tokio::sync::mpsc;

/// What a test may wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Stage {
    pub(crate) broker: Server,
    pub(crate) deployment: Deployment,
    pub(crate) pool: PoolName,
    dir: tempfile::TempDir,
}

impl Stage {
    /// A broker with one pool that takes at most `max_queued` jobs.
    pub(crate) async fn set(max_queued: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pool: PoolName = "p".parse().unwrap();
        let options = InitOptions { broker: Broker::local(None, dir.path().join("store")), pool: pool.clone() };
        let root = dir.path().join("deployment");
        let deployment = tokio::task::spawn_blocking(move || init(&root, &options).unwrap()).await.unwrap();
        let binary = find_binary(&Places::from_env()).await.unwrap();
        let broker = Server::start(Start::new(binary, deployment.layout.server_config(), dir.path().join("run"))).await.unwrap();
        let stage = Self { broker, deployment, pool: pool.clone(), dir };
        let gateway = stage.gateway().await;
        provision::provision(&gateway, &stage.deployment.bootstrap).await.unwrap();
        let mut record = provision::default_pool(pool, Timestamp::now());
        record.limits.max_queued = max_queued;
        provision::ensure_pool(&gateway, &record).await.unwrap();
        stage
    }

    pub(crate) async fn gateway(&self) -> async_nats::Client {
        self.gateway_by(&self.broker.url()).await
    }

    /// The same, over another address.
    pub(crate) async fn gateway_by(&self, url: &str) -> async_nats::Client {
        let options = ConnectOptions::with_credentials_file(self.deployment.layout.gateway_creds()).await.unwrap();
        options.custom_inbox_prefix(subjects::broker::gateway_inbox("test")).connect(url).await.unwrap()
    }

    fn seed(&self, account: Account) -> String {
        std::fs::read_to_string(self.deployment.layout.signing_key(account)).unwrap().trim().to_owned()
    }

    /// Credentials of a service that may submit to the pool.
    pub(crate) fn creds(&self) -> PathBuf {
        let path = self.dir.path().join("service.creds");
        let seed = self.seed(Account::Core);
        let creds = issue_service(&seed, &self.deployment.core.account, "service", std::slice::from_ref(&self.pool)).unwrap();
        std::fs::write(&path, creds.to_text()).unwrap();
        path
    }

    pub(crate) async fn service(&self) -> Client {
        Client::connect(&self.broker.url(), self.creds()).await.unwrap()
    }

    /// Answers queries as a gateway does, from what is stored.
    pub(crate) async fn play_gateway(&self) {
        let (nats, pool) = (self.gateway().await, self.pool.clone());
        let mut results = nats.subscribe(Query::Result.all()).await.unwrap();
        let mut cancels = nats.subscribe(Query::Cancel.all()).await.unwrap();
        // A flush ends when the bytes are sent. An answer on the same connection says that the broker knows of the subscriptions.
        nats.request(js::direct_get(topology::RESULTS, &About::Result.job(&pool, &"none".parse().unwrap())), "".into()).await.unwrap();
        tokio::task::spawn(async move {
            loop {
                let (message, cancel) = tokio::select! {
                    Some(message) = results.next() => (message, false),
                    Some(message) = cancels.next() => (message, true),
                    else => return,
                };
                let query = if cancel { Query::Cancel } else { Query::Result };
                let (_, id) = query.parse(&message.subject).unwrap();
                let get = js::direct_get(topology::RESULTS, &About::Result.job(&pool, &id));
                let stored = nats.request(get, "".into()).await.unwrap();
                let result: Option<JobResult> = wire::decode(&stored.payload).ok();
                let code = if result.is_some() { Code::JobFinished } else { Code::JobNotFound };
                let error = (cancel || result.is_none()).then(|| ErrorInfo::new(code, "as the test has it"));
                let answer = QueryAnswer { v: V, result, error, queued: false };
                nats.publish(message.reply.unwrap(), wire::encode(&answer).into()).await.unwrap();
            }
        });
    }

    /// An agent that runs what comes in the normal probe lane, one job after the other.
    pub(crate) async fn play_agent(&self) -> Agent {
        let (id, key) = (AgentId::generate(), nkeys::KeyPair::new_user());
        let seed = self.seed(Account::Fleet);
        let account = &self.deployment.fleet.account;
        let jwt = mint_agent_jwt(&seed, account, &self.pool, &id, &key.public_key(), AGENT_JWT_LIFETIME).unwrap();
        let creds = Creds { jwt, seed: key.seed().unwrap().into() }.to_text();
        let options = ConnectOptions::with_credentials(&creds).unwrap().custom_inbox_prefix(subjects::agent_inbox(&id));
        let nats = options.connect(self.broker.url()).await.unwrap();
        let (seen, jobs) = mpsc::channel(1000);
        let agent = Played { nats, id, pool: self.pool.clone(), seen };
        tokio::task::spawn(agent.run());
        Agent { jobs }
    }
}

/// What the played agent got, in order: id and headers.
pub(crate) struct Agent {
    pub(crate) jobs: mpsc::Receiver<(String, HeaderMap)>,
}

struct Played {
    nats: async_nats::Client,
    id: AgentId,
    pool: PoolName,
    seen: mpsc::Sender<(String, HeaderMap)>,
}

impl Played {
    async fn run(self) {
        let lane = Lane { priority: Priority::Normal, executor: "probe".parse().unwrap() };
        let next = js::next(&topology::jobs_stream(&self.pool), &lane.consumer());
        let inbox = self.nats.new_inbox();
        let mut deliveries = self.nats.subscribe(inbox.clone()).await.unwrap();
        let pull =
            serde_json::json!({"batch": 1, "expires": 1_000_000_000_u64, "group": topology::PRIORITY_GROUP, "priority": 0}).to_string();
        loop {
            let _ = self.nats.publish_with_reply(next.clone(), inbox.clone(), pull.clone().into()).await;
            let wait = tokio::time::timeout(Duration::from_millis(1500), deliveries.next()).await;
            match wait {
                Ok(Some(message)) if message.status.is_none() => self.work(message).await,
                Ok(None) => return,
                _ => {}
            }
        }
    }

    async fn work(&self, message: Message) {
        let address = subjects::parse_job(&message.subject).unwrap();
        let id = address.id.parse().unwrap();
        let job = Job::decode(&message.payload).unwrap();
        let _ = self.seen.try_send((address.id.to_owned(), message.headers.unwrap_or_default()));
        let now = Timestamp::now();
        let publish = |about: About, body: Vec<u8>| self.nats.publish(about.job(&self.pool, &id), body.into());
        if let Some(text) = job.params.get("say").and_then(|text| text.as_str()) {
            let started = Event {
                v: V,
                kind: EventKind::Started,
                at: now,
                agent_id: self.id.clone(),
                job_type: Some(job.job_type.clone()),
                attempt: 1,
                releases: 0,
                reason: None,
                next_at: None,
                history: Vec::new(),
            };
            publish(About::Event, wire::encode(&started)).await.unwrap();
            let data = Output::from(text.as_bytes().to_vec());
            let chunk = LogChunk { v: V, attempt: 1, seq: 0, stream: OutputStream::Stdout, at: now, data };
            publish(About::Log, wire::encode(&chunk)).await.unwrap();
            let data = Progress { percent: 50, message: "half".into() }.to_data();
            let chunk = LogChunk { v: V, attempt: 1, seq: 1, stream: OutputStream::Progress, at: now, data };
            publish(About::Log, wire::encode(&chunk)).await.unwrap();
        }
        let mut result = JobResult::never_ran(Outcome::Succeeded, ErrorInfo::new(Code::Internal, ""), now, Timestamp::now());
        (result.error, result.attempt, result.data) = (None, 1, Some(job.params));
        let mut map = HeaderMap::new();
        map.insert(headers::CONTENT_TYPE, headers::MSGPACK);
        // Stored, or refused since another one was.
        let _ = self.nats.request_with_headers(About::Result.job(&self.pool, &id), map, wire::encode(&result).into()).await;
        let _ = self.nats.publish(message.reply.unwrap(), "+ACK".into()).await;
    }
}

/// A proxy that can be cut: connections die and none is taken until it is mended.
pub(crate) struct Cut {
    pub(crate) url: String,
    open: tokio::sync::watch::Sender<bool>,
}

impl Cut {
    pub(crate) async fn before(broker: &Server) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let target = broker.url().trim_start_matches("nats://").to_owned();
        let open = Arc::new(tokio::sync::watch::channel(true).0);
        let (sender, watcher) = (tokio::sync::watch::Sender::clone(&open), open.subscribe());
        tokio::task::spawn(async move {
            loop {
                let (mut inner, _) = listener.accept().await.unwrap();
                if !*watcher.borrow() {
                    continue;
                }
                let (target, mut watcher) = (target.clone(), watcher.clone());
                tokio::task::spawn(async move {
                    let Ok(mut outer) = tokio::net::TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => {}
                        _ = watcher.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { url, open: sender }
    }

    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.open.send_replace(true);
    }
}

/// Looks until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}
