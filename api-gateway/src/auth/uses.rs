//! When API keys were last used, and from where: written in the background, at most once a minute for each key and gateway. It says to
//! the minute which keys are still in use; what exactly was done with them is in the audit trail.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use muster_schemas::{records::KeyUseRecord, time::Timestamp, wire, wire::V};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use crate::app::App;

/// How often a key's use is written.
const EVERY: Duration = Duration::from_secs(60);
/// Uses that wait to be written. What does not fit is written with a later use.
const QUEUE: usize = 256;
/// Keys remembered at once.
const KEYS_MAX: usize = 10_000;
/// How long one write may take.
const WRITE: Duration = Duration::from_secs(5);

/// The uses of keys.
pub(super) struct Uses {
    written: Mutex<HashMap<String, Instant>>,
    queue: mpsc::Sender<(String, KeyUseRecord)>,
    /// Taken by the writer, which may be started again.
    queued: AsyncMutex<mpsc::Receiver<(String, KeyUseRecord)>>,
}

impl Uses {
    pub(super) fn new() -> Self {
        let (queue, queued) = mpsc::channel(QUEUE);
        Self { written: Mutex::default(), queue, queued: AsyncMutex::new(queued) }
    }

    /// A key was used.
    pub(super) fn note(&self, prefix: &str, from: IpAddr, now: Instant) {
        let mut written = self.lock();
        if written.get(prefix).is_some_and(|at| now.saturating_duration_since(*at) < EVERY) {
            return;
        }
        let record = KeyUseRecord { v: V, at: Timestamp::now(), address: Some(from.to_string()) };
        if self.queue.try_send((prefix.to_owned(), record)).is_err() {
            return;
        }
        if written.len() >= KEYS_MAX {
            written.retain(|_, at| now.saturating_duration_since(*at) < EVERY);
        }
        if written.len() < KEYS_MAX {
            written.insert(prefix.to_owned(), now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes uses for ever.
pub(crate) async fn run(app: App) -> anyhow::Result<()> {
    let uses = &app.auth.uses;
    let mut queued = uses.queued.lock().await;
    while let Some((prefix, record)) = queued.recv().await {
        let write = app.buckets.key_uses.put(&prefix, wire::encode(&record).into());
        let failed = match tokio::time::timeout(WRITE, write).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".into(),
        };
        tracing::debug!(error = failed, "the use of a key was not written");
        // With its next use, then.
        uses.lock().remove(&prefix);
    }
    anyhow::bail!("the queue of uses ended")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_use_is_told_once_a_minute_and_any_number_of_them_takes_bounded_memory() {
        let (uses, start, from) = (Uses::new(), Instant::now(), "127.0.0.1".parse().unwrap());
        let queued = || std::iter::from_fn(|| uses.queued.try_lock().unwrap().try_recv().ok()).count();
        for second in 0..60 {
            uses.note("a", from, start + Duration::from_secs(second));
        }
        assert_eq!(queued(), 1);
        uses.note("a", from, start + EVERY);
        uses.note("b", from, start + EVERY);
        assert_eq!(queued(), 2);
        for key in 0..1_000 {
            uses.note(&key.to_string(), from, start);
        }
        assert_eq!(queued(), QUEUE, "the others are told with their next use");
        uses.note("999", from, start);
        assert_eq!(queued(), 1);
    }
}
