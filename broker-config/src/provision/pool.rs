//! Pools and their lanes.
//!
//! The pool's record is what is wanted; stream and consumers follow it. A stream's subjects can only be written as a whole, so two callers
//! that add a lane at once could undo each other's: each adds its executors to the record first, by compare-and-set, and looks at the
//! record again after it has written the stream. Whoever writes last has then seen every lane.

use std::collections::BTreeSet;

use async_nats::Client;
use muster_schemas::{
    lane::Lane,
    names::{ExecutorName, PoolName},
    records::PoolRecord,
    subjects::{self, broker::StreamApi},
    topology::{self, POOLS},
    wire,
};
use serde_json::Value;

use super::{
    Error, api, bucket, divider, lanes,
    stream::{config, ensure_stream, info},
};

/// How often to try again when others change the same pool.
const ROUNDS: usize = 16;

/// Makes the pool, or brings it to `record`: all as given, but lanes of its executors besides the ones there are.
/// Also writes the record. Returns the record as it is now.
///
/// # Errors
/// See [`Error`].
pub async fn ensure_pool(client: &Client, record: &PoolRecord) -> Result<PoolRecord, Error> {
    for _ in 0..ROUNDS {
        let have = read(client, &record.name).await?;
        let mut want = record.clone();
        if let Some(there) = &have.value {
            want.executors.extend(there.executors.iter().cloned());
            want.created_at = there.created_at;
        }
        if have.value.as_ref() == Some(&want) || write(client, &want, have.revision).await? {
            return reconcile(client, &record.name).await;
        }
    }
    Err(Error::Contended { what: format!("pool {}", record.name) })
}

/// Declares the lanes of further executors, limits unchanged. Also repairs lanes that are declared but not there: call it when a submit
/// finds no responders, rather than before each submit.
///
/// # Errors
/// [`Error::NoPool`] when there is no such pool; otherwise see [`Error`].
pub async fn ensure_lanes(client: &Client, pool: &PoolName, executors: &BTreeSet<ExecutorName>) -> Result<PoolRecord, Error> {
    for _ in 0..ROUNDS {
        let have = read(client, pool).await?;
        let mut record = have.value.ok_or_else(|| Error::NoPool(pool.clone()))?;
        let declared = executors.is_subset(&record.executors);
        record.executors.extend(executors.iter().cloned());
        if declared || write(client, &record, have.revision).await? {
            return reconcile(client, pool).await;
        }
    }
    Err(Error::Contended { what: format!("pool {pool}") })
}

/// Removes a pool: its record first, then its queue. May be repeated after a crash in between.
///
/// A job that is submitted in the same moment may be lost with the queue, so callers refuse submits to the pool first.
///
/// # Errors
/// [`Error::NotEmpty`] when jobs wait or run; otherwise see [`Error`].
pub async fn remove_pool(client: &Client, pool: &PoolName) -> Result<(), Error> {
    let name = topology::jobs_stream(pool);
    let info = info(client, &name).await?;
    let jobs = info.as_ref().and_then(|info| info.pointer("/state/messages")).and_then(Value::as_u64).unwrap_or(0);
    if jobs > 0 {
        return Err(Error::NotEmpty { pool: pool.clone(), jobs });
    }
    if read(client, pool).await?.value.is_some() {
        bucket::delete(client, POOLS, pool.as_str()).await?;
    }
    let answer = api::call(client, StreamApi::Delete.subject(&name), &Value::Null, || format!("delete stream {name}")).await;
    api::unless(answer, &[api::STREAM_NOT_FOUND]).map(drop)
}

pub(super) async fn read(client: &Client, pool: &PoolName) -> Result<bucket::Entry<PoolRecord>, Error> {
    bucket::get(client, POOLS, pool.as_str()).await
}

async fn write(client: &Client, record: &PoolRecord, revision: u64) -> Result<bool, Error> {
    bucket::put(client, POOLS, record.name.as_str(), wire::encode(record), revision).await
}

/// Brings stream and consumers of a pool to its record, until nothing had to be changed and the record has not changed meanwhile.
///
/// That a lane that was changed is looked at again is what makes a pause hold from the moment this returns: whoever still acts upon an
/// older record acts before that look.
pub(super) async fn reconcile(client: &Client, pool: &PoolName) -> Result<PoolRecord, Error> {
    let mut entry = read(client, pool).await?;
    for _ in 0..ROUNDS {
        let record = entry.value.ok_or_else(|| Error::NoPool(pool.clone()))?;
        let queue = topology::jobs(pool, &record.executors, record.limits.max_queued);
        ensure_stream(client, &queue).await?;
        let view = lanes::look(client, &record).await?;
        let changed = lanes::bring(client, &record, entry.revision, &view).await?;
        if record.limits.is_divided() {
            divider::fit(client, &record).await?;
        }
        let now = read(client, pool).await?;
        if !changed && now.revision == entry.revision && declared(client, &record).await? {
            return Ok(record);
        }
        entry = now;
    }
    Err(Error::Contended { what: format!("pool {pool}") })
}

/// Whether the stream has every lane of the record.
async fn declared(client: &Client, record: &PoolRecord) -> Result<bool, Error> {
    let name = topology::jobs_stream(&record.name);
    let Some(info) = info(client, &name).await? else { return Ok(false) };
    let config = config(&info, &name)?;
    let there = config.get("subjects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut lanes = record.executors.iter().flat_map(Lane::of).map(|lane| subjects::lane(&record.name, &lane));
    Ok(lanes.all(|subject| there.iter().any(|have| have.as_str() == Some(&subject))))
}
