//! A cluster for one test: the stand-in, in this process; or, where `MUSTER_TEST_CLUSTER` names a folder with its address and credentials, a real
//! kube-apiserver (`run.py` beside this makes one). And what runs jobs against it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::extract::Request;
use kube::{Client, Config, config::AuthInfo};
use muster_executor::{
    Attempt, Connection, Context, Executor as _, Mask, Settings, Update,
    finish::Execution,
    runner::{self, Start},
};
use muster_executor_kubernetes::Kubernetes;
use muster_schemas::{
    connection::ConnectionKind,
    names::{AgentId, JobId},
    sealed::Credentials,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::Api;

/// The token of somebody who may do anything, and of somebody who may do nothing.
pub(crate) const ADMIN: &str = "t0ken-0f-the-admin-1234567890";
pub(crate) const NOBODY: &str = "t0ken-0f-nobody-1234567890";

/// Runs jobs.
pub(crate) struct Cluster {
    pub(crate) server: String,
    pub(crate) ca: String,
    /// The certificate and private key of an admin.
    pub(crate) certificate: (String, String),
    /// A namespace of this test's own.
    pub(crate) namespace: String,
    /// The stand-in; `None` is a real one.
    pub(crate) api: Option<Api>,
    pub(crate) executor: Kubernetes,
    client: Client,
    _serving: JoinSet<()>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let _already_set = rustls::crypto::ring::default_provider().install_default();
        let mut serving = JoinSet::new();
        let (server, ca, certificate, api) = match muster_runtime::env::var("MUSTER_TEST_CLUSTER").unwrap() {
            Some(folder) => {
                let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
                (read("server").trim().to_owned(), read("ca.pem"), (read("client.pem"), read("client.key")), None)
            }
            None => {
                let authority = Authority::new();
                let api = Api::new();
                let port = serve(&mut serving, &authority, api.clone()).await;
                (format!("https://127.0.0.1:{port}"), authority.pem.clone(), authority.issue("admin"), Some(api))
            }
        };
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut config = Config::new(server.parse().unwrap());
        config.root_cert = Some(vec![CertificateDer::from_pem_slice(ca.as_bytes()).unwrap().to_vec()]);
        config.auth_info = AuthInfo { token: Some(ADMIN.to_owned().into()), ..AuthInfo::default() };
        let client = Client::try_from(config).unwrap();
        let cluster = Self { server, ca, certificate, namespace, api, executor: Kubernetes::new(), client, _serving: serving };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace}});
        cluster.ask("POST", "/api/v1/namespaces", "application/json", &namespace).await;
        cluster
    }

    /// Asks the cluster itself, as somebody called `tester`.
    pub(crate) async fn ask(&self, method: &str, path: &str, content: &str, body: &Value) -> Value {
        let path = format!("{path}{}fieldManager=tester", if path.contains('?') { '&' } else { '?' });
        let path = if method == "GET" { path.split(['?', '&']).next().unwrap().to_owned() } else { path };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = http::Request::builder().method(method).uri(path).header("content-type", content).body(body).unwrap();
        self.client.request::<Value>(request).await.unwrap_or_else(|error| json!({"error": error.to_string()}))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.ask("GET", &self.path(path), "", &Value::Null).await
    }

    pub(crate) async fn merge(&self, path: &str, patch: Value) -> Value {
        self.ask("PATCH", &self.path(path), "application/merge-patch+json", &patch).await
    }

    /// A path within the test's namespace, such as `v1/configmaps/a`.
    pub(crate) fn path(&self, path: &str) -> String {
        let (version, rest) = match path.strip_prefix("v1/") {
            Some(rest) => ("/api/v1", rest),
            None => ("/apis/apps/v1", path.strip_prefix("apps/v1/").unwrap()),
        };
        format!("{version}/namespaces/{}/{rest}", self.namespace)
    }

    /// A connection with the admin's token.
    pub(crate) fn connection(&self) -> Connection {
        self.connection_with(json!({"server": self.server, "ca": self.ca, "namespace": self.namespace}), &[("token", ADMIN)])
    }

    pub(crate) fn connection_with(&self, settings: Value, fields: &[(&str, &str)]) -> Connection {
        let fields: BTreeMap<String, String> = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let credentials = Credentials { fields, ..Credentials::default() };
        Connection { name: "cluster".parse().unwrap(), kind: ConnectionKind::Kubernetes, settings, credentials }
    }

    /// Runs a job to its end.
    pub(crate) async fn run(&self, verb: &str, params: Value) -> Execution {
        self.job(verb, params, self.connection(), Duration::from_secs(20)).await.0
    }

    /// Runs a job; gives what it said of its progress as well.
    pub(crate) async fn job(&self, verb: &str, params: Value, connection: Connection, timeout: Duration) -> (Execution, Vec<String>) {
        let work = match verb {
            "probe" => self.executor.probe(ConnectionKind::Kubernetes).unwrap(),
            verb => self.executor.check(verb, &params).unwrap().unwrap(),
        };
        let attempt = Attempt { agent_id: AgentId::generate(), job_id: "job".parse::<JobId>().unwrap(), number: 1, timeout };
        let mask = Mask::of(connection.credentials.secrets());
        let start = Start { attempt, settings: Arc::new(Settings::default()), connection: Some(connection), mask };
        let (context, mut feed) = Context::new(CancellationToken::new());
        let mut said = Vec::new();
        let listen = async {
            while let Some(update) = feed.next().await {
                if let Update::Progress(progress) = update {
                    said.push(progress.message);
                }
            }
        };
        let (execution, ()) = tokio::join!(runner::run(work, start, context), listen);
        (execution, said)
    }

    /// What a controller does: brings every deployment of the namespace to where it is to be, one pod per round; one that is labelled `stuck` gets
    /// nowhere and says so. Never ends.
    pub(crate) async fn control(&self) -> Infallible {
        loop {
            let list = self.get("apps/v1/deployments").await;
            for deployment in list["items"].as_array().into_iter().flatten() {
                let name = deployment["metadata"]["name"].as_str().unwrap();
                let (generation, wanted) =
                    (deployment["metadata"]["generation"].as_i64().unwrap(), deployment["spec"]["replicas"].as_i64().unwrap());
                let of = |field: &str| deployment["status"][field].as_i64().unwrap_or(0);
                let mut status = json!({"observedGeneration": generation, "replicas": wanted});
                if deployment["metadata"]["labels"]["stuck"] == "yes" {
                    let now = "2026-01-01T00:00:00Z";
                    status["conditions"] = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
                        "message": "ReplicaSet \"web-1\" has timed out progressing.", "lastUpdateTime": now, "lastTransitionTime": now}]);
                } else {
                    let seen = of("observedGeneration") == generation;
                    let updated = if seen { (of("updatedReplicas") + 1).min(wanted) } else { 0 };
                    status["updatedReplicas"] = updated.into();
                    status["readyReplicas"] = updated.into();
                    status["availableReplicas"] = updated.into();
                }
                self.merge(&format!("apps/v1/deployments/{name}/status"), json!({ "status": status })).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await; // poll
        }
    }
}

/// Makes certificates.
pub(crate) struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let pem = issuer.pem();
        Self { issuer, pem }
    }

    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Serves the API with TLS; whoever has a certificate of the authority is an admin.
async fn serve(serving: &mut JoinSet<()>, authority: &Authority, api: Api) -> u16 {
    let (certificate, key) = authority.issue("server");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let config = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
    let config = config.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, api) = (acceptor.clone(), api.clone());
            connections.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let certified = stream.get_ref().1.peer_certificates().is_some();
                let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let api = api.clone();
                    async move { Ok::<_, Infallible>(answer(&api, certified, request.map(axum::body::Body::new)).await) }
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let _gone = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    port
}

async fn answer(api: &Api, certified: bool, request: Request) -> axum::response::Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 4 * 1024 * 1024).await.unwrap();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = header("authorization").trim_start_matches("Bearer ");
    let user = match token {
        ADMIN => Some("admin"),
        NOBODY => Some("nobody"),
        "" if certified => Some("admin"),
        _ => None,
    };
    api.answer(user, &parts.method, &parts.uri, header("content-type"), &body)
}
