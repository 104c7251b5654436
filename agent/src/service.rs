//! An agent's process from its start to its end: what outlives an identity, and how one follows the other.
//!
//! An agent takes turns ([`crate::turn`]), nearly always one. When its identity is over (revoked, deleted, moved, its API key replaced), it has stopped
//! everything it ran; it stays there, says why on `/readyz`, and asks the gateway for another identity: at once where it may come back as it
//! is, otherwise slowly, and within a second when a file with a key or token changes.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use muster_runtime::{
    config::{ConfigError, Layer, Problem, Settings as _},
    http::{Ops, Readiness},
    logs,
    metrics::Metrics,
    shutdown::Shutdown,
    tasks::Tasks,
};
use muster_schemas::{
    api::Register,
    names::{AgentId, AgentName},
};
use tokio::net::TcpListener;

use crate::{
    admin::Admin,
    clock::Clock,
    config::{self, Config},
    executors::{self, Registry},
    figures::Figures,
    identity::{
        self, Identity, Stored, certificate::Certificates, credentials::Credentials, end::End, enrol::Gateway, registration::Registration,
        renew,
    },
    start::{Start, StartError},
    trust::{Trust, follow},
    turn::{self, Agent, Over},
    upkeep, vault,
};

/// Where the agent listens. Loopback only: what needs no token is for everybody on the machine.
#[derive(Debug)]
pub struct Listeners {
    /// For `/healthz`, `/readyz`, `/metrics` and `/vault`.
    pub ops: TcpListener,
}

impl Listeners {
    /// Listens where the settings say.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let port = config.admin_port;
        let ops = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let ops = ops.with_context(|| format!("can't listen on 127.0.0.1:{port} (ADMIN_PORT); 0 takes any free port"))?;
        Ok(Self { ops })
    }
}

/// First and longest wait between tries to come back after an identity has ended.
const COME_BACK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Runs an agent until the shutdown is requested and everything has been given back.
///
/// # Errors
/// When the agent can't start for good: see [`crate::start::StartError`] for those that end with exit code 78.
pub async fn run(config: Config, listeners: Listeners, shutdown: Shutdown) -> anyhow::Result<()> {
    // Whoever built these settings by hand gets the same answer as a person at the command line.
    let wrong = |problem| ConfigError::from_problem(Layer::Defaults, problem);
    config.check().map_err(wrong)?;
    let name = config.agent_name().map_err(wrong)?;
    let settings = executors::Settings { log_bytes: config.job_log_limit.get(), ..executors::Settings::default() };
    let options = options(&config, settings).map_err(wrong)?;
    let refused = |error: executors::Refused| wrong(Problem::new("executors", error.to_string()));
    let registry = Registry::new(&config.executors, &options)?.with_plugins(&config.executors, &options).await.map_err(refused)?;
    let registry = registry.that_work_here().await;
    // Whatever quotes a secret into the log, it gets no further.
    let masks = registry.masks().clone();
    logs::filter(move |line| masks.now().bytes(line));
    let metrics = Metrics::new();
    let figures = Figures::new(&metrics)?;
    let readiness = Readiness::new([upkeep::BROKER, renew::CHECK, follow::CHECK, vault::CHECK]);
    let outer = Shutdown::new();
    let tasks = Tasks::new(outer.clone());
    let address = listeners.ops.local_addr()?;
    tracing::info!(%address, "serving /healthz, /readyz, /metrics and /vault");
    let admin = Admin::new(address.port());
    let router = Ops::new(readiness.clone(), metrics.registry().clone()).router();
    let served = outer.clone();
    let server = admin.clone();
    tasks.background("ops", async move { Ok(server.serve(listeners.ops, router, served).await?) });

    let certificates = Certificates::new(&config.state_dir);
    let trust = Trust::open(&config).map_err(StartError::from)?;
    let clock = Clock::default();
    let gateway = |url: &str| Gateway::new(url, config.api_ca.clone(), certificates.clone(), trust.clone(), clock.clone());
    let gateway = config.api_url.as_deref().map(gateway);
    let registration = Registration::new(facts(&config, &name, &registry));
    let halted = Arc::default();
    let agent =
        Agent { config, name, admin, registry, figures, readiness, gateway, registration, trust, certificates, clock, halted, shutdown };
    let ended = agent.run().await;
    ended.and(turn::end(&outer, &tasks).await)
}

/// What the executors are made with.
fn options(config: &Config, settings: executors::Settings) -> Result<executors::Options, Problem> {
    let cgroup = match &config.launcher {
        Some(_) => executors::Base::find(&config.job_cgroup).map_err(|problem| Problem::new("job_cgroup", problem))?,
        None => None,
    };
    let plugins = config.plugin_dir.as_deref().map(|folder| executors::Plugins::look(folder, Registry::KNOWN));
    let options = executors::Options {
        settings,
        allow_private_network: config.allow_private_network,
        docker_host: config.docker_host.clone(),
        docker_bind_roots: config.docker_bind_roots.clone(),
        service_units: config.service_units.clone(),
        allow_os_restart: config.allow_os_restart,
        launcher: config.launcher.clone(),
        cgroup,
        shell_env_allow: config.shell_env_allow.clone(),
        shell_limits: config.shell_limits.clone(),
        files: config.files()?,
        known_hosts: config.state_dir.join(config::KNOWN_HOSTS),
        plugins: plugins.transpose().map_err(|error| Problem::new("plugin_dir", error.to_string()))?,
    };
    if let Some(cgroup) = &options.cgroup {
        tracing::info!(cgroup = %cgroup.path().display(), "commands get cgroups of their own");
    }
    Ok(options)
}

/// What a registration says of this agent.
fn facts(config: &Config, name: &AgentName, registry: &Registry) -> Register {
    Register {
        name: name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        hostname: sysinfo::System::host_name().unwrap_or_default(),
        capabilities: registry.executors().into_iter().map(str::to_owned).collect(),
        labels: config.labels.0.clone(),
        ephemeral: config.ephemeral,
        ..Register::default()
    }
}

impl Agent {
    /// Takes turns until the end.
    async fn run(&self) -> anyhow::Result<()> {
        let _claimed = identity::file_claim(&self.config.state_dir).map_err(StartError::from)?;
        self.admin.begin(&self.config).map_err(StartError::from)?;
        // Who left commands running, should this process end at once.
        let present: Arc<Mutex<Option<AgentId>>> = Arc::default();
        let (halt, who) = (Arc::clone(&self.halted), Arc::clone(&present));
        let registry = self.registry.clone();
        self.shutdown.before_exit(move || last_act(&halt, &who, &registry));
        let before = Stored::load(&self.config.state_dir).map_err(StartError::from)?.map(|stored| stored.agent_id);
        if let Some(agent) = before.clone() {
            self.kill_orphans(agent).await?;
        }
        let start = self.start();
        let mut stored = tokio::select! {
            stored = start.identity(false) => stored?,
            () = self.shutdown.requested() => return Ok(()),
        };
        let identity = Identity::new(self.config.state_dir.clone(), stored.clone());
        let mut anew = false;
        loop {
            let (name, executors) = (stored.name.as_ref().unwrap_or(&self.name), self.registry.executors().join(","));
            tracing::info!(agent_id = %stored.agent_id, pool = %stored.pool, %name, executors, "this agent");
            *present.lock().unwrap_or_else(PoisonError::into_inner) = Some(stored.agent_id.clone());
            let end = match self.turn(&identity, anew).await? {
                Over::Finished(outcome) => return outcome,
                Over::Ended(end) => end,
            };
            // Those that did not go by themselves.
            self.kill_orphans(stored.agent_id.clone()).await?;
            stored = tokio::select! {
                stored = self.come_back(&end) => stored,
                () = self.shutdown.requested() => return Ok(()),
            };
            identity.replace(stored.clone());
            anew = true;
        }
    }

    /// Kills what carries the agent's id. The claim on the state directory says that no other process is this agent, so it is a left-over.
    async fn kill_orphans(&self, agent: AgentId) -> anyhow::Result<()> {
        let registry = self.registry.clone();
        let orphans = tokio::task::spawn_blocking(move || registry.kill_orphans(&agent)).await?;
        if orphans > 0 {
            tracing::warn!(orphans, "killed what jobs of an earlier run of this agent left running");
        }
        Ok(())
    }

    fn start(&self) -> Start<'_> {
        Start { config: &self.config, gateway: self.gateway.as_ref(), registration: &self.registration }
    }

    /// Gets another identity after one has ended, however long that takes.
    async fn come_back(&self, end: &End) -> Stored {
        let mut wait = COME_BACK.0;
        let mut last = String::new();
        if !end.may_come_back_at_once() {
            self.start().wait(wait, &Credentials::readable(&self.config)).await;
        }
        loop {
            let tried = Credentials::readable(&self.config);
            match self.start().identity(true).await {
                Ok(stored) => {
                    tracing::info!("this agent has an identity again");
                    return stored;
                }
                Err(error) => {
                    let error = muster_runtime::process::chain(&error.into()).to_string();
                    if error == last {
                        tracing::debug!(error, retry_in = ?wait, "still without an identity");
                    } else {
                        tracing::warn!(error, retry_in = ?wait, "can't come back ({end})");
                        last = error;
                    }
                }
            }
            self.start().wait(wait, &tried).await;
            wait = (wait * 2).min(COME_BACK.1);
        }
    }
}

/// What is done at a second signal, when the process ends at once.
fn last_act(halted: &AtomicBool, agent: &Mutex<Option<AgentId>>, registry: &Registry) {
    halted.store(true, Ordering::SeqCst);
    if let Some(agent) = agent.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        registry.kill_orphans(agent);
    }
}
