//! Watching a bucket for ever: all of it first, then every change, and all of it again whenever the connection was lost.
//!
//! A watch of the client library goes on after a reconnect by itself, but from the sequence it had reached: a broker that came back
//! with less than it had would leave it behind without a sign. Reading everything again costs little and is always right.

use async_nats::jetstream::kv;
use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_runtime::nats::Broker;

/// The key of them all. Without "history" a watch would begin with the next change.
const EVERY_KEY: &str = ">";

/// What happens in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// The bucket is read from its beginning: what was known may be out of date.
    Restarted,
    /// An entry was written; `initial` while the bucket is read from its beginning.
    Put { key: String, value: Bytes, revision: u64, initial: bool },
    /// An entry was deleted.
    Deleted { key: String, revision: u64, initial: bool },
    /// The bucket was read in full; from here on changes come as they happen.
    Complete,
}

/// Watches `bucket` for ever. Meant to be started again by `Tasks`.
///
/// # Errors
/// When the watch fails in another way than by a lost connection.
pub(crate) async fn watch(broker: &Broker, bucket: &kv::Store, mut apply: impl FnMut(Change)) -> anyhow::Result<()> {
    loop {
        apply(Change::Restarted);
        broker.connected().await;
        until_lost(broker, bucket, &mut apply).await?;
    }
}

/// Watches until the connection is lost.
async fn until_lost(broker: &Broker, bucket: &kv::Store, apply: &mut impl FnMut(Change)) -> anyhow::Result<()> {
    let connects = broker.status().connects;
    let entries = bucket.status().await?.values();
    let mut watch = bucket.watch_with_history(EVERY_KEY).await?;
    let mut initial = entries > 0;
    if !initial {
        apply(Change::Complete);
    }
    let mut lost = Box::pin(broker.wait_for(move |status| !status.connected || status.connects != connects));
    loop {
        let entry = tokio::select! {
            entry = watch.next() => entry.ok_or_else(|| anyhow::anyhow!("the watch of a bucket ended"))??,
            _ = &mut lost => return Ok(()),
        };
        let (last, revision) = (entry.seen_current, entry.revision);
        apply(match entry.operation {
            kv::Operation::Put => Change::Put { key: entry.key, value: entry.value, revision, initial },
            kv::Operation::Delete | kv::Operation::Purge => Change::Deleted { key: entry.key, revision, initial },
        });
        if initial && last {
            initial = false;
            apply(Change::Complete);
        }
    }
}
