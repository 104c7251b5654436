//! The endpoints that every process has: `/healthz`, `/readyz`, `/metrics`.
//!
//! A router to merge into a process's own, and a small server for those that have none. It knows
//! names of checks, never what they mean, and asks for no authentication: bind it where only
//! operators get.

mod readiness;
mod usage;

pub use readiness::Readiness;

use std::io;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;

use crate::shutdown::Shutdown;

/// What the endpoints show; clones share it.
#[derive(Debug, Clone)]
pub struct Ops {
    readiness: Readiness,
    registry: Registry,
    usage: usage::Usage,
}

impl Ops {
    /// Shows these checks, these metrics, and the process's own figures (memory, CPU, open files).
    #[must_use]
    pub fn new(readiness: Readiness, registry: Registry) -> Self {
        Self { readiness, registry, usage: usage::Usage::new() }
    }

    /// The three routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/healthz", get(async || Json(serde_json::json!({ "status": "alive" }))))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }
}

/// Serves a router until the shutdown is requested and open requests are done.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown.requested_owned()).await
}

async fn ready(State(ops): State<Ops>) -> Response {
    let report = ops.readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let mut families = ops.registry.gather();
    families.extend(ops.usage.gather());
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "can't write the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::metrics::Metrics;

    async fn fetch(ops: &Ops, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = ops.router().oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_process_is_alive_even_when_it_is_not_ready() {
        let readiness = Readiness::new(["broker"]);
        let ops = Ops::new(readiness.clone(), Registry::new());
        assert_eq!(fetch(&ops, "/healthz").await.0, StatusCode::OK);

        let (status, body) = fetch(&ops, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains(r#""broker":{"ok":false,"detail":"starting"}"#), "{body}");

        readiness.set("broker", Ok(()));
        let (status, body) = fetch(&ops, "/readyz").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, r#"{"ready":true,"checks":{"broker":{"ok":true}}}"#);
    }

    #[tokio::test]
    async fn metrics_show_own_figures_and_those_of_the_process() {
        let own = Metrics::new();
        own.counter("muster_jobs_total", "Jobs.").unwrap().inc();
        let ops = Ops::new(Readiness::new([]), own.registry().clone());
        let (status, body) = fetch(&ops, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("\nmuster_jobs_total 1\n"), "{body}");
        for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
            let line = body.lines().find(|line| line.starts_with(name)).unwrap();
            let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value > 0.0, "{line}");
        }
    }

    #[tokio::test]
    async fn a_server_ends_when_the_shutdown_is_requested() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ops = Ops::new(Readiness::new([]), Registry::new());
        let shutdown = Shutdown::new();
        let group = crate::tasks::Group::new("server");
        let server = group.spawn(serve(listener, ops.router(), shutdown.clone()));
        shutdown.trigger("test");
        server.await.unwrap().unwrap();
    }
}
