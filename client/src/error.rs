//! What can go wrong, by operation. One enum: a service decides what to do by its variant.

use std::time::Duration;

use muster_schemas::{
    code::Code,
    job::JobError,
    lane::Lane,
    names::{JobId, NameError, PoolName},
    result::JobResult,
    wire::WireError,
};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The credentials file cannot be read.
    #[error("can't read the credentials in {path}")]
    Credentials {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The broker cannot be reached, or it refuses the credentials.
    #[error("can't connect to the broker at {url}")]
    Connect {
        /// Where it was tried, without a password.
        url: String,
        /// Why.
        source: async_nats::ConnectError,
    },
    /// A name or an id is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The job breaks a rule; nothing was sent.
    #[error("the job is not valid")]
    Invalid(#[from] JobError),
    /// The trace context holds characters that no header may hold; nothing was sent.
    #[error("`traceparent` holds characters that a header cannot hold")]
    Traceparent,
    /// The job is larger than a job may be, or than the broker takes; nothing was stored.
    #[error("the job has {size} bytes; the limit is {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Nobody takes jobs of this lane; nothing was stored.
    #[error(
        "no lane takes the job: pool `{pool}` does not exist, or it has no executor `{}` (priority {}); \
         make the pool, or start an agent with that executor in it", lane.executor, lane.priority
    )]
    NoLane {
        /// The pool.
        pool: PoolName,
        /// The lane.
        lane: Lane,
    },
    /// The pool's queue has reached its limit; nothing was stored.
    #[error("the queue of pool `{pool}` is full; try again later, or raise its limit")]
    QueueFull {
        /// The pool.
        pool: PoolName,
    },
    /// The credentials do not allow this.
    #[error("the broker does not allow this to these credentials: {reason}")]
    Forbidden {
        /// The broker's words.
        reason: String,
    },
    /// The broker refused to store the job.
    #[error("the broker refused the job: {reason} (error {code})")]
    Refused {
        /// JetStream's error code.
        code: u64,
        /// Its words.
        reason: String,
    },
    /// The broker did not confirm the job in time, so it may be stored or not. Submitting again under the same id
    /// ([`NewJob::id`](crate::NewJob::id)) is safe: a job never runs twice under one id.
    #[error("the broker did not confirm job `{id}` of pool `{pool}` within {after:?}; submit it again under this id to be sure")]
    Unconfirmed {
        /// The pool.
        pool: PoolName,
        /// The id under which it may be stored.
        id: JobId,
        /// How long it was tried.
        after: Duration,
    },
    /// The job did not end in time. It goes on; wait for it again, or cancel it.
    #[error("job `{id}` of pool `{pool}` did not end within {after:?}; it goes on")]
    WaitTimedOut {
        /// The pool.
        pool: PoolName,
        /// The job.
        id: JobId,
        /// How long was waited.
        after: Duration,
    },
    /// Nobody knows of the job, or its result is older than results are kept.
    #[error("job `{id}` of pool `{pool}` is not known, or it is older than results are kept")]
    NotFound {
        /// The pool.
        pool: PoolName,
        /// The job.
        id: JobId,
    },
    /// The job cannot be cancelled: it has already ended, and this is how.
    #[error("job `{id}` has already ended: {}", result.outcome)]
    AlreadyFinished {
        /// The job.
        id: JobId,
        /// How it ended.
        result: Box<JobResult>,
    },
    /// No gateway answers.
    #[error("no gateway answers; is one running?")]
    NoGateway,
    /// A gateway refused, for this reason.
    #[error("the gateway refused: {message} ({code})")]
    Gateway {
        /// The stable code.
        code: Code,
        /// What was wrong, and what to do.
        message: String,
    },
    /// More than 100 000 jobs are waited for by this client.
    #[error("this client already waits for {0} jobs; wait for fewer at once")]
    TooManyWaiting(usize),
    /// A message could not be read.
    #[error("can't read what the broker sent")]
    Malformed(#[source] WireError),
    /// The connection is closed for good.
    #[error("the connection to the broker is closed: {0}")]
    Closed(String),
}

impl Error {
    /// Whether the same call may succeed later without a change.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::QueueFull { .. }
                | Self::Unconfirmed { .. }
                | Self::WaitTimedOut { .. }
                | Self::NoGateway
                | Self::TooManyWaiting(_)
                | Self::Gateway { code: Code::BrokerUnavailable | Code::RateLimited, .. }
        )
    }
}
