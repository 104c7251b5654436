//! An agent from an identity to its end: the connection, the parts, and how they end together.
//!
//! The process may take several turns: when the identity is over, [`crate::service`] gets another one and begins the next. What happens at
//! the end of a turn, and in which order, is in [`crate::shutdown`].

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context as _;
use muster_runtime::{
    http::Readiness,
    shutdown::Shutdown,
    tasks::{OnFailure, Tasks},
};
use muster_schemas::{names::AgentName, time::Timestamp};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    acks::Acks,
    admin::Admin,
    attempt::{allowed::Allowed, defaults::Defaults, live::Live, prefer::Preference},
    clock::Clock,
    config::Config,
    connect, connections, control,
    core::Core,
    description::Said,
    executors::Registry,
    figures::Figures,
    heartbeat::Pulse,
    identity::{
        Identity,
        certificate::Certificates,
        end::{End, Ended},
        enrol::Gateway,
        leave,
        registration::Registration,
        renew::{self, Renewal},
    },
    intake::Event,
    js::Js,
    link::{self, Link},
    logs::Logs,
    pull::{self, Puller},
    shutdown,
    spool::{Limits, Spool, courier::Courier},
    standby::{self, Standby},
    trust::{Trust, follow::Follow},
    upkeep,
    vault::Vault,
};

/// A task that failed starts again after this.
const RESTART: OnFailure = OnFailure::Restart { delay: Duration::from_secs(1) };
/// Results on their way, beyond those that the slots have at once. Results that come together share a commit at the broker, which costs it as much
/// as some twelve of them whatever it holds: so one commit of several dozen may be under way while the next one gathers. More would only be
/// lost with an agent that is killed, and run again.
const FINISHING: usize = 128;

/// What all turns of a process share.
pub(crate) struct Agent {
    pub(crate) config: Config,
    /// The name of the settings.
    pub(crate) name: AgentName,
    pub(crate) admin: Admin,
    pub(crate) registry: Registry,
    pub(crate) figures: Figures,
    pub(crate) readiness: Readiness,
    pub(crate) gateway: Option<Gateway>,
    pub(crate) registration: Registration,
    pub(crate) trust: Trust,
    pub(crate) certificates: Certificates,
    pub(crate) clock: Clock,
    /// See [`Core::halted`].
    pub(crate) halted: Arc<AtomicBool>,
    /// The request to end the process.
    pub(crate) shutdown: Shutdown,
}

/// How a turn ended.
pub(crate) enum Over {
    /// With the process.
    Finished(anyhow::Result<()>),
    /// The identity is over; everything that ran was stopped.
    Ended(End),
}

impl Agent {
    /// Takes a turn. `anew` says that the identity before this one was over, so that this one has to be accepted to count as good.
    pub(crate) async fn turn(&self, identity: &Identity, anew: bool) -> anyhow::Result<Over> {
        let (config, shutdown, readiness) = (&self.config, &self.shutdown, &self.readiness);
        let stored = identity.stored();
        self.trust.belongs_to(&stored.agent_id);
        // The parts outlive the request to shut down: they are what gives the jobs back.
        let inner = Shutdown::new();
        let tasks = Tasks::new(inner.clone());
        let ended = Ended::new();
        let (broker, spool, vault) = tokio::join!(
            connect::connect(config, identity, &self.certificates),
            Spool::open(&config.state_dir, &stored.agent_id, identity.api_key(), Limits::default(), self.figures.spooled.clone()),
            Vault::open(config.vault_path(), identity.api_key(), self.registry.masks().clone(), readiness.clone(), &self.figures)
        );
        let (broker, spool) = (broker?, spool?);
        identity.watch(&broker);
        self.admin.has(Some(vault.clone()));
        let (link_now, link) = watch::channel(Link::default());
        let signer = Arc::new(identity.signer().context("the seed of the identity file is none of a user")?);
        let (js, commits) = Js::new(broker.clone(), Arc::clone(&signer));
        let (logs, forwarder) = Logs::new(js.clone(), self.figures.log_dropped.clone(), config.job_log_limit.get());
        let core = Arc::new(Core {
            id: stored.agent_id.clone(),
            pool: stored.pool.clone(),
            name: stored.name.clone().unwrap_or_else(|| self.name.clone()),
            signer,
            instance: format!("{:016x}", rand::random::<u64>()),
            started_at: Timestamp::now(),
            slots: config.max_concurrent_jobs,
            clock: self.clock.clone(),
            registry: self.registry.clone(),
            description: Said::of(&self.registry.description()),
            js: js.clone(),
            link: link.clone(),
            live: Live::default(),
            acks: Acks::default(),
            preference: Preference::default(),
            trust: self.trust.clone(),
            defaults: Defaults::default(),
            allowed: Allowed::default(),
            standby: Standby::default(),
            spool: spool.clone(),
            sealing: connections::sealing(&vault, &stored.agent_id, &stored.seed),
            resealing: connections::Desk::default(),
            vault,
            logs,
            figures: self.figures.clone(),
            finishing: Semaphore::new(FINISHING.max(config.max_concurrent_jobs as usize)),
            group: tasks.group("job"),
            halted: Arc::clone(&self.halted),
            ended: ended.clone(),
        });

        let (events, happened) = mpsc::channel(pull::EVENTS);
        // Until the spool had its chance and the standing is known, nothing is pulled.
        events.send(Event::Blocked(true)).await?;
        let ((quiet_now, quiet), (known_now, known)) = (watch::channel(false), watch::channel(false));
        let puller = Puller::new(Arc::clone(&core), events.clone(), happened, quiet_now);
        let pulse = Pulse::new(config.heartbeat_interval(stored.heartbeat_interval()), config.state_dir.clone());
        let (empty_now, empty) = watch::channel(spool.count() == 0);
        let courier = Courier { spool, js, pool: stored.pool.clone(), figures: self.figures.clone(), link: link.clone(), empty: empty_now };
        let renewal = Renewal {
            identity: identity.clone(),
            broker: broker.clone(),
            gateway: self.gateway.clone(),
            registration: self.registration.clone(),
            certificates: self.certificates.clone(),
            readiness: readiness.clone(),
            ended: ended.clone(),
            live: core.live.clone(),
            clock: self.clock.clone(),
        };

        tasks.essential("pull", puller.run(inner.clone()));
        // This end is kept, so that the end of the watcher at the shutdown is no failure of those who listen.
        tasks.essential("link", link::watch(broker.clone(), link_now.clone(), inner.clone()));
        tasks.essential("spool", courier.run(inner.clone()));
        {
            let inner = inner.clone();
            tasks.essential("results", async move {
                tokio::select! {
                    () = commits.run() => {}
                    () = inner.requested() => {}
                }
                Ok(())
            });
        }
        tasks.essential("acks", core.acks.clone().run(core.js.clone(), inner.clone()));
        tasks.background("logs", forwarder.run(link.clone(), inner.clone()));
        tasks.background("renewal", renewal.run(inner.clone()));
        {
            let (core, events, known) = (Arc::clone(&core), events.clone(), known_now.clone());
            let (readiness, inner) = (readiness.clone(), inner.clone());
            tasks.start("control", RESTART, move || {
                control::run(Arc::clone(&core), events.clone(), known.clone(), readiness.clone(), inner.clone())
            });
        }
        {
            let (readiness, link, inner) = (readiness.clone(), link.clone(), inner.clone());
            let (gateway, registration) = (self.gateway.clone(), self.registration.clone());
            let follow = Follow {
                trust: self.trust.clone(),
                js: core.js.clone(),
                link,
                identity: identity.clone(),
                gateway,
                registration,
                readiness,
                ended: ended.clone(),
            };
            tasks.start("signers", RESTART, move || follow.clone().run(inner.clone()));
        }
        {
            let (pulse, core, inner) = (pulse.clone(), Arc::clone(&core), inner.clone());
            tasks.start("heartbeat", RESTART, move || pulse.clone().run(Arc::clone(&core), inner.clone()));
        }
        {
            let (pulse, core, inner) = (pulse.clone(), Arc::clone(&core), inner.clone());
            tasks.start("connections", RESTART, move || connections::run(Arc::clone(&core), pulse.clone(), inner.clone()));
        }
        {
            let (core, inner) = (Arc::clone(&core), inner.clone());
            tasks.start("leases", RESTART, move || upkeep::leases(Arc::clone(&core), inner.clone()));
        }
        {
            let (core, events, inner) = (Arc::clone(&core), events.clone(), inner.clone());
            let interval = pulse.interval();
            tasks.start("standby", RESTART, move || standby::watch(Arc::clone(&core), events.clone(), interval, inner.clone()));
        }
        tasks.background("gate", upkeep::gate(Arc::clone(&core), events.clone(), (empty, known), inner.clone()));
        tasks.background("readiness", upkeep::show(broker.clone(), link, readiness.clone(), inner.clone()));
        if !anew {
            readiness.set(renew::CHECK, Ok(()));
        }

        let version = tokio::select! {
            version = broker.check_version() => version.map_err(anyhow::Error::from),
            () = shutdown.requested() => Ok(()),
            () = inner.requested() => Ok(()),
            _ = ended.wait() => Ok(()),
        };
        let mut over = None;
        if version.is_ok() {
            if anew && broker.status().connected {
                readiness.set(renew::CHECK, Ok(()));
            }
            over = tokio::select! {
                end = ended.wait() => Some(end),
                () = shutdown.requested() => None,
                // A part without which there is no agent has failed.
                () = inner.requested() => None,
            };
            match &over {
                Some(end) => {
                    readiness.set(renew::CHECK, Err(end.to_string()));
                    tracing::error!("this agent's identity has ended ({end}); taking no jobs, and stopping those that run");
                    shutdown::cut(&core, &events).await;
                    identity.end();
                }
                None => {
                    shutdown::drain(&core, &pulse, &events, quiet, config.shutdown_grace.get()).await;
                    if config.ephemeral || identity.stored().ephemeral {
                        leave::leave(&core, identity).await;
                    }
                }
            }
        }
        let failed = end(&inner, &tasks).await;
        self.admin.has(None);
        core.vault.end().await;
        // The connection holds the login, which holds the connection: without this it would never close.
        identity.unwatch();
        drop(link_now);
        Ok(match over {
            Some(end) => {
                tracing::info!("everything of this identity has ended ({end}); this process stays, and waits for another identity");
                Over::Ended(end)
            }
            None => Over::Finished(failed.and(version)),
        })
    }
}

/// Ends the parts; all jobs are gone by now.
pub(crate) async fn end(inner: &Shutdown, tasks: &Tasks) -> anyhow::Result<()> {
    let failed = inner.reason().map(str::to_owned);
    inner.trigger_quietly("the agent has ended");
    tasks.join(Duration::from_secs(3)).await;
    match failed {
        Some(reason) => Err(anyhow::anyhow!(reason)),
        None => Ok(()),
    }
}
