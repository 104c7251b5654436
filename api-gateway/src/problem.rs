//! The one error of the REST interface: a stable code and a sentence. How it becomes a problem document is at the end.
//!
//! Domain code makes an [`ApiError`]; nothing else in the gateway decides on a status.

use axum::http::StatusCode;
use muster_schemas::{code::Code, job::JobError, names::NameError, wire::WireError};

/// What went wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct ApiError {
    /// The stable code.
    pub code: Code,
    /// What was wrong here, where, and what to do. It reaches the caller, so it holds no secret and no internals.
    pub detail: String,
}

impl ApiError {
    /// An error with its sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
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

/// The HTTP status of each code.
pub fn status(code: Code) -> StatusCode {
    match code {
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Unauthenticated | Code::TokenInvalid => StatusCode::UNAUTHORIZED,
        Code::Forbidden | Code::AgentRevoked => StatusCode::FORBIDDEN,
        Code::PoolNotFound | Code::JobNotFound | Code::AgentNotFound | Code::KeyNotFound | Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::JobFinished | Code::JobAmbiguous | Code::JobConflict | Code::NameTaken | Code::PoolNotEmpty => StatusCode::CONFLICT,
        Code::RateLimited | Code::QueueFull => StatusCode::TOO_MANY_REQUESTS,
        Code::BrokerUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}
