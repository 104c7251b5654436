//! What every part of a running agent shares.

use std::sync::{Arc, atomic::AtomicBool};

use muster_runtime::tasks::Group;
use muster_schemas::{
    names::{AgentId, AgentName, PoolName},
    sealed::SealingKey,
    signature::Signer,
    time::Timestamp,
};
use tokio::sync::{Semaphore, watch};

use crate::{
    acks::Acks,
    attempt::{allowed::Allowed, defaults::Defaults, live::Live, prefer::Preference},
    clock::Clock,
    connections,
    description::Said,
    executors::Registry,
    figures::Figures,
    identity::end::Ended,
    js::Js,
    link::Link,
    logs::Logs,
    spool::Spool,
    standby::Standby,
    trust::Trust,
    vault::Vault,
};

/// The agent, shared by its parts. It holds no lock of its own and no job's state.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) id: AgentId,
    pub(crate) pool: PoolName,
    pub(crate) name: AgentName,
    /// Signs its results.
    pub(crate) signer: Arc<Signer>,
    /// Which run of the agent this is: random at each start.
    pub(crate) instance: String,
    pub(crate) started_at: Timestamp,
    pub(crate) slots: u32,
    /// What time it is for others.
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    /// What it tells of them.
    pub(crate) description: Said,
    pub(crate) js: Js,
    pub(crate) link: watch::Receiver<Link>,
    pub(crate) live: Live,
    pub(crate) acks: Acks,
    pub(crate) preference: Preference,
    /// Whose jobs it runs.
    pub(crate) trust: Trust,
    pub(crate) defaults: Defaults,
    pub(crate) allowed: Allowed,
    pub(crate) standby: Standby,
    pub(crate) spool: Spool,
    pub(crate) vault: Vault,
    /// Where credentials for this agent are sealed to, as long as its vault is open.
    pub(crate) sealing: Option<SealingKey>,
    pub(crate) resealing: connections::Desk,
    pub(crate) logs: Logs,
    pub(crate) figures: Figures,
    /// Results on their way: an ended attempt keeps its slot until one of these is free, so that a slow broker slows the agent down.
    pub(crate) finishing: Semaphore,
    /// Attempts, releases and whatever else takes a moment.
    pub(crate) group: Group,
    /// Set just before the process exits at once: its commands are being killed, and how they end says nothing of their jobs any more.
    pub(crate) halted: Arc<AtomicBool>,
    /// Whether the identity is over: then nothing starts, and nothing is reported any more.
    pub(crate) ended: Ended,
}
