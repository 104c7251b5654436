//! What every handler shares. It holds connections, mirrors and caches, and nothing that another gateway would have to know.

mod buckets;
mod figures;
pub(crate) mod mirror;

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use async_nats::jetstream;
use axum::Router;
use bytes::Bytes;
use muster_broker_config::signing::Signing;
use muster_runtime::{nats::Broker, shutdown::Shutdown, tasks::Tasks, trail::Trail};

pub(crate) use buckets::{Buckets, Held, create, read, update};
pub(crate) use figures::Figures;
pub(crate) use mirror::Mirror;

use crate::{
    auth::Auth, certificates::Certificates, config::Config, door::Door, identity::Minter, jobs::Desk, problem::ApiError, stored::Commits,
    types::Types, waiters::Waiters,
};

/// The state behind every handler; clones share it.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

/// What an [`App`] shares.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// This run of the gateway, as in its inbox prefix `_GW.<instance>`.
    pub(crate) instance: String,
    pub(crate) broker: Broker,
    pub(crate) nats: async_nats::Client,
    pub(crate) js: jetstream::Context,
    pub(crate) buckets: Buckets,
    pub(crate) mirror: Mirror,
    pub(crate) types: Types,
    pub(crate) auth: Auth,
    pub(crate) door: Door,
    pub(crate) audit: Trail,
    pub(crate) minter: Minter,
    pub(crate) certificates: Certificates,
    /// What jobs and results are signed with, and whose signatures count.
    pub(crate) signing: Signing,
    pub(crate) waiters: Waiters,
    pub(crate) desk: Desk,
    /// How jobs get into their queues.
    pub(crate) commits: Commits,
    /// Its shutdown is the process's: what waits for long ends early then.
    pub(crate) tasks: Tasks,
    /// Requested once the last request is answered: background work goes on until then, since requests need it.
    pub(crate) drained: Shutdown,
    pub(crate) figures: Arc<Figures>,
    /// Health and metrics, as every process has them.
    pub(crate) ops: Router,
    /// The API's document; set once the router is made.
    pub(crate) openapi: OnceLock<Bytes>,
}

impl App {
    pub(crate) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// Runs steps to their end, also when the caller hangs up; the process waits for them before it ends. `doing` completes "cannot …".
    pub(crate) async fn in_full<T: Send + 'static, Fut>(&self, doing: &str, steps: impl FnOnce(Self) -> Fut) -> Result<T, ApiError>
    where
        Fut: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let running = self.desk.group().spawn(steps(self.clone()));
        running.await.unwrap_or_else(|error| Err(ApiError::internal(doing, error)))
    }
}

impl Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}
