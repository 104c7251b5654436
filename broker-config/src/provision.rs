//! Makes the topology of `muster_schemas::topology` on a server: streams, buckets, lanes, and the first records.
//!
//! Everything here is idempotent and safe beside another caller doing the same: each step looks at what is there and brings it to what is
//! wanted. What cannot be brought there is an [`Error::Conflict`] that says which setting differs. It never removes anything, except on
//! request a pool, or the consumer of an agent's commands. Requests go over JetStream's own interface as JSON, since the client library
//! does not know every setting.

use async_nats::Client;
use muster_schemas::{
    names::{ExecutorName, PoolName},
    records::{ApiKeyRecord, JoinTokenRecord, PoolDefaults, PoolLimits, PoolRecord},
    signature::{SIGNERS_KEY, SignedSigners},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use serde::{Deserialize, Serialize};

mod api;
mod bucket;
mod commands;
mod divider;
mod error;
mod lanes;
mod pause;
mod pool;
mod shares;
mod stream;

pub use commands::{Retired, agents_with_commands, ensure_commands, leave_behind, remove_commands, retire_commands};
pub use divider::Divider;
pub use error::Error;
pub use pool::{ensure_lanes, ensure_pool, remove_pool};
pub use stream::{ensure_consumer, ensure_stream};

/// Executors that every agent has; the lanes of a new pool.
pub const DEFAULT_EXECUTORS: [&str; 3] = ["http", "probe", "shell"];

/// What is stored at the first provisioning. It holds hashes only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The first pool.
    pub pool: PoolName,
    /// The first administrator's key.
    pub admin_key: ApiKeyRecord,
    /// The first pool's join token.
    pub join_token: JoinTokenRecord,
    /// Whose jobs agents run at first: what gateway and dispatcher sign.
    pub signers: SignedSigners,
}

impl Bootstrap {
    /// Reads the file that `init` wrote, see [`crate::layout::Layout::bootstrap`].
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn read(path: &std::path::Path) -> Result<Self, crate::init::InitError> {
        let text = std::fs::read_to_string(path).map_err(crate::files::failed("read", path))?;
        serde_json::from_str(&text).map_err(|error| crate::init::damaged(path, error))
    }
}

/// A pool as it is made when nobody says otherwise: lanes of [`DEFAULT_EXECUTORS`], default limits.
pub fn default_pool(name: PoolName, now: Timestamp) -> PoolRecord {
    let executors = DEFAULT_EXECUTORS.iter().filter_map(|name| name.parse::<ExecutorName>().ok()).collect();
    let (limits, defaults) = (PoolLimits::default(), PoolDefaults::default());
    PoolRecord { v: V, name, description: None, executors, limits, defaults, paused: None, created_at: now }
}

/// Makes the streams and buckets that exist whatever pools there are.
///
/// # Errors
/// See [`Error`].
pub async fn provision_fixed(client: &Client) -> Result<(), Error> {
    for stream in topology::fixed_streams() {
        ensure_stream(client, &stream).await?;
    }
    for bucket in &topology::BUCKETS {
        ensure_stream(client, &bucket.stream()).await?;
    }
    ensure_consumer(client, topology::SCHEDULES, &topology::due_consumer()).await
}

/// Everything that a start needs: the fixed streams, the first records where they have never been, and the lanes of every pool.
///
/// A first record that was deleted since stays deleted.
///
/// # Errors
/// See [`Error`].
pub async fn provision(client: &Client, first: &Bootstrap) -> Result<(), Error> {
    provision_fixed(client).await?;
    let pool = default_pool(first.pool.clone(), Timestamp::now());
    bucket::put_first(client, topology::POOLS, pool.name.as_str(), wire::encode(&pool)).await?;
    bucket::put_first(client, topology::API_KEYS, &first.admin_key.prefix, wire::encode(&first.admin_key)).await?;
    bucket::put_first(client, topology::JOIN_TOKENS, &first.join_token.prefix, wire::encode(&first.join_token)).await?;
    bucket::put_first(client, topology::TRUST, SIGNERS_KEY, wire::encode(&first.signers)).await?;
    for name in bucket::keys(client, topology::POOLS).await? {
        // A key that is no pool's name was not written by us; a pool without a record was removed.
        let Ok(name) = name.parse() else { continue };
        match pool::reconcile(client, &name).await {
            Ok(_) | Err(Error::NoPool(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
