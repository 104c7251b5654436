//! Password hashes, a few at a time. Each takes a core for about 50 ms, and whoever sends wrong keys decides how many are asked for.

use std::{sync::Arc, time::Duration};

use muster_schemas::code::Code;
use tokio::{
    sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore},
    task::{JoinError, spawn_blocking},
    time::timeout,
};

use crate::{app::Figures, problem::ApiError};

/// Hashes computed at once: jobs are to go on meanwhile.
const AT_ONCE: usize = 2;
/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests with one key that come at once wait for one check of it. Keys share this many queues.
const QUEUES: usize = 64;

/// Whose turn it is.
pub(super) struct Hashing {
    permits: Arc<Semaphore>,
    queues: Vec<Mutex<()>>,
    figures: Arc<Figures>,
}

/// The right to compute one hash.
pub(super) struct Turn {
    permit: OwnedSemaphorePermit,
    figures: Arc<Figures>,
}

impl Hashing {
    pub(super) fn new(figures: Arc<Figures>) -> Self {
        Self { permits: Arc::new(Semaphore::new(AT_ONCE)), queues: (0..QUEUES).map(|_| Mutex::default()).collect(), figures }
    }

    /// Waits until no other request checks the same key.
    ///
    /// # Errors
    /// `rate_limited` when that takes too long.
    pub(super) async fn alone(&self, digest: &[u8; 32]) -> Result<MutexGuard<'_, ()>, ApiError> {
        let queue = self.queues.get(usize::from(digest[0]) % QUEUES).ok_or_else(|| ApiError::internal("check the key", "no queue"))?;
        timeout(PATIENCE, queue.lock()).await.map_err(|_| busy())
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// `rate_limited` when none comes in time.
    pub(super) async fn turn(&self) -> Result<Turn, ApiError> {
        let permit = timeout(PATIENCE, Arc::clone(&self.permits).acquire_owned()).await.ok().and_then(Result::ok);
        Ok(Turn { permit: permit.ok_or_else(busy)?, figures: Arc::clone(&self.figures) })
    }
}

impl Turn {
    /// The hash that is kept of a new key's secret.
    pub(super) async fn hash(self, secret: String, cost: u32) -> Result<String, ApiError> {
        let hashed = self.compute(move || bcrypt::hash(secret, cost)).await;
        let hashed = hashed.map_err(|error| ApiError::internal("make the key", error))?;
        hashed.map_err(|error| ApiError::internal("make the key", error))
    }

    /// Whether the secret is the one that was hashed.
    pub(super) async fn matches(self, secret: String, hash: String) -> Result<bool, ApiError> {
        let checked = self.compute(move || bcrypt::verify(secret, &hash)).await;
        let checked = checked.map_err(|error| ApiError::internal("check the key", error))?;
        checked.map_err(|error| ApiError::internal("check the key", error))
    }

    /// A hash goes on when its caller hangs up, so the turn is over only with it: else hanging up would buy more turns.
    async fn compute<T: Send + 'static>(self, hash: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        // By name: a closure captures only the fields that it uses, and the permit would stay behind with the request.
        let Self { permit, figures } = self;
        let hashing = move || {
            figures.hashes.inc();
            figures.hashing.inc();
            let hashed = hash();
            figures.hashing.dec();
            drop(permit);
            hashed
        };
        spawn_blocking(hashing).await
    }
}

fn busy() -> ApiError {
    ApiError::new(Code::RateLimited, "too many keys are being checked; try again").retry_after(PATIENCE)
}
