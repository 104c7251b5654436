//! `/healthz`, `/readyz`, `/metrics`, and the task that keeps the checks behind `/readyz` up to date.
//!
//! The task also makes the broker's streams again where one is missing: those in memory are gone whenever the broker was started anew.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use muster_broker_config::provision;
use muster_runtime::{http::Readiness, nats};
use muster_schemas::topology;
use tower::ServiceExt as _;

use crate::{
    app::App,
    clock,
    endpoint::{Access, Endpoint},
    problem::ApiError,
    signing,
};

/// The checks.
pub(crate) const CHECKS: [&str; 6] = [BROKER, STREAMS, KEYS, AUDIT, signing::CHECK, clock::CHECK];
const BROKER: &str = "broker";
const STREAMS: &str = "streams";
const KEYS: &str = "keys";
/// Always holds: what was done is answered whether or not it could be written, and its detail says what waits to be.
const AUDIT: &str = "audit";

/// How often the checks are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Streams do not vanish often: every sixtieth look asks for them.
const LOOKS_PER_STREAM_CHECK: u32 = 60;

pub(crate) fn endpoints() -> Vec<Endpoint> {
    let ops = |path, summary, description, what, content_type| {
        Endpoint::get(path, Access::Public, forward).about("operations", summary, description).answers_other(
            StatusCode::OK,
            what,
            content_type,
        )
    };
    vec![
        ops("/healthz", "Whether the process lives", "Needs nothing but the process itself.", "It does.", "application/json"),
        ops(
            "/readyz",
            "Whether requests can be served",
            "503 with the failing check while the broker, its streams, the watch of keys or a key to sign jobs with is missing, or while its clock and the broker's differ by more than ten minutes.",
            "They can.",
            "application/json",
        )
        .answers_other(StatusCode::SERVICE_UNAVAILABLE, "They cannot; the failing check says why.", "application/json"),
        ops("/metrics", "Metrics in Prometheus form", "", "The metrics.", "text/plain; version=0.0.4"),
    ]
}

/// The runtime's own routes answer.
async fn forward(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    app.ops.clone().oneshot(request).await.map_err(|never| match never {})
}

/// Keeps the checks up to date, for ever.
pub(crate) async fn watch(app: App, readiness: Readiness) -> anyhow::Result<()> {
    let (mut looks, mut connects) = (0_u32, 0);
    loop {
        let status = app.broker.status();
        readiness.set(BROKER, if status.connected { version(&app) } else { Err("the broker is away".into()) });
        readiness.set(KEYS, if app.auth.listening() { Ok(()) } else { Err("changes of keys are not heard of".into()) });
        readiness.set(AUDIT, Ok(()));
        readiness.note(AUDIT, app.audit.state());
        readiness.set(signing::CHECK, app.signing.check());
        if !status.connected || status.connects != connects {
            looks = 0;
        }
        if status.connected {
            if looks.is_multiple_of(LOOKS_PER_STREAM_CHECK) {
                let streams = streams(&app).await;
                looks = u32::from(streams.is_ok());
                readiness.set(STREAMS, streams);
                clock::look(&app, &readiness).await;
            } else {
                looks += 1;
            }
            connects = status.connects;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn version(app: &App) -> Result<(), String> {
    let info = app.broker.server_info().ok_or("the broker has not introduced itself")?;
    nats::check_server_version(&info, nats::MIN_SERVER_VERSION).map_err(|error| error.to_string())
}

/// Looks for the streams, and makes them if one is missing.
async fn streams(app: &App) -> Result<(), String> {
    let Some(missing) = missing(app).await else { return Ok(()) };
    tracing::warn!(missing, "a stream of the broker is missing; making it");
    match provision::provision_fixed(&app.nats).await {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("{missing}, and cannot be made: {error}")),
    }
}

async fn missing(app: &App) -> Option<String> {
    let fixed = topology::fixed_streams().into_iter().map(|stream| stream.name);
    let buckets = topology::BUCKETS.iter().map(|bucket| topology::bucket_stream(bucket.name));
    for name in fixed.chain(buckets) {
        if let Err(error) = app.js.get_stream(&name).await {
            return Some(format!("the stream {name} is not there: {error}"));
        }
    }
    None
}
