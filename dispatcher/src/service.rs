//! Puts the dispatcher together: connection, tasks, and the order in which they end.

use std::{ffi::OsString, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use futures_util::stream::FuturesUnordered;
use muster_runtime::{
    config::{ConfigArgs, Overrides},
    http::{self, Ops, Readiness},
    metrics::Metrics,
    nats::{Broker, Connect, Login},
    process,
    shutdown::Shutdown,
    tasks::Tasks,
};
use muster_schemas::subjects::broker::dispatcher_inbox;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use crate::{
    config::Config,
    core::{self, Core, Mind},
    expiry::Expiry,
    figures::Figures,
    fixed::Fixed,
    groups, history,
    intake::{self, follow::Source},
    lanes::{Lanes, Reconciler},
    lease::keeper::Keeper,
    sampler::Sampler,
    schedules,
    shares::Shares,
};

/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// The sockets that the dispatcher serves.
#[derive(Debug)]
pub struct Listeners {
    /// `/healthz`, `/readyz`, `/metrics`.
    pub ops: TcpListener,
}

/// Scores agents and makes lanes.
#[derive(Debug, clap::Parser)]
#[command(name = "muster-dispatcher", version)]
struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where /healthz, /readyz and /metrics are.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The directory that `muster init` made.
    #[arg(long, value_name = "DIRECTORY")]
    deployment: Option<String>,
    /// Where the history of jobs is kept.
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<String>,
}

/// The whole process: reads arguments and settings, runs until TERM or INT. The first argument is the program's name.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::run_main("muster-dispatcher", || {
        let args = Args::try_parse_from(args)?;
        let flags = Overrides::new().set("--listen", "listen", args.listen).set("--deployment", "deployment", args.deployment).set(
            "--data-dir",
            "data_dir",
            args.data_dir,
        );
        let options = |config: &Config| process::Options {
            log_filter: config.log_level.clone(),
            log_format: config.log_format,
            worker_threads: None,
        };
        process::run_service(&args.config, flags, options, async |config: Config, shutdown| {
            let ops = TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
            run(config, Listeners { ops }, shutdown).await
        })
    })
}

/// Runs the dispatcher until the shutdown is requested. A broker that is away is waited for.
///
/// # Errors
/// When the settings can't be used, or the broker is too old.
pub async fn run(config: Config, listeners: Listeners, shutdown: Shutdown) -> anyhow::Result<()> {
    let instance = ulid::Ulid::generate().to_string();
    let metrics = Metrics::new();
    let readiness = Readiness::new(core::CHECKS);
    let broker = connect(&config, &instance).await?;
    let tasks = Tasks::new(shutdown.clone());

    let router = Ops::new(readiness.clone(), metrics.registry().clone()).router();
    let until = shutdown.clone();
    tasks.essential("http", async move { Ok(http::serve(listeners.ops, router, until).await?) });
    tracing::info!(instance, urls = ?config.nats_urls, "dispatcher started");

    let worked = tokio::select! {
        checked = broker.check_version() => match checked {
            Ok(()) => work(config, instance, broker, metrics, readiness, &tasks).await,
            Err(error) => Err(error.into()),
        },
        () = shutdown.requested() => Ok(()),
    };
    shutdown.trigger("the dispatcher has ended");
    tasks.join(GRACE).await;
    worked
}

async fn connect(config: &Config, instance: &str) -> anyhow::Result<Broker> {
    let login = config.credentials_file().map_or(Login::Anonymous, Login::File);
    let connect = Connect {
        login,
        inbox_prefix: Some(dispatcher_inbox(instance)),
        root_certificates: config.nats_ca.clone(),
        retry_first: true,
        ..Connect::new(config.nats_urls.clone(), "muster-dispatcher")
    };
    Ok(connect.connect().await?)
}

async fn work(
    config: Config,
    instance: String,
    broker: Broker,
    metrics: Metrics,
    readiness: Readiness,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let shutdown = tasks.shutdown();
    let fixed = Arc::new(Fixed::default());
    let figures = Figures::new(&metrics)?;
    let (keeper, leadership) = Keeper::new(broker.clone(), Arc::clone(&fixed), instance.clone());
    // The lease is given back last, when nothing is written any more.
    let keep = Shutdown::new();
    tasks.essential("lease", keeper.run(keep.clone()));

    let (sender, inputs) = mpsc::channel(intake::QUEUE);
    let (records_read, wait) = watch::channel(false);
    let source = Source { broker: broker.clone(), fixed: Arc::clone(&fixed), figures: figures.clone(), instance };
    let past = history::start(tasks, &source, &config, &metrics, &readiness)?;
    let pools = intake::start(tasks, &source, &leadership, &sender, wait);

    schedules::start(tasks, &broker, &fixed, &leadership, &figures);
    let after = config.expire_after.get();
    groups::start(tasks, &broker, &fixed, &leadership, past.clone(), figures.clone(), after);
    let expiry = Expiry::new(broker.clone(), leadership.clone(), past, figures.clone(), after);
    tasks.essential("expiry", expiry.run(shutdown.clone()));
    let lanes = Lanes::default();
    let reconciler =
        Reconciler { broker: broker.clone(), fixed, leadership: leadership.clone(), lanes: lanes.clone(), pools: pools.clone() };
    tasks.essential("lanes", reconciler.run(shutdown.clone()));
    let shares = Shares { broker: broker.clone(), leadership: leadership.clone(), pools: pools.clone() };
    tasks.essential("shares", shares.run(shutdown.clone()));
    let sampler = Sampler { broker: broker.clone(), leadership: leadership.clone(), pools, figures: figures.clone() };
    tasks.essential("sampler", sampler.run(shutdown.clone()));

    let (tick, mind, writes) = (config.tick.get(), Mind::new(), FuturesUnordered::new());
    let core = Core { broker, leadership, inputs, lanes, figures, readiness, records_read, tick, mind, writes };
    let worked = core.run(shutdown.clone()).await;
    keep.trigger("nothing is written any more");
    worked
}
