//! Join tokens: made, listed, deleted, and used up. Checking them is in [`crate::auth`], those for one certain agent in [`bound`], which names a
//! token is for in [`pattern`].

pub(crate) mod bound;
mod pattern;

use std::{str::FromStr, time::Duration};

use async_nats::jetstream::kv;
use axum::{Json as Answer, extract::State, http::StatusCode};
use muster_schemas::{
    api::{CreateJoinToken, JoinTokenView, Many, One},
    code::Code,
    names::{AgentName, NameError, PoolName},
    records::{
        JoinTokenRecord, Role,
        secret::{ALPHABET, Kind, PREFIX_LEN},
    },
    time::Timestamp,
    wire::V,
};

use crate::{
    app::{App, Held, create, read, update},
    audit::Noted,
    auth::{Caller, secret},
    endpoint::{Access, Endpoint},
    extract::{Json, Path, Query},
    page::{self, ListQuery},
    problem::ApiError,
};

use pattern::Pattern;

const TAG: &str = "join tokens";
const ADMIN: Access = Access::Role(Role::Admin);
const USES: std::ops::RangeInclusive<i64> = 1..=100_000;
const TTL_S: std::ops::RangeInclusive<i64> = 1..=31_536_000;
const TTL_DEFAULT_S: i64 = 86_400;
/// How often counting a use is tried again after somebody else's. Each try that fails means that another one succeeded.
const TRIES: usize = 200;

pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/api/v1/join-tokens", ADMIN, make)
            .about(
                TAG,
                "Make a join token",
                "Agents join a pool with it, those whose names fit the pattern if it has one. The token itself is in the answer and nowhere else. \
                 For one certain agent, create that agent.",
            )
            .body::<CreateJoinToken>()
            .answers::<One<JoinTokenView>>(StatusCode::CREATED, "The token, shown once.")
            .codes(&[Code::PoolNotFound, Code::NameInvalid])
            .audited_made("join_tokens.create", "/data/prefix"),
        Endpoint::get("/api/v1/join-tokens", ADMIN, list)
            .about(TAG, "List join tokens", "In the order of their prefixes, used up and expired ones too.")
            .query::<ListQuery>()
            .answers::<Many<JoinTokenView>>(StatusCode::OK, "A page of tokens.")
            .codes(&[Code::QueryInvalid]),
        Endpoint::delete("/api/v1/join-tokens/{prefix}", ADMIN, delete)
            .about(TAG, "Delete a join token", "It stops working at once. Agents that joined with it stay.")
            .answers_other(StatusCode::NO_CONTENT, "It is gone.", "")
            .codes(&[Code::NotFound, Code::NameInvalid])
            .audited("join_tokens.delete"),
    ]
}

/// The part of a token before its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prefix(String);

impl FromStr for Prefix {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = text.len() == PREFIX_LEN && text.bytes().all(|byte| ALPHABET.contains(&byte));
        fits.then(|| Self(text.into())).ok_or_else(|| NameError::new("a token's prefix", "10 of a-z and 2-7", text))
    }
}

async fn make(
    State(app): State<App>,
    caller: Caller,
    noted: Noted,
    Json(asked): Json<CreateJoinToken>,
) -> Result<(StatusCode, Answer<One<JoinTokenView>>), ApiError> {
    let pool: PoolName = asked.pool.parse()?;
    let uses = within("uses", asked.uses.unwrap_or(1), USES)?;
    noted.detail(format!("pool {pool}, {uses} uses"));
    let ttl = within("ttl_s", asked.ttl_s.unwrap_or(TTL_DEFAULT_S), TTL_S)?;
    let pattern = asked.name_pattern.map(|pattern| pattern.parse::<Pattern>()).transpose()?;
    app.buckets.pool(&pool).await?;
    let parts = secret::fresh(Kind::Join);
    let now = Timestamp::now();
    let record = JoinTokenRecord {
        v: V,
        prefix: parts.prefix.clone(),
        hash: secret::token_hash(&parts.secret),
        pool,
        uses_left: Some(uses),
        created_at: now,
        expires_at: Some(now + Duration::from_secs(ttl.into())),
        agent_id: None,
        name_pattern: pattern.map(|pattern| pattern.as_str().to_owned()),
        ephemeral: asked.ephemeral,
    };
    let revision = create(&app.buckets.join_tokens, &record.prefix, &record).await?;
    let revision = revision.ok_or_else(|| ApiError::internal("make the token", "its prefix exists already"))?;
    app.mirror.join_tokens.caught_up(revision).await;
    tracing::info!(token = record.prefix, pool = %record.pool, uses, by = caller.key_id, "a join token was made");
    let data = JoinTokenView { token: Some(parts.reveal()), ..view(&record) };
    Ok((StatusCode::CREATED, Answer(One { data })))
}

fn within(field: &str, given: i64, range: std::ops::RangeInclusive<i64>) -> Result<u32, ApiError> {
    let fits = range.contains(&given).then(|| u32::try_from(given).ok()).flatten();
    fits.ok_or_else(|| ApiError::new(Code::FieldInvalid, format!("{field} is {given}; it takes {} to {}", range.start(), range.end())))
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Answer<Many<JoinTokenView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let after = query.cursor.as_deref().map(page::Cursor::decode).transpose()?;
    let records = app.mirror.join_tokens.all();
    let behind = records.iter().filter(|(prefix, _)| after.as_ref().is_none_or(|after| prefix > after));
    Ok(Answer(page::cut(behind.map(|(_, record)| view(record)), limit, |view| view.prefix.clone())))
}

async fn delete(State(app): State<App>, caller: Caller, Path(Prefix(prefix)): Path<Prefix>) -> Result<StatusCode, ApiError> {
    let found = read::<JoinTokenRecord>(&app.buckets.join_tokens, &prefix).await?;
    found.ok_or_else(|| ApiError::new(Code::NotFound, format!("there is no join token {prefix}")))?;
    // Its marker stays: the token that came with the deployment would be made again at the next start.
    app.buckets.join_tokens.delete(&prefix).await.map_err(|error| ApiError::broker("delete the token", error))?;
    tracing::info!(token = prefix, by = caller.key_id, "a join token was deleted");
    Ok(StatusCode::NO_CONTENT)
}

fn view(record: &JoinTokenRecord) -> JoinTokenView {
    JoinTokenView {
        prefix: record.prefix.clone(),
        pool: record.pool.clone(),
        uses_left: record.uses_left,
        expires_at: record.expires_at,
        name_pattern: record.name_pattern.clone(),
        ephemeral: record.ephemeral,
        agent_id: record.agent_id.clone(),
        created_at: record.created_at,
        token: None,
    }
}

/// Makes sure that the token is for agents of this name.
///
/// # Errors
/// `name_invalid` that tells the pattern.
pub(crate) fn check_name(token: &JoinTokenRecord, name: &AgentName) -> Result<(), ApiError> {
    let Some(pattern) = &token.name_pattern else { return Ok(()) };
    // One that cannot be read fits nothing.
    if pattern.parse::<Pattern>().is_ok_and(|pattern| pattern.fits(name)) {
        return Ok(());
    }
    Err(ApiError::new(Code::NameInvalid, format!("the join token is for agents with names like `{pattern}`, and `{name}` is not")))
}

/// Counts one use of a token. Of any number of callers with a single-use token, exactly one succeeds.
///
/// # Errors
/// `token_invalid` when it was used up or deleted since it was checked.
pub(crate) async fn take_use(bucket: &kv::Store, mut held: Held<JoinTokenRecord>) -> Result<(), ApiError> {
    let prefix = held.record.prefix.clone();
    for _ in 0..TRIES {
        let Some(left) = held.record.uses_left else { return Ok(()) };
        held.record.uses_left = Some(left.checked_sub(1).ok_or_else(used_up)?);
        if update(bucket, &prefix, &held.record, held.revision).await?.is_some() {
            return Ok(());
        }
        held = read(bucket, &prefix).await?.ok_or_else(used_up)?;
    }
    Err(ApiError::broker("count the use of the token", "others kept changing it"))
}

/// Gives a use back after a failure. What it cannot give back is lost, which costs an operator a token and nobody else anything.
pub(crate) async fn give_back_use(bucket: &kv::Store, prefix: &str) {
    for _ in 0..TRIES {
        let Ok(Some(mut held)) = read::<JoinTokenRecord>(bucket, prefix).await else { break };
        let Some(left) = held.record.uses_left else { return };
        held.record.uses_left = Some(left.saturating_add(1));
        match update(bucket, prefix, &held.record, held.revision).await {
            Ok(Some(_)) => return,
            Ok(None) => {}
            Err(_) => break,
        }
    }
    tracing::warn!(token = prefix, "a use of a join token was counted, but the registration failed");
}

fn used_up() -> ApiError {
    ApiError::new(Code::TokenInvalid, "the join token was used as often as it may be")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn numbers_out_of_range_name_the_field_and_the_range() {
        assert_eq!(within("uses", 100_000, USES).unwrap(), 100_000);
        for wrong in [0, -1, 100_001, i64::MAX, i64::MIN] {
            let error = within("uses", wrong, USES).unwrap_err();
            assert!(error.code == Code::FieldInvalid && error.detail.contains("1 to 100000"), "{error}");
        }
    }

    #[test]
    fn a_prefix_is_what_tokens_begin_with() {
        assert!(secret::fresh(Kind::Join).prefix.parse::<Prefix>().is_ok());
        for wrong in ["", "abc", "abcdefghi*", "abcdefghi>", "ABCDEFGHIJ", "abcdefghijk"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }
}
