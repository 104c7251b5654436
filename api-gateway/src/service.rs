//! The gateway as a service: connects, makes sure that the broker holds what is needed, starts the background work, and serves.

use std::{ffi::OsString, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream;
use clap::Parser as _;
use muster_broker_config::{
    provision::{self, Bootstrap},
    signing::Signing,
};
use muster_runtime::{
    config::{ConfigArgs, Overrides},
    http::{Ops, Readiness},
    metrics::Metrics,
    nats::{Broker, Connect, Login},
    process,
    shutdown::Shutdown,
    tasks::{OnFailure, Tasks},
    trail::Trail,
};
use muster_schemas::subjects::broker;
use tokio::net::TcpListener;

use crate::{
    agents,
    app::{App, Buckets, Figures, Mirror, Shared, mirror},
    audit,
    auth::{self, Auth},
    certificates::{self, Certificates},
    check,
    config::Config,
    door::Door,
    health,
    identity::{self, Minter},
    jobs::Desk,
    pools, queries, replies, routes,
    server::{self, Limits},
    signing,
    stored::Commits,
    types::{self, Types},
    waiters::{self, Waiters},
};

/// How long the start may take once the broker is there. Going over the lanes of a thousand pools takes some ten seconds.
const START: Duration = Duration::from_secs(120);
/// How long to wait before a task that failed is started again.
const RESTART: OnFailure = OnFailure::Restart { delay: Duration::from_millis(200) };
/// How long background tasks may take to end.
const TASKS_GRACE: Duration = Duration::from_secs(2);

/// What the gateway listens on.
#[derive(Debug)]
pub struct Listeners {
    /// REST, documentation, health and metrics.
    pub http: TcpListener,
}

#[derive(clap::Parser)]
#[command(name = "muster-gateway", version, about = "Muster's REST gateway. Run as many as you like; they keep no state.")]
struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where to listen.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// The directory that `muster init` made.
    #[arg(long)]
    deployment: Option<String>,
    /// Ask the gateway that runs with these settings whether it is ready, and end.
    #[arg(long)]
    check: bool,
}

/// Runs the gateway as a process: flags, settings, logs, signals. The first argument is the program's name.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::run_main("muster-gateway", || {
        let args = Args::try_parse_from(args)?;
        let flags = Overrides::new().set("--listen", "listen", args.listen).set("--deployment", "deployment", args.deployment);
        let options = |config: &Config| process::Options {
            log_filter: config.log_level.clone(),
            log_format: config.log_format,
            worker_threads: None,
        };
        process::run_service(&args.config, flags, options, async |config: Config, shutdown| {
            if args.check {
                return check::ready(&config).await;
            }
            let http = TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
            run(config, Listeners { http }, shutdown).await
        })
    })
}

/// Runs the gateway until the shutdown is requested.
///
/// # Errors
/// When the settings can't be used, the broker refuses the credentials' permissions or is too old, or its streams differ from what is
/// needed. A broker that is away is waited for.
pub async fn run(config: Config, listeners: Listeners, shutdown: Shutdown) -> anyhow::Result<()> {
    let (tasks, drained) = (Tasks::new(shutdown.clone()), Shutdown::new());
    // In a box: it is large, and would be moved over the stack by everybody through whose hands this future goes.
    let served = Box::pin(serve(config, listeners, &tasks, &drained)).await;
    drained.trigger("the last request is answered");
    let left = tasks.join(TASKS_GRACE).await;
    if !left.is_empty() {
        tracing::warn!(?left, "tasks did not end in time");
    }
    served
}

async fn serve(config: Config, listeners: Listeners, tasks: &Tasks, drained: &Shutdown) -> anyhow::Result<()> {
    let shutdown = tasks.shutdown().clone();
    let (app, limits) = tokio::select! {
        started = Box::pin(start(config, tasks, drained)) => started?,
        () = shutdown.requested() => return Ok(()),
    };
    let router = routes::router(&app, routes::table());
    tracing::info!(address = %listeners.http.local_addr()?, instance = app.instance, "serving");
    server::serve(listeners.http, router, limits, app.certificates.for_https()?, shutdown).await;
    // What was begun for others, and what was published, goes out before the process ends.
    let last = async {
        app.desk.group().idle().await;
        app.nats.flush().await
    };
    if tokio::time::timeout(TASKS_GRACE, last).await.is_err() {
        tracing::warn!("the last messages did not go out in time");
    }
    app.audit.end(TASKS_GRACE).await;
    Ok(())
}

async fn start(config: Config, tasks: &Tasks, drained: &Shutdown) -> anyhow::Result<(App, Limits)> {
    let limits =
        Limits { connections: config.max_connections, header_timeout: config.header_timeout.get(), grace: config.shutdown_grace.get() };
    let instance = format!("{:016x}", rand::random::<u64>());
    let certificates = Certificates::load(&config)?;
    let broker = connect(&config, &instance, &certificates).await?;
    let app = tokio::time::timeout(START, prepare(config, instance, (broker, certificates), tasks, drained)).await;
    Ok((app.context("the broker does not answer")??, limits))
}

async fn connect(config: &Config, instance: &str, certificates: &Certificates) -> anyhow::Result<Broker> {
    let connect = Connect {
        login: config.files().credentials.map_or(Login::Anonymous, Login::File),
        inbox_prefix: Some(broker::gateway_inbox(instance)),
        client_certificate: certificates.for_broker()?,
        retry_first: true,
        ..Connect::new(config.nats_urls.clone(), "muster-gateway")
    };
    let broker = connect.connect().await?;
    broker.check_version().await?;
    Ok(broker)
}

/// Makes the state and starts the background work, and returns once all of it is up to date.
async fn prepare(
    config: Config,
    instance: String,
    (broker, certificates): (Broker, Certificates),
    tasks: &Tasks,
    drained: &Shutdown,
) -> anyhow::Result<App> {
    let files = config.files();
    let nats = broker.client().clone();
    match &files.bootstrap {
        Some(path) => provision::provision(&nats, &Bootstrap::read(path)?).await?,
        None => provision::provision_fixed(&nats).await?,
    }
    let js = jetstream::new(nats.clone());
    let buckets = Buckets::open(&js).await?;
    let metrics = Metrics::new();
    let figures = Arc::new(Figures::new(&metrics)?);
    let readiness = Readiness::new(health::CHECKS);
    let signing = Signing::load(files.job_keys.as_deref(), files.control_plane_keys.as_deref())?;
    signing::reconcile(&buckets.trust, &signing).await?;
    let app = App::new(Shared {
        auth: Auth::new(nats.clone(), &buckets, config.refusals_per_minute, Arc::clone(&figures)),
        audit: Trail::new(broker.clone(), &metrics)?,
        door: Door::new(&config, Arc::clone(&figures)),
        minter: Minter::load(&files)?,
        certificates,
        signing,
        waiters: Waiters::new(),
        desk: Desk::new(&metrics)?,
        commits: Commits::new(nats.clone()),
        mirror: Mirror::default(),
        types: Types::default(),
        ops: Ops::new(readiness.clone(), metrics.registry().clone()).router(),
        tasks: tasks.clone(),
        drained: drained.clone(),
        openapi: std::sync::OnceLock::new(),
        config,
        instance,
        broker,
        nats,
        js,
        buckets,
        figures,
    });
    mirrors(&app);
    background(&app, "identity", identity::run);
    background(&app, "leaving", agents::leave::run);
    background(&app, "key uses", auth::write_uses);
    background(&app, "certificates", certificates::run);
    background(&app, "waiters", waiters::run);
    background(&app, "queries", queries::run);
    background(&app, "replies", replies::run);
    background(&app, "pools", pools::sample);
    background(&app, "audit", audit::run);
    background(&app, "types", types::run);
    let mirror = &app.mirror;
    tokio::join!(
        mirror.agents.synced(),
        mirror.standings.synced(),
        mirror.pools.synced(),
        mirror.api_keys.synced(),
        mirror.join_tokens.synced(),
        mirror.key_uses.synced(),
        app.waiters.ready()
    );
    // Last, so that its first look finds everything in place.
    background(&app, "health", move |app| health::watch(app, readiness.clone()));
    Ok(app)
}

/// Starts a task that runs until the last request is answered, and again whenever it fails.
fn background<Fut>(app: &App, name: &'static str, run: impl Fn(App) -> Fut + Send + 'static)
where
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let again = app.clone();
    app.tasks.start(name, RESTART, move || {
        let (run, drained) = (run(again.clone()), again.drained.clone());
        async move {
            tokio::select! {
                outcome = run => outcome,
                () = drained.requested() => Ok(()),
            }
        }
    });
}

/// Starts the watches behind the mirrors.
fn mirrors(app: &App) {
    background(app, "watch agents", |app| async move {
        mirror::watch::watch(&app.broker, &app.buckets.agents, app.mirror.agents.feed(mirror::agent_key)).await
    });
    background(app, "watch standings", |app| async move {
        mirror::watch::watch(&app.broker, &app.buckets.standings, app.mirror.standings.feed(mirror::standing_key)).await
    });
    background(app, "watch pools", |app| async move {
        mirror::watch::watch(&app.broker, &app.buckets.pools, app.mirror.pools.feed(|key| key.parse().ok())).await
    });
    background(app, "watch signers", signing::follow);
    background(app, "watch join tokens", |app| async move {
        mirror::watch::watch(&app.broker, &app.buckets.join_tokens, app.mirror.join_tokens.feed(|key| Some(key.to_owned()))).await
    });
    background(app, "watch key uses", |app| async move {
        mirror::watch::watch(&app.broker, &app.buckets.key_uses, app.mirror.key_uses.feed(|key| Some(key.to_owned()))).await
    });
    background(app, "watch keys", |app| async move {
        let mut feed = app.mirror.api_keys.feed(|key| Some(key.to_owned()));
        let both = |change: mirror::Change| {
            app.auth.apply(&change);
            feed(change);
        };
        mirror::watch::watch(&app.broker, &app.buckets.api_keys, both).await
    });
}
