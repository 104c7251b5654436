//! The floor: a second broker with the accounts, lanes, result stream and flush of a real deployment, and nothing of ours on it.
//!
//! Each job costs what it costs us on the broker: a durable publish, a pull, a durable result, an ack. There is no history, no republish of queued jobs, no
//! scoring. A result is seen as ours is, once the broker has stored it.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use async_nats::{Client, ConnectOptions, jetstream};
use bytes::Bytes;
use futures_util::{StreamExt, future::try_join_all, stream};
use hdrhistogram::Histogram;
use muster_broker_config::{
    creds,
    init::{self, Broker, InitOptions},
    layout::Account,
    provision,
    server::{Places, Server, Start, find_binary},
};
use muster_runtime::tasks::Group;
use muster_schemas::{
    lane::{Lane, Priority},
    names::{AgentId, JobId, PoolName},
    subjects::{self, About},
    topology,
};

use super::pullers;

/// The size of a job's body and of a result's, in bytes.
const BODY: usize = 200;

/// What a floor is made of.
#[derive(Debug, Clone)]
pub(super) struct Bare {
    /// Where its files go.
    pub(super) folder: PathBuf,
    /// Whether what it has acknowledged is on disk.
    pub(super) durable: bool,
    /// The program to start, which may wrap a broker; by default one is looked for.
    pub(super) nats_server: Option<PathBuf>,
}

/// The bare broker and its connections.
pub(super) struct Floor {
    server: Server,
    folder: PathBuf,
    core: Client,
    /// The agents' tasks. They pull until the floor is stopped: a job under way to an agent that has just ended would wait for its lease.
    agents: Group,
    pool: PoolName,
    lane: Lane,
}

impl Floor {
    /// Starts the broker, and so many agents with `slots` slots each.
    ///
    /// # Errors
    /// When there is no `nats-server` to be had, or it does not start.
    pub(super) async fn start(bare: Bare, agents: usize, slots: usize) -> Result<Self> {
        let Bare { folder, durable, nats_server } = bare;
        let pool: PoolName = "floor".parse()?;
        let lane = Lane { priority: Priority::Normal, executor: "probe".parse()? };
        let broker = Broker { durable, ..Broker::local(None, folder.join("data")) };
        let options = InitOptions { broker, pool: pool.clone() };
        let deployment = {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || init::init(&folder, &options)).await??
        };
        let binary = match nats_server {
            Some(wrapped) => wrapped,
            None => find_binary(&Places::from_env()).await?,
        };
        let server = Server::start(Start::new(binary, deployment.layout.server_config(), folder.join("run"))).await?;
        let login = ConnectOptions::with_credentials_file(deployment.layout.gateway_creds()).await?;
        let core = login.custom_inbox_prefix(muster_schemas::subjects::broker::gateway_inbox("floor")).connect(server.url()).await?;
        for stream in topology::fixed_streams().into_iter().filter(|stream| stream.name == topology::RESULTS) {
            provision::ensure_stream(&core, &stream).await?;
        }
        let jobs = topology::Stream { republish: None, ..topology::jobs(&pool, [&lane.executor], topology::QUEUED_DEFAULT) };
        provision::ensure_stream(&core, &jobs).await?;
        provision::ensure_consumer(&core, &jobs.name, &topology::lane_consumer(&pool, &lane, topology::OUT_MAX)).await?;
        let seed = std::fs::read_to_string(deployment.layout.signing_key(Account::Fleet))?;
        let pullers = Group::new("floor");
        for _ in 0..agents {
            let (id, user) = (AgentId::generate(), Arc::new(nkeys::KeyPair::new_user()));
            let jwt =
                creds::mint_agent_jwt(seed.trim(), &deployment.fleet.account, &pool, &id, &user.public_key(), creds::AGENT_JWT_LIFETIME)?;
            let login = ConnectOptions::with_jwt(jwt, move |nonce| {
                let user = user.clone();
                async move { user.sign(&nonce).map_err(async_nats::AuthError::new) }
            });
            let nats = login.custom_inbox_prefix(subjects::agent_inbox(&id)).connect(server.url()).await?;
            pullers.spawn(pullers::pull(nats, pool.clone(), lane.clone(), slots, pullers.clone()));
        }
        Ok(Self { server, folder, core, agents: pullers, pool, lane })
    }

    /// The broker's process.
    pub(super) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Stops the broker and removes its files.
    pub(super) async fn stop(mut self) {
        self.agents.abort_all();
        let _ = self.server.stop().await;
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    /// Jobs per second with `in_flight` submits waiting for their acknowledgement.
    ///
    /// # Errors
    /// When it takes longer than `most`.
    pub(super) async fn throughput(&self, jobs: usize, in_flight: usize, most: Duration) -> Result<f64> {
        let mut stored = self.core.subscribe(About::Done.pool(&self.pool)).await?;
        self.core.flush().await?;
        let context = jetstream::new(self.core.clone());
        let start = Instant::now();
        let submits = async {
            let mut submits = stream::iter(0..jobs).map(|_| self.publish_one(&context)).buffer_unordered(in_flight);
            while let Some(submitted) = submits.next().await {
                submitted?;
            }
            anyhow::Ok(())
        };
        let results = async {
            for _ in 0..jobs {
                ensure!(stored.next().await.is_some(), "the connection ended");
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(most, async { tokio::try_join!(submits, results) }).await.context("the floor's round did not end")??;
        Ok(jobs as f64 / start.elapsed().as_secs_f64())
    }

    /// Times of one job after another, in microseconds.
    ///
    /// # Errors
    /// When a job takes longer than `most`.
    pub(super) async fn latency(&self, jobs: usize, most: Duration, times: &mut Histogram<u64>) -> Result<()> {
        let mut stored = self.core.subscribe(About::Done.pool(&self.pool)).await?;
        self.core.flush().await?;
        let context = jetstream::new(self.core.clone());
        for _ in 0..jobs {
            let start = Instant::now();
            self.publish_one(&context).await?;
            tokio::time::timeout(most, stored.next()).await.context("a job of the floor did not end")?.context("the connection ended")?;
            times.record(u64::try_from(start.elapsed().as_micros())?)?;
        }
        Ok(())
    }

    /// Publishes per second of `publishers` that each wait for the acknowledgement of one before the next.
    ///
    /// # Errors
    /// When the broker refuses.
    pub(super) async fn publish(&self, jobs: usize, publishers: usize) -> Result<f64> {
        let context = jetstream::new(self.core.clone());
        let each = jobs / publishers.max(1);
        let start = Instant::now();
        try_join_all((0..publishers).map(async |_| {
            for _ in 0..each {
                self.publish_one(&context).await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        Ok((each * publishers) as f64 / start.elapsed().as_secs_f64())
    }

    async fn publish_one(&self, context: &jetstream::Context) -> Result<()> {
        let subject = subjects::job(&self.pool, &self.lane, &JobId::generate(&self.pool));
        context.publish(subject, Bytes::from(vec![b'x'; BODY])).await?.await?;
        Ok(())
    }
}
