//! A JSON body, read under a cap and checked in this order: type of content, size, depth, syntax, fields.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, OptionalFromRequest, Request},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use muster_schemas::{
    code::Code,
    job,
    wire::{self, WireError},
};
use serde::de::DeserializeOwned;

use crate::{auth::Alive, problem::ApiError};

/// The cap of a body unless its endpoint says otherwise, in bytes.
pub(crate) const BODY_LIMIT: usize = 64 * 1024;
/// The cap of a job to submit: the message's own cap and room for pool, priority, id and the spacing of JSON.
pub(crate) const JOB_LIMIT: usize = job::LIMIT + 16 * 1024;
/// The cap of a batch, in bytes.
pub(crate) const BATCH_LIMIT: usize = 16 * 1024 * 1024;

/// How long a body may take to arrive. A caller that drips its bytes must not hold a connection for ever.
const ARRIVAL: Duration = Duration::from_secs(30);

/// A JSON object of at most `LIMIT` bytes. Derive `deny_unknown_fields` on `T`, so that a typing error does not pass in silence.
#[derive(Debug)]
pub(crate) struct Json<T, const LIMIT: usize = BODY_LIMIT>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync, const LIMIT: usize> FromRequest<S> for Json<T, LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        expect_json(request.headers())?;
        let alive = request.extensions().get::<Alive>().cloned();
        let bytes = read(request.into_body(), LIMIT).await?;
        // A body may take its time. What arrives after its key was revoked is not done any more.
        alive.map_or(Ok(()), |alive| alive.check())?;
        parse(&bytes).map(Self)
    }
}

/// No body at all is `None`.
impl<T: DeserializeOwned, S: Sync, const LIMIT: usize> OptionalFromRequest<S> for Json<T, LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, ApiError> {
        if hyper::body::Body::is_end_stream(request.body()) {
            return Ok(None);
        }
        <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
    }
}

fn expect_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let essence = given.and_then(|given| given.split(';').next()).map(str::trim);
    if essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    let found = given.map_or("there is none".to_owned(), |given| format!("it is `{}`", given.escape_default()));
    Err(ApiError::new(Code::HeaderInvalid, format!("the header Content-Type has to be application/json; {found}")))
}

async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = |size: Option<u64>| {
        let size = size.map_or("more".to_owned(), |size| size.to_string());
        ApiError::new(Code::BodyTooLarge, format!("the body has {size} bytes; the limit here is {limit}"))
    };
    // What the caller declares is refused before a byte of it is read.
    let declared = hyper::body::Body::size_hint(&body).lower();
    if declared > limit as u64 {
        return Err(too_large(Some(declared)));
    }
    match tokio::time::timeout(ARRIVAL, Limited::new(body, limit).collect()).await {
        Err(_) => Err(ApiError::new(Code::BodyMalformed, format!("the body did not arrive within {} seconds", ARRIVAL.as_secs()))),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large(None)),
        Ok(Err(_)) => Err(ApiError::new(Code::BodyMalformed, "the body was cut short")),
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
    }
}

/// Parses a JSON object.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // Without this a struct would also be read from an array, field by field.
    if !wire::is_json(bytes) {
        let what = if bytes.iter().all(u8::is_ascii_whitespace) { "the body is empty" } else { "the body does not start with {" };
        return Err(ApiError::new(Code::BodyMalformed, format!("{what}; a JSON object is needed")));
    }
    wire::scan::json(bytes)?;
    if let Err(error) = std::str::from_utf8(bytes) {
        return Err(WireError::Malformed(format!("no UTF-8 at byte {}", error.valid_up_to())).into());
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let error = error.to_string();
        // The category `Data` means well-formed JSON that does not fit the type.
        if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
            ApiError::new(Code::FieldInvalid, format!("a field of the body does not fit: {error}"))
        } else {
            WireError::Malformed(error).into()
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::api::Submit;

    use super::*;

    fn code(body: &[u8]) -> Code {
        parse::<Submit>(body).unwrap_err().code
    }

    #[test]
    fn syntax_and_fields_are_told_apart() {
        for body in [&b""[..], b"  \n", b"[]", b"null", b"{", b"{\"pool\":}", b"{\"pool\":\"p\"} x", b"{\"pool\":\"\xff\"}"] {
            assert_eq!(code(body), Code::BodyMalformed, "{}", String::from_utf8_lossy(body));
        }
        for body in [&b"{}"[..], b"{\"pool\":1,\"type\":\"a.b\"}", b"{\"pool\":\"p\",\"type\":\"a.b\",\"timeout\":3}"] {
            assert_eq!(code(body), Code::FieldInvalid, "{}", String::from_utf8_lossy(body));
        }
        assert!(parse::<Submit>(b" {\"pool\":\"p\",\"type\":\"a.b\"}\n").is_ok());
    }

    #[test]
    fn a_misfit_says_where_it_is() {
        let error = parse::<Submit>(b"{\"pool\":\"p\",\"type\":\"a.b\",\"tiemout_s\":3}").unwrap_err();
        assert!(error.detail.contains("tiemout_s") && error.detail.contains("column"), "{}", error.detail);
    }

    #[test]
    fn a_body_too_deep_is_refused_before_it_is_parsed() {
        assert_eq!(code(format!("{{\"params\":{}", "[".repeat(100_000)).as_bytes()), Code::BodyTooDeep);
    }

    #[tokio::test]
    async fn a_body_over_its_cap_is_refused_whatever_it_declares() {
        let declared = read(Body::from(vec![b' '; 11]), 10).await.unwrap_err();
        assert_eq!(declared.code, Code::BodyTooLarge);
        let chunks = futures_util::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"  "))));
        let streamed = read(Body::from_stream(chunks), 10).await.unwrap_err();
        assert_eq!(streamed.code, Code::BodyTooLarge);
        assert_eq!(read(Body::from(vec![b' '; 10]), 10).await.unwrap().len(), 10);
    }
}
