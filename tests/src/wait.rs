//! The only wait.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// How often a predicate is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// Waits until `predicate` gives a value.
///
/// # Panics
/// With `what` when the deadline passes first.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, deadline: Duration, mut predicate: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = predicate().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(EVERY).await;
    }
}

/// Waits for a future.
///
/// # Panics
/// With `what` when the deadline passes first.
pub async fn within<T>(what: &str, deadline: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(deadline, future).await.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"))
}
