//! Background work: the one home of `tokio::spawn`.
//!
//! Every lasting task has a name and says what happens when it fails; a panic is a failure. Short
//! tasks, one per job or request, live in a [`Group`]. No channel starts or ends here.

mod group;

pub use group::{Group, Running, TaskError};

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::shutdown::Shutdown;

/// What happens when a task fails. A task that returns `Ok` has done its work and never counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It is logged; the process goes on without the task.
    Log,
    /// It is logged, and the task starts again after the delay.
    Restart {
        /// How long to wait before.
        delay: Duration,
    },
    /// It is logged, and the process shuts down.
    Shutdown,
}

/// The named tasks of a process; clones share them.
#[derive(Debug, Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shutdown: Shutdown,
    tracker: TaskTracker,
    next: AtomicU64,
    alive: Mutex<Alive>,
}

/// By the order of their start. A task has no handle while it is being spawned.
type Alive = BTreeMap<u64, (&'static str, Option<AbortHandle>)>;

impl Tasks {
    /// No tasks yet. Failures that ask for it trigger `shutdown`.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { inner: Arc::new(Inner { shutdown, tracker: TaskTracker::new(), next: AtomicU64::new(0), alive: Mutex::default() }) }
    }

    /// The shutdown that these tasks belong to.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.inner.shutdown
    }

    /// Starts a task that can be started again: `make` gives its future. The future watches
    /// [`Tasks::shutdown`] itself; once that is requested, nothing is restarted.
    pub fn start<F, Fut>(&self, name: &'static str, on_failure: OnFailure, mut make: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = self.inner.shutdown.clone();
        self.track(name, async move {
            loop {
                // The task's own state is dropped with its future, so nothing half-changed is seen.
                let started = std::panic::AssertUnwindSafe(async { make().await });
                let Err(error) = flatten(started.catch_unwind().await) else {
                    return;
                };
                match on_failure {
                    OnFailure::Log => return failed(name, &error, "not restarted"),
                    OnFailure::Shutdown => {
                        failed(name, &error, "shutting down");
                        return shutdown.trigger(format!("task {name} failed: {error:#}"));
                    }
                    OnFailure::Restart { .. } if shutdown.is_requested() => {
                        return failed(name, &error, "not restarted: shutting down");
                    }
                    OnFailure::Restart { delay } => {
                        failed(name, &error, "restarting");
                        tokio::select! {
                            () = tokio::time::sleep(delay) => {}
                            () = shutdown.requested() => return,
                        }
                    }
                }
            }
        });
    }

    /// Starts a task whose failure is only logged.
    pub fn background<Fut>(&self, name: &'static str, future: Fut)
    where
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.once(name, OnFailure::Log, future);
    }

    /// Starts a task that the process can't do without: its failure shuts the process down.
    pub fn essential<Fut>(&self, name: &'static str, future: Fut)
    where
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.once(name, OnFailure::Shutdown, future);
    }

    fn once<Fut>(&self, name: &'static str, on_failure: OnFailure, future: Fut)
    where
        Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut future = Some(future);
        self.start(name, on_failure, move || {
            let future = future.take();
            async move {
                match future {
                    Some(future) => future.await,
                    None => Ok(()),
                }
            }
        });
    }

    /// A group for short tasks. Its tasks are not waited for by [`Tasks::join`].
    #[must_use]
    pub fn group(&self, name: &'static str) -> Group {
        Group::new(name)
    }

    /// Names of the tasks that are alive, in the order of their start.
    #[must_use]
    pub fn alive(&self) -> Vec<&'static str> {
        self.inner.lock().values().map(|(name, _)| *name).collect()
    }

    /// Waits until all tasks have ended, at most `grace`; then aborts the rest and returns their
    /// names. It does not request the shutdown: do that first.
    pub async fn join(&self, grace: Duration) -> Vec<&'static str> {
        self.inner.tracker.close();
        if tokio::time::timeout(grace, self.inner.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        let late: Vec<_> = self.inner.lock().values().cloned().collect();
        for (name, task) in &late {
            tracing::warn!(task = name, ?grace, "did not end in time, aborting it");
            if let Some(task) = task {
                task.abort();
            }
        }
        late.into_iter().map(|(name, _)| name).collect()
    }

    fn track(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        self.inner.lock().insert(id, (name, None));
        let entry = Entry { inner: Arc::clone(&self.inner), id };
        // No lock is held here: a runtime that is going down drops the future inside `spawn`.
        let task = self.inner.tracker.spawn(async move {
            let _entry = entry;
            future.await;
        });
        if let Some((_, handle)) = self.inner.lock().get_mut(&id) {
            *handle = Some(task.abort_handle());
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Alive> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a task from the list when it ends, is aborted or panics.
struct Entry {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.inner.lock().remove(&self.id);
    }
}

fn failed(task: &str, error: &anyhow::Error, then: &str) {
    tracing::error!(task, error = format!("{error:#}"), "task failed, {then}");
}

fn flatten(outcome: Result<anyhow::Result<()>, Box<dyn std::any::Any + Send>>) -> anyhow::Result<()> {
    outcome.unwrap_or_else(|panic| Err(anyhow::anyhow!("panicked: {}", message(&*panic))))
}

/// The text of a panic.
pub(crate) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
