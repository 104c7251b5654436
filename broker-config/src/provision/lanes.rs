//! The lanes of a pool on the broker: looking at them, and bringing each to what the pool's record says.
//!
//! A lane that exists keeps its share of a limit that is divided ([`super::divider`] changes shares); everything else follows the record.
//! Pausing one is in [`super::pause`].

use std::collections::BTreeMap;

use async_nats::Client;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_schemas::{
    lane::Lane,
    names::PoolName,
    records::PoolRecord,
    subjects::broker::{self, ConsumerApi},
    time::Timestamp,
    topology::{self, Consumer, LanePause},
};
use serde_json::{Map, Value, json};

use super::{
    Error,
    api::{self, call, unless},
    pause,
    pool::read,
    shares::{self, Load},
    stream::{config, differs},
};

/// Requests about consumers under way at once. Making one takes some 20 ms, most of it waiting for the disk, and a pool may have 192 of
/// them.
const AT_ONCE: usize = 16;

/// A lane's consumer as the broker tells it.
#[derive(Debug)]
pub(super) struct Seen {
    config: Map<String, Value>,
    /// How many jobs it may have out while it is not paused.
    pub(super) max_running: u64,
    pub(super) pause: Option<LanePause>,
    pub(super) waiting: u64,
    pub(super) held: u64,
    /// How many jobs it has given out so far.
    pub(super) given: u64,
}

impl Seen {
    fn read(info: &Value, name: &str) -> Result<Self, Error> {
        let number = |path: &str| info.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let until = info.pointer("/config/pause_until").and_then(Value::as_str).and_then(|until| until.parse::<Timestamp>().ok());
        let until = until.filter(|until| until.since(pause::clock(info)) > pause::SHORT);
        Ok(Self {
            config: config(info, name)?,
            max_running: number("/config/max_ack_pending"),
            pause: until.map(LanePause::read),
            waiting: number("/num_pending"),
            held: number("/num_ack_pending"),
            given: number("/delivered/consumer_seq"),
        })
    }

    /// Its share of a limit that is divided. A pause of the pool takes nothing from it: it is back when the pool goes on.
    pub(super) fn share(&self) -> u64 {
        if self.pause == Some(LanePause::NoShare) { 0 } else { self.max_running }
    }

    pub(super) fn load(&self, lane: &Lane, served: u64) -> Load {
        Load { priority: lane.priority, share: self.share(), held: self.held, waiting: self.waiting, served }
    }
}

/// All lanes of a record. `None` are not there.
pub(super) type View = BTreeMap<Lane, Option<Seen>>;

pub(super) async fn look(client: &Client, record: &PoolRecord) -> Result<View, Error> {
    look_at(client, &record.name, record.executors.iter().flat_map(Lane::of).collect()).await
}

pub(super) async fn look_at(client: &Client, pool: &PoolName, lanes: Vec<Lane>) -> Result<View, Error> {
    let stream = topology::jobs_stream(pool);
    let looks = stream::iter(lanes).map(|lane| async {
        let name = lane.consumer();
        let answer = call(client, ConsumerApi::Info.subject(&stream, &name), &Value::Null, || format!("read consumer {name}")).await;
        let info = unless(answer, &[api::CONSUMER_NOT_FOUND, api::STREAM_NOT_FOUND])?;
        Ok((lane, info.map(|info| Seen::read(&info, &name)).transpose()?))
    });
    looks.buffer_unordered(AT_ONCE).try_collect().await
}

/// Brings lanes to the record. Says whether anything had to be changed.
pub(super) async fn bring(client: &Client, record: &PoolRecord, revision: u64, view: &View) -> Result<bool, Error> {
    // In a pool that is being made nothing can be out, so that its limit can be divided at once. A lane that joins others gets its share
    // when they have given it up.
    let born: Vec<u64> = if view.values().all(Option::is_none) {
        let loads: Vec<_> = view.keys().map(|lane| Load { priority: lane.priority, share: 0, held: 0, waiting: 0, served: 0 }).collect();
        shares::divide(record.limits.max_running, &loads)
    } else {
        vec![0; view.len()]
    };
    // Futures first: a stream's closure over references can't be shown to be `Send` where this is spawned.
    let lanes: Vec<_> = view
        .iter()
        .zip(born)
        .map(|((lane, seen), share)| async move {
            match seen {
                None => create(client, record, lane, share).await.map(|()| true),
                Some(seen) => follow(client, record, lane, seen, revision).await,
            }
        })
        .collect();
    stream::iter(lanes).buffer_unordered(AT_ONCE).try_fold(false, |any, changed| async move { Ok(any || changed) }).await
}

async fn create(client: &Client, record: &PoolRecord, lane: &Lane, share: u64) -> Result<(), Error> {
    let divided = record.limits.is_divided();
    let (max, pause) = match share {
        _ if !divided => (topology::OUT_MAX, None),
        0 => (1, Some(LanePause::NoShare)),
        share => (share, None),
    };
    let pause = pause.or(record.paused.as_ref().map(|_| LanePause::Pool));
    let consumer = Consumer { pause_until: pause.map(LanePause::until), ..topology::lane_consumer(&record.name, lane, max) };
    // Only made, never changed: whoever was faster may have given it a share since.
    unless(write(client, record, &consumer, "create").await, &[api::CONSUMER_EXISTS]).map(drop)
}

async fn follow(client: &Client, record: &PoolRecord, lane: &Lane, seen: &Seen, revision: u64) -> Result<bool, Error> {
    let divided = record.limits.is_divided();
    let max = if divided { seen.max_running.clamp(1, record.limits.max_running) } else { topology::OUT_MAX };
    let consumer = topology::lane_consumer(&record.name, lane, max);
    let mut changed = differs(&consumer, &seen.config)?;
    if changed {
        write(client, record, &consumer, "").await?;
    }
    match (&record.paused, seen.pause) {
        (Some(_), None) => {
            pause(client, &record.name, lane, LanePause::Pool).await?;
            changed = true;
        }
        // Without a share: the divider's matter, as long as there is anything to divide.
        (None, Some(LanePause::NoShare)) if divided => {}
        // Somebody may have paused the pool since the record was read, and the pause may be what was seen.
        (None, Some(_)) if read(client, &record.name).await?.revision == revision => {
            go_on(client, &record.name, lane).await?;
            changed = true;
        }
        (None, Some(_)) => changed = true,
        (Some(_), Some(_)) | (None, None) => {}
    }
    Ok(changed)
}

/// Gives a lane a share of its pool's limit, 0 for none. `seen` is what it has.
pub(super) async fn set_share(client: &Client, record: &PoolRecord, lane: &Lane, seen: &Seen, share: u64) -> Result<(), Error> {
    if share == 0 {
        return pause(client, &record.name, lane, LanePause::NoShare).await;
    }
    if seen.max_running != share {
        write(client, record, &topology::lane_consumer(&record.name, lane, share), "").await?;
    }
    if seen.pause == Some(LanePause::NoShare) {
        go_on(client, &record.name, lane).await?;
    }
    Ok(())
}

async fn write(client: &Client, record: &PoolRecord, consumer: &Consumer, action: &str) -> Result<Value, Error> {
    let (stream, name) = (topology::jobs_stream(&record.name), &consumer.durable_name);
    // An empty action is "make or update".
    let body = json!({"stream_name": stream, "config": consumer, "action": action});
    let operation = || format!("make consumer {name} of stream {stream}");
    call(client, broker::consumer_create(&stream, name, &consumer.filter_subject), &body, operation).await
}

/// Pauses a lane's consumer.
async fn pause(client: &Client, pool: &PoolName, lane: &Lane, reason: LanePause) -> Result<(), Error> {
    pause::until(client, &topology::jobs_stream(pool), &lane.consumer(), reason.until()).await.map(drop)
}

/// Lets a lane's consumer go on.
async fn go_on(client: &Client, pool: &PoolName, lane: &Lane) -> Result<(), Error> {
    pause::go_on(client, &topology::jobs_stream(pool), &lane.consumer()).await
}
