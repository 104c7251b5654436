//! Checking a key or a token against its record: one read, one hash at most, and limits before both.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{connection::State, jetstream::kv};
use hmac::{Hmac, KeyInit as _, Mac as _};
use muster_schemas::{
    code::Code,
    records::{
        ApiKeyRecord, JoinTokenRecord, KeyOwner,
        secret::{Kind, Parts},
    },
    time::Timestamp,
};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    Known, Refusal,
    cache::{Cache, Digest, Verdict},
    limiter::Limiter,
};
use crate::{
    app::{Buckets, Figures, Held, mirror::Change, read},
    problem::ApiError,
};

/// Password hashes computed at once. Each takes a core for about 50 ms, and jobs are to go on meanwhile.
const HASHES_AT_ONCE: usize = 2;
/// How long a request waits for its turn to compute a hash.
const HASH_TURN: Duration = Duration::from_secs(5);
/// Requests with one key that come at once wait for one check of it. Keys share this many turns.
const TURNS: usize = 64;

/// Checks keys and tokens.
pub(crate) struct Auth {
    keys: kv::Store,
    tokens: kv::Store,
    client: async_nats::Client,
    secret: [u8; 32],
    cache: Mutex<Cache>,
    limiter: Mutex<Limiter>,
    turns: Vec<tokio::sync::Mutex<()>>,
    hashing: Semaphore,
    figures: Arc<Figures>,
}

impl Auth {
    pub(crate) fn new(client: async_nats::Client, buckets: &Buckets, refusals_per_minute: u32, figures: Arc<Figures>) -> Self {
        Self {
            keys: buckets.api_keys.clone(),
            tokens: buckets.join_tokens.clone(),
            client,
            secret: rand::random(),
            cache: Mutex::default(),
            limiter: Mutex::new(Limiter::new(refusals_per_minute)),
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect(),
            hashing: Semaphore::new(HASHES_AT_ONCE),
            figures,
        }
    }

    /// Whoever the API key belongs to: a person, a service or an agent.
    pub(crate) async fn key(&self, text: &str, remote: IpAddr) -> Result<Arc<Known>, ApiError> {
        let parts = Parts::parse(text).filter(|parts| parts.kind != Kind::Join);
        let Some(parts) = parts else {
            self.take_try(remote)?;
            return Err(self.refused(Refusal::Wrong));
        };
        let digest = self.digest(text);
        let mut verdict = self.cached(&digest)?;
        if verdict.is_none() {
            let turn = self.turns.get(usize::from(digest[0]) % TURNS).ok_or_else(|| ApiError::internal("check the key", "no turn"))?;
            let _turn = turn.lock().await;
            verdict = match self.cached(&digest)? {
                Some(verdict) => Some(verdict),
                None => return self.looked_up(&parts, digest, remote).await?.map_err(|refusal| self.refused(refusal)),
            };
        }
        match verdict {
            Some(Ok(known)) => expired(&known).map_or(Ok(known), |refusal| Err(self.refused(refusal))),
            Some(Err(refusal)) => {
                self.take_try(remote)?;
                Err(self.refused(refusal))
            }
            None => Err(self.refused(Refusal::Wrong)),
        }
    }

    /// The record of a join token, its revision, and whether it can be used now. A use is not counted here.
    pub(crate) async fn token(&self, text: &str, remote: IpAddr) -> Result<Held<JoinTokenRecord>, ApiError> {
        self.check_tries(remote)?;
        let found = self.found_token(text).await;
        // A check of a token costs next to nothing, so only those that are refused are counted: a thousand agents may join at once.
        if found.as_ref().is_err_and(|error| error.code == Code::TokenInvalid) {
            self.take_try(remote)?;
        }
        found
    }

    async fn found_token(&self, text: &str) -> Result<Held<JoinTokenRecord>, ApiError> {
        let wrong = || self.refused_token("the join token is wrong, or was revoked");
        let parts = Parts::parse(text).filter(|parts| parts.kind == Kind::Join).ok_or_else(wrong)?;
        let held = read::<JoinTokenRecord>(&self.tokens, &parts.prefix).await?.ok_or_else(wrong)?;
        let hash = super::secret::token_hash(&parts.secret);
        if !bool::from(hash.as_bytes().ct_eq(held.record.hash.as_bytes())) {
            return Err(wrong());
        }
        if let Some(at) = held.record.expires_at.filter(|at| *at <= Timestamp::now()) {
            return Err(self.refused_token(&format!("the join token expired at {at}")));
        }
        if held.record.uses_left == Some(0) {
            return Err(self.refused_token("the join token was used as often as it may be"));
        }
        Ok(held)
    }

    /// Takes a change of the keys' bucket into account.
    pub(crate) fn apply(&self, change: &Change) {
        match change {
            Change::Restarted => self.cache().deaf(),
            Change::Complete => self.cache().hears(),
            Change::Put { key, .. } | Change::Deleted { key, .. } => self.cache().forget(key),
        }
    }

    /// Whether changes of keys are heard of.
    pub(crate) fn listening(&self) -> bool {
        self.cache().listening()
    }

    /// What is known of the key already. While the broker is away nothing is: a revocation could not be heard of.
    fn cached(&self, digest: &Digest) -> Result<Option<Verdict>, ApiError> {
        if self.client.connection_state() != State::Connected {
            return Err(ApiError::broker("check the key", "not connected"));
        }
        Ok(self.cache().get(digest, Instant::now()))
    }

    /// Checks a key against its record, and remembers the outcome.
    async fn looked_up(&self, parts: &Parts, digest: Digest, remote: IpAddr) -> Result<Verdict, ApiError> {
        self.check_tries(remote)?;
        // A try is taken with the turn, so that no more tries are out than hashes are computed: many good keys at once are no guessing.
        let _turn = self.hash_turn().await?;
        self.take_try(remote)?;
        let epoch = self.cache().epoch();
        let verdict = self.verdict(parts).await.inspect_err(|_| self.give_back(remote))?;
        if verdict.is_ok() {
            self.give_back(remote);
        }
        self.cache().enter(digest, &parts.prefix, &verdict, epoch, Instant::now());
        Ok(verdict)
    }

    async fn verdict(&self, parts: &Parts) -> Result<Verdict, ApiError> {
        let Some(Held { record, .. }) = read::<ApiKeyRecord>(&self.keys, &parts.prefix).await? else {
            return Ok(Err(Refusal::Wrong));
        };
        let fits = matches!((&record.owner, parts.kind), (KeyOwner::Role(_), Kind::Api) | (KeyOwner::Agent(_), Kind::Agent));
        if !fits || !self.matches(parts.secret.clone(), record.hash).await? {
            return Ok(Err(Refusal::Wrong));
        }
        // Only who has the secret learns what became of the key.
        if record.revoked_at.is_some() {
            return Ok(Err(Refusal::Revoked));
        }
        let known = Known { key_id: record.id, name: record.name, owner: record.owner, expires_at: record.expires_at };
        Ok(expired(&known).map_or(Ok(Arc::new(known)), Err))
    }

    /// Whether the secret is the one that was hashed.
    async fn matches(&self, secret: String, hash: String) -> Result<bool, ApiError> {
        self.figures.hashes.inc();
        let checked = tokio::task::spawn_blocking(move || bcrypt::verify(secret, &hash)).await;
        let checked = checked.map_err(|error| ApiError::internal("check the key", error))?;
        checked.map_err(|error| ApiError::internal("check the key", error))
    }

    /// The hash that is kept of a new key's secret. It takes its turn like those that are checked.
    pub(crate) async fn hash(&self, secret: String, cost: u32) -> Result<String, ApiError> {
        let _turn = self.hash_turn().await?;
        self.figures.hashes.inc();
        let hashed = tokio::task::spawn_blocking(move || bcrypt::hash(secret, cost)).await;
        let hashed = hashed.map_err(|error| ApiError::internal("make the key", error))?;
        hashed.map_err(|error| ApiError::internal("make the key", error))
    }

    async fn hash_turn(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        let turn = tokio::time::timeout(HASH_TURN, self.hashing.acquire()).await;
        let busy = || ApiError::new(Code::RateLimited, "too many keys are being checked; try again").retry_after(HASH_TURN);
        turn.ok().and_then(Result::ok).ok_or_else(busy)
    }

    fn digest(&self, text: &str) -> Digest {
        // A key of 32 bytes is taken as it is, so this can't fail; the plain hash would do for finding entries as well.
        match Hmac::<Sha256>::new_from_slice(&self.secret) {
            Ok(mac) => mac.chain_update(text).finalize().into_bytes().into(),
            Err(_) => Sha256::new().chain_update(self.secret).chain_update(text).finalize().into(),
        }
    }

    fn check_tries(&self, remote: IpAddr) -> Result<(), ApiError> {
        let left = self.limiter().check(remote, Instant::now());
        left.map_err(|wait| self.limited(wait))
    }

    fn take_try(&self, remote: IpAddr) -> Result<(), ApiError> {
        let taken = self.limiter().take(remote, Instant::now());
        taken.map_err(|wait| self.limited(wait))
    }

    fn limited(&self, wait: Duration) -> ApiError {
        self.figures.refused.with(["limited"]).inc();
        ApiError::new(Code::RateLimited, "too many wrong keys or tokens from this address; wait before you try again").retry_after(wait)
    }

    fn give_back(&self, remote: IpAddr) {
        self.limiter().give_back(remote, Instant::now());
    }

    fn refused(&self, refusal: Refusal) -> ApiError {
        self.figures.refused.with([refusal.word()]).inc();
        ApiError::new(Code::Unauthenticated, refusal.to_string())
    }

    fn refused_token(&self, why: &str) -> ApiError {
        self.figures.refused.with(["token"]).inc();
        ApiError::new(Code::TokenInvalid, why)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key can expire while it is remembered.
fn expired(known: &Known) -> Option<Refusal> {
    known.expires_at.filter(|at| *at <= Timestamp::now()).map(Refusal::Expired)
}
