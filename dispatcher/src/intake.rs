//! What comes in: five streams, followed and decoded into events for [`crate::state`].
//!
//! A body that can't be decoded is counted and skipped. Heartbeats and results wait until all records of agents were read, because an
//! agent without a record counts for nothing. Nothing is decided here.
//!
//! | to find | look in |
//! |---|---|
//! | reading a stream across reconnects and restarts of the broker | [`follow`] |
//! | bodies and keys into events | [`decode`] |
//! | results, as far as they count | [`results`] |

pub(crate) mod decode;
pub(crate) mod follow;
pub(crate) mod results;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use muster_runtime::tasks::Tasks;
use muster_schemas::{
    names::PoolName,
    records::{self, PoolRecord},
    subjects::{self, About, broker::keys_of, js},
    time::Timestamp,
    topology::{self, bucket_stream},
};
use tokio::sync::{mpsc, watch};

use crate::{
    keyring::{Keyring, forged},
    lease::keeper::Leadership,
    state::Event,
    sweeper,
};
use decode::{Pools, agents, heartbeats, pools, standings};
use follow::{Follower, Range, Source};
use results::Results;

/// Events that may wait for the state. While it is behind, the streams are read more slowly; nothing is lost.
pub(crate) const QUEUE: usize = 1024;

/// What the core is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// Something happened.
    Event(Box<Event>),
    /// The broker's clock showed this when this machine's monotonic clock showed that.
    BrokerClock(Timestamp, Instant),
}

/// The pools as recorded, always the newest.
pub(crate) type KnownPools = watch::Receiver<Arc<BTreeMap<PoolName, PoolRecord>>>;

/// Starts all followers. `records_read` becomes true once the core has taken in all records of agents.
pub(crate) fn start(
    tasks: &Tasks,
    source: &Source,
    leadership: &Leadership,
    keyring: &Keyring,
    inputs: &mpsc::Sender<Input>,
    records_read: watch::Receiver<bool>,
) -> KnownPools {
    let (sender, known_pools) = watch::channel(Arc::default());
    let bucket = |name: &str, filter: String| Follower::new(source.clone(), bucket_stream(name), filter, Range::Everything);
    let stream = |name: &str, filter: String, range| Follower::new(source.clone(), name.to_owned(), filter, range);
    let figures = || source.figures.clone();

    let at_once = watch::channel(true).1;
    let follow = |name, follower: Follower, decode: Box<dyn decode::Decode>, ready: watch::Receiver<bool>| {
        let (shutdown, listener) = (tasks.shutdown().clone(), decode::Teller::new(inputs.clone(), decode));
        tasks.essential(name, async move {
            tokio::select! {
                () = follow_when(ready, follower, listener) => {}
                () = shutdown.requested() => {}
            }
            Ok(())
        });
    };
    follow(
        "agents",
        bucket(topology::AGENTS, js::key(topology::AGENTS, records::keys::AGENTS)),
        Box::new(agents(figures())),
        at_once.clone(),
    );
    follow("standings", bucket(topology::STANDINGS, keys_of(topology::STANDINGS)), Box::new(standings(figures())), at_once.clone());
    follow("pools", bucket(topology::POOLS, keys_of(topology::POOLS)), Box::new(pools(Pools::new(sender), figures())), at_once);
    let beats = stream(topology::HEARTBEATS, subjects::heartbeats(), Range::Latest);
    follow("heartbeats", beats, Box::new(heartbeats(figures())), records_read.clone());
    let ended = stream(topology::RESULTS, About::Result.all(), Range::Hour);
    let results = Results {
        inputs: inputs.clone(),
        figures: figures(),
        leadership: leadership.clone(),
        pools: known_pools.clone(),
        keyring: keyring.clone(),
        forged: forged::start(tasks, source.trail.clone()),
        live: false,
        broom: sweeper::start(tasks, source, leadership),
        reading: results::Reading::default(),
    };
    let shutdown = tasks.shutdown().clone();
    tasks.essential("results", async move {
        tokio::select! {
            () = follow_when(records_read, ended, results) => {}
            () = shutdown.requested() => {}
        }
        Ok(())
    });
    known_pools
}

async fn follow_when(mut ready: watch::Receiver<bool>, follower: Follower, listener: impl follow::Listener) {
    // A closed channel means that the core has ended, and with it the process.
    if ready.wait_for(|ready| *ready).await.is_ok() {
        follower.run(listener).await;
    }
}
