//! Short tasks: one per job, request or delivery.
//!
//! A group counts its tasks, can be waited for and aborted as a whole. It has no failure policy:
//! a task's outcome goes to whoever holds its [`Running`]; a panic is logged in any case.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Short tasks of one kind; clones share them.
#[derive(Debug, Clone)]
pub struct Group {
    name: &'static str,
    tracker: TaskTracker,
    abort: CancellationToken,
}

/// Why a short task has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// It panicked, with this message.
    #[error("panicked: {0}")]
    Panicked(String),
    /// It was aborted before it ended.
    #[error("aborted")]
    Aborted,
}

impl Group {
    /// An empty group. `name` appears in the log when a task panics.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let tracker = TaskTracker::new();
        // Closed only means that waiting ends when the group is empty; spawning stays possible.
        tracker.close();
        Self { name, tracker, abort: CancellationToken::new() }
    }

    /// Starts a task. Dropping the returned handle leaves it running. After [`Group::abort_all`]
    /// it is aborted at once.
    pub fn spawn<Fut>(&self, future: Fut) -> Running<Fut::Output>
    where
        Fut: Future + Send + 'static,
        Fut::Output: Send + 'static,
    {
        let name = self.name;
        let abort = self.abort.clone();
        Running(self.tracker.spawn(async move {
            let guarded = AssertUnwindSafe(abort.run_until_cancelled(future));
            match guarded.catch_unwind().await {
                Ok(Some(output)) => Ok(output),
                Ok(None) => Err(TaskError::Aborted),
                Err(panic) => {
                    let message = super::message(&*panic);
                    tracing::error!(task = name, message, "task panicked");
                    Err(TaskError::Panicked(message))
                }
            }
        }))
    }

    /// How many tasks are running.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until none is running. Safe to cancel.
    pub async fn idle(&self) {
        self.tracker.wait().await;
    }

    /// Aborts all tasks, at their next await, and those that are started later.
    pub fn abort_all(&self) {
        self.abort.cancel();
    }
}

/// A short task: await it for its outcome. Safe to cancel: dropping it leaves the task running.
#[derive(Debug)]
pub struct Running<T>(JoinHandle<Result<T, TaskError>>);

impl<T> Running<T> {
    /// Aborts the task at its next await.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for Running<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|joined| {
            joined.unwrap_or_else(|error| {
                if error.is_panic() { Err(TaskError::Panicked(super::message(&*error.into_panic()))) } else { Err(TaskError::Aborted) }
            })
        })
    }
}
