//! Endpoints of schedules: what each takes, answers and refuses.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use muster_schemas::{
    api::{JobView, Many, One, PutSchedule, ScheduleView},
    code::Code,
    names::{PoolName, ScheduleName},
    records::Role,
    schedule::{ScheduleRecord, keys},
    subjects::js,
    time::Timestamp,
    topology::{SCHEDULES_BUCKET, bucket_stream},
    wire,
};

use super::{put, view};
use crate::{
    app::App,
    connections::named,
    endpoint::{Access, Endpoint},
    extract::{JOB_LIMIT, Json, Path, Query, Trace},
    jobs::{JOB_CODES, order::Order, place},
    page::{self, ListQuery},
    problem::ApiError,
    stored,
};

/// How many schedules are looked at side by side for a list.
const AT_ONCE: usize = 8;
/// Records that one request to the broker asks for.
const BATCH: usize = 500;

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::put("/api/v1/schedules/{name}", Access::Role(Role::Operator), save)
            .about(
                "schedules",
                "Make a schedule, or put another one in its place",
                "Exactly one of `cron`, `every` and `at`. The job is checked as in a submit. Each firing makes one job, with the id `<name>-<time of the firing>`. Firings go on as they did unless their times change.",
            )
            .body::<PutSchedule>()
            .answers::<One<ScheduleView>>(StatusCode::OK, "The schedule as it is now.")
            .answers::<One<ScheduleView>>(StatusCode::CREATED, "The schedule is made.")
            .codes(JOB_CODES)
            .codes(named::CODES)
            .codes(&[Code::ScheduleInvalid])
            .audited("schedules.put"),
        Endpoint::get("/api/v1/schedules", Access::Role(Role::Viewer), list)
            .about("schedules", "List schedules", "By name.")
            .query::<ListQuery>()
            .answers::<Many<ScheduleView>>(StatusCode::OK, "A page of schedules."),
        Endpoint::get("/api/v1/schedules/{name}", Access::Role(Role::Viewer), get)
            .about("schedules", "Look up a schedule", "With its next five firings, and what became of the last one.")
            .answers::<One<ScheduleView>>(StatusCode::OK, "The schedule.")
            .codes(NAMED),
        Endpoint::delete("/api/v1/schedules/{name}", Access::Role(Role::Operator), delete)
            .about("schedules", "Delete a schedule", "Jobs that it has made stay.")
            .answers_other(StatusCode::NO_CONTENT, "The schedule is gone.", "")
            .codes(NAMED)
            .audited("schedules.delete"),
        Endpoint::post("/api/v1/schedules/{name}/pause", Access::Role(Role::Operator), pause)
            .about("schedules", "Pause a schedule", "It does not fire until it is resumed. Pausing a paused one changes nothing.")
            .answers::<One<ScheduleView>>(StatusCode::OK, "The schedule.")
            .codes(NAMED)
            .audited("schedules.pause"),
        Endpoint::post("/api/v1/schedules/{name}/resume", Access::Role(Role::Operator), resume)
            .about("schedules", "Resume a schedule", "What would have fired during the pause is not made up for. An interval starts anew.")
            .answers::<One<ScheduleView>>(StatusCode::OK, "The schedule.")
            .codes(NAMED)
            .audited("schedules.resume"),
        Endpoint::post("/api/v1/schedules/{name}/trigger", Access::Role(Role::Operator), trigger)
            .about(
                "schedules",
                "Run a schedule's job now",
                "Whatever its overlap policy, and while it is paused too. It is no firing: the next ones take no notice of it.",
            )
            .answers::<One<JobView>>(StatusCode::ACCEPTED, "The job is in its pool's queue.")
            .codes(NAMED)
            .codes(&[Code::PoolNotFound, Code::TypeUnknown, Code::ParamsInvalid, Code::QueueFull])
            .codes(named::CODES)
            .audited("schedules.trigger"),
    ]
}

/// What a path with a schedule's name can answer.
const NAMED: &[Code] = &[Code::NameInvalid, Code::ScheduleNotFound];

async fn one(app: &App, record: ScheduleRecord) -> Result<axum::Json<One<ScheduleView>>, ApiError> {
    Ok(axum::Json(One { data: view::view(app, record).await? }))
}

async fn save(
    State(app): State<App>,
    Path(name): Path<ScheduleName>,
    Json(mut body): Json<PutSchedule, JOB_LIMIT>,
) -> Result<Response, ApiError> {
    named::settle_pool(&app, &mut body.job).await?;
    let wanted = put::Wanted::check(body, Timestamp::now())?;
    let (record, new) = put::put(&app, &name, &wanted).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, one(&app, record).await?).into_response())
}

async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<axum::Json<Many<ScheduleView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let after = query.cursor.as_deref().map(page::Cursor::decode).transpose()?;
    let mut records = all(&app).await?;
    records.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let behind = records.into_iter().filter(|record| after.as_deref().is_none_or(|after| record.name.as_str() > after));
    let page = page::cut(behind, limit, |record| record.name.to_string());
    let views = stream::iter(page.data).map(|record| {
        let app = app.clone();
        async move { view::view(&app, record).await }
    });
    let data = views.buffered(AT_ONCE).try_collect().await?;
    Ok(axum::Json(Many { data, meta: page.meta }))
}

/// Every schedule's record. One that can't be read is left out, and the log says so.
async fn all(app: &App) -> Result<Vec<ScheduleRecord>, ApiError> {
    let (stream, filter) = (bucket_stream(SCHEDULES_BUCKET), js::key(SCHEDULES_BUCKET, keys::DEFINITIONS));
    let (mut records, mut from) = (Vec::new(), 1);
    loop {
        let held = stored::from(&app.nats, &stream, &filter, from, BATCH).await;
        let held = held.map_err(|error| error.while_doing("read the schedules"))?;
        from = held.last().map_or(from, |last| last.sequence + 1);
        // A deleted one is empty.
        for held in held.iter().filter(|held| !held.payload.is_empty()) {
            match wire::decode::<ScheduleRecord>(&held.payload) {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!(key = held.subject, %error, "a schedule's record can't be read"),
            }
        }
        if held.len() < BATCH {
            return Ok(records);
        }
    }
}

/// How many schedules submit to this pool, paused ones too.
pub(crate) async fn naming(app: &App, pool: &PoolName) -> Result<u64, ApiError> {
    Ok(all(app).await?.iter().filter(|record| record.pool == *pool).count() as u64)
}

async fn get(State(app): State<App>, Path(name): Path<ScheduleName>) -> Result<axum::Json<One<ScheduleView>>, ApiError> {
    one(&app, put::find(&app, &name).await?.record).await
}

async fn delete(State(app): State<App>, Path(name): Path<ScheduleName>) -> Result<StatusCode, ApiError> {
    put::delete(&app, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(State(app): State<App>, Path(name): Path<ScheduleName>) -> Result<axum::Json<One<ScheduleView>>, ApiError> {
    one(&app, put::pause(&app, &name, true).await?).await
}

async fn resume(State(app): State<App>, Path(name): Path<ScheduleName>) -> Result<axum::Json<One<ScheduleView>>, ApiError> {
    one(&app, put::pause(&app, &name, false).await?).await
}

async fn trigger(
    State(app): State<App>,
    Path(name): Path<ScheduleName>,
    Trace(trace): Trace,
) -> Result<(StatusCode, axum::Json<One<JobView>>), ApiError> {
    let record = put::find(&app, &name).await?.record;
    let order = Order::check(&put::triggered(&record), None, Timestamp::now())?;
    let data = place::place(&app, &order, &trace).await?.view;
    Ok((StatusCode::ACCEPTED, axum::Json(One { data })))
}
