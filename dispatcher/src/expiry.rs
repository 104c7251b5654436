//! Ends jobs that expired while no agent took them, so that who waits for one is told, and jobs whose end was begun and not finished.
//! Only the active dispatcher does.
//!
//! An agent that is given such a job ends it itself; this is for jobs that nobody is given: no agent is there, or the one they are for
//! is away. An agent that holds a job tells so, or ends it, within the time that is waited here, and then the job is left to it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_nats::Client;
use futures_util::{StreamExt as _, stream};
use muster_runtime::{nats::Broker, shutdown::Shutdown};
use muster_schemas::{
    code::Code,
    result::{ErrorInfo, Outcome},
    time::Timestamp,
    topology::COMMANDS,
};

use crate::{
    broker::{self, BrokerError, Stored},
    cancel::{self, Waiting},
    figures::Figures,
    history::{Late, Past, Spot},
    lease::keeper::Leadership,
    signing::Signing,
};

/// The longest time between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// Time between two looks while there is more to do.
const SOON: Duration = Duration::from_millis(500);
/// Jobs that are ended in one look.
const MOST: usize = 1000;
/// Jobs that are ended at once: each waits for the broker's disk.
const AT_ONCE: usize = 16;
/// How far back a gateway or another dispatcher may have stored how a job ended, and died before it took the job out of its queue.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
/// How late the history may learn of a result, and how far the clock may be behind of who stored it.
const LAG: Duration = Duration::from_secs(30);
/// After so many jobs that could not be ended, the rest of a look is left for later: most likely the broker is away.
const FAILURES: usize = 16;

/// The task that looks.
pub(crate) struct Expiry {
    broker: Broker,
    leadership: Leadership,
    past: Past,
    figures: Figures,
    signing: Signing,
    /// How long after its expiry a job is ended.
    after: Duration,
    from: Option<Spot>,
    /// Jobs that were ended before this have left their queues. `None` when that is not known.
    clean_since: Option<Timestamp>,
}

impl Expiry {
    pub(crate) fn new(broker: Broker, leadership: Leadership, past: Past, figures: Figures, signing: Signing, after: Duration) -> Self {
        Self { broker, leadership, past, figures, signing, after, from: None, clean_since: None }
    }

    fn every(&self) -> Duration {
        EVERY.min(self.after)
    }

    /// Runs until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let every = self.every();
        let mut wait = every;
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            wait = every;
            if !self.leadership.is_mine() {
                (self.clean_since, self.from) = (None, None);
                continue;
            }
            let looked = tokio::select! {
                () = shutdown.requested() => return Ok(()),
                looked = self.look() => looked,
            };
            match looked {
                Ok(()) if self.from.is_some() => wait = SOON.min(every),
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "could not look for jobs that have expired; trying again");
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), BrokerError> {
        let now = broker::clock(self.broker.client(), COMMANDS).await?;
        if self.clean_since.is_none_or(|since| now.since(since) >= LAG + self.every()) {
            self.clean(now).await;
        }
        let late = now - self.after;
        let Some((overdue, next)) = self.past.overdue(late, self.from, MOST).await else { return Ok(()) };
        // One that fails comes again, once the end is reached.
        self.from = next;
        let this = &*self;
        let end = |waiting: Waiting| async move { end(this.broker.client(), &this.signing, &waiting, late, &this.figures).await.map(drop) };
        this.each(overdue, end).await;
        Ok(())
    }

    /// Takes jobs out of their queues of which it is known that they have ended: whoever stored that may have died before it did so, and
    /// a job must not start after its result is stored.
    async fn clean(&mut self, now: Timestamp) {
        let since = self.clean_since.unwrap_or(now - LEFT_BEHIND).max(now - LEFT_BEHIND);
        let (mut from, mut all) = (None, true);
        loop {
            let Some((ended, next)) = self.past.put_to_an_end(since, from, MOST).await else { return };
            let this = &*self;
            let finish = |waiting: Waiting| async move {
                if waiting.finish(this.broker.client()).await? {
                    tracing::warn!(job = waiting.subject(), "a job that has ended was still in its queue");
                }
                Ok(())
            };
            all &= this.each(ended, finish).await;
            from = next;
            if from.is_none() || !self.leadership.is_mine() {
                break;
            }
        }
        if all {
            self.clean_since = Some(now - LAG);
        }
    }

    /// Does something about jobs that are in a queue. One that fails keeps the others from nothing. Answers whether none did.
    async fn each<F: Future<Output = Result<(), BrokerError>>>(&self, jobs: Vec<Late>, work: impl Fn(Waiting) -> F) -> bool {
        let (client, failures) = (self.broker.client(), AtomicUsize::new(0));
        let (work, failures) = (&work, &failures);
        let worked = stream::iter(jobs).for_each_concurrent(AT_ONCE, |Late { pool, id }| async move {
            if !self.leadership.is_mine() || failures.load(Ordering::Relaxed) >= FAILURES {
                failures.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let worked = match cancel::find(client, &pool, &id).await {
                Ok(Some(waiting)) => work(waiting).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = worked {
                failures.fetch_add(1, Ordering::Relaxed);
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%pool, job_id = %id, error, "could not end a job; trying again");
            }
        });
        worked.await;
        failures.load(Ordering::Relaxed) == 0
    }
}

/// Ends a job that was to begin before `late` and that no agent can be running, by what the broker has of it. Answers how, if it is one.
///
/// # Errors
/// When the broker does not answer. It may be repeated.
pub(crate) async fn end(
    client: &Client,
    signing: &Signing,
    waiting: &Waiting,
    late: Timestamp,
    figures: &Figures,
) -> Result<Option<Stored>, BrokerError> {
    let Some(expires_at) = waiting.expires_at().filter(|at| *at < late) else { return Ok(None) };
    if waiting.may_run(client).await? {
        return Ok(None);
    }
    let error = ErrorInfo::new(Code::Expired, format!("it was to start before {expires_at}, and no agent has it"));
    let stored = waiting.end(client, signing, Outcome::Expired, error).await?;
    // One that had ended before was told of then.
    if stored == Stored::Now {
        figures.expired();
        tracing::info!(job = waiting.subject(), "a job expired that no agent has");
    }
    Ok(Some(stored))
}
