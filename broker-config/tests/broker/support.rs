//! A deployment with its server, and clients in each role.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectOptions, Event, Message, Subscriber};
use futures_util::StreamExt;
use muster_broker_config::{
    creds::{self, AGENT_JWT_LIFETIME, Creds},
    init::{self, Broker, Deployment, InitOptions},
    layout::Account,
    provision,
    server::{Places, Server, Start, find_binary},
};
use muster_schemas::{
    names::{AgentId, PoolName},
    subjects::{self, broker},
    time::Timestamp,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

/// How long anything may take that should happen; a test that waits this long has failed.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await; // poll
    }
}

/// A running deployment; dropping it kills the server and removes the files.
pub(crate) struct World {
    pub(crate) deployment: Deployment,
    pub(crate) server: Server,
    pub(crate) dir: TempDir,
}

pub(crate) fn options(dir: &TempDir) -> InitOptions {
    InitOptions { broker: Broker::local(None, dir.path().join("store")), pool: pool("default") }
}

pub(crate) async fn binary() -> PathBuf {
    find_binary(&Places::from_env()).await.unwrap()
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Broker)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir);
        change(&mut options.broker);
        let deployment = init::init(&dir.path().join("deployment"), &options).unwrap();
        let start = Start::new(binary().await, deployment.layout.server_config(), dir.path().join("run"));
        let server = Server::start(start).await.unwrap();
        Self { deployment, server, dir }
    }

    /// With the fixed streams, and the pools `p` and `q`.
    pub(crate) async fn provisioned() -> (Self, Peer) {
        let world = Self::start().await;
        let gateway = world.gateway().await;
        provision::provision_fixed(&gateway.client).await.unwrap();
        for name in ["p", "q"] {
            provision::ensure_pool(&gateway.client, &provision::default_pool(pool(name), Timestamp::now())).await.unwrap();
        }
        (world, gateway)
    }

    pub(crate) async fn gateway(&self) -> Peer {
        let text = std::fs::read_to_string(self.deployment.layout.gateway_creds()).unwrap();
        self.peer(&text, &broker::gateway_inbox("g1")).await
    }

    pub(crate) async fn dispatcher(&self) -> Peer {
        let text = std::fs::read_to_string(self.deployment.layout.dispatcher_creds()).unwrap();
        self.peer(&text, &broker::dispatcher_inbox("d1")).await
    }

    pub(crate) async fn system(&self) -> Peer {
        let text = std::fs::read_to_string(self.deployment.layout.system_creds()).unwrap();
        self.peer(&text, "_INBOX").await
    }

    pub(crate) async fn service(&self, pools: &[&str]) -> Peer {
        let pools: Vec<_> = pools.iter().map(|name| pool(name)).collect();
        let creds = creds::issue_service(&self.signing_seed(Account::Core), &self.deployment.core.account, "svc", &pools).unwrap();
        self.peer(&creds.to_text(), "_INBOX").await
    }

    pub(crate) async fn agent(&self, name: &str) -> Agent {
        let (id, pool) = (AgentId::generate(), pool(name));
        let creds = self.agent_creds(&pool, &id, AGENT_JWT_LIFETIME);
        let peer = self.peer(&creds.to_text(), &subjects::agent_inbox(&id)).await;
        Agent { peer, id, pool }
    }

    pub(crate) fn agent_creds(&self, pool: &PoolName, id: &AgentId, lifetime: Duration) -> Creds {
        let user = nkeys::KeyPair::new_user();
        let (signing, account) = (self.signing_seed(Account::Fleet), &self.deployment.fleet.account);
        let jwt = creds::mint_agent_jwt(&signing, account, pool, id, &user.public_key(), lifetime).unwrap();
        Creds { jwt, seed: user.seed().unwrap().into() }
    }

    pub(crate) fn signing_seed(&self, account: Account) -> String {
        std::fs::read_to_string(self.deployment.layout.signing_key(account)).unwrap()
    }

    pub(crate) async fn peer(&self, creds: &str, inbox: &str) -> Peer {
        self.peer_at(&self.server.url(), creds, inbox).await
    }

    /// As [`Self::peer`], through something that listens elsewhere.
    pub(crate) async fn peer_at(&self, url: &str, creds: &str, inbox: &str) -> Peer {
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let heard = refusals.clone();
        let options = ConnectOptions::with_credentials(creds).unwrap().custom_inbox_prefix(inbox).event_callback(move |event| {
            let heard = heard.clone();
            async move {
                if let Event::ServerError(error) = event {
                    heard.lock().unwrap().push(error.to_string());
                }
            }
        });
        let client = options.connect(url).await.unwrap();
        Peer { client, refusals }
    }
}

/// A connection, with what the server has said against it.
pub(crate) struct Peer {
    pub(crate) client: Client,
    pub(crate) refusals: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    /// A JetStream request; the answer may be an error of JetStream's.
    pub(crate) async fn api(&self, subject: String, body: Value) -> Value {
        let answer = self.client.request(subject, body.to_string().into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// How many messages a stream holds.
    pub(crate) async fn messages(&self, stream: &str) -> u64 {
        self.api(broker::StreamApi::Info.subject(stream), json!({})).await["state"]["messages"].as_u64().unwrap()
    }

    /// Publishes as a job or result is published, and returns the broker's acknowledgement or refusal.
    pub(crate) async fn store(&self, subject: &str, body: &str) -> Value {
        let answer = self.client.request(subject.to_owned(), body.to_owned().into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    pub(crate) async fn subscribe(&self, subject: &str) -> Subscriber {
        let subscriber = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.round_trip().await;
        subscriber
    }

    /// Waits until the server has dealt with all that was sent. (The client's own flush does not wait for an answer.)
    pub(crate) async fn round_trip(&self) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        self.cannot_publish(&format!("round.trip.{}", COUNT.fetch_add(1, Ordering::Relaxed))).await;
    }

    pub(crate) async fn publish(&self, subject: &str) {
        self.client.publish(subject.to_owned(), "x".into()).await.unwrap();
    }

    pub(crate) fn refused(&self, kind: &str, subject: &str) -> bool {
        let quoted = format!("\"{subject}\"").to_lowercase();
        self.refusals.lock().unwrap().iter().any(|text| {
            let text = text.to_lowercase();
            text.contains("permissions violation") && text.contains(kind) && text.contains(&quoted)
        })
    }

    pub(crate) fn refused_more_than_round_trips(&self) -> bool {
        self.refusals.lock().unwrap().iter().any(|text| !text.contains("round.trip."))
    }

    pub(crate) async fn cannot_publish(&self, subject: &str) {
        self.publish(subject).await;
        eventually(&format!("refusal to publish {subject}"), async || self.refused("publish", subject)).await;
    }
}

/// An agent's connection, with its address.
pub(crate) struct Agent {
    pub(crate) peer: Peer,
    pub(crate) id: AgentId,
    pub(crate) pool: PoolName,
}

/// The body of a pull request.
pub(crate) fn pull(batch: u32, expires: Duration) -> String {
    json!({"batch": batch, "expires": u64::try_from(expires.as_nanos()).unwrap(), "group": "standing", "priority": 0}).to_string()
}

impl Agent {
    /// An own inbox below the agent's prefix.
    pub(crate) fn inbox(&self, name: &str) -> String {
        format!("{}.{name}", subjects::agent_inbox(&self.id))
    }

    /// Asks the lane `normal` × `shell` of the agent's pool for jobs, to be sent to `reply`.
    pub(crate) async fn pull(&self, reply: &str, batch: u32, expires: Duration) {
        let stream = muster_schemas::topology::jobs_stream(&self.pool);
        let next = subjects::js::next(&stream, "normal_shell");
        self.peer.client.publish_with_reply(next, reply.to_owned(), pull(batch, expires).into()).await.unwrap();
        self.peer.client.flush().await.unwrap();
    }
}

/// The next message that is a job, not a status such as "no messages"; `None` when there is none within `within`.
pub(crate) async fn next_job(subscriber: &mut Subscriber, within: Duration) -> Option<Message> {
    let wait = async {
        loop {
            match subscriber.next().await {
                Some(message) if message.status.is_some_and(|status| status.as_u16() >= 400) => {}
                other => return other,
            }
        }
    };
    tokio::time::timeout(within, wait).await.ok().flatten()
}

pub(crate) async fn next(subscriber: &mut Subscriber) -> Message {
    tokio::time::timeout(SOON, subscriber.next()).await.expect("a message in time").expect("an open subscription")
}

/// A TCP line to a local port that delivers everything a little later, in both directions, for as long as it lives.
pub(crate) struct SlowLine {
    pub(crate) url: String,
    _accepting: JoinSet<()>,
}

impl SlowLine {
    pub(crate) async fn start(port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { break };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                lines.spawn(carry(from_client, to_server, delay));
                lines.spawn(carry(from_server, to_client, delay));
            }
        });
        Self { url, _accepting: accepting }
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(1024);
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(size @ 1..) = from.read(&mut buffer).await {
            if sender.send((tokio::time::Instant::now() + delay, buffer[..size].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(read, write);
}
