//! Who this agent is: its id, pool, keys and newest JWT, kept in one file that only its owner may read.
//!
//! The first start enrols over REST ([`enrol`]); later starts connect straight away while the stored JWT is valid, so that a dead
//! gateway keeps no agent down; only labels that have changed are told to it first. [`renew`] replaces the JWT in time; [`Identity::login`]
//! hands the newest one to each connect. That an identity is over for good, and why, is in [`end`]; what a registration says in
//! [`registration`]. The private key is made here and never leaves this machine; after an end there is a new one.

pub(crate) mod certificate;
pub(crate) mod credentials;
pub(crate) mod end;
pub(crate) mod enrol;
pub(crate) mod file;
pub(crate) mod jwt;
pub(crate) mod leave;
pub(crate) mod registration;
pub(crate) mod renew;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muster_runtime::{
    config::Secret,
    nats::{Broker, Identity as NatsIdentity, IdentityError, Login},
};
use muster_schemas::{
    api::{Register, Registered},
    names::{AgentId, AgentName, PoolName},
    signature::Signer,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use credentials::CredentialError;
pub use enrol::EnrolError;
pub use file::FileError;
pub(crate) use file::claim as file_claim;
pub use registration::Skew;

/// The name of the file in the state directory.
pub const FILE: &str = "identity.json";

/// After so many refusals in a row the broker means it: one may be a JWT that expired between two looks.
pub(crate) const REFUSALS_MEAN_IT: u64 = 3;

/// How long each further connect waits once the broker means it, so that a refused agent costs nobody anything. Not within a login: the broker
/// closes a connection that does not log in within 2 s, and the agent would never be accepted again.
const REFUSED_PAUSE: Duration = Duration::from_secs(4);

/// What the identity file holds.
#[derive(Clone, Serialize, Deserialize)]
pub struct Stored {
    /// The agent's id.
    pub agent_id: AgentId,
    /// Its name, as the gateway has it; absent in a file of an older build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<AgentName>,
    /// Its pool.
    pub pool: PoolName,
    /// Its API key: registers it again, and encrypts its spool.
    pub api_key: String,
    /// The seed of its nkey.
    pub seed: String,
    /// Its newest credential on the broker.
    pub jwt: String,
    /// When that came, by this machine's clock.
    pub issued_at: Timestamp,
    /// Where the broker is.
    pub nats_urls: Vec<String>,
    /// Seconds between heartbeats, as the gateway has it.
    #[serde(default)]
    pub heartbeat_interval_s: Option<u32>,
    /// The labels that the gateway was told last.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The prefix of the join token that made this identity, which is not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_with: Option<String>,
    /// Whether the gateway has it removed once it leaves, as one that joined with such a token.
    #[serde(default)]
    pub ephemeral: bool,
}

/// The identity could not be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFileError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What it holds.
    #[error("{path} does not hold an agent's identity: {problem}; restore it, or delete it and register with a new join token")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Stored {
    /// Reads the file in the state directory; `None` when there is none.
    ///
    /// # Errors
    /// When it can't be read, others may read it, or it holds something else.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, IdentityFileError> {
        let path = state_dir.join(FILE);
        let Some(bytes) = file::read_private(&path)? else { return Ok(None) };
        let content = |problem: String| IdentityFileError::Content { path: path.clone(), problem };
        if bytes.len() as u64 >= file::LIMIT {
            return Err(content(format!("it is larger than {} bytes", file::LIMIT - 1)));
        }
        let stored: Self = serde_json::from_slice(&bytes).map_err(|error| content(problem(&error)))?;
        if Signer::from_seed(&stored.seed).is_none() {
            return Err(content("its seed is none of a user (SU…)".to_owned()));
        }
        if stored.api_key.trim().is_empty() {
            return Err(content("its API key is empty".to_owned()));
        }
        Ok(Some(stored))
    }

    /// Writes it, whole or not at all, readable by its owner only.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn save(&self, state_dir: &Path) -> Result<(), IdentityFileError> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        Ok(file::write_private(&state_dir.join(FILE), &bytes)?)
    }

    /// From the gateway's answer to what it was told. What it leaves out stays as it was.
    pub(crate) fn from_answer(answer: Registered, told: &Register, seed: String, api_key: String, now: Timestamp) -> Self {
        Self {
            agent_id: answer.agent_id,
            name: Some(answer.name),
            pool: answer.pool,
            api_key: answer.api_key.unwrap_or(api_key),
            seed,
            jwt: answer.jwt,
            issued_at: now,
            nats_urls: answer.nats_urls,
            heartbeat_interval_s: Some(answer.config.heartbeat_interval_s).filter(|secs| *secs > 0),
            labels: told.labels.clone(),
            joined_with: None,
            ephemeral: answer.ephemeral,
        }
    }

    pub(crate) fn heartbeat_interval(&self) -> Option<Duration> {
        self.heartbeat_interval_s.map(|secs| Duration::from_secs(secs.into()))
    }
}

/// What is wrong with the file. A value in it may be a secret, so none is shown.
fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let shown = ["missing field", "duplicate field", "EOF while parsing"].iter().any(|kind| text.starts_with(kind));
    match (shown, error.classify()) {
        (true, _) => text,
        (_, serde_json::error::Category::Data) => {
            format!("a value of the wrong kind at line {} column {}", error.line(), error.column())
        }
        _ => format!("no JSON from line {} column {} on", error.line(), error.column()),
    }
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of pool {}", self.agent_id, self.pool)
    }
}

/// The identity while the agent runs; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Identity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state_dir: PathBuf,
    stored: Mutex<Stored>,
    /// Set once there is a connection, whose refusals slow the login down.
    broker: Mutex<Option<Broker>>,
    /// While the identity is over nobody connects with it.
    over: watch::Sender<bool>,
    /// Counts the JWTs that came.
    news: watch::Sender<u64>,
    /// Whether this agent has left for good; held while the file is written.
    left: Mutex<bool>,
}

impl Identity {
    pub(crate) fn new(state_dir: PathBuf, stored: Stored) -> Self {
        let over = watch::Sender::new(false);
        let (stored, news) = (Mutex::new(stored), watch::Sender::new(0));
        Self(Arc::new(Shared { state_dir, stored, broker: Mutex::default(), over, news, left: Mutex::default() }))
    }

    /// A new identity takes the place of one that was over.
    pub(crate) fn replace(&self, stored: Stored) {
        *self.lock() = stored;
        self.0.over.send_replace(false);
    }

    /// Ends it: no connect is tried before [`Identity::replace`].
    pub(crate) fn end(&self) {
        self.0.over.send_replace(true);
        self.unwatch();
    }

    /// Waits while there is no use in connecting: a little where the broker refuses this agent, unless there is a new JWT, and for as long as
    /// the identity is over. A connection that was lost by that notices only at its next connect that nobody uses it any more; this keeps
    /// it from trying until then.
    pub(crate) async fn may_connect(&self) {
        let mut news = self.0.news.subscribe();
        if self.refusals() >= REFUSALS_MEAN_IT {
            let _ = tokio::time::timeout(REFUSED_PAUSE, news.changed()).await;
        }
        // The sender is in `self`.
        let _ = self.0.over.subscribe().wait_for(|over| !over).await;
    }

    /// Removes the file for good: nothing is written any more.
    pub(crate) fn forget(&self) -> Result<(), FileError> {
        let mut left = self.0.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = true;
        file::remove(&self.0.state_dir.join(FILE))
    }

    /// What signs for this agent: registrations, and results.
    pub(crate) fn signer(&self) -> Option<Signer> {
        Signer::from_seed(&self.lock().seed)
    }

    pub(crate) fn stored(&self) -> Stored {
        self.lock().clone()
    }

    pub(crate) fn api_key(&self) -> Secret {
        Secret::new(self.lock().api_key.clone())
    }

    /// Takes a fresh JWT into use and keeps it. One that can't be kept is used all the same.
    pub(crate) fn renewed(&self, jwt: String, now: Timestamp) {
        let stored = {
            let mut stored = self.lock();
            stored.jwt = jwt;
            stored.issued_at = now;
            stored.clone()
        };
        self.keep(&stored);
    }

    /// Takes over what a registration said, and was told. Id and pool make up every subject that is in use: where they have changed, nothing
    /// is taken over, and the pool is returned.
    pub(crate) fn registered(&self, answer: Registered, told: &Register, now: Timestamp) -> Result<(), PoolName> {
        let stored = {
            let mut stored = self.lock();
            if (&answer.agent_id, &answer.pool) != (&stored.agent_id, &stored.pool) {
                return Err(answer.pool);
            }
            let Stored { seed, api_key, joined_with, .. } = stored.clone();
            *stored = Stored { joined_with, ..Stored::from_answer(answer, told, seed, api_key, now) };
            stored.clone()
        };
        self.keep(&stored);
        Ok(())
    }

    fn keep(&self, stored: &Stored) {
        self.0.news.send_modify(|count| *count += 1);
        let left = self.0.left.lock().unwrap_or_else(PoisonError::into_inner);
        if *left {
            return;
        }
        if let Err(error) = stored.save(&self.0.state_dir) {
            tracing::error!(error = %muster_runtime::process::chain(&error.into()), "can't keep the renewed identity");
        }
    }

    /// The login that asks for the newest JWT at each connect.
    pub(crate) fn login(&self) -> Login {
        let identity = self.clone();
        Login::callback(move || {
            let identity = identity.clone();
            async move {
                let stored = identity.stored();
                let signer =
                    Signer::from_seed(&stored.seed).ok_or_else(|| IdentityError::new("the seed of the identity file is none of a user"))?;
                Ok(NatsIdentity::new(stored.jwt, move |nonce| signer.sign_nonce(nonce).map_err(IdentityError::new)))
            }
        })
    }

    /// Lets refusals of this connection slow down the login.
    pub(crate) fn watch(&self, broker: &Broker) {
        *self.0.broker.lock().unwrap_or_else(PoisonError::into_inner) = Some(broker.clone());
    }

    /// Lets go of the connection.
    pub(crate) fn unwatch(&self) {
        *self.0.broker.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn refusals(&self) -> u64 {
        self.0.broker.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |broker| broker.status().refusals)
    }

    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.0.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
