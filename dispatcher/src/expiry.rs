//! Ends jobs that expired while no agent took them, so that who waits for one is told. Only the active dispatcher does.
//!
//! An agent that is given such a job ends it itself; this is for jobs that nobody is given: no agent is there, or the one they are for
//! is away. An agent that holds a job tells so, or ends it, within the time that is waited here, and then the job is left to it.

use std::time::Duration;

use async_nats::Client;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
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
};

/// The longest time between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// Time between two looks while there is more to do.
const SOON: Duration = Duration::from_millis(500);
/// Jobs that are ended in one look.
const MOST: usize = 1000;
/// Jobs that are ended at once: each waits for the broker's disk.
const AT_ONCE: usize = 16;
/// How far back another dispatcher may have stored that a job expired, and died before it took the job out of its queue.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// The task that looks.
pub(crate) struct Expiry {
    broker: Broker,
    leadership: Leadership,
    past: Past,
    figures: Figures,
    /// How long after its expiry a job is ended.
    after: Duration,
    from: Option<Spot>,
    /// Whether queues may hold jobs that are known to have expired.
    left_behind: bool,
}

impl Expiry {
    pub(crate) fn new(broker: Broker, leadership: Leadership, past: Past, figures: Figures, after: Duration) -> Self {
        Self { broker, leadership, past, figures, after, from: None, left_behind: true }
    }

    /// Runs until the shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let every = EVERY.min(self.after);
        let mut wait = every;
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            wait = every;
            if !self.leadership.is_mine() {
                (self.left_behind, self.from) = (true, None);
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
                    self.left_behind = true;
                    tracing::warn!(error = &error as &dyn std::error::Error, "could not end all jobs that have expired; trying again");
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), BrokerError> {
        let client = self.broker.client();
        let now = broker::stream_info(client, COMMANDS).await?.ts.unwrap_or_else(Timestamp::now);
        let late = now - self.after;
        if self.left_behind {
            let Some(expired) = self.past.expired(now - LEFT_BEHIND, MOST).await else { return Ok(()) };
            self.each(expired, late).await?;
            self.left_behind = false;
        }
        let Some((overdue, next)) = self.past.overdue(late, self.from, MOST).await else { return Ok(()) };
        self.each(overdue, late).await?;
        self.from = next;
        Ok(())
    }

    async fn each(&self, jobs: Vec<Late>, late: Timestamp) -> Result<(), BrokerError> {
        let client = self.broker.client();
        let ended = stream::iter(jobs).map(Ok).try_for_each_concurrent(AT_ONCE, |Late { pool, id }| async move {
            let Some(waiting) = cancel::find(client, &pool, &id).await? else { return Ok(()) };
            // One that had ended before was told of then.
            if self.leadership.is_mine() && end(client, &waiting, late).await? == Some(Stored::Now) {
                self.figures.expired();
                tracing::info!(%pool, job_id = %id, "a job expired that no agent has taken");
            }
            Ok(())
        });
        ended.await
    }
}

/// Ends a job that was to begin before `late` and that no agent has begun, by what the broker has of it. Answers how, if it is one.
///
/// # Errors
/// When the broker does not answer. It may be repeated.
pub(crate) async fn end(client: &Client, waiting: &Waiting, late: Timestamp) -> Result<Option<Stored>, BrokerError> {
    let Some(expires_at) = waiting.expires_at().filter(|at| *at < late && !waiting.is_begun()) else { return Ok(None) };
    let error = ErrorInfo::new(Code::Expired, format!("it was to start before {expires_at}, and no agent has taken it"));
    waiting.end(client, Outcome::Expired, error).await.map(Some)
}
