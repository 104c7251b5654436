//! The start: an identity from the state directory, or a new one from the gateway.

use std::time::Duration;

use muster_runtime::config::Secret;
use muster_schemas::{api::Register, time::Timestamp};
use nkeys::KeyPair;

use crate::{
    config::Config,
    identity::{
        FileError, IdentityFileError, Stored,
        enrol::{EnrolError, Gateway, Proof},
        jwt::Lifetime,
    },
};

/// The exit code of an agent that can't start until somebody does something about it (`EX_CONFIG` of sysexits.h).
pub const EXIT_REFUSED: u8 = 78;

/// Why an agent can't start for good. Each ends the process with [`EXIT_REFUSED`].
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The gateway refused it.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The identity file.
    #[error(transparent)]
    Identity(#[from] IdentityFileError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] FileError),
    /// There is no identity, and nothing to get one with.
    #[error("this agent has no identity yet, and {0}")]
    Missing(&'static str),
    /// The file that should hold the join token.
    #[error("can't read the join token from {path}")]
    TokenFile {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The join token of the settings, from its file where they name one.
fn join_token(config: &Config) -> Result<Option<Secret>, StartError> {
    match &config.join_token_file {
        None => Ok(config.join_token.clone()),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| StartError::TokenFile { path: path.clone(), source })?;
            Ok(Some(Secret::new(text.trim())))
        }
    }
}

/// First and longest wait between tries to reach the gateway.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Gets the identity: the stored one while its JWT is valid, else from the gateway, which is tried for ever as long as it may help.
pub(crate) async fn identity(
    config: &Config,
    gateway: Option<&Gateway>,
    register: &impl Fn(String) -> Register,
) -> Result<Stored, StartError> {
    let stored = Stored::load(&config.state_dir)?;
    // A key in the settings that differs from the stored one is an operator's new word.
    let new_key = config.api_key.as_ref().filter(|key| stored.as_ref().is_none_or(|stored| stored.api_key != key.expose().trim()));
    let valid = stored.as_ref().is_some_and(|stored| Lifetime::of(&stored.jwt).is_some_and(|life| life.is_valid_at(Timestamp::now())));
    if let Some(stored) = stored.clone().filter(|_| valid && new_key.is_none()) {
        if let Some(gateway) = gateway.filter(|_| stored.labels != config.labels.0) {
            return tell_labels(config, gateway, register, stored).await;
        }
        tracing::info!("the stored credential is valid; connecting without the gateway");
        return Ok(stored);
    }
    let gateway = gateway.ok_or(StartError::Missing("AGENT_API_URL is not set"))?;
    let seed = match &stored {
        Some(stored) => stored.seed.clone(),
        None => new_seed(),
    };
    let proof = match (new_key, &stored, join_token(config)?) {
        (Some(key), ..) => Proof::Key(key.clone()),
        (None, Some(stored), _) => Proof::Key(Secret::new(stored.api_key.clone())),
        (None, None, Some(token)) => Proof::Token(token),
        (None, None, None) => return Err(StartError::Missing("neither AGENT_JOIN_TOKEN, AGENT_JOIN_TOKEN_FILE nor AGENT_API_KEY is set")),
    };
    let key = match &proof {
        Proof::Key(key) => key.expose().trim().to_owned(),
        Proof::Token(_) => String::new(),
    };
    let register = register(public_key_of(&seed));
    let mut wait = RETRY.0;
    loop {
        match gateway.register(&proof, &register).await {
            Ok(answer) => {
                let stored = Stored::from_answer(answer, &register, seed, key, Timestamp::now());
                if stored.api_key.is_empty() {
                    return Err(StartError::Missing("the gateway gave it no API key"));
                }
                stored.save(&config.state_dir)?;
                tracing::info!("registered");
                return Ok(stored);
            }
            Err(EnrolError::Later { url, problem }) => {
                tracing::warn!(url, problem, retry_in = ?wait, "can't register now; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
            Err(refused) => return Err(refused.into()),
        }
    }
}

/// Tells the gateway labels that have changed since it was last told, by registering again. An agent works with the old ones too, so this is
/// tried once, and anew at the next start.
async fn tell_labels(
    config: &Config,
    gateway: &Gateway,
    register: &impl Fn(String) -> Register,
    stored: Stored,
) -> Result<Stored, StartError> {
    let register = register(public_key(&stored));
    match gateway.register(&Proof::Key(Secret::new(stored.api_key.clone())), &register).await {
        Ok(answer) => {
            let stored = Stored::from_answer(answer, &register, stored.seed, stored.api_key, Timestamp::now());
            stored.save(&config.state_dir)?;
            tracing::info!("registered again, with other labels");
            Ok(stored)
        }
        Err(error) => {
            tracing::warn!(%error, "can't tell the gateway of this agent's new labels; going on with the stored credential");
            Ok(stored)
        }
    }
}

fn new_seed() -> String {
    // Fails only for a key without a private half, which a new one has.
    KeyPair::new_user().seed().unwrap_or_default()
}

fn public_key_of(seed: &str) -> String {
    KeyPair::from_seed(seed).map(|key| key.public_key()).unwrap_or_default()
}

/// The public key of the stored identity.
pub(crate) fn public_key(stored: &Stored) -> String {
    public_key_of(&stored.seed)
}
