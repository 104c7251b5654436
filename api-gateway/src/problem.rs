//! The one error of the REST interface: a stable code and a sentence. How it becomes a problem document is at the end.
//!
//! Domain code makes an [`ApiError`]; nothing else in the gateway decides on a status. The document itself is written by
//! [`crate::plumbing`], which knows the request's id.

use std::{fmt::Display, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_schemas::{api::Problem, audit::AuditOutcome, code::Code, job::JobError, names::NameError, wire::WireError};

/// The MIME type of a problem document (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The most characters of a detail: it may quote what the caller sent.
const DETAIL_MAX: usize = 600;

/// What went wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct ApiError {
    /// The stable code.
    pub code: Code,
    /// What was wrong here, where, and what to do. It reaches the caller, so it holds no secret and no internals.
    pub detail: String,
    /// After how long the same request may work.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error with its sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after: None }
    }

    /// The same, with the time after which to try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The broker did not do what it was asked. `error` goes to the log, and only `doing` ("store the job") to the caller.
    pub fn broker(doing: &str, error: impl Display) -> Self {
        tracing::warn!(%error, "the broker failed to {doing}");
        Self::new(Code::BrokerUnavailable, format!("the broker did not {doing} in time; try again")).retry_after(Duration::from_secs(1))
    }

    /// Something failed on our side. `error` goes to the log only.
    pub fn internal(doing: &str, error: impl Display) -> Self {
        tracing::error!(%error, "failed to {doing}");
        Self::new(Code::Internal, format!("failed to {doing}; the gateway's log has the details under this request's id"))
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        status(self.code)
    }

    /// What came of it, for the audit trail.
    pub(crate) fn outcome(&self) -> AuditOutcome {
        if self.status().is_server_error() { AuditOutcome::Failed } else { AuditOutcome::Refused }
    }

    /// The document that the caller gets.
    pub fn problem(&self, request_id: &str) -> Problem {
        Problem {
            kind: format!("docs/errors/{}.md", self.code),
            title: self.code.meaning().into(),
            status: self.status().as_u16(),
            code: self.code,
            detail: self.detail.chars().take(DETAIL_MAX).collect(),
            request_id: request_id.into(),
        }
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        Self::new(Code::NameInvalid, error.to_string())
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<WireError> for ApiError {
    fn from(error: WireError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// A response without a body, which carries the error along until the request's id is known.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        // "Too many" and "not now" pass: who is told neither when nor whether to come back comes back at once.
        let passes = matches!(self.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if let Some(after) = self.retry_after.or(passes.then_some(Duration::from_secs(1))) {
            // Whole seconds, rounded up: at zero a caller would come back too early.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs() + u64::from(after.subsec_nanos() > 0)));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"muster\""));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The HTTP status of each code.
pub fn status(code: Code) -> StatusCode {
    match code {
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Code::Unauthenticated | Code::TokenInvalid => StatusCode::UNAUTHORIZED,
        Code::Forbidden | Code::AgentRevoked | Code::KeyRevoked => StatusCode::FORBIDDEN,
        Code::PoolNotFound
        | Code::JobNotFound
        | Code::AgentNotFound
        | Code::KeyNotFound
        | Code::DeadLetterNotFound
        | Code::ScheduleNotFound
        | Code::GroupNotFound
        | Code::SignerNotFound
        | Code::ConnectionNotFound
        | Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::JobFinished
        | Code::JobNotFinished
        | Code::BodyNotKept
        | Code::JobAmbiguous
        | Code::JobConflict
        | Code::LastAdminKey
        | Code::NameTaken
        | Code::NoAgentMatches
        | Code::GroupFinished
        | Code::AgentBusy
        | Code::ConnectionExists
        | Code::ConnectionUndelivered
        | Code::RevisionConflict
        | Code::PoolNotEmpty => StatusCode::CONFLICT,
        Code::RateLimited | Code::QueueFull => StatusCode::TOO_MANY_REQUESTS,
        Code::BrokerUnavailable | Code::HistoryUnavailable | Code::SettlePending | Code::SigningUnavailable | Code::VaultUnavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::AgentSilent => StatusCode::GATEWAY_TIMEOUT,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_status_of_an_error() {
        for code in Code::ALL {
            let status = status(*code);
            assert!(status.is_client_error() || status.is_server_error(), "{code}: {status}");
        }
    }

    #[test]
    fn a_caller_who_is_put_off_learns_for_how_long_and_one_without_a_key_learns_how_to_show_it() {
        let header = |error: ApiError, name: header::HeaderName| error.into_response().headers().get(name).cloned();
        let limited = ApiError::new(Code::RateLimited, "x");
        assert_eq!(
            header(limited.clone().retry_after(Duration::from_millis(2_100)), header::RETRY_AFTER),
            Some(HeaderValue::from_static("3"))
        );
        assert_eq!(header(limited, header::RETRY_AFTER), Some(HeaderValue::from_static("1")));
        assert_eq!(header(ApiError::new(Code::NotFound, "x"), header::RETRY_AFTER), None);
        assert!(header(ApiError::new(Code::Unauthenticated, "x"), header::WWW_AUTHENTICATE).is_some());
    }

    #[test]
    fn what_went_wrong_inside_does_not_reach_the_caller() {
        for error in [ApiError::broker("store the job", "secret"), ApiError::internal("store the job", "secret")] {
            assert!(!error.problem("req_1").detail.contains("secret"));
        }
        assert_eq!(ApiError::new(Code::NotFound, "x".repeat(5_000)).problem("req_1").detail.len(), DETAIL_MAX);
    }
}
