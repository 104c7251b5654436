//! What can go wrong while provisioning.

use async_nats::RequestError;
use muster_schemas::names::PoolName;

/// Why the topology could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer: not connected, JetStream is off, or the credentials may not ask this (the broker does not answer those). Try again.
    #[error("the broker did not answer while trying to {operation}")]
    Unreachable {
        /// What was tried.
        operation: String,
        /// What happened to the request.
        #[source]
        source: RequestError,
    },
    /// The broker's answer was no.
    #[error("the broker refused to {operation}: {description} (code {code})")]
    Refused {
        /// What was tried.
        operation: String,
        /// JetStream's error code; 0 when it gave none.
        code: u64,
        /// JetStream's words.
        description: String,
    },
    /// A stream exists with a setting that cannot be changed.
    #[error(
        "stream {stream} has `{field}` set to {have}, but it must be {want}, and that cannot be changed: move the stream's data away and \
         delete it"
    )]
    Conflict {
        /// The stream.
        stream: String,
        /// The setting.
        field: String,
        /// What it is, as JSON.
        have: String,
        /// What it must be, as JSON.
        want: String,
    },
    /// An answer or a stored record could not be understood.
    #[error("cannot understand {what}: {problem}")]
    Malformed {
        /// What was read.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Others kept changing the same thing. Try again.
    #[error("{what} was changed by others each time")]
    Contended {
        /// What was to be changed.
        what: String,
    },
    /// There is no such pool.
    #[error("there is no pool {0}")]
    NoPool(PoolName),
    /// A pool that still has jobs is not removed.
    #[error("pool {pool} still has {jobs} jobs")]
    NotEmpty {
        /// The pool.
        pool: PoolName,
        /// Jobs waiting or running.
        jobs: u64,
    },
}

impl Error {
    /// Whether the same call may well succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Contended { .. })
    }
}
