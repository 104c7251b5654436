//! A nats-server of a test's own, in operator mode, and users of its one account.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use muster_broker_config::server::{Places, find_binary};
use muster_schemas::time::Timestamp;
use nkeys::KeyPair;
use serde_json::{Value, json};

pub(crate) struct Server {
    dir: tempfile::TempDir,
    account: KeyPair,
    child: Child,
    port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let operator_jwt = encode("o", &operator.public_key(), json!({"type": "operator", "version": 2}), None, &operator);
        let limits =
            json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1});
        let claims = json!({"type": "account", "version": 2, "limits": limits});
        let account_jwt = encode("a", &account.public_key(), claims, None, &operator);
        let config =
            format!("operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {}: {account_jwt} }}\n", account.public_key());
        fs::write(dir.path().join("server.conf"), config).unwrap();
        let child = run(dir.path(), -1);
        let port = port(dir.path());
        Self { dir, account, child, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port as before.
    pub(crate) fn restart(&mut self) {
        self.child = run(self.dir.path(), i32::from(self.port));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Found or fetched once. The search is asynchronous and its callers are not, so it has a thread and a runtime of its own.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let find = || tokio::runtime::Runtime::new().unwrap().block_on(find_binary(&Places::from_env())).unwrap();
        std::thread::spawn(find).join().unwrap()
    })
}

fn run(dir: &Path, port: i32) -> Child {
    let binary = binary();
    let log = fs::File::create(dir.join("log")).unwrap();
    Command::new(binary)
        .args(["--config", "server.conf", "--addr", "127.0.0.1", "--ports_file_dir", ".", "--port", &port.to_string()])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
}

/// Reads the port from the file that the server writes once it listens.
fn port(dir: &Path) -> u16 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let files = fs::read_dir(dir).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        let found = files.filter(|path| path.extension().is_some_and(|end| end == "ports")).find_map(|path| {
            let ports: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
            ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
        });
        if let Some(port) = found {
            return port;
        }
        let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "the server does not listen: {}", log());
        std::thread::yield_now();
    }
}

pub(crate) struct User(KeyPair);

impl User {
    pub(crate) fn new() -> Self {
        Self(KeyPair::new_user())
    }

    pub(crate) fn sign(&self, nonce: &[u8]) -> Result<Vec<u8>, nkeys::error::Error> {
        self.0.sign(nonce)
    }

    /// A user JWT that expires this many seconds from now.
    pub(crate) fn jwt(&self, server: &Server, expires: Option<i64>) -> String {
        let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
        encode("u", &self.0.public_key(), claims, expires, &server.account)
    }

    pub(crate) fn creds(&self, server: &Server) -> String {
        self.creds_expiring(server, None)
    }

    pub(crate) fn creds_expiring(&self, server: &Server, expires: Option<i64>) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            self.jwt(server, expires),
            self.0.seed().unwrap()
        )
    }
}

fn encode(name: &str, subject: &str, nats: Value, expires: Option<i64>, issuer: &KeyPair) -> String {
    let now = Timestamp::now().secs();
    let mut claims = json!({"name": name, "sub": subject, "iss": issuer.public_key(), "iat": now, "jti": "1", "nats": nats});
    if let Some(seconds) = expires {
        claims["exp"] = json!(now + seconds);
    }
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let body = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&claims));
    let signature = issuer.sign(body.as_bytes()).unwrap();
    format!("{body}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
