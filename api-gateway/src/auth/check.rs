//! Checking a key or a token against its record: one read, one hash at most, and limits before both.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use async_nats::{connection::State, jetstream::kv};
use axum::http::Extensions;
use hmac::{Hmac, KeyInit as _, Mac as _};
use muster_schemas::{
    audit::{Actor, ActorKind},
    code::Code,
    records::{
        ApiKeyRecord, JoinTokenRecord, KeyOwner,
        secret::{Kind, Parts},
    },
    time::Timestamp,
};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    Known, Refusal,
    cache::{Cache, Digest, Refused, Verdict},
    hashing::{Hashing, Turn},
    life::{Life, Lives},
    tries::Tries,
    uses::Uses,
};
use crate::{
    app::{Buckets, Figures, Held, mirror::Change, read},
    audit::Noted,
    problem::ApiError,
};

/// Checks keys and tokens.
pub(crate) struct Auth {
    keys: kv::Store,
    tokens: kv::Store,
    client: async_nats::Client,
    secret: [u8; 32],
    cache: Mutex<Cache>,
    tries: Tries,
    hashing: Hashing,
    lives: Lives,
    pub(super) uses: Uses,
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
            tries: Tries::new(refusals_per_minute),
            hashing: Hashing::new(Arc::clone(&figures)),
            lives: Lives::default(),
            uses: Uses::new(),
            figures,
        }
    }

    /// Whoever the API key belongs to, a person, a service or an agent, and how long that holds. Whose it is, or was until it was revoked
    /// or expired, is noted.
    pub(crate) async fn key(&self, text: &str, remote: IpAddr, notes: &Extensions) -> Result<(Arc<Known>, Life), ApiError> {
        let parts = Parts::parse(text).filter(|parts| parts.kind != Kind::Join);
        let Some(parts) = parts else {
            self.take_try(remote)?;
            return Err(self.refused(Refusal::Wrong));
        };
        let life = self.lives.enter(parts.prefix.clone());
        let known = self.known(text, &parts, remote, notes).await?;
        // Agents show their keys only to register, and are listed with more than that.
        if matches!(known.owner, KeyOwner::Role(_)) {
            self.uses.note(&parts.prefix, remote, Instant::now());
        }
        let life = life.expiring(known.expires_at);
        Ok((known, life))
    }

    async fn known(&self, text: &str, parts: &Parts, remote: IpAddr, notes: &Extensions) -> Result<Arc<Known>, ApiError> {
        let digest = self.digest(text);
        let mut verdict = self.cached(&digest)?;
        let mut fresh = false;
        if verdict.is_none() {
            let _alone = self.hashing.alone(&digest).await.inspect_err(|_| self.limited())?;
            verdict = self.cached(&digest)?;
            if verdict.is_none() {
                verdict = Some(self.looked_up(parts, digest, remote).await?);
                fresh = true;
            }
        }
        let verdict = verdict.unwrap_or_else(|| Err(Refusal::Wrong.into()));
        let whose = verdict.as_ref().map_or_else(|refused| refused.whose.as_deref(), |known| Some(known));
        whose.inspect(|known| Noted::actor(notes, known.actor()));
        match verdict {
            Ok(known) => expired(&known).map_or(Ok(known), |refusal| Err(self.refused(refusal))),
            Err(refused) => {
                // Looking it up has taken one.
                if !fresh {
                    self.take_try(remote)?;
                }
                Err(self.refused(refused.why))
            }
        }
    }

    /// The record of a join token, its revision, and whether it can be used now. A use is not counted here. Which one it is, or was, is noted.
    pub(crate) async fn token(&self, text: &str, remote: IpAddr, notes: &Extensions) -> Result<Held<JoinTokenRecord>, ApiError> {
        self.tries.check(remote).inspect_err(|_| self.limited())?;
        let found = self.found_token(text, notes).await;
        // A check of a token costs next to nothing, so only those that are refused are counted: a thousand agents may join at once.
        if found.as_ref().is_err_and(|error| error.code == Code::TokenInvalid) {
            self.take_try(remote)?;
        }
        found
    }

    async fn found_token(&self, text: &str, notes: &Extensions) -> Result<Held<JoinTokenRecord>, ApiError> {
        let wrong = || self.refused_token("the join token is wrong, or was revoked");
        let parts = Parts::parse(text).filter(|parts| parts.kind == Kind::Join).ok_or_else(wrong)?;
        let held = read::<JoinTokenRecord>(&self.tokens, &parts.prefix).await?.ok_or_else(wrong)?;
        let hash = super::secret::token_hash(&parts.secret);
        if !bool::from(hash.as_bytes().ct_eq(held.record.hash.as_bytes())) {
            return Err(wrong());
        }
        Noted::actor(notes, Actor::new(ActorKind::JoinToken, &held.record.prefix));
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
        // After the cache, so that whoever enters from here on is checked anew.
        self.lives.apply(change);
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
        self.tries.check(remote).inspect_err(|_| self.limited())?;
        // A try is taken with the turn, so that no more tries are out than hashes are computed: many good keys at once are no guessing.
        let turn = self.hashing.turn().await.inspect_err(|_| self.limited())?;
        self.tries.guess(remote, &parts.prefix).inspect_err(|_| self.limited())?;
        let epoch = self.cache().epoch();
        let verdict = self.verdict(parts, turn).await.inspect_err(|_| self.tries.give_back(remote, &parts.prefix))?;
        if verdict.is_ok() {
            self.tries.give_back(remote, &parts.prefix);
        }
        self.cache().enter(digest, &parts.prefix, &verdict, epoch, Instant::now());
        Ok(verdict)
    }

    async fn verdict(&self, parts: &Parts, turn: Turn) -> Result<Verdict, ApiError> {
        let Some(Held { record, .. }) = read::<ApiKeyRecord>(&self.keys, &parts.prefix).await? else {
            return Ok(Err(Refusal::Wrong.into()));
        };
        let fits = matches!((&record.owner, parts.kind), (KeyOwner::Role(_), Kind::Api) | (KeyOwner::Agent(_), Kind::Agent));
        if !fits || !turn.matches(parts.secret.clone(), record.hash).await? {
            return Ok(Err(Refusal::Wrong.into()));
        }
        // Only who has the secret learns what became of the key.
        let known = Arc::new(Known { key_id: record.id, name: record.name, owner: record.owner, expires_at: record.expires_at });
        let refusal = if record.revoked_at.is_some() { Some(Refusal::Revoked) } else { expired(&known) };
        Ok(match refusal {
            Some(why) => Err(Refused { why, whose: Some(known) }),
            None => Ok(known),
        })
    }

    /// The hash that is kept of a new key's secret. It takes its turn like those that are checked.
    pub(crate) async fn hash(&self, secret: String, cost: u32) -> Result<String, ApiError> {
        self.hashing.turn().await.inspect_err(|_| self.limited())?.hash(secret, cost).await
    }

    fn digest(&self, text: &str) -> Digest {
        // A key of 32 bytes is taken as it is, so this can't fail; the plain hash would do for finding entries as well.
        match Hmac::<Sha256>::new_from_slice(&self.secret) {
            Ok(mac) => mac.chain_update(text).finalize().into_bytes().into(),
            Err(_) => Sha256::new().chain_update(self.secret).chain_update(text).finalize().into(),
        }
    }

    fn take_try(&self, remote: IpAddr) -> Result<(), ApiError> {
        self.tries.take(remote).inspect_err(|_| self.limited())
    }

    fn limited(&self) {
        self.figures.refused.with(["limited"]).inc();
    }

    /// Counts a refusal.
    pub(super) fn refused(&self, refusal: Refusal) -> ApiError {
        self.figures.refused.with([refusal.word()]).inc();
        refusal.into()
    }

    fn refused_token(&self, why: &str) -> ApiError {
        self.figures.refused.with(["token"]).inc();
        ApiError::new(Code::TokenInvalid, why)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key can expire while it is remembered.
fn expired(known: &Known) -> Option<Refusal> {
    known.expires_at.filter(|at| *at <= Timestamp::now()).map(Refusal::Expired)
}
