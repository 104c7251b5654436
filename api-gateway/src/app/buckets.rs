//! The key-value buckets, with their records read and written as typed values.

use async_nats::jetstream::{self, kv};
use muster_schemas::{
    code::Code,
    names::{AgentId, PoolName},
    records::{self, AgentRecord, PoolRecord},
    standing::Standing,
    topology,
    wire::{self, Body},
};

use crate::problem::ApiError;

/// The buckets that the gateway reads and writes.
#[derive(Clone)]
pub(crate) struct Buckets {
    pub(crate) agents: kv::Store,
    pub(crate) pools: kv::Store,
    pub(crate) standings: kv::Store,
    pub(crate) api_keys: kv::Store,
    pub(crate) join_tokens: kv::Store,
    pub(crate) schedules: kv::Store,
    pub(crate) groups: kv::Store,
    pub(crate) key_uses: kv::Store,
    pub(crate) revocations: kv::Store,
    pub(crate) trust: kv::Store,
    pub(crate) connections: kv::Store,
    pub(crate) mailboxes: kv::Store,
}

/// A record and the revision to compare with when it is written again.
#[derive(Debug, Clone)]
pub(crate) struct Held<T> {
    pub(crate) record: T,
    pub(crate) revision: u64,
}

impl Buckets {
    pub(crate) async fn open(js: &jetstream::Context) -> anyhow::Result<Self> {
        Ok(Self {
            agents: js.get_key_value(topology::AGENTS).await?,
            pools: js.get_key_value(topology::POOLS).await?,
            standings: js.get_key_value(topology::STANDINGS).await?,
            api_keys: js.get_key_value(topology::API_KEYS).await?,
            join_tokens: js.get_key_value(topology::JOIN_TOKENS).await?,
            schedules: js.get_key_value(topology::SCHEDULES_BUCKET).await?,
            groups: js.get_key_value(topology::GROUPS).await?,
            key_uses: js.get_key_value(topology::KEY_USES).await?,
            revocations: js.get_key_value(topology::REVOCATIONS).await?,
            trust: js.get_key_value(topology::TRUST).await?,
            connections: js.get_key_value(topology::CONNECTIONS).await?,
            mailboxes: js.get_key_value(topology::MAILBOXES).await?,
        })
    }

    /// An agent's record, straight from the bucket.
    pub(crate) async fn agent(&self, id: &AgentId) -> Result<Option<Held<AgentRecord>>, ApiError> {
        read(&self.agents, &records::keys::agent(id)).await
    }

    /// An agent's standing, straight from the bucket.
    pub(crate) async fn standing(&self, pool: &PoolName, id: &AgentId) -> Result<Option<Held<Standing>>, ApiError> {
        read(&self.standings, &records::keys::standing(pool, id)).await
    }

    /// A pool's record, straight from the bucket, or `pool_not_found`.
    pub(crate) async fn pool(&self, pool: &PoolName) -> Result<Held<PoolRecord>, ApiError> {
        let found = read(&self.pools, pool.as_str()).await?;
        found.ok_or_else(|| ApiError::new(Code::PoolNotFound, format!("there is no pool `{pool}`")))
    }
}

/// Reads a record with its revision. `None` when there is none, or it was deleted.
pub(crate) async fn read<T: Body>(bucket: &kv::Store, key: &str) -> Result<Option<Held<T>>, ApiError> {
    let entry = bucket.entry(key).await.map_err(|error| ApiError::broker("read a record", error))?;
    let Some(entry) = entry.filter(|entry| entry.operation == kv::Operation::Put) else { return Ok(None) };
    let record = wire::decode(&entry.value).map_err(|error| ApiError::internal("read a record", format!("{key}: {error}")))?;
    Ok(Some(Held { record, revision: entry.revision }))
}

/// Writes a record that must not be there yet, and answers its revision. `None` when it is there.
pub(crate) async fn create<T: Body>(bucket: &kv::Store, key: &str, record: &T) -> Result<Option<u64>, ApiError> {
    match bucket.create(key, wire::encode(record).into()).await {
        Ok(revision) => Ok(Some(revision)),
        Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(ApiError::broker("store a record", error)),
    }
}

/// Writes a record over the revision that was read, and answers the new one. `None` when somebody else wrote in between.
pub(crate) async fn update<T: Body>(bucket: &kv::Store, key: &str, record: &T, revision: u64) -> Result<Option<u64>, ApiError> {
    match bucket.update(key, wire::encode(record).into(), revision).await {
        Ok(revision) => Ok(Some(revision)),
        Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(None),
        Err(error) => Err(ApiError::broker("store a record", error)),
    }
}
