//! Query parameters as a flat struct; what is unknown or does not fit is `query_invalid`.

use axum::{extract::FromRequestParts, http::request::Parts};
use muster_schemas::code::Code;
use serde::de::DeserializeOwned;

use crate::problem::ApiError;

/// The query's parameters. Derive `deny_unknown_fields` on `T`: a filter that is misspelt must not mean all.
#[derive(Debug, Clone)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        axum::extract::Query::<T>::try_from_uri(&parts.uri).map(|query| Self(query.0)).map_err(|error| {
            ApiError::new(Code::QueryInvalid, std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        limit: Option<u32>,
        q: Option<String>,
    }

    async fn query(uri: &str) -> Result<Sample, ApiError> {
        let (mut parts, ()) = axum::http::Request::get(uri).body(()).unwrap().into_parts();
        Query::from_request_parts(&mut parts, &()).await.map(|query| query.0)
    }

    #[tokio::test]
    async fn a_parameter_that_is_unknown_doubled_or_out_of_range_is_refused() {
        for uri in ["/?x=1", "/?limit=-1", "/?limit=", "/?limit=5000000000", "/?limit=1&limit=2", "/?=1"] {
            assert_eq!(query(uri).await.unwrap_err().code, Code::QueryInvalid, "{uri}");
        }
        let sample = query("/?limit=7&q=a%20b").await.unwrap();
        assert_eq!((sample.limit, sample.q.as_deref()), (Some(7), Some("a b")));
    }
}
