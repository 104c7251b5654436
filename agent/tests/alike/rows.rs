//! The rows of the table: for each executor, the jobs that show what holds for all.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use axum::{Router, routing::get};
use futures_util::future::BoxFuture;
use muster_agent::executors::{Launcher, Options, Plugins, Registry};
use muster_executor::{Connection, Executor};
use muster_schemas::{connection::ConnectionKind, sealed::Credentials};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    engine, machine,
    manager::Manager,
    table::{self, Job, SECRET, check},
};

/// One executor, and its jobs.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) connection: Option<Connection>,
    pub(crate) good: Job,
    pub(crate) bad: Job,
    /// Runs for a minute at least, unless it is stopped; `None` is for what is over at once.
    pub(crate) long: Option<Job>,
    /// Prints more than 64 KiB; `None` where there is never so much.
    pub(crate) flood: Option<Job>,
    /// Each has the secret in what comes back.
    pub(crate) secrets: Vec<Job>,
    /// Whether the long job reports how far it is.
    pub(crate) tells: bool,
    /// What makes the long job possible again.
    pub(crate) reset: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Row {
    fn new(name: &'static str, executor: Arc<dyn Executor>, good: Job, bad: Job) -> Self {
        let reset = Box::new(|| Box::pin(async {}) as BoxFuture<'static, ()>);
        Self { name, executor, connection: None, good, bad, long: None, flood: None, secrets: Vec::new(), tells: false, reset }
    }
}

fn options() -> Options {
    Options { allow_private_network: true, launcher: Some(Launcher::at(env!("CARGO_BIN_EXE_muster-agent"), &[])), ..Options::default() }
}

fn of_registry(name: &str) -> Arc<dyn Executor> {
    Registry::new(&[name], &options()).unwrap().executor(name).unwrap()
}

fn connection(kind: ConnectionKind, settings: Value, fields: &[(&str, &str)]) -> Connection {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Connection { name: "it".parse().unwrap(), kind, settings, credentials: Credentials { fields, ..Credentials::default() } }
}

pub(crate) async fn probe() {
    let row = Row::new("probe", of_registry("probe"), ("ping", json!({})), ("fail", json!({})));
    check(Row {
        long: Some(("sleep", json!({"seconds": 1000}))),
        secrets: vec![("echo", json!({"a": [SECRET], SECRET: 1})), ("fail", json!({"message": format!("<{SECRET}>")}))],
        tells: true,
        ..row
    })
    .await;
}

pub(crate) async fn shell() {
    let row = Row::new("shell", of_registry("shell"), ("run", json!({"command": "echo hi"})), ("run", json!({"command": "exit 3"})));
    let secret = |command: &str| ("run", json!({"command": command, "stdin": SECRET}));
    check(Row {
        long: Some(("run", json!({"command": "trap '' TERM; sleep 1000 & sleep 1000"}))),
        flood: Some(("run", json!({"command": "head -c 200000 /dev/zero | tr '\\0' x"}))),
        secrets: vec![secret("cat"), secret("cat >&2"), secret("base64"), ("run", json!({"argv": [format!("/no/{SECRET}")]}))],
        ..row
    })
    .await;
}

pub(crate) async fn http() {
    let site = Router::new()
        .route("/good", get(async || "hello"))
        .route("/bad", get(async || axum::http::StatusCode::SERVICE_UNAVAILABLE))
        .route("/long", get(std::future::pending::<()>))
        .route("/flood", get(async || "x".repeat(200_000)))
        .route("/secret", get(async || ([("x-secret", SECRET)], SECRET)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = |path: &str| format!("http://{}{path}", listener.local_addr().unwrap());
    let request = |path: &str| ("request", json!({"url": url(path)}));
    let row = Row {
        long: Some(request("/long")),
        flood: Some(request("/flood")),
        secrets: vec![request("/secret"), request(&format!("/{SECRET}"))],
        ..Row::new("http", of_registry("http"), request("/good"), request("/bad"))
    };
    let serve = std::future::IntoFuture::into_future(axum::serve(listener, site));
    tokio::select! { () = check(row) => {} ended = serve => panic!("{ended:?}") }
}

/// A plugin whose verb says what it does.
const PLUGIN: &str = r#"#!/bin/sh
if [ "$1" = describe ]; then
  printf '{"about": "a test", "verbs": ['
  for verb in good bad long flood; do printf '%s{"name": "%s", "about": "It."}' "$comma" "$verb"; comma=,; done
  printf '%s{"name": "secret", "about": "It.", "connections": ["secret"]}]}' "$comma"
  exit
fi
job=$(cat)
case $job in
  *'"verb":"bad"'*) echo '{"result": {"outcome": "failed", "error": {"message": "no"}}}' ;;
  *'"verb":"long"'*) echo '{"progress": {"percent": 5, "message": "on it"}}'; trap '' TERM; sleep 1000 ;;
  *'"verb":"flood"'*) head -c 200000 /dev/zero | tr '\0' x >&2; echo '{"result": {"outcome": "succeeded"}}' ;;
  *'"verb":"secret"'*) printf '%s' "$job" >&2; echo '{"result": {"outcome": "succeeded"}}' ;;
  *) printf '%s\n' '{"output": "hi\n"}' '{"result": {"outcome": "succeeded"}}' ;;
esac
"#;

pub(crate) async fn plugin() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), PLUGIN).unwrap();
    // By another process: a program that this one still has open for writing can't be run.
    let mut install = std::process::Command::new("install");
    assert!(install.args(["-m", "755"]).arg(source.path()).arg(dir.path().join("mine")).status().unwrap().success());
    let options = Options { plugins: Some(Plugins::look(dir.path(), Registry::KNOWN).unwrap()), ..options() };
    let registry = Registry::new(&["mine"], &options).unwrap().with_plugins(&["mine"], &options).await.unwrap();
    let job = |verb| (verb, json!({}));
    let connection = connection(ConnectionKind::Secret, Value::Null, &[("token", SECRET)]);
    check(Row {
        connection: Some(connection),
        long: Some(job("long")),
        flood: Some(job("flood")),
        secrets: vec![job("secret")],
        tells: true,
        ..Row::new("plugin", registry.executor("mine").unwrap(), job("good"), job("bad"))
    })
    .await;
}

pub(crate) async fn ssh() {
    let bench = tokio::task::spawn_blocking(machine::Bench::new).await.unwrap();
    let connection = Some(bench.connection());
    let command = |command: &str| ("run", json!({"command": command}));
    let secret = |command: &str| ("run", json!({"command": command, "stdin": SECRET}));
    check(Row {
        connection,
        long: Some(command("sleep 1000")),
        flood: Some(command("head -c 200000 /dev/zero | tr '\\0' x")),
        secrets: vec![secret("cat"), secret("cat >&2"), ("download", json!({"path": format!("/no/{SECRET}")}))],
        ..Row::new("ssh", Arc::new(bench.ssh), command("echo hi"), command("exit 3"))
    })
    .await;
}

pub(crate) async fn service() {
    let manager = Manager::start().await;
    let unit = |verb, unit: &str| (verb, json!({"unit": unit}));
    let address = manager.address();
    let executor: Arc<dyn Executor> = Arc::new(muster_executor_systemd::Service::new(Some(address), None));
    let waiting = Arc::clone(&executor);
    check(Row {
        long: Some(unit("start", "slow")),
        secrets: vec![unit("status", SECRET), unit("start", &format!("no-{SECRET}"))],
        tells: true,
        // systemd takes a moment to be done with what was given up.
        reset: Box::new(move || {
            let executor = Arc::clone(&waiting);
            Box::pin(async move {
                let status = ("status", json!({"unit": "slow"}));
                loop {
                    let ran = table::run(&executor, None, &status, table::LONG, Default::default()).await;
                    if matches!(ran.execution.data.unwrap()["state"]["active_state"].as_str(), Some("inactive" | "failed")) {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await; // poll
                }
            })
        }),
        ..Row::new("service", executor, unit("start", "good"), unit("start", "broken"))
    })
    .await;
}

pub(crate) async fn docker() {
    let bench = engine::Bench::new().await;
    let sh = |line: &str| ("run", json!({"image": engine::IMAGE, "command": ["sh", "-c", line]}));
    let missing = json!({"image": format!("muster-test/{SECRET}:1"), "pull": "never"});
    check(Row {
        long: Some(sh("sleep 1000")),
        flood: Some(sh("head -c 200000 /dev/zero | tr '\\0' x")),
        secrets: vec![sh(&format!("echo {SECRET}; echo {SECRET} >&2")), ("run", missing)],
        ..Row::new("docker", bench.docker, sh("echo hi"), sh("exit 3"))
    })
    .await;
}

pub(crate) async fn compose() {
    let bench = engine::Bench::new().await;
    let up = |project: &str, service: &str| {
        let file = format!("services:\n  it:\n    image: {}\n    stop_grace_period: 1s\n    {service}\n", engine::IMAGE);
        ("up", json!({"project": project, "file": file}))
    };
    let never_healthy = "command: sleep 1000\n    healthcheck: {test: 'false', interval: 1s, retries: 1000}";
    let missing =
        json!({"project": "alike-none", "file": format!("services: {{it: {{image: 'muster-test/{SECRET}:1'}}}}"), "pull": "never"});
    check(Row {
        long: Some(up("alike-long", never_healthy)),
        secrets: vec![("up", missing.clone())],
        tells: true,
        ..Row::new("compose", Arc::clone(&bench.compose) as Arc<dyn Executor>, up("alike-good", "command: sleep 1000"), ("up", missing))
    })
    .await;
    for project in ["alike-long", "alike-good", "alike-none"] {
        bench.run("compose.down", json!({"project": project, "volumes": true})).await;
    }
}

pub(crate) async fn kubernetes() {
    let cluster = Cluster::start().await;
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "main", "image": "web:1"}]}})
    };
    let made = cluster.run("apply", json!({"objects": [pod("good"), pod("long"), pod("flood"), pod("secret")]})).await;
    assert!(made.error.is_none(), "{made:?}");
    // A real kube-apiserver alone has no logs; the stand-in has.
    let api = cluster.api.clone().expect("this test is for the stand-in: unset MUSTER_TEST_CLUSTER");
    let (_open, more) = tokio::sync::watch::channel(String::new());
    api.log("good", "hi\n", None);
    api.log("long", "hi\n", Some(more));
    api.log("flood", &"x".repeat(200_000), None);
    api.log("secret", &format!("{SECRET}\n"), None);
    let logs = |pod: &str| ("logs", json!({"pod": pod}));
    check(Row {
        connection: Some(cluster.connection()),
        long: Some(("logs", json!({"pod": "long", "follow": true}))),
        flood: Some(logs("flood")),
        secrets: vec![logs("secret"), logs(&format!("no-{SECRET}"))],
        ..Row::new("kubernetes", Arc::new(muster_executor_kubernetes::Kubernetes::new()), logs("good"), logs("none"))
    })
    .await;
}
