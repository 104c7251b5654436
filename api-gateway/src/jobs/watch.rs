//! `GET /jobs/{id}/events`: a job's life as Server-Sent Events, from its first state change to its end, resumable at every event.
//!
//! | to find | look in |
//! |---|---|
//! | the ids of events, and where a watcher goes on | [`position`] |
//! | what is stored of a job, as events | [`past`] and [`show`] |
//! | the one reader of a watched job, and what it keeps for its watchers | [`topic`], [`follow`] |
//! | who watches what | [`hub`] |
//! | one watcher | [`watcher`] |
//!
//! Everything told is stored first, in `EVENTS` and `LOGS`, and is read from there by sequence. What the broker announces live is only a
//! hint to read, so it may be late, doubled or lost. An event's id names the last sequence told of each of the two streams: any gateway
//! can go on from it. However many watch a job, the gateway subscribes to its two subjects once and reads each message once; a watcher
//! that falls behind what is kept in memory reads for itself, at its own pace.

mod follow;
mod hub;
mod past;
mod position;
mod show;
mod topic;
mod watcher;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_schemas::{
    code::Code,
    names::{JobId, PoolName},
    records::Role,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::lookup::{self, Found};
use crate::{
    app::App,
    endpoint::{Access, Endpoint},
    extract::{Path, Query},
    problem::ApiError,
};

pub(crate) use hub::Hub;
use position::{From, LAST_EVENT_ID};

/// Tells a proxy of the nginx family to pass events on as they come.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The endpoint.
pub(crate) fn endpoint() -> Endpoint {
    Endpoint::get("/api/v1/jobs/{id}/events", Access::Role(Role::Viewer), watch)
        .about(
            "jobs",
            "Watch a job",
            "Server-Sent Events: `state` (the job, with `change` and `at`), `progress` (`percent`, `message`) and `log` (a chunk of output) \
             in order, from the first that is stored to a last `end` (the job with its result), after which the stream ends. A comment \
             comes every 15 s. A stream that broke off is resumed with the id of the last event, on any gateway; nothing is told twice.",
        )
        .query::<WatchQuery>()
        .header(LAST_EVENT_ID, "The id of the last event that was seen; browsers send it by themselves. Goes before `after`.")
        .answers_other(StatusCode::OK, "The events.", "text/event-stream")
        .answers_other(StatusCode::NO_CONTENT, "The last event was the `end`: there is nothing more, and no reason to connect again.", "")
        .codes(&[Code::NameInvalid, Code::JobNotFound, Code::JobAmbiguous, Code::RateLimited])
}

/// Query of a watch.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WatchQuery {
    /// The job's pool; needed only when several pools have a job of this id.
    pool: Option<String>,
    /// Only what comes behind the event with this id.
    after: Option<String>,
}

async fn watch(
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<WatchQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let from = From::asked(&headers, query.after.as_deref())?;
    let pool = query.pool.as_deref().map(str::parse::<PoolName>).transpose()?;
    let found = lookup::get(&app, &id, pool.as_ref()).await?;
    if from.ended && matches!(found, Found::Finished { .. }) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let seat = app.desk.watching.join(&app, &id, found)?;
    let events = watcher::Watcher::new(app, seat, from.position).into_stream();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (UNBUFFERED, HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}
