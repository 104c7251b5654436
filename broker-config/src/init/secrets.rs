//! The first API key and the first join token: made once, in plain text for people, hashed for the buckets.

use muster_schemas::{
    names::PoolName,
    records::{
        ApiKeyRecord, JoinTokenRecord, KeyOwner, Role,
        secret::{Kind, PREFIX_LEN, Parts, SECRET_LEN},
    },
    signature::SignedSigners,
    time::Timestamp,
    wire::V,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{InitError, damaged};
use crate::{files, layout::Layout, provision::Bootstrap};

/// bcrypt's cost of API keys. Their secrets have 160 random bits, so the work factor adds nothing against guessing; this is the least that
/// is usual, since a gateway pays for it at each key that its cache does not know.
pub const BCRYPT_COST: u32 = 10;

pub(super) struct First {
    pub(super) admin_key: Option<Zeroizing<String>>,
    pub(super) join_token: Option<Zeroizing<String>>,
    pub(super) bootstrap: Bootstrap,
}

/// A new key or token.
pub fn generate(kind: Kind) -> Parts {
    let random: Zeroizing<[u8; PREFIX_LEN + SECRET_LEN]> = Zeroizing::new(rand::random());
    Parts::from_random(kind, &random)
}

/// The record of an API key.
///
/// # Errors
/// When the secret cannot be hashed, which takes a broken random source.
pub fn api_key_record(parts: &Parts, name: &str, owner: KeyOwner, now: Timestamp) -> Result<ApiKeyRecord, bcrypt::BcryptError> {
    Ok(ApiKeyRecord {
        v: V,
        id: format!("key_{}", parts.prefix),
        prefix: parts.prefix.clone(),
        hash: bcrypt::hash(&parts.secret, BCRYPT_COST)?,
        name: name.into(),
        owner,
        created_at: now,
        expires_at: None,
        revoked_at: None,
    })
}

/// The hash of a join token's secret, as [`JoinTokenRecord::hash`] has it.
pub fn join_token_hash(secret: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(secret.as_bytes()))
}

/// Reads the first secrets and their records, or makes them.
///
/// With the records there, a missing plain text stays missing: somebody has put it away. With the records gone, they are made again from
/// the plain text.
pub(super) fn ensure(layout: &Layout, pool: &PoolName, signers: SignedSigners, now: Timestamp) -> Result<First, InitError> {
    let (path, key_path, token_path) = (layout.bootstrap(), layout.admin_key(), layout.join_token());
    let (key, token) = (plain(&key_path, Kind::Api)?, plain(&token_path, Kind::Join)?);
    if let Some(text) = files::read(&path)? {
        let bootstrap: Bootstrap = serde_json::from_str(&text).map_err(|error| damaged(&path, error))?;
        let mismatch = |what: &str| damaged(&path, format!("its record is not that of the {what} beside it"));
        if key.as_ref().is_some_and(|key| key.prefix != bootstrap.admin_key.prefix) {
            return Err(mismatch("admin key"));
        }
        if token.as_ref().is_some_and(|token| token.prefix != bootstrap.join_token.prefix) {
            return Err(mismatch("join token"));
        }
        files::restrict(&path)?;
        return Ok(First { admin_key: key.map(reveal), join_token: token.map(reveal), bootstrap });
    }
    let (key, token) = (key.unwrap_or_else(|| generate(Kind::Api)), token.unwrap_or_else(|| generate(Kind::Join)));
    let bootstrap = Bootstrap {
        pool: pool.clone(),
        admin_key: api_key_record(&key, "admin", KeyOwner::Role(Role::Admin), now)?,
        join_token: JoinTokenRecord {
            v: V,
            prefix: token.prefix.clone(),
            hash: join_token_hash(&token.secret),
            pool: pool.clone(),
            uses_left: None,
            created_at: now,
            expires_at: None,
            agent_id: None,
            name_pattern: None,
            ephemeral: false,
        },
        signers,
    };
    let (key, token) = (reveal(key), reveal(token));
    // The plain texts first: after a crash in between, the records are made from them.
    files::replace(&key_path, &Zeroizing::new(format!("{}\n", key.as_str())))?;
    files::replace(&token_path, &Zeroizing::new(format!("{}\n", token.as_str())))?;
    let text = serde_json::to_string_pretty(&bootstrap).map_err(|error| damaged(&path, error))?;
    files::replace(&path, &(text + "\n"))?;
    Ok(First { admin_key: Some(key), join_token: Some(token), bootstrap })
}

/// Puts a list of signers into the first records: a broker that is made anew begins with it.
pub(super) fn keep_signers(layout: &Layout, signers: SignedSigners) -> Result<(), InitError> {
    let path = layout.bootstrap();
    let Some(text) = files::read(&path)? else { return Ok(()) };
    let before: Bootstrap = serde_json::from_str(&text).map_err(|error| damaged(&path, error))?;
    let text = serde_json::to_string_pretty(&Bootstrap { signers, ..before }).map_err(|error| damaged(&path, error))?;
    files::replace(&path, &(text + "\n"))?;
    Ok(())
}

fn reveal(parts: Parts) -> Zeroizing<String> {
    Zeroizing::new(parts.reveal())
}

fn plain(path: &std::path::Path, kind: Kind) -> Result<Option<Parts>, InitError> {
    let Some(text) = files::read(path)?.map(Zeroizing::new) else { return Ok(None) };
    let parts = Parts::parse(text.trim()).filter(|parts| parts.kind == kind);
    let parts = parts.ok_or_else(|| damaged(path, "it does not hold a key of Muster"))?;
    files::restrict(path)?;
    Ok(Some(parts))
}
