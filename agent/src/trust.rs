//! Whose jobs this agent runs: the list of signers, and the judgement of each job's signature.
//!
//! The list is given once over the channel that also gives the agent its identity, and from then on only followed: the next one has to be
//! signed by a gateway or dispatcher that this one trusts. So nobody who can publish, and nobody who can write to the broker's streams, can
//! make an agent run something. Where the chain is broken (keys that rolled over while the agent was away for long), it registers once more.
//!
//! The judgement is in [`verify`], how the list is followed in [`follow`]. Nothing here runs or ends a job.

pub(crate) mod follow;
pub(crate) mod verify;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use muster_schemas::{
    names::AgentId,
    signature::{Signature, SignedSigners, Signers, SignersError},
    wire::{self, WireError},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::{
    config::Config,
    identity::file::{self, FileError},
};

/// How often the gateway is asked about lists that lead nowhere: whoever sends forged ones must not make all agents ask it without end.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// The file in the state directory.
pub(crate) const FILE: &str = "signers.json";

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Whose it is: another agent begins anew.
    agent_id: AgentId,
    #[serde(flatten)]
    signed: SignedSigners,
}

/// What an operator wants of signatures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Policy {
    /// Jobs without a signature are run too.
    accept_unsigned: bool,
    /// Only these keys count, for every pool. `None` goes by the list.
    only: Option<BTreeSet<String>>,
}

/// What became of a list that was heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// It is the one in use from now on.
    Taken,
    /// It is the one in use, or older.
    Known,
    /// It is none that the one in use leads to.
    Foreign,
}

/// Whose jobs are run; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Trust(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    policy: Policy,
    path: PathBuf,
    /// The list in use; nobody hears of anything else.
    list: watch::Sender<Option<Arc<Signers>>>,
    chain: Mutex<Chain>,
    /// Held while the list is changed, from the look at the one in use until the new one is on disk: of two that come at once the newer stays.
    changing: Mutex<()>,
    /// The chain is broken: whoever follows the list has something to do.
    broken: Notify,
    /// When the last look at the broker's list began. Held while one is under way, so that many jobs share one.
    look: tokio::sync::Mutex<Option<Instant>>,
}

/// Where the list in use comes from.
#[derive(Debug, Default)]
struct Chain {
    agent: Option<AgentId>,
    signature: String,
    /// The signature of a list that the one in use does not lead to.
    foreign: Option<String>,
    /// The same, after the gateway was asked, and when: it is a forgery, or nothing new.
    settled: Option<(String, Instant)>,
}

impl Trust {
    /// With the list of an earlier run, if there is one.
    ///
    /// # Errors
    /// When the file can't be read, or others may read it. One that holds something else is as good as none.
    pub(crate) fn open(config: &Config) -> Result<Self, FileError> {
        let only = (!config.trusted_signers.is_empty()).then(|| config.trusted_signers.iter().map(|key| key.trim().to_owned()).collect());
        let trust = Self::new(Policy { accept_unsigned: config.accept_unsigned, only }, &config.state_dir);
        if let Some(bytes) = file::read_private(&trust.0.path)? {
            match serde_json::from_slice::<Kept>(&bytes).map_err(|error| error.to_string()).and_then(|kept| {
                let list = Signers::pin(&kept.signed).map_err(|error| error.to_string())?;
                Ok((kept, list))
            }) {
                Ok((kept, list)) => trust.set(Some(kept.agent_id), &kept.signed, list),
                Err(problem) => tracing::warn!(path = %trust.0.path.display(), problem, "the kept list of signers is of no use"),
            }
        }
        Ok(trust)
    }

    fn new(policy: Policy, state_dir: &Path) -> Self {
        Self(Arc::new(Shared {
            policy,
            path: state_dir.join(FILE),
            list: watch::Sender::new(None),
            chain: Mutex::default(),
            changing: Mutex::default(),
            broken: Notify::new(),
            look: tokio::sync::Mutex::default(),
        }))
    }

    /// The agent that this process is now. What was kept for another one is forgotten.
    pub(crate) fn belongs_to(&self, agent: &AgentId) {
        let _changing = self.changing();
        self.give_to(agent);
    }

    fn give_to(&self, agent: &AgentId) {
        let mut chain = self.chain();
        if chain.agent.as_ref().is_some_and(|before| before != agent) {
            *chain = Chain::default();
            self.0.list.send_replace(None);
        }
        chain.agent = Some(agent.clone());
    }

    /// Takes over what a gateway said in its answer to a registration. It is the word of whoever gives this agent its identity, so it is
    /// believed as it is, unless it is only older than what it has led to since.
    pub(crate) fn pin(&self, agent: &AgentId, given: Option<&SignedSigners>) {
        let _changing = self.changing();
        self.give_to(agent);
        let Some(given) = given else {
            return tracing::debug!("the gateway gave no list of signers");
        };
        match Signers::pin(given) {
            Ok(list) => {
                let foreign = self.chain().foreign.take();
                let have = self.list();
                let older = have.is_some_and(|have| have.serial > list.serial && leads_from(&have, given));
                if !older {
                    self.set(Some(agent.clone()), given, list);
                    self.keep(agent, given);
                }
                self.chain().settled = foreign.map(|signature| (signature, Instant::now()));
            }
            Err(error) => tracing::error!(%error, "the gateway's list of signers is of no use"),
        }
    }

    /// Takes over a list as it came over the broker, if the one in use leads to it.
    fn hear(&self, body: &[u8]) -> Heard {
        let given: SignedSigners = match wire::decode(body) {
            Ok(given) => given,
            Err(error) => return unreadable(&error),
        };
        let _changing = self.changing();
        let Some(have) = self.list() else { return self.foreign(&given) };
        match have.successor(&given) {
            Ok(Some(list)) => {
                tracing::info!(serial = list.serial, signers = list.signers.len(), "the list of signers has changed");
                let agent = self.chain().agent.clone();
                self.set(agent.clone(), &given, list);
                if let Some(agent) = agent {
                    self.keep(&agent, &given);
                }
                Heard::Taken
            }
            Ok(None) if leads_from(&have, &given) => Heard::Known,
            Ok(None) | Err(SignersError::Stranger(_)) => self.foreign(&given),
            Err(error) => {
                tracing::error!(%error, "a list of signers is not taken over");
                Heard::Known
            }
        }
    }

    fn foreign(&self, given: &SignedSigners) -> Heard {
        let mut chain = self.chain();
        let settled = chain.settled.as_ref().is_some_and(|(signature, at)| *signature == given.signature && at.elapsed() < ASK_EVERY);
        if given.signature == chain.signature || settled {
            return Heard::Known;
        }
        if chain.foreign.replace(given.signature.clone()).is_none() {
            tracing::warn!("a list of signers that the one in use does not lead to; asking the gateway");
        }
        self.0.broken.notify_waiters();
        Heard::Foreign
    }

    /// Whether the gateway has to be asked for the list.
    fn is_broken(&self) -> bool {
        self.is_blind() || self.goes_by_list() && self.chain().foreign.is_some()
    }

    /// Whether the list matters at all.
    fn goes_by_list(&self) -> bool {
        self.0.policy.only.is_none()
    }

    /// Whether there is nothing yet that a job could be judged by.
    fn is_blind(&self) -> bool {
        self.goes_by_list() && !self.0.policy.accept_unsigned && self.0.list.borrow().is_none()
    }

    /// Waits until jobs can be judged: before that none may be taken.
    pub(crate) async fn known(&self) {
        if self.is_blind() {
            // The sender is in `self`.
            let _ = self.0.list.subscribe().wait_for(Option::is_some).await;
        }
    }

    fn list(&self) -> Option<Arc<Signers>> {
        self.0.list.borrow().clone()
    }

    fn set(&self, agent: Option<AgentId>, given: &SignedSigners, list: Signers) {
        *self.chain() = Chain { agent, signature: given.signature.clone(), ..Chain::default() };
        self.0.list.send_replace(Some(Arc::new(list)));
    }

    fn keep(&self, agent: &AgentId, given: &SignedSigners) {
        let kept = Kept { agent_id: agent.clone(), signed: given.clone() };
        let bytes = serde_json::to_vec_pretty(&kept).unwrap_or_default();
        if let Err(error) = file::write_private(&self.0.path, &bytes) {
            tracing::error!(error = %muster_runtime::process::chain(&error.into()), "can't keep the list of signers");
        }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.0.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chain(&self) -> MutexGuard<'_, Chain> {
        self.0.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a list claims to be of the same line: signed by a key of the control plane that this one trusts. Who claims it falsely gets
/// nothing for it.
fn leads_from(have: &Signers, given: &SignedSigners) -> bool {
    Signature::parse(&given.signature).is_ok_and(|signature| have.is_control_plane(&signature.key))
}

fn unreadable(error: &WireError) -> Heard {
    tracing::error!(%error, "the list of signers can't be read; going on with the one in use");
    Heard::Known
}

#[cfg(test)]
mod tests;
