//! What the sweeper asks of the broker about a pool's queue.

use async_nats::Client;
use bytes::Bytes;
use muster_schemas::{names::PoolName, queue::Place, subjects::broker::StreamApi, time::Timestamp, topology::jobs_stream};
use serde::Deserialize;

use super::{BrokerError, api};
use crate::sweeper::Facts;

#[derive(Deserialize)]
struct Info {
    created: Timestamp,
    ts: Timestamp,
    state: State,
}

#[derive(Deserialize)]
struct State {
    messages: u64,
    first_seq: u64,
    /// The year 1 when there is no message.
    first_ts: Timestamp,
    last_seq: u64,
}

#[derive(Deserialize)]
struct Purged {
    purged: u64,
}

/// What a pool's queue holds. Missing is an error.
pub(crate) async fn facts(client: &Client, pool: &PoolName) -> Result<Facts, BrokerError> {
    let stream = jobs_stream(pool);
    let Info { created, ts, state } = api(client, StreamApi::Info.subject(&stream), Bytes::new(), &stream).await?;
    let first = (state.messages > 0).then_some(Place { sequence: state.first_seq, stored_at: state.first_ts });
    Ok(Facts { created, now: ts, first, last: state.last_seq })
}

/// Removes all jobs of a pool's queue below a sequence, whatever has become of them. Answers how many there were.
pub(crate) async fn purge(client: &Client, pool: &PoolName, below: u64) -> Result<u64, BrokerError> {
    let stream = jobs_stream(pool);
    let body = serde_json::json!({ "seq": below }).to_string();
    let Purged { purged } = api(client, StreamApi::Purge.subject(&stream), body.into(), &stream).await?;
    Ok(purged)
}
