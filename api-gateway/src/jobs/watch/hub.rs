//! Who watches what on this gateway: one [`Topic`] per watched job, however many watch it, and none where nobody does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muster_runtime::{
    metrics::{Gauge, Metrics, MetricsError},
    tasks::Group,
};
use muster_schemas::{
    code::Code,
    names::{JobId, PoolName},
};

use super::{follow::follow, show::Watched, topic::Topic};
use crate::{app::App, jobs::lookup::Found, problem::ApiError};

/// The most watchers on one gateway. Each costs a connection; one that catches up has at most 1 MiB of stored messages in memory.
const WATCHERS_MAX: usize = 10_000;
/// The most watched jobs on one gateway: with what is kept of each for its watchers, at most 500 MiB.
const JOBS_MAX: usize = 2_000;

/// Who watches; clones share it.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

struct Inner {
    seats: Mutex<Seats>,
    watchers: Gauge,
    jobs: Gauge,
    followers: Group,
}

type Key = (PoolName, JobId);

#[derive(Default)]
struct Seats {
    /// Each with how many watch it. A job that has ended is not here any more, even if somebody still reads of it.
    topics: HashMap<Key, (Arc<Topic>, usize)>,
    watchers: usize,
}

impl Hub {
    pub(crate) fn new(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self(Arc::new(Inner {
            seats: Mutex::default(),
            watchers: metrics.gauge("muster_gateway_watchers", "Requests that watch a job now.")?,
            jobs: metrics.gauge("muster_gateway_watched_jobs", "Jobs that are watched now; the gateway follows each of them once.")?,
            followers: Group::new("watched job"),
        })))
    }

    /// Watches a job, from now until the seat is dropped.
    ///
    /// # Errors
    /// `rate_limited` when there are [`WATCHERS_MAX`] watchers or [`JOBS_MAX`] watched jobs already.
    pub(super) fn join(&self, app: &App, id: &JobId, found: Found) -> Result<Seat, ApiError> {
        let key = (found.pool().clone(), id.clone());
        let full = |what: String| {
            let detail = format!("{what} on this gateway already; try again later, or look the job up");
            Err(ApiError::new(Code::RateLimited, detail).retry_after(Duration::from_secs(10)))
        };
        let mut seats = self.lock();
        if seats.watchers >= WATCHERS_MAX {
            return full(format!("{WATCHERS_MAX} requests watch jobs"));
        }
        if !seats.topics.contains_key(&key) && seats.topics.len() >= JOBS_MAX {
            return full(format!("{JOBS_MAX} jobs are watched"));
        }
        let mut begun = None;
        let (topic, count) = seats.topics.entry(key.clone()).or_insert_with(|| {
            let topic = Arc::new(Topic::new(Watched::new(id, &found)));
            begun = Some(Arc::clone(&topic));
            (topic, 0)
        });
        *count += 1;
        let topic = Arc::clone(topic);
        seats.watchers += 1;
        self.count(&seats);
        drop(seats);
        if let Some(topic) = begun {
            let (hub, app, key, id) = (self.clone(), app.clone(), key.clone(), id.clone());
            drop(self.0.followers.spawn(async move {
                follow(app, Arc::clone(&topic), id, found).await;
                hub.ended(&key, &topic);
            }));
        }
        Ok(Seat { hub: self.clone(), key, topic })
    }

    /// A job is not followed any more: whoever comes now begins anew.
    fn ended(&self, key: &Key, topic: &Arc<Topic>) {
        let mut seats = self.lock();
        if seats.topics.get(key).is_some_and(|(other, _)| Arc::ptr_eq(other, topic)) {
            seats.topics.remove(key);
        }
        self.count(&seats);
    }

    fn leave(&self, key: &Key, topic: &Arc<Topic>) {
        let mut seats = self.lock();
        seats.watchers = seats.watchers.saturating_sub(1);
        if let Some((other, count)) = seats.topics.get_mut(key)
            && Arc::ptr_eq(other, topic)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                seats.topics.remove(key);
                topic.unwatched.cancel();
            }
        }
        self.count(&seats);
    }

    fn count(&self, seats: &Seats) {
        self.0.watchers.set(seats.watchers as f64);
        self.0.jobs.set(seats.topics.len() as f64);
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.0.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one watcher. Dropping it gives it up.
pub(super) struct Seat {
    hub: Hub,
    key: Key,
    pub(super) topic: Arc<Topic>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.leave(&self.key, &self.topic);
    }
}
