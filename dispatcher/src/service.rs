//! Puts the dispatcher together: connection, tasks, and the order in which they end.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

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
use muster_schemas::subjects::broker::{dispatcher_inbox, system_inbox};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

use crate::{
    config::Config,
    core::{self, Core, Mind},
    credentials,
    expiry::Expiry,
    figures::Figures,
    fixed::Fixed,
    groups, history,
    intake::{self, follow::Source},
    keyring,
    lanes::{Lanes, Reconciler},
    lease::keeper::Keeper,
    lookout::Lookout,
    queues::Queues,
    sampler::Sampler,
    schedules,
    shares::Shares,
    signing::{self, Signing},
    trail::Trail,
    warden::{
        self,
        agenda::Agenda,
        means::{self, Means, Missing},
    },
};

/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// How long a step of the warden may take to its end.
const WARDEN_GRACE: Duration = Duration::from_secs(2);
/// How long the last entries of the audit trail may take to be stored.
const TRAIL_GRACE: Duration = Duration::from_secs(1);

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
    let broker = connect(&config, "muster-dispatcher", config.files().credentials, dispatcher_inbox(&instance)).await?;
    let system = system(&config, &instance).await?;
    let tasks = Tasks::new(shutdown.clone());

    let router = Ops::new(readiness.clone(), metrics.registry().clone()).router();
    let until = shutdown.clone();
    tasks.essential("http", async move { Ok(http::serve(listeners.ops, router, until).await?) });
    tracing::info!(instance, urls = ?config.nats_urls, "dispatcher started");

    let worked = tokio::select! {
        checked = broker.check_version() => match checked {
            Ok(()) => work(config, instance, (broker, system), metrics, readiness, &tasks).await,
            Err(error) => Err(error.into()),
        },
        () = shutdown.requested() => Ok(()),
    };
    shutdown.trigger("the dispatcher has ended");
    tasks.join(GRACE).await;
    worked
}

async fn connect(config: &Config, name: &str, credentials: Option<PathBuf>, inbox_prefix: String) -> anyhow::Result<Broker> {
    let (root_certificates, client_certificate) = config.tls();
    let connect = Connect {
        login: credentials.map_or(Login::Anonymous, Login::File),
        inbox_prefix: Some(inbox_prefix),
        root_certificates,
        client_certificate,
        retry_first: true,
        ..Connect::new(config.nats_urls.clone(), name)
    };
    Ok(connect.connect().await?)
}

/// What revocations are carried out with, where there is all of it: over a connection of its own, in the system account.
async fn system(config: &Config, instance: &str) -> anyhow::Result<Result<(Means, Broker), Missing>> {
    let means = match means::load(&config.files())? {
        Ok(means) => means,
        Err(missing) => return Ok(Err(missing)),
    };
    let broker = connect(config, "muster-dispatcher-revoker", Some(means.credentials.clone()), system_inbox(instance)).await?;
    Ok(Ok((means, broker)))
}

async fn work(
    config: Config,
    instance: String,
    (broker, system): (Broker, Result<(Means, Broker), Missing>),
    metrics: Metrics,
    readiness: Readiness,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let shutdown = tasks.shutdown();
    let fixed = Arc::new(Fixed::default());
    let figures = Figures::new(&metrics)?;
    let trail = Trail::new(broker.clone(), &metrics, &instance)?;
    let (keeper, leadership) = Keeper::new(broker.clone(), Arc::clone(&fixed), instance.clone());
    // The lease is given back last, when nothing is written any more.
    let keep = Shutdown::new();
    tasks.essential("lease", keeper.run(keep.clone()));

    let (writer, until) = (trail.clone(), keep.clone());
    tasks.essential("audit", async move {
        tokio::select! {
            () = writer.run() => {}
            () = until.requested() => {}
        }
        Ok(())
    });
    let (sender, inputs) = mpsc::channel(intake::QUEUE);
    let (records_read, wait) = watch::channel(false);
    let source = Source { broker: broker.clone(), fixed: Arc::clone(&fixed), figures: figures.clone(), instance, trail: trail.clone() };
    let files = config.files();
    let signing = Signing::load(files.job_keys.as_deref(), files.control_plane_keys.as_deref())?;
    signing::start(tasks, &source, &signing, &readiness);
    let keyring = keyring::start(tasks, &source, &signing);
    let past = history::start(tasks, &source, &keyring, &config, &metrics, &readiness)?;
    let pools = intake::start(tasks, &source, &leadership, &keyring, &sender, wait);

    schedules::start(tasks, &source, &leadership, &signing);
    let (queues, hint) = Queues::new(broker.clone(), leadership.clone());
    tasks.essential("queues", queues.run(shutdown.clone()));
    let after = config.expire_after.get();
    groups::start(tasks, &source, &leadership, past.clone(), &signing, (after, hint));
    let expiry = Expiry::new(broker.clone(), leadership.clone(), past, figures.clone(), signing.clone(), after);
    tasks.essential("expiry", expiry.run(shutdown.clone()));
    let agenda = Agenda::default();
    // They write into the trail up to their last step.
    let wardens = Tasks::new(shutdown.clone());
    warden::start(&wardens, &source, &leadership, &agenda, (&signing, &keyring), system);
    credentials::start(tasks, &source, &leadership);
    let lanes = Lanes::default();
    let reconciler =
        Reconciler { broker: broker.clone(), fixed, leadership: leadership.clone(), lanes: lanes.clone(), pools: pools.clone() };
    tasks.essential("lanes", reconciler.run(shutdown.clone()));
    let shares = Shares { broker: broker.clone(), leadership: leadership.clone(), pools: pools.clone() };
    tasks.essential("shares", shares.run(shutdown.clone()));
    let (lookout, caller) = Lookout::new(broker.clone(), leadership.clone(), sender);
    tasks.essential("lookout", lookout.run(shutdown.clone()));
    let sampler = Sampler { broker: broker.clone(), leadership: leadership.clone(), pools, figures: figures.clone() };
    tasks.essential("sampler", sampler.run(shutdown.clone()));

    let mind = Mind::new(config.ephemeral_after.get(), config.active_max);
    let (tick, writes) = (config.tick.get(), FuturesUnordered::new());
    let core = Core {
        broker,
        leadership,
        inputs,
        lanes,
        agenda,
        caller,
        figures,
        trail: trail.clone(),
        readiness,
        records_read,
        tick,
        mind,
        writes,
    };
    let worked = core.run(shutdown.clone()).await;
    shutdown.trigger("the dispatcher has ended");
    wardens.join(WARDEN_GRACE).await;
    trail.end(TRAIL_GRACE).await;
    keep.trigger("nothing is written any more");
    worked
}
