//! How the admin interface says no: problem documents, as the gateway's.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_schemas::{api::Problem, code::Code};

use crate::vault::VaultError;

/// A request that is not granted.
#[derive(Debug)]
pub(super) struct Refusal {
    code: Code,
    status: StatusCode,
    detail: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    /// With the status of its code. The detail reaches the caller: no secrets.
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        let status = match code {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::Forbidden => StatusCode::FORBIDDEN,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Code::VaultUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        Self { code, status, detail: detail.into(), retry_after: None }
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(super) fn retry_after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

impl From<VaultError> for Refusal {
    fn from(error: VaultError) -> Self {
        let code = match &error {
            VaultError::Content { .. } | VaultError::Full => Code::CredentialsInvalid,
            VaultError::Failed(_) => Code::Internal,
            VaultError::Closed(_) | VaultError::File(_) => Code::VaultUnavailable,
        };
        Self::new(code, muster_runtime::process::chain(&error.into()))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: format!("docs/errors/{}.md", self.code),
            title: self.code.meaning().into(),
            status: self.status.as_u16(),
            code: self.code,
            detail: self.detail,
            request_id: format!("req_{:016x}", rand::random::<u64>()),
        };
        tracing::info!(request_id = problem.request_id, code = %problem.code, detail = problem.detail, "refused a request to the admin interface");
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs() + u64::from(after.subsec_nanos() > 0)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"muster-agent\""));
        }
        response
    }
}
