//! A small gateway for tests that says whatever a test wants it to, and keeps what it was asked.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use muster_broker_config::{creds, layout::Account};
use muster_schemas::{
    api::{JOIN_TOKEN_HEADER, One, Register, Registered, RegisteredConfig},
    code::Code,
    control::{IdentityEnd, Order, What},
    names::{AgentId, PoolName},
    records::secret::{Kind, PREFIX_LEN, Parts, SECRET_LEN},
    signature::{Scope, SignedSigners, Signer, Signers, TrustedSigner},
    subjects,
    time::Timestamp,
    wire::{self, V},
};
use serde_json::json;

use crate::bench::Bench;

/// What a registration came with.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) register: Register,
    /// The join token or API key.
    pub(crate) credential: String,
}

/// What the gateway says: an agent, or why not.
pub(crate) type Said = Result<Registered, (u16, Code, String)>;
type Clerk = dyn FnMut(&Asked) -> Said + Send;

/// The gateway.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) url: String,
    clerk: Arc<Mutex<Box<Clerk>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Desk {
    pub(crate) async fn open(clerk: impl FnMut(&Asked) -> Said + Send + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let desk = Self { url, clerk: Arc::new(Mutex::new(Box::new(clerk))), asked: Arc::default() };
        let router = Router::new().route("/api/v1/agents/register", post(register)).with_state(desk.clone());
        drop(muster_runtime::tasks::Group::new("gateway").spawn(async move { axum::serve(listener, router).await }));
        desk
    }

    /// From now on it says something else.
    pub(crate) fn says(&self, clerk: impl FnMut(&Asked) -> Said + Send + 'static) {
        *self.clerk.lock().unwrap() = Box::new(clerk);
    }

    /// All that it was asked so far, oldest first.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn register(State(desk): State<Desk>, headers: axum::http::HeaderMap, Json(register): Json<Register>) -> axum::response::Response {
    let header = [JOIN_TOKEN_HEADER, "authorization"].iter().find_map(|name| headers.get(*name)).unwrap();
    let credential = header.to_str().unwrap().trim_start_matches("Bearer ").to_owned();
    let asked = Asked { register, credential };
    desk.asked.lock().unwrap().push(asked.clone());
    let said = (desk.clerk.lock().unwrap())(&asked);
    match said {
        Ok(data) => (StatusCode::CREATED, Json(One { data })).into_response(),
        Err((status, code, detail)) => {
            let problem = json!({"type": "x", "title": "x", "status": status, "code": code, "detail": detail, "request_id": "r"});
            (StatusCode::from_u16(status).unwrap(), Json(problem)).into_response()
        }
    }
}

/// A list of signers, so that agents don't come back to ask for one.
pub(crate) fn signers() -> SignedSigners {
    let (signer, now) = (Signer::generate(), Timestamp::now());
    let trusted = TrustedSigner { key: signer.public_key().into(), name: "gateway".into(), scope: Scope::ControlPlane, added_at: now };
    Signers { v: V, serial: 1, signers: vec![trusted] }.sign(&signer, now)
}

/// A refusal.
pub(crate) fn no(status: u16, code: Code, detail: &str) -> Said {
    Err((status, code, detail.to_owned()))
}

/// A secret of the real form.
pub(crate) fn secret(kind: Kind) -> String {
    Parts::from_random(kind, &rand::random::<[u8; PREFIX_LEN + SECRET_LEN]>()).reveal()
}

/// What gives out identities on a bench's broker.
#[derive(Clone)]
pub(crate) struct Office {
    seed: String,
    account: String,
    url: String,
}

impl Office {
    pub(crate) fn of(bench: &Bench) -> Self {
        let seed = std::fs::read_to_string(bench.deployment.layout.signing_key(Account::Fleet)).unwrap();
        Self { seed, account: bench.deployment.fleet.account.clone(), url: bench.server.url() }
    }

    /// The answer to a registration as this agent.
    pub(crate) fn registered(&self, asked: &Asked, id: &AgentId, pool: &PoolName, life: Duration) -> Registered {
        Registered {
            agent_id: id.clone(),
            name: asked.register.name.parse().unwrap(),
            pool: pool.clone(),
            api_key: None,
            jwt: creds::mint_agent_jwt(&self.seed, &self.account, pool, id, &asked.register.public_key, life).unwrap(),
            nats_urls: vec![self.url.clone()],
            config: RegisteredConfig { heartbeat_interval_s: 30, log_level: "INFO".into() },
            now: Timestamp::now(),
            signers: Some(signers()),
            certificate: None,
            ephemeral: false,
        }
    }

    /// A clerk who lets this agent in for an hour.
    pub(crate) fn lets_in(&self, id: &AgentId, pool: &PoolName) -> impl FnMut(&Asked) -> Said + Send + 'static {
        let (office, id, pool) = (self.clone(), id.clone(), pool.clone());
        move |asked| Ok(office.registered(asked, &id, &pool, Duration::from_secs(3600)))
    }
}

/// Tells an agent that its identity has ended.
pub(crate) async fn order(bench: &Bench, id: &AgentId, why: IdentityEnd, reason: Option<&str>) {
    let order = Order { v: V, what: What::IdentityEnded { why, reason: reason.map(str::to_owned) } };
    bench.gateway.publish(subjects::control(id), wire::encode(&order).into()).await.unwrap();
    bench.gateway.flush().await.unwrap();
}

/// Whether the process that wrote its id there is still there.
pub(crate) fn runs(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}
