//! What the tests share: an executor, a machine to reach, and one job after the other.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use muster_executor::{Attempt, Connection, Context, Execution, Executor, Feed, Mask, Settings, runner};
use muster_executor_ssh::{Limits, Options, Patience, Ssh};
use muster_files::Roots;
use muster_schemas::{code::Code, connection::ConnectionKind, sealed::Credentials, wire::V};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::sshd::{self, Sshd};

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A machine, a key that it lets in, and a folder whose files may be carried.
pub(crate) struct Bench {
    pub(crate) sshd: Sshd,
    pub(crate) key: PathBuf,
    pub(crate) files: String,
    pub(crate) ssh: Ssh,
    pub(crate) patience: Patience,
    pub(crate) limits: Limits,
    pub(crate) dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = dir.path().join("machine");
        fs::create_dir(&machine).unwrap();
        let sshd = Sshd::start(&machine);
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let key = sshd::key(dir.path(), "key", &["ed25519"], "");
        sshd.authorize(&key);
        let files = dir.path().canonicalize().unwrap().join("files");
        fs::create_dir(&files).unwrap();
        let (patience, limits) = (Patience::default(), Limits::default());
        let files = files.display().to_string();
        let ssh = Ssh::new(Options::new(Roots::default(), PathBuf::new()));
        Self { sshd, key, files, ssh, patience, limits, dir }.remade()
    }

    /// With what was changed in its patience and limits.
    pub(crate) fn remade(self) -> Self {
        let options = Options {
            patience: self.patience.clone(),
            limits: self.limits.clone(),
            ..Options::new(Roots::new(&[self.files.clone().into()]).unwrap(), self.known_hosts())
        };
        Self { ssh: Ssh::new(options), ..self }
    }

    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    pub(crate) fn settings(&self) -> Value {
        json!({"host": "127.0.0.1", "port": self.sshd.port, "user": me(), "host_keys": [self.sshd.host_key()]})
    }

    pub(crate) fn connection(&self) -> Connection {
        let key = fs::read_to_string(&self.key).unwrap();
        connection(self.settings(), &[("private_key", &key)])
    }

    /// Runs one job to its end.
    pub(crate) async fn run(&self, verb: &str, params: Value) -> Execution {
        self.run_with(verb, params, self.connection(), LONG).await
    }

    pub(crate) async fn run_with(&self, verb: &str, params: Value, connection: Connection, timeout: Duration) -> Execution {
        let (running, _feed) = self.start(verb, params, connection, timeout, CancellationToken::new());
        running.await
    }

    /// A job, and what it tells meanwhile.
    pub(crate) fn start(
        &self,
        verb: &str,
        params: Value,
        connection: Connection,
        timeout: Duration,
        cancelled: CancellationToken,
    ) -> (impl Future<Output = Execution> + use<>, Feed) {
        let work = match verb {
            "probe" => self.ssh.probe(ConnectionKind::Ssh).unwrap(),
            verb => self.ssh.check(verb, &params).unwrap_or_else(|refused| panic!("{params}: {refused}")).unwrap(),
        };
        let attempt =
            Attempt { agent_id: "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), job_id: "job-1".parse().unwrap(), number: 1, timeout };
        let settings = Arc::new(Settings { kill_grace: Duration::from_secs(2), ..Settings::default() });
        let mask = Mask::of(connection.credentials.secrets());
        let (context, feed) = Context::new(cancelled);
        (runner::run(work, runner::Start { attempt, settings, connection: Some(connection), mask }, context), feed)
    }

    /// The refusal of params that are wrong as they stand.
    pub(crate) fn refusal(&self, verb: &str, params: Value) -> (Code, String) {
        let refused = self.ssh.check(verb, &params).expect_err("it was taken");
        (refused.code, refused.message)
    }
}

pub(crate) fn connection(settings: Value, credentials: &[(&str, &str)]) -> Connection {
    let fields: BTreeMap<String, String> = credentials.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let credentials = Credentials { v: V, fields, shared: false, bound: None };
    Connection { name: "box".parse().unwrap(), kind: ConnectionKind::Ssh, settings, credentials }
}

/// The user that the tests run as.
pub(crate) fn me() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

pub(crate) fn stdout(execution: &Execution) -> String {
    text(&execution.stdout)
}

pub(crate) fn text(output: &muster_schemas::result::Output) -> String {
    match serde_json::to_value(output).unwrap() {
        Value::String(text) => text,
        other => panic!("no text: {other}"),
    }
}

/// Its error's code and message.
pub(crate) fn error(execution: &Execution) -> (Code, String) {
    let error = execution.error.as_ref().unwrap_or_else(|| panic!("no error: {execution:?}"));
    (error.code, error.message.clone())
}

/// The only wait.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// Processes of this machine with this word in their command line.
pub(crate) fn processes_with(word: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let cmdlines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    cmdlines.filter(|cmdline| cmdline.windows(word.len()).any(|part| part == word.as_bytes()) && !cmdline.starts_with(b"grep")).count()
}
