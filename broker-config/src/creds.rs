//! Credentials files (`.creds`: a user's JWT and seed), and minting the ones of agents and services.
//!
//! It never stores anything and knows no paths: see [`crate::layout`] and [`crate::init`].

use std::time::Duration;

pub use muster_schemas::topology::AGENT_JWT_LIFETIME;
use muster_schemas::{
    names::{AgentId, PoolName},
    time::Timestamp,
};
use nkeys::KeyPair;
use zeroize::Zeroizing;

use crate::{
    jwt::{self, JwtError, UserClaims},
    permissions::Role,
};

const JWT_BEGIN: &str = "-----BEGIN NATS USER JWT-----";
const JWT_END: &str = "------END NATS USER JWT------";
const SEED_BEGIN: &str = "-----BEGIN USER NKEY SEED-----";
const SEED_END: &str = "------END USER NKEY SEED------";

/// The longest JWT of a user, in bytes: it travels in one line of the protocol, which our config makes long enough. This is room for some
/// 100 pools of one service.
pub const JWT_MAX: usize = 60 * 1024;

/// A user's JWT and seed.
#[derive(Clone, PartialEq, Eq)]
pub struct Creds {
    /// The JWT.
    pub jwt: String,
    /// The seed (`SU…`); wiped from memory on drop.
    pub seed: Zeroizing<String>,
}

impl std::fmt::Debug for Creds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Creds").field("jwt", &self.jwt).finish_non_exhaustive()
    }
}

impl Creds {
    /// The text of a `.creds` file, as every NATS client reads it.
    pub fn to_text(&self) -> String {
        let warning =
            "************************* IMPORTANT *************************\nWhoever has this seed can act as this user. Keep it secret.";
        format!("{JWT_BEGIN}\n{}\n{JWT_END}\n\n{warning}\n\n{SEED_BEGIN}\n{}\n{SEED_END}\n", self.jwt, self.seed.as_str())
    }

    /// Reads a `.creds` file.
    ///
    /// # Errors
    /// [`JwtError::Malformed`] when a part is missing or the JWT is none, [`JwtError::Key`] when the seed is damaged, and
    /// [`JwtError::Malformed`] when the two do not belong together.
    pub fn parse(text: &str) -> Result<Self, JwtError> {
        let part = |begin: &str, end: &str, what: &str| {
            let inner = text.split_once(begin).and_then(|(_, rest)| rest.split_once(end));
            inner.map(|(inner, _)| inner.trim().to_owned()).ok_or_else(|| JwtError::Malformed(format!("the credentials lack {what}")))
        };
        let jwt = part(JWT_BEGIN, JWT_END, "a JWT")?;
        let seed = Zeroizing::new(part(SEED_BEGIN, SEED_END, "a seed")?);
        let key = jwt::key_pair(&seed, "the seed of the credentials")?;
        if jwt::decode(&jwt)?.subject != key.public_key() {
            return Err(JwtError::Malformed("the seed of the credentials does not belong to their JWT".into()));
        }
        Ok(Self { jwt, seed })
    }
}

/// Makes a user with a new key for `role`, signed by a signing key of `account` (public key).
///
/// # Errors
/// [`JwtError`] when the seed is damaged or no account's.
pub fn issue(
    signing_seed: &str,
    account: &str,
    name: &str,
    role: &Role,
    lifetime: Option<Duration>,
    now: Timestamp,
) -> Result<Creds, JwtError> {
    let user = KeyPair::new_user();
    let seed = user.seed().map_err(JwtError::Sign)?;
    let jwt = mint(signing_seed, account, name, role, &user.public_key(), lifetime, now)?;
    Ok(Creds { jwt, seed: Zeroizing::new(seed) })
}

/// Makes the credentials of a service that submits to `pools`; they do not expire. `core_account` is the public key of `CORE`.
///
/// # Errors
/// As [`issue`].
pub fn issue_service(core_signing_seed: &str, core_account: &str, name: &str, pools: &[PoolName]) -> Result<Creds, JwtError> {
    issue(core_signing_seed, core_account, name, &Role::Service { pools: pools.to_vec() }, None, Timestamp::now())
}

/// Makes the credentials of somebody who watches `pools`; they do not expire. `core_account` is the public key of `CORE`.
///
/// # Errors
/// As [`issue`].
pub fn issue_viewer(core_signing_seed: &str, core_account: &str, name: &str, pools: &[PoolName]) -> Result<Creds, JwtError> {
    issue(core_signing_seed, core_account, name, &Role::Viewer { pools: pools.to_vec() }, None, Timestamp::now())
}

/// Makes an agent's JWT for the public key that it brought (`U…`), valid from now for `lifetime`. The agent keeps its seed.
///
/// # Errors
/// [`JwtError::Kind`] or [`JwtError::Key`] when `user_public_key` is no user's key or the seed is damaged.
pub fn mint_agent_jwt(
    fleet_signing_seed: &str,
    fleet_account: &str,
    pool: &PoolName,
    id: &AgentId,
    user_public_key: &str,
    lifetime: Duration,
) -> Result<String, JwtError> {
    let role = Role::Agent { pool: pool.clone(), id: id.clone() };
    mint(fleet_signing_seed, fleet_account, id.as_str(), &role, user_public_key, Some(lifetime), Timestamp::now())
}

fn mint(
    signing_seed: &str,
    account: &str,
    name: &str,
    role: &Role,
    user: &str,
    lifetime: Option<Duration>,
    now: Timestamp,
) -> Result<String, JwtError> {
    jwt::check_user_key(user)?;
    jwt::check_key(account, "the account's public key", "A")?;
    let signer = jwt::key_pair(signing_seed, "the signing seed")?;
    jwt::check_key(&signer.public_key(), "the signing key", "A")?;
    let jwt = jwt::encode(&claims(account, name, role, user, lifetime), &signer, now)?;
    if jwt.len() > JWT_MAX {
        return Err(JwtError::TooLong { size: jwt.len(), limit: JWT_MAX });
    }
    Ok(jwt)
}

/// The claims of a user that a signing key of `account` signs.
pub(crate) fn claims(account: &str, name: &str, role: &Role, user: &str, lifetime: Option<Duration>) -> UserClaims {
    UserClaims {
        name: name.into(),
        public_key: user.into(),
        permissions: role.permissions(),
        expires_in: lifetime,
        issuer_account: Some(account.to_owned()),
        max_subscriptions: role.max_subscriptions(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn service() -> Creds {
        let (account, signing) = (KeyPair::new_account(), KeyPair::new_account());
        issue_service(&signing.seed().unwrap(), &account.public_key(), "billing", &["p".parse().unwrap()]).unwrap()
    }

    #[test]
    fn credentials_read_back_and_hide_their_seed() {
        let creds = service();
        assert_eq!(Creds::parse(&creds.to_text()).unwrap(), creds);
        assert!(!format!("{creds:?}").contains(creds.seed.as_str()));
    }

    #[test]
    fn credentials_that_are_damaged_or_mixed_up_are_refused() {
        let (one, two) = (service(), service());
        let mixed = Creds { jwt: one.jwt.clone(), seed: two.seed };
        for text in [String::new(), one.to_text().replace(SEED_BEGIN, ""), one.to_text().replace("\nSU", "\nSX"), mixed.to_text()] {
            assert!(Creds::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_service_with_too_many_pools_is_refused() {
        let (account, signing) = (KeyPair::new_account(), KeyPair::new_account());
        let issue = |count: usize| {
            let pools: Vec<PoolName> = (0..count).map(|n| format!("{n:0>63}").parse().unwrap()).collect();
            issue_service(&signing.seed().unwrap(), &account.public_key(), "svc", &pools)
        };
        issue(100).unwrap();
        assert!(matches!(issue(1000), Err(JwtError::TooLong { .. })));
    }

    #[test]
    fn an_agent_fits_into_the_line_of_a_server_with_default_settings_and_every_fixed_role_into_that_of_ours() {
        let (account, signing) = (KeyPair::new_account(), KeyPair::new_account());
        let agent = Role::Agent { pool: "p".repeat(63).parse().unwrap(), id: AgentId::generate() };
        // 4096 less what else a client says when it connects; the control plane connects to servers of our own config only.
        for (role, most) in
            [(agent, 3600), (Role::Gateway, JWT_MAX), (Role::Dispatcher, JWT_MAX), (Role::System, 3600), (Role::Revoker, 3600)]
        {
            let creds = issue(&signing.seed().unwrap(), &account.public_key(), "name", &role, None, Timestamp::now()).unwrap();
            assert!(creds.jwt.len() < most, "{role:?}: {}", creds.jwt.len());
        }
    }

    #[test]
    fn an_agent_cannot_get_a_jwt_for_a_key_that_is_no_users() {
        let (account, signing) = (KeyPair::new_account(), KeyPair::new_account());
        let mint = |key: &str| {
            let (pool, id) = ("p".parse().unwrap(), AgentId::generate());
            mint_agent_jwt(&signing.seed().unwrap(), &account.public_key(), &pool, &id, key, AGENT_JWT_LIFETIME)
        };
        assert!(mint(&KeyPair::new_account().public_key()).is_err());
        assert!(mint("").is_err());
        let jwt = mint(&KeyPair::new_user().public_key()).unwrap();
        let read = jwt::decode(&jwt).unwrap();
        assert_eq!(read.expires_at.unwrap().since(read.issued_at), AGENT_JWT_LIFETIME);
    }
}
