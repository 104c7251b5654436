//! An agent from its start to its end: identity, connection, parts, shutdown.
//!
//! What happens at a shutdown, and in which order, is in [`crate::shutdown`].

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use muster_runtime::{
    config::{ConfigError, Layer, Settings as _},
    http::{Ops, Readiness, serve},
    metrics::Metrics,
    nats::{Broker, Connect},
    shutdown::Shutdown,
    tasks::{OnFailure, Tasks},
};
use muster_schemas::{api::Register, names::AgentName, subjects, time::Timestamp, topology::ACK_WAIT};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, watch},
};

use crate::{
    attempt::{self, defaults::Defaults, delivery, live::Live, prefer::Preference},
    config::{Config, Labels},
    control,
    core::Core,
    executors::{self, Registry},
    figures::Figures,
    heartbeat::Pulse,
    identity::{
        self, Identity, Stored,
        enrol::Gateway,
        renew::{self, Renewal},
    },
    intake::Event,
    js::Js,
    link::{self, Link},
    logs::Logs,
    pull::{self, Puller},
    shutdown,
    spool::{Limits, Spool, courier::Courier},
    start,
};

/// Where the agent listens. Loopback only: whoever can reach it needs no key.
#[derive(Debug)]
pub struct Listeners {
    /// For `/healthz`, `/readyz` and `/metrics`.
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

/// The name of the check that fails while the broker can't be reached.
const BROKER: &str = "broker";
/// A task that failed starts again after this.
const RESTART: OnFailure = OnFailure::Restart { delay: Duration::from_secs(1) };
/// Results on their way per slot. One keeps a slot busy while the result before it is being stored.
const FINISHING_PER_SLOT: usize = 1;
/// How long results of an earlier run and the look-up of the standing have before new jobs are taken.
const FIRST: Duration = Duration::from_secs(2);

/// Runs an agent until the shutdown is requested and everything has been given back.
///
/// # Errors
/// When the agent can't start for good: see [`crate::start::StartError`] for those that end with exit code 78.
pub async fn run(config: Config, listeners: Listeners, shutdown: Shutdown) -> anyhow::Result<()> {
    // Whoever built these settings by hand gets the same answer as a person at the command line.
    let wrong = |problem| ConfigError::from_problem(Layer::Defaults, problem);
    config.check().map_err(wrong)?;
    let name = config.agent_name().map_err(wrong)?;
    let settings = executors::Settings {
        allow_private_network: config.allow_private_network,
        log_bytes: config.job_log_limit.get(),
        ..executors::Settings::default()
    };
    let registry = Registry::new(&config.executors, settings)?;
    let metrics = Metrics::new();
    let figures = Figures::new(&metrics)?;
    let readiness = Readiness::new([BROKER, renew::CHECK]);
    // The parts outlive the request to shut down: they are what gives the jobs back.
    let inner = Shutdown::new();
    let tasks = Tasks::new(inner.clone());
    let address = listeners.ops.local_addr()?;
    tracing::info!(%address, "serving /healthz, /readyz and /metrics");
    let router = Ops::new(readiness.clone(), metrics.registry().clone()).router();
    let served = inner.clone();
    tasks.background("ops", async move { Ok(serve(listeners.ops, router, served).await?) });

    let _claimed = identity::file_claim(&config.state_dir).map_err(start::StartError::from)?;
    let gateway = config.api_url.as_deref().map(Gateway::new);
    let register = |public_key: String| register(&name, &config.labels, &registry, public_key);
    let stored = tokio::select! {
        stored = start::identity(&config, gateway.as_ref(), &register) => stored?,
        () = shutdown.requested() => return end(&inner, &tasks).await,
    };
    readiness.set(renew::CHECK, Ok(()));
    tracing::info!(agent_id = %stored.agent_id, pool = %stored.pool, %name, executors = ?registry.executors(), "this agent");

    // The claim on the state directory says that no other process is this agent, so whatever carries its id is a left-over.
    let agent = stored.agent_id.clone();
    let orphans = tokio::task::spawn_blocking(move || executors::kill_orphans(&agent)).await?;
    if orphans > 0 {
        tracing::warn!(orphans, "killed what jobs of an earlier run of this agent left running");
    }
    let halted = Arc::new(AtomicBool::new(false));
    let (agent, halt) = (stored.agent_id.clone(), Arc::clone(&halted));
    shutdown.before_exit(move || {
        halt.store(true, Ordering::SeqCst);
        executors::kill_orphans(&agent);
    });

    let identity = Identity::new(config.state_dir.clone(), stored.clone());
    let (broker, spool) = tokio::join!(
        connect(&config, &stored, &identity),
        Spool::open(&config.state_dir, identity.api_key(), Limits::default(), figures.spooled.clone())
    );
    let (broker, spool) = (broker?, spool?);
    identity.watch(&broker);
    let (link_now, link) = watch::channel(Link::default());
    let js = Js::new(broker.clone());
    let (logs, forwarder) = Logs::new(js.clone(), figures.log_dropped.clone(), config.job_log_limit.get());
    let core = Arc::new(Core {
        id: stored.agent_id.clone(),
        pool: stored.pool.clone(),
        name: name.clone(),
        instance: format!("{:016x}", rand::random::<u64>()),
        started_at: Timestamp::now(),
        slots: config.max_concurrent_jobs,
        registry: registry.clone(),
        js: js.clone(),
        link: link.clone(),
        live: Live::default(),
        preference: Preference::default(),
        defaults: Defaults::default(),
        spool: spool.clone(),
        logs,
        figures: figures.clone(),
        finishing: Semaphore::new(config.max_concurrent_jobs as usize * FINISHING_PER_SLOT),
        group: tasks.group("job"),
        halted,
    });

    let (events, happened) = mpsc::channel(pull::EVENTS);
    // Until the spool had its chance and the standing is known, nothing is pulled.
    events.send(Event::Blocked(true)).await?;
    let ((quiet_now, quiet), (known_now, known)) = (watch::channel(false), watch::channel(false));
    let puller = Puller::new(Arc::clone(&core), events.clone(), happened, quiet_now);
    let pulse = Pulse::new(config.heartbeat_interval(stored.heartbeat_interval()), config.state_dir.clone());
    let (empty_now, empty) = watch::channel(spool.count() == 0);
    let courier = Courier { spool, js, pool: stored.pool.clone(), figures, link: link.clone(), empty: empty_now };
    let public_key = start::public_key(&stored);
    let login = identity.clone();
    let renewal = Renewal { identity, broker: broker.clone(), gateway, register: register(public_key), readiness: readiness.clone() };

    tasks.essential("pull", puller.run(inner.clone()));
    // This end is kept, so that the end of the watcher at the shutdown is no failure of those who listen.
    tasks.essential("link", link::watch(broker.clone(), link_now.clone(), inner.clone()));
    tasks.essential("spool", courier.run(inner.clone()));
    tasks.background("logs", forwarder.run(link.clone(), inner.clone()));
    tasks.background("renewal", renewal.run(inner.clone()));
    {
        let (core, events, known, inner) = (Arc::clone(&core), events.clone(), known_now.clone(), inner.clone());
        tasks.start("control", RESTART, move || control::run(Arc::clone(&core), events.clone(), known.clone(), inner.clone()));
    }
    {
        let (pulse, core, inner) = (pulse.clone(), Arc::clone(&core), inner.clone());
        tasks.start("heartbeat", RESTART, move || pulse.clone().run(Arc::clone(&core), inner.clone()));
    }
    {
        let (core, inner) = (Arc::clone(&core), inner.clone());
        tasks.start("leases", RESTART, move || leases(Arc::clone(&core), inner.clone()));
    }
    tasks.background("gate", gate(Arc::clone(&core), events.clone(), (empty, known), inner.clone()));
    tasks.background("readiness", show(broker.clone(), link, readiness, inner.clone()));

    let version = tokio::select! {
        version = broker.check_version() => version.map_err(anyhow::Error::from),
        () = shutdown.requested() => Ok(()),
        () = inner.requested() => Ok(()),
    };
    if version.is_ok() {
        tokio::select! {
            () = shutdown.requested() => {}
            // A part without which there is no agent has failed.
            () = inner.requested() => {}
        }
        shutdown::drain(&core, &pulse, &events, quiet, config.shutdown_grace.get()).await;
    }
    let ended = end(&inner, &tasks).await;
    // The connection holds the login, which holds the connection: without this it would never close.
    login.unwatch();
    drop(link_now);
    ended.and(version)
}

/// Ends the parts; all jobs are gone by now.
async fn end(inner: &Shutdown, tasks: &Tasks) -> anyhow::Result<()> {
    let failed = inner.reason().map(str::to_owned);
    inner.trigger("the agent has ended");
    tasks.join(Duration::from_secs(3)).await;
    match failed {
        Some(reason) => Err(anyhow::anyhow!(reason)),
        None => Ok(()),
    }
}

async fn connect(config: &Config, stored: &Stored, identity: &Identity) -> anyhow::Result<Broker> {
    let urls = config.nats_url.clone().unwrap_or_else(|| stored.nats_urls.clone());
    let connect = Connect {
        login: identity.login(),
        inbox_prefix: Some(subjects::agent_inbox(&stored.agent_id)),
        root_certificates: config.nats_ca.clone(),
        // A broker that is away now is no reason to give up.
        retry_first: true,
        ..Connect::new(urls, stored.agent_id.to_string())
    };
    // An inbox gets at most its credits and refusals; what waits to be sent is bounded by jobs, leases and log lines.
    Ok(connect.connect_with(|options| options.subscription_capacity(1024).client_capacity(2048)).await?)
}

fn register(name: &AgentName, labels: &Labels, registry: &Registry, public_key: String) -> Register {
    Register {
        name: name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        hostname: sysinfo::System::host_name().unwrap_or_default(),
        capabilities: registry.executors().into_iter().map(str::to_owned).collect(),
        labels: labels.0.clone(),
        public_key,
        ..Register::default()
    }
}

/// Keeps the leases of all jobs: a sign of life at a third of the lease.
async fn leases(core: Arc<Core>, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut interval = tokio::time::interval(ACK_WAIT / 3);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            now = interval.tick() => {
                for reply in core.live.replies() {
                    core.js.send(reply, delivery::IN_PROGRESS.into()).await;
                }
                let slept = tokio::time::Instant::now().duration_since(last);
                last = now.max(tokio::time::Instant::now());
                if slept > ACK_WAIT {
                    tracing::warn!(?slept, "this agent slept past its leases; looking which jobs have ended elsewhere");
                    attempt::stop_finished(&core).await;
                }
            }
        }
    }
}

/// Tells the intake when it may take jobs: not before results of an earlier run had their chance and the standing was looked up, and not
/// while the spool is full. `first` says that the spool is empty, and that the standing is known.
async fn gate(
    core: Arc<Core>,
    events: mpsc::Sender<Event>,
    first: (watch::Receiver<bool>, watch::Receiver<bool>),
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let (mut empty, mut known) = first;
    let mut link = core.link.clone();
    tokio::select! {
        () = shutdown.requested() => return Ok(()),
        up = link.wait_for(|link| link.up) => { up?; }
    }
    let both = async { empty.wait_for(|empty| *empty).await.is_ok() && known.wait_for(|known| *known).await.is_ok() };
    let in_time = tokio::time::timeout(FIRST, both).await.is_ok();
    if !in_time {
        tracing::warn!("results in the spool were not taken, or the standing is not known yet; going on with new jobs");
    }
    let mut blocked = false;
    events.send(Event::Blocked(blocked)).await?;
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            () = tokio::time::sleep(SPOOL_LOOK) => {}
        }
        let full = core.spool.is_full();
        if full != blocked {
            blocked = full;
            tracing::warn!(full, "the spool is full, or has room again; jobs are taken accordingly");
            events.send(Event::Blocked(blocked)).await?;
        }
    }
}

/// How often it is looked whether the spool is full; it fills slowly, and takes no more by itself when it is.
const SPOOL_LOOK: Duration = Duration::from_secs(5);

/// Shows on `/readyz` whether the broker can be reached.
async fn show(broker: Broker, mut link: watch::Receiver<Link>, readiness: Readiness, shutdown: Shutdown) -> anyhow::Result<()> {
    loop {
        let up = link.borrow_and_update().up;
        let why = || broker.status().last_refusal.unwrap_or_else(|| "can't reach the broker".to_owned());
        readiness.set(BROKER, if up { Ok(()) } else { Err(why()) });
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            changed = link.changed() => changed?,
        }
    }
}
