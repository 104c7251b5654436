//! Waiting for results. The broker tells each stored result once; what may have been missed is asked for.
//!
//! In the common case of [`Client::run`] nothing is asked: the waiter is in place before the job is published. A gateway is
//! asked for results that may have been stored before, after the connection was lost, and now and then as a safety net.

use std::time::Duration;

use async_nats::Message;
use muster_schemas::{
    names::{JobId, PoolName},
    result::JobResult,
    subjects::About,
    wire,
};
use rand::RngExt as _;
use tokio::time::{Instant, sleep_until};

use crate::{
    Client, Error, NewJob,
    connection::Denials,
    submit::{SUBMIT_TIMEOUT, Stored},
    waiters::Ticket,
};

/// The first look after waiting in vain; doubled each time up to [`LOOK_MAX`].
const LOOK_FIRST: Duration = Duration::from_secs(5);
/// The first pause after the connection was lost.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// The longest pause between looks: a message that was lost costs at most this.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// The pause before looking again for a job that nobody knew: it may have moved from the queue to the results in between.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Looks after a lost connection are spread over this, so that a thousand waiters do not ask in one instant.
const SPREAD_MS: u64 = 500;

impl Client {
    /// Waits until a job ends, however it ends, for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::WaitTimedOut`] when it has not ended (it goes on), [`Error::NotFound`] when nobody knows it, [`Error::Forbidden`], [`Error::TooManyWaiting`].
    pub async fn wait(&self, pool: &PoolName, id: &JobId, timeout: Duration) -> Result<JobResult, Error> {
        if id.belongs_to(pool) == Some(false) {
            return Err(Error::NotFound { pool: pool.clone(), id: id.clone() });
        }
        let denials = self.listen();
        let ticket = self.waiters.register(pool, id).await?;
        Watching { client: self, pool, id, denials, ticket, timeout }.outcome(true, Instant::now()).await
    }

    /// Submits a job and waits until it ends, all within `timeout`.
    ///
    /// A job that ended badly is no error: look at its [`outcome`](JobResult::outcome).
    ///
    /// # Errors
    /// Those of [`Client::submit`] and of [`Client::wait`].
    pub async fn run(&self, pool: &PoolName, job: NewJob, timeout: Duration) -> Result<JobResult, Error> {
        let began = Instant::now();
        let job = job.prepare(pool)?;
        let denials = self.listen();
        let mut ticket = self.waiters.register(pool, &job.id).await?;
        let deadline = began + timeout.min(SUBMIT_TIMEOUT);
        let stored = tokio::select! {
            // The result may overtake the confirmation, and proves more.
            message = ticket.stored() => return read(&message),
            stored = self.store(&job, deadline) => stored?,
        };
        let look = match stored {
            Stored::Finished(result) => return Ok(*result),
            Stored::Already => true,
            Stored::New => false,
        };
        Watching { client: self, pool, id: &job.id, denials, ticket, timeout }.outcome(look, began).await
    }
}

struct Watching<'a> {
    client: &'a Client,
    pool: &'a PoolName,
    id: &'a JobId,
    denials: Denials,
    ticket: Ticket,
    timeout: Duration,
}

impl Watching<'_> {
    async fn outcome(mut self, look_now: bool, began: Instant) -> Result<JobResult, Error> {
        let deadline = began + self.timeout;
        let subscription = About::Done.pool(self.pool);
        let mut pause = LOOK_FIRST;
        let mut look = Instant::now() + if look_now { Duration::ZERO } else { pause };
        let mut unknown = false;
        loop {
            tokio::select! {
                biased;
                message = self.ticket.stored_or_reconnected() => match message {
                    Some(message) => return read(&message),
                    None => {
                        // Gateways may need a moment longer to come back than we did, so the pauses start small again.
                        pause = LOOK_SOON;
                        look = Instant::now() + Duration::from_millis(rand::rng().random_range(0..=SPREAD_MS));
                        continue;
                    }
                },
                denied = self.denials.of([&subscription]) => return Err(denied),
                () = sleep_until(look.min(deadline)) => {}
            }
            if Instant::now() >= deadline {
                return Err(Error::WaitTimedOut { pool: self.pool.clone(), id: self.id.clone(), after: self.timeout });
            }
            let answer = tokio::select! {
                biased;
                message = self.ticket.stored() => return read(&message),
                answer = self.client.ask(self.pool, self.id) => answer,
                () = sleep_until(deadline) => continue,
            };
            let next = match answer {
                Ok(answer) => match answer.result {
                    Some(result) => return Ok(result),
                    None if answer.queued => None,
                    None if unknown => return Err(Error::NotFound { pool: self.pool.clone(), id: self.id.clone() }),
                    None => Some(LOOK_AGAIN),
                },
                Err(error @ (Error::Forbidden { .. } | Error::Closed(_))) => return Err(error),
                // Nobody to ask: the broker will still tell when the result is stored.
                Err(error) => {
                    tracing::debug!(pool = %self.pool, id = %self.id, %error, "could not look for a result");
                    None
                }
            };
            unknown = next.is_some();
            look = Instant::now() + next.unwrap_or(pause);
            pause = (pause * 2).min(LOOK_MAX);
        }
    }
}

/// Reads a stored result.
pub(crate) fn read(message: &Message) -> Result<JobResult, Error> {
    wire::decode(&message.payload).map_err(Error::Malformed)
}
