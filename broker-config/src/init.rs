//! Makes a deployment: keys, accounts, credentials, the server's config, the first API key and join token.
//!
//! It is idempotent: keys and secrets that exist are never overwritten, what is missing is made, and what follows from the keys (JWTs of
//! accounts, the config) is written anew only when it would say something else. It never talks to a server: see [`crate::provision`].

use std::path::Path;

use muster_schemas::{names::PoolName, time::Timestamp};
use nkeys::{KeyPair, KeyPairType};
use zeroize::Zeroizing;

use crate::{
    accounts::{self, AccountKeys},
    creds::{self, Creds},
    files::{self, FileError},
    jwt::{self, AccountClaims, Claims, JwtError, OperatorClaims},
    layout::{Account, Layout},
    permissions::Role,
    provision::Bootstrap,
    tls::TlsError,
};

pub mod config;
mod fleet;
mod kept;
pub mod secrets;
mod signers;
mod tls;

pub use config::{Broker, Endpoint};
pub use signers::{drop_old_job_keys, roll_job_keys};
pub use tls::{Certified, certify};

/// What a deployment is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitOptions {
    /// The server's settings. They may differ from one `init` to the next; the config follows.
    pub broker: Broker,
    /// The first pool, and the one that the first join token is for. Only the first `init` looks at it.
    pub pool: PoolName,
}

/// Why a deployment could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file exists, but is not what it should be. It is left as it is.
    #[error("{path} is damaged: {problem}; restore it, or remove it to have a new one made")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A JWT could not be signed.
    #[error("cannot sign")]
    Sign(#[from] JwtError),
    /// A certificate could not be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A secret could not be hashed.
    #[error("cannot hash the admin key")]
    Hash(#[from] bcrypt::BcryptError),
}

pub(crate) fn damaged(path: &Path, problem: impl ToString) -> InitError {
    InitError::Damaged { path: path.display().to_string(), problem: problem.to_string() }
}

/// A deployment that is complete on disk.
#[derive(Clone)]
pub struct Deployment {
    /// Where its files are.
    pub layout: Layout,
    /// The public keys of `SYS`.
    pub sys: AccountKeys,
    /// The public keys of `CORE`.
    pub core: AccountKeys,
    /// The public keys of `FLEET`.
    pub fleet: AccountKeys,
    /// The first administrator's API key, while its file is still there.
    pub admin_key: Option<Zeroizing<String>>,
    /// The first pool's join token, while its file is still there.
    pub join_token: Option<Zeroizing<String>>,
    /// What provisioning stores first.
    pub bootstrap: Bootstrap,
    /// Whether TLS is on.
    pub tls: bool,
}

impl std::fmt::Debug for Deployment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deployment")
            .field("layout", &self.layout)
            .field("core", &self.core)
            .field("fleet", &self.fleet)
            .finish_non_exhaustive()
    }
}

/// Makes the deployment in `dir`, or completes it. Blocks for the lock, and at the first time for the hash of the admin key: call it from
/// `main` or from a blocking thread.
///
/// # Errors
/// See [`InitError`]. Whatever was written until then is whole, and the next call goes on from there.
pub fn init(dir: &Path, options: &InitOptions) -> Result<Deployment, InitError> {
    let layout = Layout::new(dir);
    files::make_dir(dir)?;
    let _lock = files::lock(&layout.lock())?;
    for dir in layout.directories() {
        files::make_dir(&dir)?;
    }
    let now = Timestamp::now();
    let operator = key(&layout.operator_key(), KeyPairType::Operator)?;
    let operator_signing = key(&layout.operator_signing_key(), KeyPairType::Operator)?;
    let sys = account_keys(&layout, Account::Sys)?;
    let core = account_keys(&layout, Account::Core)?;
    let fleet = account_keys(&layout, Account::Fleet)?;

    let claims = OperatorClaims {
        name: "muster".into(),
        public_key: operator.public_key(),
        signing_keys: vec![operator_signing.public_key()],
        system_account: sys.account.clone(),
    };
    let operator_jwt = signed(&layout.operator_jwt(), &claims, &operator, now)?;
    let account = |account, claims: AccountClaims| signed(&layout.account_jwt(account), &claims, &operator, now);
    let (claims, signers) =
        (|revoked| accounts::fleet(&fleet, &core, revoked), fleet::SignedBy { operator: &operator, signing: &operator_signing });
    let jwts = [
        (&sys, account(Account::Sys, accounts::sys(&sys))?),
        (&core, account(Account::Core, accounts::core(&core, &fleet))?),
        (&fleet, fleet::signed(&layout, &options.broker.accounts_dir(), &fleet.account, claims, &signers, now)?),
    ];
    let tls = tls::ensure(&layout, options.broker.tls.as_deref(), now)?;
    let preload = jwts.map(|(keys, jwt)| (keys.account.clone(), jwt));
    files::replace(&layout.server_config(), &config::render(&options.broker, tls.as_ref(), &operator_jwt, &sys.account, &preload))?;
    for path in [layout.fleet_account(), layout.dispatcher_fleet_account()] {
        files::replace(&path, &format!("{}\n", fleet.account))?;
    }
    let signers = signers::ensure(&layout, now)?;

    let user = |account, keys: &AccountKeys, path: &Path, name, role| user(&layout.signing_key(account), keys, path, name, role, now);
    user(Account::Core, &core, &layout.gateway_creds(), "gateway", &Role::Gateway)?;
    user(Account::Core, &core, &layout.dispatcher_creds(), "dispatcher", &Role::Dispatcher)?;
    user(Account::Sys, &sys, &layout.system_creds(), "system", &Role::System)?;
    user(Account::Sys, &sys, &layout.revoker_creds(), "revoker", &Role::Revoker)?;
    let first = secrets::ensure(&layout, &options.pool, signers, now)?;
    Ok(Deployment {
        layout,
        sys,
        core,
        fleet,
        admin_key: first.admin_key,
        join_token: first.join_token,
        bootstrap: first.bootstrap,
        tls: tls.is_some(),
    })
}

/// Reads a seed, or makes one where there is none.
fn key(path: &Path, kind: KeyPairType) -> Result<KeyPair, InitError> {
    if let Some(seed) = files::read(path)?.map(Zeroizing::new) {
        let key = KeyPair::from_seed(seed.trim()).map_err(|error| damaged(path, format!("it holds no valid seed ({error})")))?;
        if key.key_pair_type() != kind {
            return Err(damaged(path, format!("it holds a seed of {:?} where one of {kind:?} belongs", key.key_pair_type())));
        }
        files::restrict(path)?;
        return Ok(key);
    }
    let key = KeyPair::new(kind);
    let seed = Zeroizing::new(format!("{}\n", key.seed().map_err(JwtError::Sign)?));
    files::replace(path, &seed)?;
    Ok(key)
}

fn account_keys(layout: &Layout, account: Account) -> Result<AccountKeys, InitError> {
    let [identity, signing] = [layout.account_key(account), layout.signing_key(account)].map(|path| key(&path, KeyPairType::Account));
    Ok(AccountKeys { account: identity?.public_key(), signing: signing?.public_key() })
}

/// The JWT on disk while it says the same, so that its `iat` stands.
fn signed(path: &Path, claims: &impl Claims, key: &KeyPair, now: Timestamp) -> Result<String, InitError> {
    if let Some(jwt) = files::read(path)?
        && jwt::says_same(&jwt, claims, key)
    {
        return Ok(jwt.trim().to_owned());
    }
    let jwt = jwt::encode(claims, key, now)?;
    files::replace(path, &format!("{jwt}\n"))?;
    Ok(jwt)
}

/// Credentials for `role`: the seed on disk stays, its JWT is signed anew when the role's permissions or the signing key are others now.
fn user(signing: &Path, keys: &AccountKeys, path: &Path, name: &str, role: &Role, now: Timestamp) -> Result<(), InitError> {
    let signing_seed = Zeroizing::new(files::read(signing)?.unwrap_or_default());
    let Some(text) = files::read(path)?.map(Zeroizing::new) else {
        let creds = creds::issue(&signing_seed, &keys.account, name, role, None, now)?;
        files::replace(path, &Zeroizing::new(creds.to_text()))?;
        return Ok(());
    };
    let have = Creds::parse(&text).map_err(|error| damaged(path, error))?;
    let user = jwt::key_pair(&have.seed, "the seed of the credentials")?;
    let claims = creds::claims(&keys.account, name, role, &user.public_key(), None);
    let signer = jwt::key_pair(&signing_seed, "the signing seed")?;
    if !jwt::says_same(&have.jwt, &claims, &signer) {
        let creds = Creds { jwt: jwt::encode(&claims, &signer, now)?, seed: have.seed };
        files::replace(path, &Zeroizing::new(creds.to_text()))?;
    }
    Ok(files::restrict(path)?)
}
