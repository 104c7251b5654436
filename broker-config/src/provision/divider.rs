//! Divides a pool's limit on running jobs over its lanes, as [`super::shares`] says. The thin shell around it.
//!
//! Only one at a time may give lanes more, which is the active dispatcher; anybody may make them have less. While nobody divides, the last
//! division stays, and it is within the limit.

use std::collections::BTreeMap;

use async_nats::Client;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_schemas::{lane::Lane, names::PoolName, records::PoolRecord, topology};
use serde_json::Value;

use super::{
    Error,
    lanes::{self, View},
    pool::read,
    shares::{self, Load},
    stream::info,
};

/// Shares changed at once.
const AT_ONCE: usize = 16;

/// In every so many rounds, lanes without a share are opened for jobs that are to be given out again. Until the next round such a lane may
/// also give out a new job in place of one that has just ended, which costs another lane its turn, so this is not done each time.
const LET_BACK_EVERY: u64 = 8;

/// What has been seen of one pool's lanes. Losing it costs a turn.
#[derive(Debug, Default)]
pub struct Divider {
    round: u64,
    /// For each lane, how many jobs it had given out, and in which round that number last grew.
    seen: BTreeMap<Lane, (u64, u64)>,
}

impl Divider {
    /// Looks once, and changes shares where a lane goes short. `leads` says whether this is the one who may give lanes more.
    ///
    /// A pool that is paused, has no job or has no limit that is divided is left alone.
    ///
    /// # Errors
    /// See [`Error`]. Whatever was done until then was within the limit.
    pub async fn divide(&mut self, client: &Client, pool: &PoolName, leads: impl Fn() -> bool) -> Result<(), Error> {
        let entry = read(client, pool).await?;
        let record = entry.value.ok_or_else(|| Error::NoPool(pool.clone()))?;
        if !record.limits.is_divided() || record.paused.is_some() || is_empty(client, pool).await? {
            return Ok(());
        }
        let mut view = lanes::look(client, &record).await?;
        if view.values().any(Option::is_none) {
            // They are just being made, and would use a part of the limit that nobody sees.
            return Ok(());
        }
        self.remember(&view);
        let limit = record.limits.max_running;
        let mut loads = self.loads(&view);
        let mut wanted = shares::divide(limit, &loads);
        if self.round.is_multiple_of(LET_BACK_EVERY) {
            shares::let_back(&loads, &mut wanted);
        }
        if !shares::is_due(limit, &loads, &wanted) || !leads() || read(client, pool).await?.revision != entry.revision {
            return Ok(());
        }
        if lower(client, &record, &mut view, &loads, &wanted).await? {
            loads = self.loads(&view);
        }
        if !leads() || view.values().any(Option::is_none) {
            return Ok(());
        }
        change(client, &record, &view, shares::raised(limit, &loads, &wanted)).await
    }

    fn remember(&mut self, view: &View) {
        self.round += 1;
        self.seen.retain(|lane, _| view.contains_key(lane));
        for (lane, seen) in view {
            let given = seen.as_ref().map_or(0, |seen| seen.given);
            let entry = self.seen.entry(lane.clone()).or_insert((given, 0));
            if entry.0 != given {
                *entry = (given, self.round);
            }
        }
    }

    fn loads(&self, view: &View) -> Vec<Load> {
        let served = |lane| self.seen.get(lane).map_or(0, |(_, served)| *served);
        view.iter().filter_map(|(lane, seen)| Some(seen.as_ref()?.load(lane, served(lane)))).collect()
    }
}

/// Makes shares fit into the limit of a record that has just changed, giving no lane more.
pub(super) async fn fit(client: &Client, record: &PoolRecord) -> Result<(), Error> {
    let mut view = lanes::look(client, record).await?;
    view.retain(|_, seen| seen.is_some());
    let loads = Divider::default().loads(&view);
    let limit = record.limits.max_running;
    if loads.iter().map(|load| load.share).sum::<u64>() > limit {
        let wanted = shares::divide(limit, &loads);
        lower(client, record, &mut view, &loads, &wanted).await?;
    }
    Ok(())
}

/// Lowers the shares of lanes that must give up something, and looks at them again: meanwhile they may have given out more jobs. Says
/// whether there were any.
async fn lower(client: &Client, record: &PoolRecord, view: &mut View, loads: &[Load], wanted: &[u64]) -> Result<bool, Error> {
    let lowered: Vec<_> = shares::lowered(loads, wanted).collect();
    let lanes: Vec<Lane> = lowered.iter().filter_map(|(place, _)| view.keys().nth(*place)).cloned().collect();
    let any = !lanes.is_empty();
    change(client, record, view, lowered).await?;
    view.extend(lanes::look_at(client, &record.name, lanes).await?);
    Ok(any)
}

async fn change(client: &Client, record: &PoolRecord, view: &View, shares: Vec<(usize, u64)>) -> Result<(), Error> {
    let changes = shares.into_iter().filter_map(|(place, share)| {
        let (lane, seen) = view.iter().nth(place)?;
        Some((lane, seen.as_ref()?, share))
    });
    // Futures first: a stream's closure over references can't be shown to be `Send` where this is spawned.
    let changes: Vec<_> = changes
        .map(|(lane, seen, share)| async move {
            tracing::debug!(pool = %record.name, lane = lane.consumer(), share, "changing a lane's share of the limit on running jobs");
            lanes::set_share(client, record, lane, seen, share).await
        })
        .collect();
    stream::iter(changes).buffer_unordered(AT_ONCE).try_collect().await
}

/// Whether the pool has no job at all: then no lane goes short. A job that is out stays in the stream until it is acked.
async fn is_empty(client: &Client, pool: &PoolName) -> Result<bool, Error> {
    let info = info(client, &topology::jobs_stream(pool)).await?;
    Ok(info.is_none_or(|info| info.pointer("/state/messages").and_then(Value::as_u64) == Some(0)))
}
