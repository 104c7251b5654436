//! Limits of a request's head: how long its line and its headers may be, and what must not be in it.
//!
//! The HTTP server below has limits of its own, which are wider: what is over those is refused by it, with the same status and without a
//! document (more than 100 headers, or a head of more than 32 KiB).

use axum::http::{HeaderMap, Uri, header};
use muster_schemas::code::Code;

use crate::problem::ApiError;

/// The most bytes of path and query. The longest query that means anything, a list with all its filters, has some 2 KiB.
const TARGET_MAX: usize = 8 * 1024;
/// The most headers. Browsers behind two proxies send about thirty.
const HEADERS_MAX: usize = 64;
/// The most bytes of all headers, names and values.
const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// Refuses a head that is too large, or that two readers could take for two different requests.
pub(super) fn check(target: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let too_large = |what: String| Err(ApiError::new(Code::HeadTooLarge, what));
    let length = target.path().len() + target.query().map_or(0, |query| query.len() + 1);
    if length > TARGET_MAX {
        return too_large(format!("path and query have {length} bytes; the limit is {TARGET_MAX}"));
    }
    if headers.len() > HEADERS_MAX {
        return too_large(format!("the request has {} headers; the limit is {HEADERS_MAX}", headers.len()));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > HEADERS_BYTES_MAX {
        return too_large(format!("the headers have {bytes} bytes; the limit is {HEADERS_BYTES_MAX}"));
    }
    // A proxy that goes by the other one would see a second request where we see a body.
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        return Err(ApiError::new(Code::HeaderInvalid, "send Content-Length or Transfer-Encoding, not both"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn code(target: &str, headers: &[(String, String)]) -> Option<Code> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
        }
        check(&target.parse().unwrap(), &map).err().map(|error| error.code)
    }

    #[test]
    fn each_limit_is_exact() {
        let target = |length: usize| format!("/?{}", "a".repeat(length - 2));
        assert_eq!(code(&target(TARGET_MAX), &[]), None);
        assert_eq!(code(&target(TARGET_MAX + 1), &[]), Some(Code::HeadTooLarge));
        let many = |count: usize| (0..count).map(|_| ("x".to_owned(), "1".to_owned())).collect::<Vec<_>>();
        assert_eq!(code("/", &many(HEADERS_MAX)), None);
        assert_eq!(code("/", &many(HEADERS_MAX + 1)), Some(Code::HeadTooLarge));
        let long = |bytes: usize| vec![("x".to_owned(), "1".repeat(bytes - 1))];
        assert_eq!(code("/", &long(HEADERS_BYTES_MAX)), None);
        assert_eq!(code("/", &long(HEADERS_BYTES_MAX + 1)), Some(Code::HeadTooLarge));
    }

    #[test]
    fn a_body_has_one_length() {
        let both = [("content-length", "3"), ("transfer-encoding", "chunked")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(code("/", &both), Some(Code::HeaderInvalid));
        assert_eq!(code("/", &both[..1]), None);
        assert_eq!(code("/", &both[1..]), None);
    }
}
