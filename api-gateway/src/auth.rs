//! Who calls, and what they may do. Every endpoint's [`Access`] is enforced by [`gate`], before its handler sees the request.
//!
//! | to find | look in |
//! |---|---|
//! | checking a key or token against its record | [`check`] |
//! | remembering checked keys | [`cache`] |
//! | what becomes of a key while a request of it is open | [`life`] |
//! | requests that stay open | [`stay`] |
//! | how many password hashes at once | [`hashing`] |
//! | slowing down whoever guesses | [`tries`] |
//! | when keys were last used | [`uses`] |
//! | making keys and tokens | [`secret`] |

mod cache;
mod check;
mod hashing;
mod life;
pub(crate) mod secret;
mod stay;
mod tries;
mod uses;

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{Extensions, HeaderMap, header, request::Parts},
    middleware::Next,
    response::Response,
};
use muster_schemas::{
    api::JOIN_TOKEN_HEADER,
    audit::{Actor, ActorKind},
    code::Code,
    names::AgentId,
    records::{JoinTokenRecord, KeyOwner, Role},
    time::Timestamp,
};

pub(crate) use check::Auth;
pub(crate) use stay::Alive;
pub(crate) use uses::run as write_uses;

use life::Life;

use crate::{
    app::{App, Held},
    endpoint::Access,
    extract::Remote,
    problem::ApiError,
};

/// The other header that may carry an API key.
const API_KEY_HEADER: &str = "x-api-key";

/// What is known of a key that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) key_id: String,
    pub(crate) name: String,
    pub(crate) owner: KeyOwner,
    pub(crate) expires_at: Option<Timestamp>,
}

impl Known {
    /// Whose key it is, as the audit trail has it.
    fn actor(&self) -> Actor {
        match &self.owner {
            KeyOwner::Role(_) => Actor::new(ActorKind::Key, &self.key_id).named(&self.name),
            KeyOwner::Agent(id) => Actor::new(ActorKind::Agent, id.as_str()).named(&self.name),
        }
    }
}

/// Why a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the API key is wrong")]
    Wrong,
    #[error("the API key expired at {0}")]
    Expired(Timestamp),
    #[error("the API key was revoked")]
    Revoked,
}

impl Refusal {
    fn word(self) -> &'static str {
        match self {
            Self::Wrong => "wrong",
            Self::Expired(_) => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// Whoever showed an API key that is good. Handlers behind [`Access::Role`] can ask for it.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The key's id.
    pub(crate) key_id: String,
    /// The key's name, for people.
    pub(crate) name: String,
    /// What the key may do: at least what the endpoint takes.
    pub(crate) role: Role,
}

/// Whoever wants to join or come back as an agent, with the proof of it checked. Handlers behind [`Access::AgentOrToken`] can ask for it.
#[derive(Debug, Clone)]
pub(crate) enum Joiner {
    /// An agent with its own API key.
    Agent(AgentId),
    /// The holder of a join token that can be used. Using it up is left to the handler.
    Token(Held<JoinTokenRecord>),
}

macro_rules! from_gate {
    ($type:ident) => {
        impl<S: Sync> FromRequestParts<S> for $type {
            type Rejection = ApiError;
            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
                let found = parts.extensions.get::<Self>().cloned();
                found.ok_or_else(|| ApiError::internal("tell who calls", concat!("no ", stringify!($type), " behind this access")))
            }
        }
    };
}

from_gate!(Caller);
from_gate!(Joiner);

/// What stands before a handler.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) app: App,
    pub(crate) access: Access,
}

/// Lets in who may use the endpoint.
pub(crate) async fn gate(
    State(Gate { app, access }): State<Gate>,
    Remote(remote): Remote,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match access {
        Access::Public => {}
        Access::Role(needed) => {
            let key = api_key(request.headers())?.ok_or_else(|| {
                ApiError::new(
                    Code::Unauthenticated,
                    "an API key is needed: send the header `Authorization: Bearer mst_…` or `X-API-Key: mst_…`",
                )
            })?;
            let (known, life) = app.auth.key(key, remote, request.extensions()).await?;
            app.door.count_key(&known.key_id)?;
            let caller = allowed(&known, needed)?;
            request.extensions_mut().insert(caller);
            return stay::run(&app, &known.key_id, life, request, next).await;
        }
        Access::AgentOrToken => {
            let (joiner, held) = joiner(&app, request.headers(), request.extensions(), remote).await?;
            request.extensions_mut().insert(joiner);
            if let Some((known, life)) = held {
                return stay::run(&app, &known.key_id, life, request, next).await;
            }
        }
    }
    Ok(next.run(request).await)
}

fn allowed(known: &Known, needed: Role) -> Result<Caller, ApiError> {
    match known.owner {
        KeyOwner::Role(role) if role >= needed => Ok(Caller { key_id: known.key_id.clone(), name: known.name.clone(), role }),
        KeyOwner::Role(role) => {
            Err(ApiError::new(Code::Forbidden, format!("this takes the role {needed}; the key `{}` has the role {role}", known.name)))
        }
        KeyOwner::Agent(_) => {
            Err(ApiError::new(Code::Forbidden, format!("this takes the role {needed}; an agent's key is for registering only")))
        }
    }
}

/// Who wants to join, and of an agent its key and how long that is good.
async fn joiner(
    app: &App,
    headers: &HeaderMap,
    notes: &Extensions,
    remote: IpAddr,
) -> Result<(Joiner, Option<(Arc<Known>, Life)>), ApiError> {
    if let Some(token) = only(headers, JOIN_TOKEN_HEADER)? {
        let token = app.auth.token(token, remote, notes).await?;
        return Ok((Joiner::Token(token), None));
    }
    let key = api_key(headers)?.ok_or_else(|| {
        let needed =
            "a join token or an agent's key is needed: send the header `X-Agent-Token: mst_join_…` or `Authorization: Bearer mst_agent_…`";
        ApiError::new(Code::Unauthenticated, needed)
    })?;
    let (known, life) = app.auth.key(key, remote, notes).await?;
    app.door.count_key(&known.key_id)?;
    match &known.owner {
        KeyOwner::Agent(id) => Ok((Joiner::Agent(id.clone()), Some((Arc::clone(&known), life)))),
        KeyOwner::Role(_) => Err(ApiError::new(Code::Forbidden, "this takes a join token or an agent's key, not a person's or service's")),
    }
}

/// The join token or API key that a registration is sent with, as the gate has checked it.
pub(crate) fn credential(headers: &HeaderMap) -> Result<&str, ApiError> {
    let given = match only(headers, JOIN_TOKEN_HEADER)? {
        Some(token) => Some(token),
        None => api_key(headers)?,
    };
    given.ok_or_else(|| ApiError::internal("tell who registers", "the gate let a request in without a credential"))
}

/// The API key in the headers, if any.
fn api_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let bearer = only(headers, header::AUTHORIZATION.as_str())?.map(|value| {
        let (scheme, key) = value.split_once(' ').unwrap_or((value, ""));
        let bearer = scheme.eq_ignore_ascii_case("bearer").then_some(key.trim());
        bearer.ok_or_else(|| ApiError::new(Code::Unauthenticated, "the header Authorization has to be `Bearer mst_…`"))
    });
    match (bearer.transpose()?, only(headers, API_KEY_HEADER)?) {
        (Some(_), Some(_)) => Err(ApiError::new(Code::HeaderInvalid, "send the key in Authorization or in X-API-Key, not in both")),
        (one, other) => Ok(one.or(other)),
    }
}

/// The value of a header that may come once. Two of them could be read differently by whoever stands before us.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text =
                value.to_str().map_err(|_| ApiError::new(Code::HeaderInvalid, format!("the header {name} holds bytes that are no text")));
            text.map(Some)
        }
        (Some(_), Some(_)) => Err(ApiError::new(Code::HeaderInvalid, format!("the header {name} may come once"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_key_comes_in_either_header_but_only_once() {
        assert_eq!(api_key(&headers(&[])), Ok(None));
        assert_eq!(api_key(&headers(&[("authorization", "Bearer k")])), Ok(Some("k")));
        assert_eq!(api_key(&headers(&[("authorization", "bearer  k ")])), Ok(Some("k")));
        assert_eq!(api_key(&headers(&[("x-api-key", "k")])), Ok(Some("k")));
        for twice in [[("authorization", "Bearer k"), ("x-api-key", "k")], [("x-api-key", "k"), ("x-api-key", "k")]] {
            assert_eq!(api_key(&headers(&twice)).unwrap_err().code, Code::HeaderInvalid);
        }
        assert_eq!(api_key(&headers(&[("authorization", "Basic k")])).unwrap_err().code, Code::Unauthenticated);
    }

    #[test]
    fn a_larger_role_is_let_in_and_a_smaller_one_learns_which_is_needed() {
        let known = |owner| Known { key_id: "key_1".into(), name: "ci".into(), owner, expires_at: None };
        assert!(allowed(&known(KeyOwner::Role(Role::Admin)), Role::Operator).is_ok());
        let refused = allowed(&known(KeyOwner::Role(Role::Viewer)), Role::Operator).unwrap_err();
        assert_eq!(refused.code, Code::Forbidden);
        assert!(refused.detail.contains("the role operator"), "{}", refused.detail);
        let agent = KeyOwner::Agent(AgentId::generate());
        assert_eq!(allowed(&known(agent), Role::Viewer).unwrap_err().code, Code::Forbidden);
    }
}
