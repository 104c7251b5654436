//! Which agents are to be removed, as [`crate::state`] has it, and the task that has it done.
//!
//! What is told here is told again at each tick as long as it holds, so nothing is lost when a removal fails or its hint is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use muster_runtime::shutdown::Shutdown;
use muster_schemas::names::AgentId;
use tokio::sync::Notify;

use super::removal::Remover;
use crate::lease::keeper::Leadership;

/// Agents that are removed at once.
const AT_ONCE: usize = 8;
/// Time between two tries to remove the same agent.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What is to be done about an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Its record says that it is being removed.
    Remove,
    /// It is ephemeral, and has been away for too long.
    Expel,
}

/// Takes down what is to be done; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Agenda {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    tasks: Mutex<BTreeMap<AgentId, Task>>,
    some: Notify,
}

impl Agenda {
    /// Takes down a task. One that is there already is not done twice.
    pub(crate) fn put(&self, agent: AgentId, task: Task) {
        self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).insert(agent, task);
        self.inner.some.notify_one();
    }

    fn take(&self) -> BTreeMap<AgentId, Task> {
        std::mem::take(&mut *self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The task that removes.
#[derive(Debug)]
pub(super) struct Removals {
    pub(super) agenda: Agenda,
    pub(super) remover: Remover,
    pub(super) leadership: Leadership,
}

impl Removals {
    /// Runs until the shutdown.
    pub(super) async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut failed = BTreeMap::<AgentId, Instant>::new();
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                () = self.agenda.inner.some.notified() => {}
            }
            failed.retain(|_, at| at.elapsed() < AGAIN_AFTER);
            let tasks = self.agenda.take().into_iter().filter(|(agent, _)| !failed.contains_key(agent)).collect();
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                agents = self.work(tasks) => failed.extend(agents.into_iter().map(|agent| (agent, Instant::now()))),
            }
        }
    }

    /// Does some tasks, and answers which agents it failed with.
    async fn work(&self, tasks: BTreeMap<AgentId, Task>) -> BTreeSet<AgentId> {
        if !self.leadership.is_mine() || !self.remover.can() {
            return BTreeSet::new();
        }
        let one = |(agent, task): (AgentId, Task)| async move {
            let done = match task {
                Task::Remove => self.remover.remove(&agent).await,
                Task::Expel => self.remover.expel(&agent).await,
            };
            let error = done.err()?;
            tracing::warn!(%agent, ?task, error = &error as &dyn std::error::Error, "an agent is not removed yet; trying again");
            Some(agent)
        };
        stream::iter(tasks).map(one).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }
}
