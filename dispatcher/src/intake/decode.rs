//! Keys and bodies into events. What does not decode is counted and skipped: bad input never stops anything, and a log line for each
//! would let a stranger fill the disk.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use muster_schemas::{
    headers::KV_OPERATION,
    heartbeat::Heartbeat,
    names::{AgentId, PoolName},
    records::{self, AgentRecord, PoolRecord},
    standing::Standing,
    subjects::{self, js},
    time::Timestamp,
    topology,
    wire::{self, Body},
};
use tokio::sync::{mpsc, watch};

use super::{
    Input,
    follow::{Heard, Listener, Message},
};
use crate::{
    figures::{Figures, Ignored},
    state::{Beat, Enlisted, Event, Feed, Key, Source},
};

/// Makes an event of what was heard, if it is one.
pub(crate) trait Decode: FnMut(Heard<'_>) -> Option<Event> + Send {}
impl<F: FnMut(Heard<'_>) -> Option<Event> + Send> Decode for F {}

/// Decodes, and tells the core.
pub(crate) struct Teller {
    inputs: mpsc::Sender<Input>,
    decode: Box<dyn Decode>,
}

impl Teller {
    pub(crate) fn new(inputs: mpsc::Sender<Input>, decode: Box<dyn Decode>) -> Self {
        Self { inputs, decode }
    }
}

pub(super) async fn tell(inputs: &mpsc::Sender<Input>, input: Input) {
    // Refused only when the core has ended, and then the process ends.
    let _ = inputs.send(input).await;
}

impl Listener for Teller {
    async fn hear(&mut self, heard: Heard<'_>) {
        if let Some(event) = (self.decode)(heard) {
            tell(&self.inputs, Input::Event(Box::new(event))).await;
        }
    }

    async fn clock(&mut self, now: Timestamp) {
        tell(&self.inputs, Input::BrokerClock(now, Instant::now())).await;
    }
}

/// Records of agents.
pub(crate) fn agents(figures: Figures) -> impl Decode {
    move |heard: Heard<'_>| {
        bucket(heard, topology::AGENTS, |key, value| {
            let id: AgentId = key.strip_prefix(records::keys::AGENTS.trim_end_matches('*'))?.parse().ok()?;
            let record =
                value.map(|value| decode::<AgentRecord>(value, Ignored::Record, key, &figures)).map_or(Some(None), |r| r.map(Some))?;
            // A record under another one's key would be a second agent with the same id.
            let fits = record.as_ref().is_none_or(|record| record.id == id);
            fits.then(|| (id, record.map(Enlisted::from)))
        })
        .map(Event::Agents)
    }
}

/// Standings as written. One that can't be read is there all the same, to be replaced.
pub(crate) fn standings(figures: Figures) -> impl Decode {
    move |heard: Heard<'_>| {
        bucket(heard, topology::STANDINGS, |key, value| {
            let (pool, agent) = key.split_once('.')?;
            let place = Key { pool: pool.parse().ok()?, agent: agent.parse().ok()? };
            Some((place, value.map(|value| decode::<Standing>(value, Ignored::Record, key, &figures))))
        })
        .map(Event::Standings)
    }
}

/// The pools as they are known: replaced as a whole, so that readers never see half of a reading.
pub(crate) struct Pools {
    known: watch::Sender<Arc<BTreeMap<PoolName, PoolRecord>>>,
    reading: Option<BTreeMap<PoolName, PoolRecord>>,
}

impl Pools {
    pub(crate) fn new(known: watch::Sender<Arc<BTreeMap<PoolName, PoolRecord>>>) -> Self {
        Self { known, reading: None }
    }

    fn follow(&mut self, feed: Feed<PoolName, PoolRecord>) {
        let change = |pools: &mut BTreeMap<PoolName, PoolRecord>, feed| match feed {
            Feed::Put(name, record, _) => drop(pools.insert(name, record)),
            Feed::Gone(name, _) => drop(pools.remove(&name)),
            Feed::Begin | Feed::End => {}
        };
        match (feed, &mut self.reading) {
            (Feed::Begin, reading) => *reading = Some(BTreeMap::new()),
            (Feed::End, reading) => drop(self.known.send_replace(Arc::new(reading.take().unwrap_or_default()))),
            (feed, Some(reading)) => change(reading, feed),
            (feed, None) => self.known.send_modify(|known| change(Arc::make_mut(known), feed)),
        }
    }
}

/// Records of pools: kept as they are for those who look at them, and their defaults for the state.
pub(crate) fn pools(mut pools: Pools, figures: Figures) -> impl Decode {
    move |heard: Heard<'_>| {
        let feed = bucket(heard, topology::POOLS, |key, value| {
            let record =
                value.map(|value| decode::<PoolRecord>(value, Ignored::Record, key, &figures)).map_or(Some(None), |r| r.map(Some))?;
            Some((key.parse::<PoolName>().ok()?, record))
        });
        let defaults = match feed.as_ref()? {
            Feed::Begin => Feed::Begin,
            Feed::Put(name, record, revision) => Feed::Put(name.clone(), record.into(), *revision),
            Feed::Gone(name, revision) => Feed::Gone(name.clone(), *revision),
            Feed::End => Feed::End,
        };
        feed.into_iter().for_each(|feed| pools.follow(feed));
        Some(Event::Pools(defaults))
    }
}

/// Heartbeats. The time that counts is the broker's.
pub(crate) fn heartbeats(figures: Figures) -> impl Decode {
    move |heard: Heard<'_>| match heard {
        Heard::Begin(made) => Some(Event::HeartbeatsSince(made)),
        Heard::CaughtUp => Some(Event::CaughtUp(Source::Heartbeats)),
        Heard::Message(message) => {
            let Some((pool, agent)) = subjects::parse_heartbeat(&message.subject) else {
                figures.ignored(Ignored::Heartbeat);
                return None;
            };
            let beat = decode::<Heartbeat>(&message.payload, Ignored::Heartbeat, &message.subject, &figures)?;
            Some(Event::Heartbeat(Key { pool, agent }, Beat::from(beat), message.stored))
        }
    }
}

/// What was heard of a bucket. `read` makes a key and a value of an entry's key and bytes; without bytes it was deleted.
fn bucket<K, T>(heard: Heard<'_>, name: &str, read: impl FnOnce(&str, Option<&[u8]>) -> Option<(K, Option<T>)>) -> Option<Feed<K, T>> {
    let Message { subject, headers, payload, sequence, .. } = match heard {
        Heard::Begin(_) => return Some(Feed::Begin),
        Heard::CaughtUp => return Some(Feed::End),
        Heard::Message(message) => message,
    };
    let key = subject.strip_prefix(&js::key(name, ""))?;
    let value = headers.get(KV_OPERATION).is_none().then_some(&payload[..]);
    Some(match read(key, value)? {
        (key, Some(value)) => Feed::Put(key, value, *sequence),
        (key, None) => Feed::Gone(key, *sequence),
    })
}

fn decode<T: Body>(bytes: &[u8], kind: Ignored, from: &str, figures: &Figures) -> Option<T> {
    wire::decode(bytes)
        .inspect_err(|error| {
            figures.ignored(kind);
            tracing::debug!(%error, from, "a body that can't be decoded");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn pools_are_replaced_as_a_whole_and_changed_one_by_one() {
        let (sender, known) = watch::channel(Arc::default());
        let mut pools = Pools::new(sender);
        let record = |name: &str| muster_broker_config::provision::default_pool(name.parse().unwrap(), Timestamp::from_secs(0));
        let put = |name: &str| Feed::Put(name.parse().unwrap(), record(name), 1);
        let names = || known.borrow().keys().map(ToString::to_string).collect::<Vec<_>>();
        for feed in [Feed::Begin, put("p"), put("q"), Feed::End] {
            pools.follow(feed);
        }
        assert_eq!(names(), ["p", "q"]);
        pools.follow(Feed::Begin);
        pools.follow(put("r"));
        assert_eq!(names(), ["p", "q"]);
        pools.follow(Feed::End);
        assert_eq!(names(), ["r"]);
        pools.follow(put("s"));
        pools.follow(Feed::Gone("r".parse().unwrap(), 2));
        assert_eq!(names(), ["s"]);
    }
}
