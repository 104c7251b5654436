//! The jobs that this agent has now, held or running: their leases, and how to stop them.
//!
//! Locks are held for a look-up only, never across an await.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use async_nats::Subject;
use muster_schemas::names::JobId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::intake::Handle;

/// How long a cancelled id is remembered, so that a delivery just behind the cancel is dropped.
const REMEMBERED: Duration = Duration::from_secs(60);
/// At most so many: a flood of cancels must not eat the memory. What is forgotten only costs a run whose result is refused.
const REMEMBERED_MAX: usize = 10_000;

/// Why a running job is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Somebody cancelled it.
    Cancelled,
    /// It has a stored result: another agent ended it, or it was cancelled while we were away.
    Finished,
    /// The agent shuts down; the job goes to another one.
    Released,
    /// The agent's identity is over: nothing of the job is reported, and its lease runs out.
    Ended,
}

/// How a job is stopped.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    why: OnceLock<Stop>,
    token: CancellationToken,
}

impl Brake {
    pub(crate) fn pull(&self, why: Stop) {
        // The first reason stands.
        let _ = self.why.set(why);
        self.token.cancel();
    }

    pub(crate) fn why(&self) -> Option<Stop> {
        self.why.get().copied()
    }

    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

#[derive(Debug)]
struct Job {
    id: Option<JobId>,
    reply: Subject,
    brake: Arc<Brake>,
}

/// The jobs on this agent; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    jobs: Mutex<HashMap<Handle, Job>>,
    cancelled: Mutex<VecDeque<(Instant, JobId)>>,
    changed: Notify,
}

impl Live {
    /// Takes a job in; from now on its lease is kept.
    pub(crate) fn add(&self, handle: Handle, id: Option<JobId>, reply: Subject) -> Arc<Brake> {
        let brake = Arc::new(Brake::default());
        self.jobs().insert(handle, Job { id, reply, brake: Arc::clone(&brake) });
        brake
    }

    /// The job is no longer this agent's business.
    pub(crate) fn remove(&self, handle: Handle) {
        self.jobs().remove(&handle);
        self.0.changed.notify_waiters();
    }

    /// Where to say that the jobs are still here.
    pub(crate) fn replies(&self) -> Vec<Subject> {
        self.jobs().values().map(|job| job.reply.clone()).collect()
    }

    /// The ids of all jobs.
    pub(crate) fn ids(&self) -> Vec<JobId> {
        self.jobs().values().filter_map(|job| job.id.clone()).collect()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.jobs().len()
    }

    /// Stops a job, if it is here.
    pub(crate) fn stop(&self, id: &JobId, why: Stop) -> bool {
        let brakes: Vec<_> = self.jobs().values().filter(|job| job.id.as_ref() == Some(id)).map(|job| Arc::clone(&job.brake)).collect();
        brakes.iter().for_each(|brake| brake.pull(why));
        !brakes.is_empty()
    }

    /// Stops all jobs.
    pub(crate) fn stop_all(&self, why: Stop) {
        let brakes: Vec<_> = self.jobs().values().map(|job| Arc::clone(&job.brake)).collect();
        brakes.iter().for_each(|brake| brake.pull(why));
    }

    /// Waits until there is no job.
    pub(crate) async fn none(&self) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that a change in between wakes it.
            changed.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Remembers that a job was cancelled.
    pub(crate) fn cancelled(&self, id: JobId, now: Instant) {
        let mut cancelled = self.recent(now);
        if cancelled.len() >= REMEMBERED_MAX {
            cancelled.pop_front();
        }
        cancelled.push_back((now, id));
    }

    /// Whether a job was cancelled within the last minute.
    pub(crate) fn was_cancelled(&self, id: &JobId, now: Instant) -> bool {
        self.recent(now).iter().any(|(_, cancelled)| cancelled == id)
    }

    fn recent(&self, now: Instant) -> MutexGuard<'_, VecDeque<(Instant, JobId)>> {
        let mut cancelled = self.0.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        while cancelled.pop_front_if(|(at, _)| now.saturating_duration_since(*at) > REMEMBERED).is_some() {}
        cancelled
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<Handle, Job>> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn id(text: &str) -> JobId {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn the_last_job_to_go_wakes_who_waits_for_none() {
        let live = Live::default();
        live.none().await;
        let brake = live.add(1, Some(id("a")), "r".into());
        assert_eq!(live.replies(), ["r".into()]);
        let waiting = live.clone();
        let group = muster_runtime::tasks::Group::new("test");
        let waiter = group.spawn(async move { waiting.none().await });
        assert!(live.stop(&id("a"), Stop::Cancelled) && !live.stop(&id("b"), Stop::Cancelled));
        brake.pull(Stop::Released);
        assert_eq!(brake.why(), Some(Stop::Cancelled), "the first reason stands");
        assert!(brake.token().is_cancelled());
        live.remove(1);
        waiter.await.unwrap();
    }

    #[test]
    fn a_cancelled_id_is_remembered_for_a_minute() {
        let (live, now) = (Live::default(), Instant::now());
        live.cancelled(id("a"), now);
        assert!(live.was_cancelled(&id("a"), now + Duration::from_secs(60)));
        assert!(!live.was_cancelled(&id("b"), now));
        assert!(!live.was_cancelled(&id("a"), now + Duration::from_secs(61)));
        for _ in 0..REMEMBERED_MAX + 10 {
            live.cancelled(id("c"), now);
        }
        assert!(live.recent(now).len() <= REMEMBERED_MAX);
    }
}
