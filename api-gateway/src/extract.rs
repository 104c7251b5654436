//! What handlers ask for: bodies, queries, path parameters and facts of the request, each refused as a problem when it does not fit.
//!
//! Use these and not axum's own: theirs refuse in plain text, accept unknown fields and read before they count.

mod json;
mod query;

use std::{convert::Infallible, net::IpAddr, str::FromStr, sync::Arc};

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use muster_runtime::trace::TraceContext;
use muster_schemas::code::Code;

use crate::problem::ApiError;

pub(crate) use json::{BATCH_LIMIT, JOB_LIMIT, Json};
pub(crate) use query::Query;

/// The request's id: the caller's own `X-Request-Id` when it is fit, else a made one. In every answer, problem and log line.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

/// The caller's address: the other end of the connection, or what a trusted proxy there says; see [`crate::door::proxy`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote(pub(crate) IpAddr);

/// The request's trace: put it into the headers of what is published for the request.
#[derive(Debug, Clone)]
pub(crate) struct Trace(pub(crate) TraceContext);

macro_rules! from_extensions {
    ($type:ident, $otherwise:expr) => {
        impl<S: Sync> FromRequestParts<S> for $type {
            type Rejection = Infallible;
            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
                Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else($otherwise))
            }
        }
    };
}

// The plumbing puts all three into every request; the fallbacks are for handlers called without it, in tests.
from_extensions!(RequestId, || RequestId("".into()));
from_extensions!(Remote, || Remote(IpAddr::from([0, 0, 0, 0])));
from_extensions!(Trace, || Trace(TraceContext::new_root()));

/// The path's only parameter, parsed.
#[derive(Debug, Clone)]
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Sync + Send, T: FromStr<Err: Into<ApiError>>> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state).await.ok();
        let Some((_, text)) = params.as_ref().and_then(|params| params.iter().next()) else {
            return Err(ApiError::new(Code::NameInvalid, "the path holds bytes that are not UTF-8"));
        };
        text.parse().map(Self).map_err(Into::into)
    }
}
