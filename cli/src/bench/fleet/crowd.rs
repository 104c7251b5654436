//! The simulated agents together: their records and credentials, which a gateway would have made, and the end of it all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use async_nats::{ConnectOptions, jetstream::kv::Store};
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_broker_config::{creds, layout::Account};
use muster_runtime::tasks::Group;
use muster_schemas::{
    names::{AgentId, PoolName},
    records::{AgentRecord, keys},
    signature::Signer,
    subjects,
    time::Timestamp,
    topology, wire,
};

use super::agent::{Simulated, called_only, pulled};
use crate::bench::{
    report::progress,
    rig::{Pool, Rig},
};

/// Simulated agents that are made, or removed, at once.
const AT_ONCE: usize = 32;
/// How long the dispatcher may take to give all of them their standings.
const RANKED_MAX: Duration = Duration::from_secs(180);
/// How often the removal of one is tried.
const REMOVE_TRIES: usize = 5;
/// Between two tries.
const REMOVE_AGAIN: Duration = Duration::from_secs(1);
/// How often it is said how far it is.
const SAY: usize = 1000;
/// Bytes of the buffer with which each connection reads. The library's own would take more than a gigabyte for a large fleet.
const BUFFER: u16 = 2048;

/// What the agents tell.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Those who have the standing of an agent that accepts, behind the real ones.
    pub(super) ranked: AtomicU64,
    /// Those who stand by for what all pull.
    pub(super) standing_by: AtomicU64,
    /// Jobs that one of them was given that a better one should have had.
    pub(super) served: AtomicU64,
    /// Agents that have ended, which none should.
    pub(super) lost: AtomicU64,
}

/// All simulated agents.
pub(super) struct Crowd {
    /// What they tell.
    pub(super) told: Arc<Told>,
    records: Store,
    ids: Vec<AgentId>,
    group: Group,
}

impl Crowd {
    /// Makes so many, and waits until each has a standing.
    ///
    /// # Errors
    /// When one cannot be made, or the dispatcher takes too long.
    pub(super) async fn start(rig: &Rig, pool: &Pool, agents: usize) -> Result<Self> {
        let records = async_nats::jetstream::new(rig.core().await?).get_key_value(topology::AGENTS).await?;
        let seed = std::fs::read_to_string(rig.layout.signing_key(Account::Fleet)).context("the deployment's keys")?;
        let account = std::fs::read_to_string(rig.layout.fleet_account())?;
        let mut crowd = Self { told: Arc::default(), records, ids: Vec::new(), group: Group::new("idle agents") };
        {
            let this = &crowd;
            let keys = (seed.trim(), account.trim());
            let mut made = stream::iter(0..agents).map(|number| this.make(rig, &pool.name, number, keys)).buffer_unordered(AT_ONCE);
            let mut ids = Vec::new();
            while let Some(agent) = made.try_next().await? {
                ids.push(agent.id.clone());
                let (told, phase) = (Arc::clone(&this.told), ids.len() as f64 / agents as f64);
                this.group.spawn(async move {
                    if let Err(error) = agent.live(phase, &told).await
                        && told.lost.fetch_add(1, Ordering::Relaxed) == 0
                    {
                        progress(&format!("a simulated agent failed: {error:#}"));
                    }
                });
                if ids.len() % SAY == 0 {
                    progress(&format!("{} of {agents} simulated agents are there", ids.len()));
                }
            }
            drop(made);
            crowd.ids = ids;
        }
        crowd.ranked().await?;
        Ok(crowd)
    }

    async fn make(&self, rig: &Rig, pool: &PoolName, number: usize, (seed, account): (&str, &str)) -> Result<Simulated> {
        let id = AgentId::generate();
        let user = nkeys::KeyPair::new_user();
        let signer = Signer::from_seed(&user.seed()?).context("the seed of a new key")?;
        let now = Timestamp::now();
        let record = AgentRecord {
            capabilities: [pulled(), called_only()].into(),
            version: env!("CARGO_PKG_VERSION").into(),
            registered_at: Some(now),
            public_key: Some(user.public_key()),
            ..AgentRecord::new(id.clone(), format!("idle-{number}").parse()?, pool.clone(), now)
        };
        self.records.put(keys::agent(&id), wire::encode(&record).into()).await?;
        let jwt = creds::mint_agent_jwt(seed, account, pool, &id, &user.public_key(), creds::AGENT_JWT_LIFETIME)?;
        let user = Arc::new(user);
        let login = ConnectOptions::with_jwt(jwt, move |nonce| {
            let user = Arc::clone(&user);
            async move { user.sign(&nonce).map_err(async_nats::AuthError::new) }
        });
        let options = rig.secured(login).custom_inbox_prefix(subjects::agent_inbox(&id)).read_buffer_capacity(BUFFER);
        let nats = options.connect(&rig.nats_url).await?;
        Ok(Simulated { id, pool: pool.clone(), nats, signer })
    }

    /// Waits until the dispatcher has put all of them behind the real agents.
    async fn ranked(&self) -> Result<()> {
        let (start, mut said) = (Instant::now(), 0);
        loop {
            let ranked = usize::try_from(self.told.ranked.load(Ordering::Relaxed))?;
            if ranked >= self.ids.len() {
                return Ok(());
            }
            if ranked / SAY > said {
                said = ranked / SAY;
                progress(&format!("{ranked} of them have their standings"));
            }
            ensure!(start.elapsed() < RANKED_MAX, "only {ranked} of {} have their standings after {RANKED_MAX:?}", self.ids.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether it is so large that some stand by.
    pub(super) fn stands_by(&self) -> bool {
        self.told.standing_by.load(Ordering::Relaxed) > 0
    }

    /// Ends all of them, and removes what was made for them.
    ///
    /// # Errors
    /// When the broker refuses.
    pub(super) async fn stop(self) -> Result<()> {
        progress("removing the fleet");
        self.group.abort_all();
        let remove = |id: &AgentId| {
            let (id, this) = (id.clone(), &self);
            async move {
                let mut tries = 0;
                // The broker has thousands of connections to end at the same time, and answers nobody for seconds.
                while let Err(error) = this.records.delete(keys::agent(&id)).await {
                    tries += 1;
                    ensure!(tries < REMOVE_TRIES, error);
                    tokio::time::sleep(REMOVE_AGAIN).await;
                }
                Ok(())
            }
        };
        stream::iter(&self.ids).map(remove).buffer_unordered(AT_ONCE).try_collect().await
    }
}
