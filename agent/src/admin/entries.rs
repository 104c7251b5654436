//! What the admin interface does with the vault. It never answers with a secret.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use muster_executor::mask;
use muster_schemas::{api::One, code::Code, connection::CREDENTIALS_LIMIT, names::ConnectionName, sealed::Credentials, wire::V};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::{Admin, problem::Refusal};
use crate::vault::entry::Held;

/// The most bytes of a body: every byte of a secret may be escaped in JSON.
const BODY_MAX: usize = 6 * CREDENTIALS_LIMIT;
/// How long a body may take.
const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(10);
/// The most fields of one entry, and bytes of a field's name.
const FIELDS_MAX: usize = 32;
const FIELD_NAME_MAX: usize = 64;

/// What there is under a name. No values.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    name: ConnectionName,
    /// The names of its fields.
    fields: BTreeSet<String>,
    /// Which delivery it is; 0 was put here by hand.
    revision: u64,
    /// What should be known of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl Entry {
    fn of(name: ConnectionName, revision: u64, credentials: &Credentials) -> Self {
        let short = credentials.fields.iter().filter(|(name, value)| *name != "username" && value.len() < mask::SHORTEST);
        let warning =
            |name: &String| format!("`{name}` has fewer than {} bytes, so it is not hidden where a job prints it", mask::SHORTEST);
        let warnings = short.map(|(name, _)| warning(name)).collect();
        Self { name, fields: credentials.fields.keys().cloned().collect(), revision, warnings }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// The one field that the body is the value of.
    field: Option<String>,
}

/// `GET /vault`.
pub(super) async fn list(State(admin): State<Admin>) -> Result<Json<One<Vec<ConnectionName>>>, Refusal> {
    let vault = admin.vault()?;
    if let Some(why) = vault.fault() {
        return Err(crate::vault::VaultError::Closed(why).into());
    }
    Ok(Json(One { data: vault.held().into_keys().collect() }))
}

/// `PUT /vault/{name}`.
pub(super) async fn put(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    which: Result<Query<Which>, QueryRejection>,
    body: Body,
) -> Result<Response, Refusal> {
    let name = self::name(&name)?;
    let Query(which) = which.map_err(|error| Refusal::new(Code::QueryInvalid, error.body_text()))?;
    let put = read(body, which.field).await?;
    let vault = admin.vault()?;
    let there = vault.held().contains_key(&name);
    let fields: Vec<String> = put.fields().keys().cloned().collect();
    vault
        .change(&name, move |before| Held { revision: 0, over: before.as_ref().map_or(0, Held::delivered), credentials: put.into(before) })
        .await?;
    let Some((revision, credentials)) = vault.credentials(&name).await? else {
        return Err(Refusal::new(Code::NotFound, format!("`{name}` was removed at the same moment")));
    };
    tracing::info!(connection = %name, ?fields, "credentials were put into the vault by hand");
    let status = if there { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(One { data: Entry::of(name, revision, &credentials) })).into_response())
}

/// `POST /vault/{name}/test`.
pub(super) async fn test(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<One<Entry>>, Refusal> {
    let name = self::name(&name)?;
    match admin.vault()?.credentials(&name).await? {
        Some((revision, credentials)) => Ok(Json(One { data: Entry::of(name, revision, &credentials) })),
        None => Err(missing(&name)),
    }
}

/// `DELETE /vault/{name}`.
pub(super) async fn delete(State(admin): State<Admin>, Path(name): Path<String>) -> Result<StatusCode, Refusal> {
    let name = self::name(&name)?;
    if !admin.vault()?.remove(&name).await? {
        return Err(missing(&name));
    }
    tracing::info!(connection = %name, "credentials were removed from the vault by hand");
    Ok(StatusCode::NO_CONTENT)
}

fn name(text: &str) -> Result<ConnectionName, Refusal> {
    text.parse().map_err(|error| Refusal::new(Code::NameInvalid, format!("{error}")))
}

fn missing(name: &ConnectionName) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is nothing for `{name}` in this agent's vault"))
}

/// What a body says.
enum Put {
    /// All fields.
    All(Credentials),
    /// These of them.
    Some(Credentials),
}

impl Put {
    fn fields(&self) -> &BTreeMap<String, String> {
        match self {
            Self::All(given) | Self::Some(given) => &given.fields,
        }
    }

    /// What is kept, given what is there.
    fn into(self, before: Option<Held>) -> Credentials {
        match self {
            Self::All(given) => given,
            Self::Some(mut given) => {
                let mut kept = before.map(|held| held.credentials).unwrap_or_default();
                for (name, value) in std::mem::take(&mut given.fields) {
                    if let Some(mut old) = kept.fields.insert(name, value) {
                        old.zeroize();
                    }
                }
                // What a person has put here stays here.
                kept.shared = false;
                kept
            }
        }
    }
}

/// The text values of a JSON object.
#[derive(Deserialize)]
struct Fields(BTreeMap<String, String>);

async fn read(body: Body, field: Option<String>) -> Result<Put, Refusal> {
    let invalid = |detail: String| Refusal::new(Code::CredentialsInvalid, detail);
    let read = tokio::time::timeout(BODY_TIME, to_bytes(body, BODY_MAX)).await;
    let read = read.map_err(|_| Refusal::new(Code::BodyMalformed, "the body did not come within 10 s"))?;
    let bytes = read.map_err(|_| Refusal::new(Code::BodyTooLarge, format!("credentials have at most {CREDENTIALS_LIMIT} bytes")))?;
    let of = |fields| Credentials { v: V, fields, shared: false, bound: None };
    let put = match field {
        Some(field) => {
            let value = std::str::from_utf8(&bytes).map_err(|_| invalid(format!("the value of `{field}` is no UTF-8 text")))?;
            Put::Some(of([(field, value.to_owned())].into()))
        }
        None => {
            // What the parser says could quote what it read.
            let fields = serde_json::from_slice::<Fields>(&bytes).map(|fields| fields.0).map_err(|error| {
                let at = (error.line(), error.column());
                Refusal::new(Code::BodyMalformed, format!("the body is no JSON object of texts, such as {{\"username\": \"…\", \"password\": \"…\"}} (line {}, column {}); or name the one field with ?field=", at.0, at.1))
            })?;
            Put::All(of(fields))
        }
    };
    check(put.fields()).map_err(invalid)?;
    Ok(put)
}

fn check(fields: &BTreeMap<String, String>) -> Result<(), String> {
    if fields.is_empty() || fields.len() > FIELDS_MAX {
        return Err(format!("there are {} fields; credentials have 1 to {FIELDS_MAX}", fields.len()));
    }
    let fits = |name: &str| {
        (1..=FIELD_NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if fields.keys().any(|name| !fits(name)) {
        return Err(format!("the name of a field has 1 to {FIELD_NAME_MAX} letters, digits, `_`, `-` and `.`"));
    }
    match fields.iter().find(|(_, value)| value.is_empty()) {
        Some((name, _)) => Err(format!("the value of `{name}` is empty")),
        None => Ok(()),
    }
}
