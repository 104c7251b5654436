//! API keys of people and services: made, listed, revoked. Checking them is in [`crate::auth`]; agents' keys are made in
//! [`crate::agents`] and appear here nowhere.

use std::{str::FromStr, sync::Arc};

use axum::{
    Json as Answer,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use muster_schemas::{
    api::{CreateKey, KeyView, Many, One},
    code::Code,
    names::NameError,
    records::{ApiKeyRecord, KeyOwner, Role, secret::Kind},
    time::Timestamp,
    wire::V,
};

use crate::{
    app::{App, create, read, update},
    audit::Noted,
    auth::{Caller, secret},
    endpoint::{Access, Endpoint},
    extract::{Json, Path, Query},
    page::{self, ListQuery},
    problem::ApiError,
};

const TAG: &str = "keys";
const ADMIN: Access = Access::Role(Role::Admin);
/// The longest name of a key, in characters.
const NAME_MAX: usize = 100;
/// How often a write is tried again after somebody else's.
const TRIES: usize = 10;

pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post("/api/v1/api-keys", ADMIN, make)
            .about(TAG, "Make an API key", "The key itself is in the answer and nowhere else: only a hash of it is kept.")
            .body::<CreateKey>()
            .answers::<One<KeyView>>(StatusCode::CREATED, "The key, shown once.")
            .codes(&[Code::TimeInvalid])
            .audited_made("api_keys.create", "/data/id"),
        Endpoint::get("/api/v1/api-keys", ADMIN, list)
            .about(
                TAG,
                "List API keys",
                "Newest first, revoked and expired ones too. When and from where a key was last used is written at most once a minute.",
            )
            .query::<ListQuery>()
            .answers::<Many<KeyView>>(StatusCode::OK, "A page of keys.")
            .codes(&[Code::QueryInvalid]),
        Endpoint::delete("/api/v1/api-keys/{id}", ADMIN, revoke)
            .about(
                TAG,
                "Revoke an API key",
                "It stops working at once, at every gateway. Revoking it again changes nothing. The last admin key stays.",
            )
            .answers_other(StatusCode::NO_CONTENT, "It no longer works.", "")
            .codes(&[Code::KeyNotFound, Code::LastAdminKey, Code::NameInvalid])
            .audited("api_keys.revoke"),
    ]
}

/// A key's id: `key_` and a ULID, or what `muster init` called the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyId(String);

impl FromStr for KeyId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = text
            .strip_prefix("key_")
            .is_some_and(|rest| (1..=32).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        fits.then(|| Self(text.into())).ok_or_else(|| NameError::new("a key's id", "key_ and 1 to 32 letters and digits", text))
    }
}

/// A new key's id.
pub(crate) fn fresh_id(now: Timestamp) -> String {
    let ms = u64::try_from(now.micros() / 1000).unwrap_or(0);
    format!("key_{}", ulid::Ulid::from_parts(ms, rand::random()))
}

async fn make(
    State(app): State<App>,
    caller: Caller,
    noted: Noted,
    Json(CreateKey { name, role, expires_at }): Json<CreateKey>,
) -> Result<(StatusCode, HeaderMap, Answer<One<KeyView>>), ApiError> {
    noted.detail(format!("role {role}"));
    let now = Timestamp::now();
    if !(1..=NAME_MAX).contains(&name.chars().count()) || name.contains(char::is_control) {
        return Err(ApiError::new(Code::FieldInvalid, format!("name takes 1 to {NAME_MAX} characters, none of them a control character")));
    }
    if expires_at.is_some_and(|at| at <= now) {
        return Err(ApiError::new(Code::TimeInvalid, "expires_at has to lie in the future"));
    }
    let parts = secret::fresh(Kind::Api);
    let record = ApiKeyRecord {
        v: V,
        id: fresh_id(now),
        prefix: parts.prefix.clone(),
        hash: app.auth.hash(parts.secret.clone(), app.config.bcrypt_cost).await?,
        name,
        owner: KeyOwner::Role(role),
        created_at: now,
        expires_at,
        revoked_at: None,
    };
    let revision = create(&app.buckets.api_keys, &record.prefix, &record).await?;
    // 50 random bits: this is a fault, not an accident.
    let revision = revision.ok_or_else(|| ApiError::internal("make the key", "its prefix exists already"))?;
    app.mirror.api_keys.caught_up(revision).await;
    tracing::info!(key = record.id, name = record.name, %role, by = caller.key_id, "an API key was made");
    let mut data = view(&record, role);
    data.key = Some(parts.reveal());
    let mut headers = HeaderMap::new();
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/api-keys/{}", record.id)) {
        headers.insert(header::LOCATION, location);
    }
    Ok((StatusCode::CREATED, headers, Answer(One { data })))
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Answer<Many<KeyView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let before = query.cursor.as_deref().map(page::Cursor::decode).transpose()?;
    let records = app.mirror.api_keys.all();
    let used = |(prefix, record): &(String, Arc<ApiKeyRecord>)| {
        let used = app.mirror.key_uses.get(prefix);
        let (last_used_at, last_used_from) = (used.as_ref().map(|used| used.at), used.and_then(|used| used.address.clone()));
        Some(KeyView { last_used_at, last_used_from, ..view(record, role(record)?) })
    };
    let mut views: Vec<KeyView> = records.iter().filter_map(used).collect();
    views.sort_unstable_by_key(|view| std::cmp::Reverse(place(view)));
    let behind = views.into_iter().filter(|view| before.as_ref().is_none_or(|before| place(view) < *before));
    Ok(Answer(page::cut(behind, limit, place)))
}

/// Where a key is in the list: by the time of its making, then by its id.
fn place(view: &KeyView) -> String {
    format!("{:020} {}", view.created_at.micros(), view.id)
}

async fn revoke(State(app): State<App>, caller: Caller, Path(id): Path<KeyId>) -> Result<StatusCode, ApiError> {
    let unknown = || ApiError::new(Code::KeyNotFound, format!("there is no API key {}", id.0));
    let records = app.mirror.api_keys.all();
    let found = records.iter().find(|(_, record)| record.id == id.0 && role(record).is_some());
    let (prefix, record) = found.ok_or_else(unknown)?;
    let now = Timestamp::now();
    let administers = |record: &ApiKeyRecord| {
        role(record) == Some(Role::Admin) && record.revoked_at.is_none() && record.expires_at.is_none_or(|at| at > now)
    };
    // One that expires is no way back in.
    let another = |other: &ApiKeyRecord| other.id != id.0 && administers(other) && other.expires_at.is_none();
    if administers(record) && !records.iter().any(|(_, other)| another(other)) {
        let detail = format!("{} is the last admin key that does not expire; make another one first (POST /api-keys)", id.0);
        return Err(ApiError::new(Code::LastAdminKey, detail));
    }
    for _ in 0..TRIES {
        let mut held = read::<ApiKeyRecord>(&app.buckets.api_keys, prefix).await?.ok_or_else(unknown)?;
        if held.record.revoked_at.is_some() {
            return Ok(StatusCode::NO_CONTENT);
        }
        held.record.revoked_at = Some(Timestamp::now());
        if let Some(revision) = update(&app.buckets.api_keys, prefix, &held.record, held.revision).await? {
            // Its next use here is refused: what was remembered of it is gone once the copy has the change.
            app.mirror.api_keys.caught_up(revision).await;
            tracing::info!(key = id.0, by = caller.key_id, by_name = caller.name, "an API key was revoked");
            return Ok(StatusCode::NO_CONTENT);
        }
    }
    Err(ApiError::broker("revoke the key", "others kept changing it"))
}

/// The role of a person's or service's key; an agent's has none.
fn role(record: &ApiKeyRecord) -> Option<Role> {
    match record.owner {
        KeyOwner::Role(role) => Some(role),
        KeyOwner::Agent(_) => None,
    }
}

fn view(record: &ApiKeyRecord, role: Role) -> KeyView {
    KeyView {
        id: record.id.clone(),
        prefix: record.prefix.clone(),
        name: record.name.clone(),
        role,
        created_at: record.created_at,
        expires_at: record.expires_at,
        revoked_at: record.revoked_at,
        last_used_at: None,
        last_used_from: None,
        key: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_made_id_parses_and_others_do_not() {
        assert!(fresh_id(Timestamp::now()).parse::<KeyId>().is_ok());
        for wrong in
            ["", "key_", "key_*", "agt_01ARZ3NDEKTSV4RRFFQ69G5FAV", "key_01ARZ3NDEKTSV4RRFFQ69G5FA.", &format!("key_{}", "a".repeat(33))]
        {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
    }
}
