//! Who waits for which job, and the one subscription that wakes them.
//!
//! The broker republishes every stored result to `done.<pool>.<job_id>`; one subscription of the gateway takes them all, and a map finds who
//! waits. Nothing is asked of the broker per waiting request. A waiter registers before its job is published, so that no result can come
//! too early. A result that came while the connection was down (or was dropped by a full buffer) is found by looking: after each reconnect,
//! and every [`LOOK_AGAIN`] anyway.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_schemas::{
    code::Code,
    names::{JobId, PoolName},
    subjects::About,
    topology,
};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout_at},
};

use crate::{
    app::App,
    jobs::outcome::{self, Arrived, Marked},
    problem::ApiError,
    stored,
};

/// The most requests that may wait on one gateway. Each costs a connection and about 2 KiB.
const MOST: usize = 10_000;
/// How often a waiter looks for its result in spite of the subscription. With [`MOST`] waiters that is a thousand look-ups a second.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How many waiters look at once after a reconnect.
const LOOKS_AT_ONCE: usize = 64;

/// Who waits; clones share it.
#[derive(Clone)]
pub(crate) struct Waiters(Arc<Inner>);

struct Inner {
    waiting: Mutex<Waiting>,
    /// Counts the reasons to look again.
    looks: watch::Sender<u64>,
    looking: Semaphore,
    ready: watch::Sender<bool>,
}

/// What the broker told of a stored result.
#[derive(Debug, Clone)]
struct Done {
    headers: Option<HeaderMap>,
    payload: Bytes,
}

/// Waiting requests by the subject on which their result comes.
#[derive(Default)]
struct Waiting {
    by_subject: HashMap<String, Vec<(u64, oneshot::Sender<Done>)>>,
    count: usize,
    next: u64,
}

impl Waiters {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            waiting: Mutex::default(),
            looks: watch::Sender::new(0),
            looking: Semaphore::new(LOOKS_AT_ONCE),
            ready: watch::Sender::new(false),
        }))
    }

    /// Waits until the subscription exists: what is published from then on wakes its waiters.
    pub(crate) async fn ready(&self) {
        // The sender lives as long as `self`, so this ends only with the flag set.
        let _ = self.0.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// How many requests wait.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.lock().count
    }

    /// Waits for a job from now on, until what is answered is dropped.
    ///
    /// # Errors
    /// `rate_limited` when [`MOST`] requests wait already.
    pub(crate) fn register(&self, pool: &PoolName, id: &JobId) -> Result<Waiter, ApiError> {
        let subject = About::Done.job(pool, id);
        let (sender, result) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.count >= MOST {
            let detail = format!("{MOST} requests wait on this gateway already; submit without `wait` and look later, or try again");
            return Err(ApiError::new(Code::RateLimited, detail).retry_after(Duration::from_secs(1)));
        }
        waiting.count += 1;
        waiting.next += 1;
        let token = waiting.next;
        waiting.by_subject.entry(subject.clone()).or_default().push((token, sender));
        drop(waiting);
        let stored_under = About::Result.job(pool, id);
        Ok(Waiter { subject, stored_under, token, result, looks: self.0.looks.subscribe(), arrived: None, home: self.clone() })
    }

    /// Hands a result to whoever waits for it.
    fn deliver(&self, subject: &str, done: &Done) {
        let mut waiting = self.lock();
        let Some(waiters) = waiting.by_subject.remove(subject) else { return };
        waiting.count = waiting.count.saturating_sub(waiters.len());
        drop(waiting);
        for (_, waiter) in waiters {
            // Whoever stopped waiting meanwhile wants no answer.
            let _ = waiter.send(done.clone());
        }
    }

    /// Makes every waiter look for its result.
    fn look_again(&self) {
        self.0.looks.send_modify(|looks| *looks += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits for a job. Dropping it ends the waiting.
pub(crate) struct Waiter {
    subject: String,
    stored_under: String,
    token: u64,
    result: oneshot::Receiver<Done>,
    looks: watch::Receiver<u64>,
    /// What arrived, while it is not yet known what to say of its signature.
    arrived: Option<Arrived>,
    home: Waiters,
}

impl Waiter {
    /// The job's result if it comes before `deadline` and before the gateway stops. Safe to cancel.
    pub(crate) async fn result(&mut self, app: &App, deadline: Instant) -> Option<Marked> {
        if self.arrived.is_none() {
            self.arrived = Some(self.arrival(app, deadline).await?);
        }
        // It stays: whoever cancels this, or asks with another deadline, finds it here.
        let arrived = self.arrived.as_ref()?;
        // The keys of an agent may have to be read from the broker.
        timeout_at(deadline, outcome::marked(app, arrived)).await.ok()
    }

    async fn arrival(&mut self, app: &App, deadline: Instant) -> Option<Arrived> {
        let mut again = interval_at(Instant::now() + LOOK_AGAIN, LOOK_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                done = &mut self.result => {
                    return done.ok().map(|done| Arrived::republished(self.stored_under.clone(), done.headers, done.payload));
                }
                () = sleep_until(deadline) => return None,
                () = app.tasks.shutdown().requested() => return None,
                changed = self.looks.changed() => changed.ok()?,
                _ = again.tick() => {}
            }
            // A look that fails is no answer: the next one, or the subscription, will have it.
            if let Ok(Some(result)) = timeout_at(deadline, self.look(&app.nats)).await.unwrap_or(Ok(None)) {
                return Some(result);
            }
        }
    }

    /// Looks for the stored result.
    async fn look(&self, client: &Client) -> Result<Option<Arrived>, stored::StoreError> {
        let _permit = self.home.0.looking.acquire().await;
        let found = stored::last(client, topology::RESULTS, &self.stored_under).await?;
        Ok(found.map(Arrived::from))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.home.lock();
        let Some(waiters) = waiting.by_subject.get_mut(&self.subject) else { return };
        let before = waiters.len();
        waiters.retain(|(token, _)| *token != self.token);
        let gone = before - waiters.len();
        if waiters.is_empty() {
            waiting.by_subject.remove(&self.subject);
        }
        waiting.count = waiting.count.saturating_sub(gone);
    }
}

/// Takes every stored result and wakes who waits for it. Ends only with an error.
pub(crate) async fn run(app: App) -> anyhow::Result<()> {
    let waiters = &app.waiters;
    let mut done = app.nats.subscribe(About::Done.all()).await?;
    app.nats.flush().await?;
    waiters.0.ready.send_replace(true);
    let mut connects = app.broker.status().connects;
    waiters.look_again();
    loop {
        tokio::select! {
            message = done.next() => {
                let Some(message) = message else { anyhow::bail!("the subscription to stored results ended") };
                waiters.deliver(&message.subject, &Done { headers: message.headers, payload: message.payload });
            }
            // The client subscribes again before it tells of the connection, so a result is either seen by the look or comes afterwards.
            status = app.broker.wait_for(|status| status.connects != connects) => {
                connects = status.connects;
                waiters.look_again();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn job() -> (PoolName, JobId) {
        ("p".parse().unwrap(), "j".parse().unwrap())
    }

    fn done(body: &'static str) -> Done {
        Done { headers: None, payload: body.into() }
    }

    #[test]
    fn whoever_stops_waiting_leaves_nothing_behind() {
        let waiters = Waiters::new();
        let (pool, id) = job();
        let (first, second) = (waiters.register(&pool, &id).unwrap(), waiters.register(&pool, &id).unwrap());
        assert_eq!(waiters.count(), 2);
        drop(first);
        assert_eq!(waiters.count(), 1);
        waiters.deliver(&About::Done.job(&pool, &id), &done(""));
        assert_eq!(waiters.count(), 0);
        drop(second);
        assert_eq!((waiters.count(), waiters.lock().by_subject.len()), (0, 0));
    }

    #[test]
    fn a_result_of_another_pool_wakes_nobody() {
        let waiters = Waiters::new();
        let (pool, id) = job();
        let mut waiter = waiters.register(&pool, &id).unwrap();
        waiters.deliver(&About::Done.job(&"q".parse().unwrap(), &id), &done(""));
        assert!(waiter.result.try_recv().is_err());
        waiters.deliver(&About::Done.job(&pool, &id), &done("x"));
        assert_eq!(waiter.result.try_recv().unwrap().payload, "x");
    }

    #[test]
    fn the_number_of_waiting_requests_is_bounded() {
        let waiters = Waiters::new();
        let (pool, id) = job();
        let mut all: Vec<_> = (0..MOST).map(|_| waiters.register(&pool, &id).unwrap()).collect();
        assert_eq!(waiters.register(&pool, &id).err().unwrap().code, Code::RateLimited);
        all.pop();
        assert!(waiters.register(&pool, &id).is_ok());
    }
}
