//! The start: an identity from the state directory, or a new one from the gateway; and the same again after an identity has ended.
//!
//! What is tried, in this order: an API key of the settings that is not the kept one, the kept one, and a join token that is not the one
//! that the agent joined with. With anything but the kept key goes a new private key, and so it does after an end.

use std::time::Duration;

use muster_runtime::config::Secret;
use muster_schemas::{code::Code, records::secret, time::Timestamp};
use nkeys::KeyPair;

use crate::{
    config::Config,
    identity::{
        CredentialError, FileError, IdentityFileError, Skew, Stored,
        credentials::Credentials,
        enrol::{CertificateWanted, EnrolError, Gateway, Proof},
        jwt::Lifetime,
        registration::Registration,
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
    /// The gateway refused it twice.
    #[error("{key}; and with its join token: {token}")]
    Both {
        /// What it said of the API key.
        key: EnrolError,
        /// What it said of the join token.
        token: EnrolError,
    },
    /// The clock.
    #[error(transparent)]
    Clock(#[from] Skew),
    /// The identity file.
    #[error(transparent)]
    Identity(#[from] IdentityFileError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] FileError),
    /// There is no identity, and nothing to get one with.
    #[error("this agent has no identity yet, and {0}")]
    Missing(&'static str),
    /// The identity is of no use any more, and there is nothing to get another one with.
    #[error("this agent's credential has ended, and {0}")]
    Ended(&'static str),
    /// The API key or join token of the settings.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

/// First and longest wait between tries to reach the gateway.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How often it is looked meanwhile whether a file holds another key or token.
const LOOK: Duration = Duration::from_secs(1);

const NO_GATEWAY: &str = "AGENT_API_URL is not set";

/// What an agent starts with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    pub(crate) config: &'a Config,
    pub(crate) gateway: Option<&'a Gateway>,
    pub(crate) registration: &'a Registration,
}

/// One way to register.
#[derive(Debug)]
struct Way {
    proof: Proof,
    seed: String,
    /// Whether the seed was made for this.
    fresh: bool,
}

impl Start<'_> {
    /// Gets the identity: the stored one while its JWT is valid, else from the gateway, which is tried for ever as long as it may help.
    /// `ended` says that the stored one was just refused or ended, whatever its JWT says.
    pub(crate) async fn identity(&self, ended: bool) -> Result<Stored, StartError> {
        let stored = Stored::load(&self.config.state_dir)?;
        let mut given = if stored.is_some() { Credentials::read_if_there(self.config) } else { Credentials::read(self.config)? };
        if let Some(stored) =
            stored.as_ref().filter(|stored| !ended && is_valid(stored, Timestamp::now()) && self.certificate() != CertificateWanted::Needed)
        {
            return self.valid(stored.clone(), &given).await;
        }
        let Some(gateway) = self.gateway else {
            return Err(if stored.is_some() { StartError::Ended(NO_GATEWAY) } else { StartError::Missing(NO_GATEWAY) });
        };
        let mut ways = ways(stored.as_ref(), &given, ended);
        if ways.is_empty() {
            return Err(StartError::Missing(
                "neither AGENT_JOIN_TOKEN, AGENT_JOIN_TOKEN_FILE, AGENT_API_KEY nor AGENT_API_KEY_FILE is set",
            ));
        }
        let mut wait = RETRY.0;
        loop {
            match self.each(gateway, &mut ways, stored.as_ref()).await {
                Err(StartError::Enrol(EnrolError::Later { url, problem })) => {
                    tracing::warn!(url, problem, retry_in = ?wait, "can't register now; trying again");
                    self.wait(wait, &given).await;
                    wait = (wait * 2).min(RETRY.1);
                    let now = Credentials::readable(self.config);
                    // Only then, since a way that was tried keeps its private key: its answer may have been lost.
                    if now != given && now != Credentials::default() {
                        tracing::info!("there is another API key or join token; trying with it");
                        ways = self::ways(stored.as_ref(), &now, ended);
                        given = now;
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits so long, or until a file holds another key or token than those that were tried.
    pub(crate) async fn wait(&self, time: Duration, tried: &Credentials) {
        let mut look = tokio::time::interval(LOOK);
        let changed = async {
            loop {
                look.tick().await;
                let now = Credentials::readable(self.config);
                if now != *tried && now != Credentials::default() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(time, changed).await;
    }

    fn certificate(&self) -> CertificateWanted {
        self.gateway.map_or(CertificateWanted::No, |gateway| gateway.certificate_wanted(Timestamp::now()))
    }

    /// With a stored identity that is still valid: the gateway is only told what is new, once. Without it, an agent works too.
    async fn valid(&self, stored: Stored, given: &Credentials) -> Result<Stored, StartError> {
        let key = new_key(Some(&stored), given);
        let mut way = match (self.gateway, key) {
            (Some(_), Some(key)) => Way { proof: Proof::Key(key.clone()), seed: new_seed(), fresh: true },
            (Some(_), None) if stored.labels != self.config.labels.0 || self.certificate() == CertificateWanted::MayBe => {
                stored_way(&stored, false)
            }
            _ => {
                tracing::info!("the stored credential is valid; connecting without the gateway");
                return Ok(stored);
            }
        };
        let Some(gateway) = self.gateway else { return Ok(stored) };
        match self.register(gateway, &mut way, Some(&stored)).await {
            Ok(registered) => {
                tracing::info!("registered again, with another API key or other labels, or for a certificate");
                Ok(registered)
            }
            Err(StartError::Enrol(error)) => {
                tracing::warn!(%error, "can't tell the gateway of this agent's new API key or labels, or ask it for a certificate; going on with the stored credential");
                Ok(stored)
            }
            Err(error) => Err(error),
        }
    }

    /// Tries one way after the other, as long as the gateway refuses them.
    async fn each(&self, gateway: &Gateway, ways: &mut [Way], before: Option<&Stored>) -> Result<Stored, StartError> {
        let mut refused: Option<EnrolError> = None;
        for way in ways {
            let is_token = matches!(way.proof, Proof::Token(_));
            match self.register(gateway, way, before).await {
                Ok(stored) => {
                    tracing::info!("registered");
                    return Ok(stored);
                }
                // Another key or token does not set the clock.
                Err(StartError::Enrol(error)) if error.refusal().is_some_and(|(code, _)| code != Code::ClockSkewed) => {
                    if let (true, Some(key)) = (is_token, refused.take()) {
                        return Err(StartError::Both { key, token: error });
                    }
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refused.map_or(StartError::Missing("there is nothing to register with"), StartError::Enrol))
    }

    /// Registers one way, and keeps what came of it.
    async fn register(&self, gateway: &Gateway, way: &mut Way, before: Option<&Stored>) -> Result<Stored, StartError> {
        let answer = loop {
            match gateway.register(&way.proof, &way.seed, self.registration).await {
                Err(error) if !way.fresh && error.refusal().is_some_and(|(code, _)| code == Code::KeyRevoked) => {
                    tracing::info!(%error, "making a new private key");
                    (way.seed, way.fresh) = (new_seed(), true);
                }
                answer => break answer?,
            }
        };
        let key = match &way.proof {
            Proof::Key(key) => key.expose().trim().to_owned(),
            Proof::Token(_) => String::new(),
        };
        let mut stored = Stored::from_answer(answer.registered, &answer.told, way.seed.clone(), key, Timestamp::now());
        stored.joined_with = match &way.proof {
            Proof::Token(token) => secret::prefix(token.expose()),
            Proof::Key(_) => before.and_then(|before| before.joined_with.clone()),
        };
        if stored.api_key.is_empty() {
            return Err(StartError::Missing("the gateway gave it no API key"));
        }
        stored.save(&self.config.state_dir)?;
        match answer.skew {
            Some(skew) => Err(skew.into()),
            None => Ok(stored),
        }
    }
}

/// Whether the stored JWT may be used as it is.
fn is_valid(stored: &Stored, now: Timestamp) -> bool {
    Lifetime::of(&stored.jwt).is_some_and(|life| life.is_valid_at(now))
}

/// The API key of the settings, if it is an operator's new word.
fn new_key<'a>(stored: Option<&Stored>, given: &'a Credentials) -> Option<&'a Secret> {
    given.key.as_ref().filter(|key| stored.is_none_or(|stored| stored.api_key != key.expose()))
}

fn stored_way(stored: &Stored, fresh: bool) -> Way {
    let seed = if fresh { new_seed() } else { stored.seed.clone() };
    Way { proof: Proof::Key(Secret::new(stored.api_key.clone())), seed, fresh }
}

fn ways(stored: Option<&Stored>, given: &Credentials, ended: bool) -> Vec<Way> {
    let with_new_seed = |proof| Way { proof, seed: new_seed(), fresh: true };
    let key = new_key(stored, given).map(|key| with_new_seed(Proof::Key(key.clone())));
    let kept = stored.map(|stored| stored_way(stored, ended));
    // One that it joined with would make another agent of one that was removed on purpose.
    let old = stored.and_then(|stored| stored.joined_with.as_ref());
    let token = given.token.as_ref().filter(|token| old.is_none() || secret::prefix(token.expose()).as_ref() != old);
    [key, kept, token.map(|token| with_new_seed(Proof::Token(token.clone())))].into_iter().flatten().collect()
}

fn new_seed() -> String {
    // Fails only for a key without a private half, which a new one has.
    KeyPair::new_user().seed().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;
    use crate::identity::tests::stored;

    fn secret(kind: &str, prefix: char) -> Secret {
        Secret::new(format!("mst_{kind}_{}_{}", prefix.to_string().repeat(10), "s".repeat(32)))
    }

    fn shown(ways: &[Way]) -> Vec<(&str, bool)> {
        ways.iter()
            .map(|way| match &way.proof {
                Proof::Key(key) => (key.expose(), way.fresh),
                Proof::Token(token) => (token.expose(), way.fresh),
            })
            .collect()
    }

    #[test]
    fn a_new_agent_registers_with_its_key_or_else_its_token() {
        let (key, token) = (secret("agent", 'a'), secret("join", 'b'));
        let given = Credentials { key: Some(key.clone()), token: Some(token.clone()) };
        assert_eq!(shown(&ways(None, &given, false)), [(key.expose(), true), (token.expose(), true)]);
        assert!(ways(None, &Credentials::default(), false).is_empty());
    }

    #[test]
    fn the_kept_key_keeps_its_private_key_unless_the_identity_has_ended() {
        let stored = stored();
        let none = Credentials::default();
        let kept = ways(Some(&stored), &none, false);
        assert_eq!((shown(&kept), &kept[0].seed), (vec![(stored.api_key.as_str(), false)], &stored.seed));
        let ended = ways(Some(&stored), &none, true);
        assert!(ended[0].fresh && ended[0].seed != stored.seed);
    }

    #[test]
    fn a_key_that_differs_from_the_kept_one_goes_first_with_a_private_key_of_its_own() {
        let stored = stored();
        let given = Credentials { key: Some(secret("agent", 'a')), token: None };
        let both = ways(Some(&stored), &given, false);
        assert_eq!(shown(&both), [(given.key.as_ref().unwrap().expose(), true), (&stored.api_key, false)]);
        assert_ne!(both[0].seed, stored.seed);
        let same = Credentials { key: Some(Secret::new(stored.api_key.clone())), token: None };
        assert_eq!(ways(Some(&stored), &same, false).len(), 1);
    }

    #[test]
    fn the_token_that_an_agent_joined_with_does_not_make_another_agent_of_it() {
        let mut stored = stored();
        let token = secret("join", 'b');
        let given = Credentials { key: None, token: Some(token.clone()) };
        stored.joined_with = secret::prefix(token.expose());
        assert_eq!(shown(&ways(Some(&stored), &given, true)), [(stored.api_key.as_str(), true)]);
        stored.joined_with = Some("cccccccccc".into());
        assert_eq!(shown(&ways(Some(&stored), &given, true)), [(stored.api_key.as_str(), true), (token.expose(), true)]);
    }

    #[test]
    fn a_jwt_that_is_none_or_expired_is_no_reason_to_stop_and_five_minutes_change_nothing() {
        const END: i64 = 1_800_086_400;
        let with = |jwt: &str| Stored { jwt: jwt.into(), ..stored() };
        let jwt = format!("head.{}.signature", URL_SAFE_NO_PAD.encode(format!(r#"{{"iat":1800000000,"exp":{END}}}"#)));
        for garbage in ["", "x", "a.b.c", &jwt[..jwt.len() / 2], &"x".repeat(100_000)] {
            assert!(!is_valid(&with(garbage), Timestamp::from_secs(END - 1000)), "{garbage:.40}");
        }
        for offset in [-300, 0, 300] {
            assert!(is_valid(&with(&jwt), Timestamp::from_secs(END - 3600 + offset)));
            assert!(!is_valid(&with(&jwt), Timestamp::from_secs(END + 3600 + offset)), "off for a while");
        }
    }
}
