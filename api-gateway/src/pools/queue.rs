//! What is in a pool's queue, as the broker counts it.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_schemas::{
    api::QueueView,
    lane::Lane,
    names::PoolName,
    records::PoolRecord,
    subjects::broker::{ConsumerApi, StreamApi},
    time::Timestamp,
    topology,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    app::App,
    stored::{self, StoreError},
};

/// How many requests about queues are under way at once.
const AT_ONCE: usize = 16;
/// How often the gauge of queued jobs is brought up to date.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// What a stream holds, as the broker says it.
#[derive(Debug, Deserialize)]
pub(super) struct State {
    pub(super) messages: u64,
    first_ts: Timestamp,
}

/// What is in the queue: from the stream's own count, and from its lanes how much of that agents have.
pub(crate) async fn look(app: &App, record: &PoolRecord) -> Result<QueueView, StoreError> {
    let Some(state) = state(app, &record.name).await? else { return Ok(QueueView::default()) };
    if state.messages == 0 {
        return Ok(QueueView::default());
    }
    let name = topology::jobs_stream(&record.name);
    let lanes: Vec<Lane> = record.executors.iter().flat_map(Lane::of).collect();
    let held: Vec<u64> = stream::iter(lanes).map(|lane| held(app, &name, lane)).buffer_unordered(AT_ONCE).try_collect().await?;
    let running = held.iter().sum::<u64>().min(state.messages);
    Ok(QueueView { pending: state.messages - running, running, oldest_at: Some(state.first_ts) })
}

/// The state of the pool's stream. `None` when there is no stream.
pub(super) async fn state(app: &App, pool: &PoolName) -> Result<Option<State>, StoreError> {
    let info = stored::call(&app.nats, StreamApi::Info.subject(&topology::jobs_stream(pool)), &json!({})).await?;
    let read = |mut info: Value| State::deserialize(info.get_mut("state").map_or(Value::Null, Value::take));
    info.map(read).transpose().map_err(|error| StoreError::Answer(error.to_string()))
}

/// How many jobs of a lane agents have. A job that waits for its next attempt counts: its agent put it off.
async fn held(app: &App, stream: &str, lane: Lane) -> Result<u64, StoreError> {
    let info = stored::call(&app.nats, ConsumerApi::Info.subject(stream, &lane.consumer()), &json!({})).await?;
    // Without a consumer the lane is just being declared, and nobody has pulled from it.
    Ok(info.and_then(|info| info.get("num_ack_pending")?.as_u64()).unwrap_or(0))
}

/// Keeps the gauge of queued jobs up to date. Ends only with an error.
pub(crate) async fn sample(app: App) -> anyhow::Result<()> {
    let mut ticks = interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = BTreeSet::new();
    loop {
        ticks.tick().await;
        app.broker.connected().await;
        let pools: Vec<PoolName> = app.mirror.pools.all().into_iter().map(|(pool, _)| pool).collect();
        let states = stream::iter(pools.clone()).map(|pool| async { (state(&app, &pool).await, pool) });
        let mut states = states.buffer_unordered(AT_ONCE);
        while let Some((state, pool)) = states.next().await {
            // A figure that could not be had stays as it was: the next round has it.
            if let Ok(state) = state {
                #[allow(clippy::cast_precision_loss, reason = "a gauge is a float, and a queue has less than 2^53 jobs")]
                app.desk.queued.with([pool.as_str()]).set(state.map_or(0, |state| state.messages) as f64);
                shown.insert(pool);
            }
        }
        shown.retain(|pool| {
            let there = pools.contains(pool);
            if !there {
                app.desk.queued.remove([pool.as_str()]);
            }
            there
        });
    }
}
