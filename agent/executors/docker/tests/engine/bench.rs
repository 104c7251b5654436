//! Executors on the tests' engine, jobs for them, and looks at what became of those.

use std::{
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bollard::{Docker as Client, body_full, models::ContainerInspectResponse, query_parameters::CreateImageOptionsBuilder};
use futures_util::StreamExt as _;
use muster_executor::{
    Attempt, Connection, Context, Execution, Executor, Mask, Progress, Settings, Update,
    runner::{self, Start},
};
use muster_executor_docker::{Compose, Docker, Options};
use muster_schemas::{code::Code, connection::ConnectionKind, sealed::Credentials};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::host::Host;

/// An image with a shell, made without a registry.
pub(crate) const IMAGE: &str = "muster-test/busybox:1";

/// How long anything may take that should happen.
const SOON: Duration = Duration::from_secs(30);

/// An agent of the tests.
pub(crate) const AGENT: &str = "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// The engine, and executors on it.
pub(crate) struct Bench {
    agent: &'static str,
    pub(crate) host: &'static Host,
    pub(crate) client: Client,
    pub(crate) docker: Arc<Docker>,
    pub(crate) compose: Arc<Compose>,
    /// The folder beneath which folders may be mounted.
    pub(crate) root: PathBuf,
}

impl Bench {
    /// With the image.
    pub(crate) async fn new() -> Self {
        Self::of(AGENT).await
    }

    /// One whose jobs are an agent's that no other test's are: what is left of those, the first use of every other bench removes.
    pub(crate) async fn of(agent: &'static str) -> Self {
        let host = tokio::task::spawn_blocking(Host::get).await.unwrap();
        let client = Client::connect_with_unix(&host.socket(), 120, bollard::API_DEFAULT_VERSION).unwrap();
        static IMAGES: OnceCell<()> = OnceCell::const_new();
        IMAGES.get_or_init(|| import(&client)).await;
        let root = host.dir.join("root");
        std::fs::create_dir_all(&root).unwrap();
        let options = Options { host: Some(format!("unix://{}", host.socket())), bind_roots: vec![root.clone()] };
        Self { agent, host, client, docker: Arc::new(Docker::new(&options)), compose: Arc::new(Compose::new(&options)), root }
    }

    /// A job, to be run.
    pub(crate) fn job(&self, kind: &str, params: Value) -> Job {
        let (executor, verb) = kind.split_once('.').unwrap();
        let executor: Arc<dyn Executor> = match executor {
            "docker" => Arc::clone(&self.docker) as Arc<dyn Executor>,
            _ => Arc::clone(&self.compose) as Arc<dyn Executor>,
        };
        let work = executor.check(verb, &params).unwrap().unwrap();
        Job {
            agent: self.agent,
            work,
            timeout: Duration::from_secs(60),
            connection: None,
            cancelled: CancellationToken::new(),
            grace: Duration::from_secs(5),
        }
    }

    /// Runs a job to its end.
    pub(crate) async fn run(&self, kind: &str, params: Value) -> Execution {
        self.job(kind, params).run().await
    }

    /// Why a job is not even started.
    pub(crate) fn refusal(&self, kind: &str, params: Value) -> (Code, String) {
        let (executor, verb) = kind.split_once('.').unwrap();
        let checked = if executor == "docker" { self.docker.check(verb, &params) } else { self.compose.check(verb, &params) };
        let rejection = checked.err().unwrap_or_else(|| panic!("accepted: {params}"));
        (rejection.code, rejection.message)
    }

    /// What the engine says of a container.
    pub(crate) async fn inspect(&self, container: &str) -> Option<ContainerInspectResponse> {
        self.client.inspect_container(container, None).await.ok()
    }
}

/// A job, and what it is run with.
pub(crate) struct Job {
    agent: &'static str,
    work: Box<dyn muster_executor::Work>,
    pub(crate) timeout: Duration,
    pub(crate) connection: Option<Connection>,
    pub(crate) cancelled: CancellationToken,
    pub(crate) grace: Duration,
}

impl Job {
    pub(crate) fn of(work: Box<dyn muster_executor::Work>) -> Self {
        Self { agent: AGENT, work, timeout: SOON, connection: None, cancelled: CancellationToken::new(), grace: Duration::from_secs(5) }
    }

    pub(crate) async fn run(self) -> Execution {
        self.run_with_progress().await.0
    }

    pub(crate) async fn run_with_progress(self) -> (Execution, Vec<Progress>) {
        let (context, mut feed) = Context::new(self.cancelled);
        let attempt = Attempt { agent_id: self.agent.parse().unwrap(), job_id: "job-1".parse().unwrap(), number: 1, timeout: self.timeout };
        let settings = Arc::new(Settings { kill_grace: self.grace, ..Settings::default() });
        let start = Start { attempt, settings, connection: self.connection, mask: Mask::default() };
        let reading = async {
            let mut seen = Vec::new();
            while let Some(update) = feed.next().await {
                if let Update::Progress(progress) = update {
                    seen.push(progress);
                }
            }
            seen
        };
        tokio::join!(runner::run(self.work, start, context), reading)
    }
}

/// A connection to a registry.
pub(crate) fn registry(address: &str, password: &str) -> Connection {
    let fields = [("username", crate::host::USERNAME), ("password", password)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    Connection {
        name: "images".parse().unwrap(),
        kind: ConnectionKind::Registry,
        settings: json!({"registry": address}),
        credentials: Credentials { fields: fields.into(), ..Credentials::default() },
    }
}

/// Code and message.
pub(crate) fn error(execution: &Execution) -> (Code, String) {
    let error = execution.error.as_ref().unwrap_or_else(|| panic!("{execution:?}"));
    (error.code, error.message.clone())
}

/// What was written.
pub(crate) fn texts(execution: &Execution) -> (String, String) {
    let text = |output: &muster_schemas::result::Output| String::from_utf8_lossy(output.as_bytes()).into_owned();
    (text(&execution.stdout), text(&execution.stderr))
}

/// A field of the data.
pub(crate) fn fact(execution: &Execution, pointer: &str) -> Value {
    execution.data.as_ref().and_then(|data| data.pointer(pointer)).cloned().unwrap_or_else(|| panic!("{execution:?}"))
}

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await; // poll
    }
}

/// Makes [`IMAGE`] of a busybox.
async fn import(client: &Client) {
    let folder = tempfile::tempdir().unwrap();
    let script = "mkdir -p bin tmp etc && cp /bin/busybox bin/busybox && for name in $(bin/busybox --list); do \
                  [ \"$name\" = busybox ] || ln -s busybox bin/$name; done && echo root:x:0:0::/:/bin/sh >etc/passwd && tar -c .";
    let tar = Command::new("sh").args(["-c", script]).current_dir(folder.path()).output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    let (name, tag) = IMAGE.split_once(':').unwrap();
    let options = CreateImageOptionsBuilder::default().from_src("-").repo(name).tag(tag).build();
    let mut news = client.create_image(Some(options), Some(body_full(tar.stdout.into())), None);
    while let Some(step) = news.next().await {
        step.unwrap();
    }
}
