//! A job's latency while many idle agents wait, and who was served.
//!
//! The idle agents are simulated, everything else is real: each has its own record, credentials and connection, sends heartbeats, gets its standing from the
//! dispatcher and pulls every lane with the priority that it says. One failed result in its past gives each of them a lower score than the pool's two real agents
//! have, so that it shows who is served first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use async_nats::{Client, ConnectOptions, HeaderMap};
use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt, stream};
use muster_broker_config::{creds, layout::Account};
use muster_runtime::tasks::Group;
use muster_schemas::{
    code::Code,
    headers::SIGNATURE,
    heartbeat::{Heartbeat, Load, Slots},
    lane::Lane,
    names::{AgentId, ExecutorName, JobId, PoolName},
    records::{AgentRecord, keys},
    result::{ErrorInfo, JobResult, Outcome},
    signature::{Signed, Signer},
    standing::Standing,
    subjects::{self, About, js},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use serde_json::json;

use super::{
    latency,
    report::{Report, Row, histogram},
    rig::{Pool, Rig},
};

/// Simulated agents that connect at once.
const CONNECTING: usize = 32;
/// How long the dispatcher may take to rank all of them.
const RANKED_MAX: Duration = Duration::from_secs(120);

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Simulated idle agents
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// Jobs, with and without them
    #[arg(long, default_value_t = 500)]
    jobs: usize,
}

/// Runs it.
///
/// # Errors
/// When a part cannot be started or a job does not end.
pub(super) async fn run(rig: &Rig, options: &Options) -> Result<Report> {
    let pool = rig.pool(2, 10).await?;
    let (mut alone, mut beside) = (histogram()?, histogram()?);
    latency::over_nats(&pool, 50, &mut histogram()?).await?;
    latency::over_nats(&pool, options.jobs, &mut alone).await?;
    let fleet = Fleet::start(rig, &pool, options.agents).await?;
    latency::over_nats(&pool, 50, &mut histogram()?).await?;
    latency::over_nats(&pool, options.jobs, &mut beside).await?;
    let astray = fleet.served.load(Ordering::Relaxed);
    fleet.stop().await?;
    pool.close().await?;
    let mut rows = Row::latencies("beside the fleet, against two agents alone:", &beside, Some(&alone), [Some("≤ 3"), None]);
    rows.push(Row { what: "jobs served by a lower score".into(), unit: "", ours: astray as f64, floor: None, bar: Some("0") });
    Ok(Report { name: "fleet", setting: json!({"agents": options.agents, "jobs": options.jobs}), rows })
}

/// The simulated agents.
struct Fleet {
    core: Client,
    ids: Vec<AgentId>,
    group: Group,
    /// Jobs that one of them was given.
    served: Arc<AtomicU64>,
}

/// One simulated agent.
struct Idle {
    id: AgentId,
    pool: PoolName,
    nats: Client,
    signer: Signer,
}

impl Fleet {
    async fn start(rig: &Rig, pool: &Pool, agents: usize) -> Result<Self> {
        let options = rig.secured(ConnectOptions::with_credentials_file(rig.layout.gateway_creds()).await?);
        let core = options.custom_inbox_prefix(subjects::broker::gateway_inbox("bench")).connect(&rig.nats_url).await?;
        let records = async_nats::jetstream::new(core.clone()).get_key_value(topology::AGENTS).await?;
        let seed = std::fs::read_to_string(rig.layout.signing_key(Account::Fleet)).context("the deployment's keys")?;
        let account = std::fs::read_to_string(rig.layout.fleet_account())?;
        let idle: Vec<Idle> = stream::iter(0..agents)
            .map(async |number| {
                let id = AgentId::generate();
                let user = nkeys::KeyPair::new_user();
                let signer = Signer::from_seed(&user.seed()?).context("the seed of a new key")?;
                let record = AgentRecord { public_key: Some(user.public_key()), ..record(&id, &pool.name, number)? };
                records.put(keys::agent(&id), wire::encode(&record).into()).await?;
                let jwt =
                    creds::mint_agent_jwt(seed.trim(), account.trim(), &pool.name, &id, &user.public_key(), creds::AGENT_JWT_LIFETIME)?;
                let user = Arc::new(user);
                let login = ConnectOptions::with_jwt(jwt, move |nonce| {
                    let user = user.clone();
                    async move { user.sign(&nonce).map_err(async_nats::AuthError::new) }
                });
                let nats = rig.secured(login).custom_inbox_prefix(subjects::agent_inbox(&id)).connect(&rig.nats_url).await?;
                anyhow::Ok(Idle { id, pool: pool.name.clone(), nats, signer })
            })
            .buffer_unordered(CONNECTING)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<_>>()?;
        let ids = idle.iter().map(|agent| agent.id.clone()).collect();
        let fleet = Self { core, ids, group: Group::new("idle agents"), served: Arc::default() };
        for agent in &idle {
            agent.past().await?;
        }
        fleet.ranked(&pool.name).await?;
        let standings = async_nats::jetstream::new(fleet.core.clone()).get_key_value(topology::STANDINGS).await?;
        for agent in idle {
            let entry = standings.get(keys::standing(&agent.pool, &agent.id)).await?.context("a simulated agent has no standing")?;
            let standing: Standing = wire::decode(&entry)?;
            fleet.group.spawn(agent.wait(standing.pull_priority, fleet.served.clone()));
        }
        Ok(fleet)
    }

    /// Waits until the dispatcher has put all of them behind the real agents.
    async fn ranked(&self, pool: &PoolName) -> Result<()> {
        let standings = async_nats::jetstream::new(self.core.clone()).get_key_value(topology::STANDINGS).await?;
        let start = Instant::now();
        for id in &self.ids {
            loop {
                let entry = standings.get(keys::standing(pool, id)).await?;
                if entry.is_some_and(|entry| wire::decode::<Standing>(&entry).is_ok_and(|standing| standing.pull_priority > 0)) {
                    break;
                }
                ensure!(start.elapsed() < RANKED_MAX, "the dispatcher has not ranked the fleet after {RANKED_MAX:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.group.abort_all();
        let records = async_nats::jetstream::new(self.core).get_key_value(topology::AGENTS).await?;
        for id in &self.ids {
            records.delete(keys::agent(id)).await?;
        }
        Ok(())
    }
}

fn record(id: &AgentId, pool: &PoolName, number: usize) -> Result<AgentRecord> {
    let now = Timestamp::now();
    Ok(AgentRecord {
        capabilities: [probe()?].into(),
        version: env!("CARGO_PKG_VERSION").into(),
        registered_at: Some(now),
        ..AgentRecord::new(id.clone(), format!("idle-{number}").parse()?, pool.clone(), now)
    })
}

fn probe() -> Result<ExecutorName> {
    Ok("probe".parse()?)
}

impl Idle {
    /// A first heartbeat, and a failed job in its past.
    async fn past(&self) -> Result<()> {
        let now = Timestamp::now();
        let beat = Heartbeat {
            v: V,
            at: now,
            instance: self.id.to_string(),
            seq: 0,
            started_at: now,
            interval_s: 3600,
            name: "idle".parse()?,
            version: String::new(),
            executors: vec![probe()?],
            slots: Slots { total: 1, running: 0, held: 0 },
            load: Load::default(),
            spooled: 0,
            fault: None,
            last_error: None,
            labels: Default::default(),
            description: None,
            sealing: None,
            credentials: Default::default(),
            vault: None,
            draining: false,
            goodbye: false,
        };
        self.nats.publish(subjects::heartbeat(&self.pool, &self.id), wire::encode(&beat).into()).await?;
        let failed = ErrorInfo::new(Code::ProbeFailed, "a past of the bench's making");
        let result = JobResult { agent_id: Some(self.id.clone()), attempt: 1, ..JobResult::never_ran(Outcome::Failed, failed, now, now) };
        let (subject, body) = (About::Result.job(&self.pool, &JobId::generate(&self.pool)), wire::encode(&result));
        let mut headers = HeaderMap::new();
        headers.insert(SIGNATURE, self.signer.sign(Signed::Result, &subject, &body, now).to_string());
        self.nats.request_with_headers(subject, headers, body.into()).await?;
        Ok(())
    }

    /// Pulls every lane and counts what it is given, which should be nothing. A job that comes is given back.
    async fn wait(self, priority: u8, served: Arc<AtomicU64>) -> Result<()> {
        let inbox = self.nats.new_inbox();
        let mut arrivals = self.nats.subscribe(inbox.clone()).await?;
        let stream = topology::jobs_stream(&self.pool);
        let request = format!(r#"{{"batch":1,"expires":60000000000,"group":"{}","priority":{priority}}}"#, topology::PRIORITY_GROUP);
        let lanes = Lane::of(&probe()?);
        for lane in &lanes {
            self.nats.publish_with_reply(js::next(&stream, &lane.consumer()), inbox.clone(), request.clone().into()).await?;
        }
        while let Some(message) = arrivals.next().await {
            match message.reply {
                Some(reply) if message.status.is_none() => {
                    served.fetch_add(1, Ordering::Relaxed);
                    self.nats.publish(reply, Bytes::from_static(b"-NAK")).await?;
                }
                // One of its requests ran out; it does not matter which, since all of them do after a minute.
                _ => {
                    for lane in &lanes {
                        self.nats.publish_with_reply(js::next(&stream, &lane.consumer()), inbox.clone(), request.clone().into()).await?;
                    }
                }
            }
        }
        Ok(())
    }
}
