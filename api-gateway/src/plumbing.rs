//! Around every request: its id, its trace and span, its figures, and the writing of problem documents.
//!
//! Nothing below it decides how an error looks: handlers return an [`ApiError`], and whatever else goes wrong (an unknown path, an
//! unknown method, a panic) becomes one here.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt as _;
use muster_runtime::trace::{TRACEPARENT, TraceContext};
use muster_schemas::code::Code;
use tracing::Instrument as _;

use crate::{
    app::App,
    audit::Actions,
    extract::{Remote, RequestId, Trace},
    problem::{ApiError, PROBLEM_JSON},
};

const REQUEST_ID: &str = "x-request-id";

/// The route label of what matched none: paths from outside must not become metric labels.
const UNMATCHED: &str = "unmatched";

/// The outermost layer.
pub(crate) async fn around(State((app, actions)): State<(App, Actions)>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let trace = TraceContext::from_header(request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok()));
    let method = request.method().clone();
    let route: Arc<str> = request.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str).into();
    let span = muster_runtime::span!(
        trace,
        "request",
        request_id = &*id,
        method = %method,
        route = &*route,
        status = tracing::field::Empty,
        ms = tracing::field::Empty
    );
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    request.extensions_mut().insert(Trace(trace));

    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);

    app.figures.running.inc();
    let _running = Running(&app);
    async {
        let mut response = match app.door.enter(&mut request) {
            Ok(()) => caught(next.run(request)).await,
            Err(error) => {
                let remote = request.extensions().get::<Remote>().copied();
                actions.write(&app, &method, &route, remote, RequestId(Arc::clone(&id)), error.code).await;
                error.into_response()
            }
        };
        finish(&mut response, &id);
        // A body in chunks may have come with a length as well, which the server below has dropped then. Whoever stands before us and
        // went by that would take the rest for another request; no request follows on this connection.
        if chunked {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        report(&app, &method, &route, response.status(), started.elapsed());
        response
    }
    .instrument(span)
    .await
}

/// Counts down also when the caller goes away and the request is dropped half-way.
struct Running<'a>(&'a App);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.figures.running.dec();
    }
}

/// A panic in a handler costs its own request and nothing else.
async fn caught(response: impl Future<Output = Response>) -> Response {
    AssertUnwindSafe(response).catch_unwind().await.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        ApiError::internal("answer", format!("panic: {}", what.unwrap_or("?"))).into_response()
    })
}

/// Takes the caller's id over when it can go into logs and headers as it is.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let fit = |text: &&str| {
        (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(fit);
    given.map_or_else(|| format!("req_{:032x}", rand::random::<u128>()).into(), Into::into)
}

/// Writes the problem document of a failed request, and the headers that every answer has.
fn finish(response: &mut Response, id: &str) {
    let error = response.extensions_mut().remove::<ApiError>().or_else(|| foreign(response));
    if let Some(error) = error {
        let body = serde_json::to_vec(&error.problem(id)).unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response.headers_mut().remove(header::CONTENT_LENGTH);
        tracing::debug!(code = %error.code, detail = error.detail, "refused");
        *response.body_mut() = Body::from(body);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Answers hold what a key may see; a shared cache on the way must not keep them.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// An error response that no handler of ours made.
fn foreign(response: &Response) -> Option<ApiError> {
    let status = response.status();
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if json || !(status.is_client_error() || status.is_server_error()) {
        return None;
    }
    Some(match status {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(Code::BodyTooLarge, "the body is too large"),
        StatusCode::NOT_FOUND => ApiError::new(Code::NotFound, "there is nothing at this path; /openapi.json lists what there is"),
        StatusCode::METHOD_NOT_ALLOWED => ApiError::new(Code::MethodNotAllowed, "this path does not take that method"),
        status if status.is_client_error() => ApiError::new(Code::HeaderInvalid, format!("the request was refused with {status}")),
        status => ApiError::internal("answer", format!("a handler answered {status} without saying why")),
    })
}

fn report(app: &App, method: &Method, route: &str, status: StatusCode, took: Duration) {
    // A method is the caller's own text: only the known ones become labels.
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let method = if known.contains(method) { method.as_str() } else { "other" };
    app.figures.requests.with([method, route, status.as_str()]).inc();
    app.figures.seconds.with([route]).observe(took.as_secs_f64());
    let ms = took.as_secs_f64() * 1000.0;
    tracing::Span::current().record("status", status.as_u16()).record("ms", ms);
    tracing::debug!(status = status.as_u16(), ms, "answered");
}

/// The answer where no route matches.
pub(crate) async fn not_found() -> ApiError {
    ApiError::new(Code::NotFound, "there is nothing at this path; /openapi.json lists what there is")
}

/// The answer where a route matches, but not for the method. The header `Allow` is set by the router.
pub(crate) async fn method_not_allowed(method: Method) -> ApiError {
    ApiError::new(Code::MethodNotAllowed, format!("this path does not take {method}; the header Allow lists what it takes"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
    use http_body_util::BodyExt as _;
    use muster_schemas::api::Problem;

    use super::*;

    async fn problem(mut response: Response) -> Problem {
        finish(&mut response, "req_1");
        assert_eq!(response.headers().get(header::CONTENT_TYPE).unwrap(), PROBLEM_JSON);
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_problem_that_does_not_say_what_the_panic_said() {
        let answer = problem(caught(async { panic!("secret") }).await).await;
        assert_eq!((answer.code, answer.status, answer.request_id.as_str()), (Code::Internal, 500, "req_1"));
        assert!(!answer.detail.contains("secret"));
    }

    #[tokio::test]
    async fn an_error_in_plain_text_becomes_a_problem_and_one_in_json_stays() {
        let foreign = problem((StatusCode::PAYLOAD_TOO_LARGE, "length limit exceeded").into_response()).await;
        assert_eq!((foreign.code, foreign.status), (Code::BodyTooLarge, 413));
        let mut own = (StatusCode::SERVICE_UNAVAILABLE, axum::Json(serde_json::json!({"ready": false}))).into_response();
        finish(&mut own, "req_1");
        assert_eq!(own.headers().get(header::CONTENT_TYPE).unwrap(), "application/json");
    }

    #[test]
    fn a_request_id_is_taken_over_only_when_it_is_plain() {
        let given = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(text.as_bytes()).unwrap());
            request_id(&headers)
        };
        assert_eq!(&*given("abc-1_2.3"), "abc-1_2.3");
        for unfit in ["", "a b", "é", "a\"b", &"a".repeat(65)] {
            assert!(given(unfit).starts_with("req_"), "{unfit}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
