//! When a part is ready: asked from outside, as a user would. A part that keeps dying ends the wait, with the end of its log.

use std::{collections::BTreeSet, future::Future, time::Duration};

use muster_schemas::{
    api::{AgentStatus, AgentView},
    names::PoolName,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::Instant};

use super::{
    first,
    folder::Folder,
    process::{Supervisor, last_lines},
};
use crate::{api::Api, failure::Failure};

/// How long a part has. A broker with a large store takes a while.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to ask.
const LOOK: Duration = Duration::from_millis(25);
/// A part that has died this often in a row will not come up by itself.
const DEATHS: u32 = 4;
/// Lines of a log that are shown.
const LINES: usize = 8;

/// Waits for parts.
#[derive(Debug)]
pub(super) struct Ready {
    folder: Folder,
}

impl Ready {
    pub(super) fn new(folder: Folder) -> Self {
        Self { folder }
    }

    /// Until the broker greets.
    pub(super) async fn broker(&self, port: u16, supervisor: &Supervisor) -> anyhow::Result<()> {
        self.until("the broker", supervisor, async || {
            let mut greeting = [0; 5];
            let greeted = async { TcpStream::connect(("127.0.0.1", port)).await?.read_exact(&mut greeting).await };
            matches!(tokio::time::timeout(Duration::from_secs(1), greeted).await, Ok(Ok(_))) && greeting == *b"INFO "
        })
        .await
    }

    /// Until the gateway says that it is ready.
    pub(super) async fn gateway(&self, api: &Api, supervisor: &Supervisor) -> anyhow::Result<()> {
        self.until("the gateway", supervisor, async || api.is_ready().await).await
    }

    /// Until all agents of these names are there.
    pub(super) async fn agents(&self, api: &Api, pool: &PoolName, names: BTreeSet<String>, supervisor: &Supervisor) -> anyhow::Result<()> {
        let query = [("pool", pool.to_string())];
        self.until("the agents", supervisor, async || {
            let agents: Vec<AgentView> = api.list("/agents", &query).await.unwrap_or_default();
            let there = |agent: &&AgentView| matches!(agent.status, AgentStatus::Online | AgentStatus::Degraded);
            agents.iter().filter(there).filter(|agent| names.contains(agent.name.as_str())).count() >= names.len()
        })
        .await
    }

    /// Until a job has gone all the way through, or what others do with the pool keeps it from that, which is what comes back.
    pub(super) async fn job(&self, api: &Api, pool: &PoolName, supervisor: &Supervisor) -> anyhow::Result<Option<String>> {
        tokio::select! {
            kept = first::run(api, pool) => Ok(kept),
            // Only looks for parts that die, and at the clock.
            failed = self.until("a first job", supervisor, async || false) => failed.map(|()| None),
        }
    }

    async fn until<F: Future<Output = bool>>(&self, what: &str, supervisor: &Supervisor, check: impl Fn() -> F) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !check().await {
            if let Some(part) = supervisor.failing(DEATHS) {
                let log = self.folder.log(part);
                let message = format!("{part} does not start; its log ends:\n{}", last_lines(&log, LINES));
                return Err(Failure::new(message).hint(format!("the whole log is {}", log.display())).into());
            }
            if Instant::now() >= deadline {
                let mut message = format!("{what} is not ready after {} s", PATIENCE.as_secs());
                if let Some(part) = supervisor.failing(1) {
                    message.push_str(&format!("; the log of {part} ends:\n{}", last_lines(&self.folder.log(part), LINES)));
                }
                return Err(Failure::new(message).hint(format!("the logs in {} may say why", self.folder.logs().display())).into());
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}
