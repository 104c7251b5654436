//! Endpoints of groups, and the submit of one, which comes in with the submit of jobs.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use muster_schemas::{
    api::{BASE, GroupMember, GroupView, Many, One, Submit, Target},
    code::Code,
    group::GroupStatus,
    names::GroupId,
    records::Role,
    time::Timestamp,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    cancel,
    create::{self, Made},
    list::{self, Filter},
    members,
    order::Order,
    view,
};
use crate::{
    app::App,
    audit::Noted,
    auth::Caller,
    connections::named,
    endpoint::{Access, Endpoint},
    extract::{Path, Query},
    jobs::{order::idempotency_key, place},
    page,
    problem::ApiError,
};

const TAG: &str = "groups";
/// What a path with a group's id can answer.
const NAMED: &[Code] = &[Code::NameInvalid, Code::GroupNotFound];

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get("/api/v1/groups", Access::Role(Role::Viewer), all)
            .about(TAG, "List groups", "Newest first; all that is given must hold. Without counts of jobs: look one up for these. Groups are kept for 30 days. A page may be short and still have a cursor.")
            .query::<GroupsQuery>()
            .answers::<Many<GroupView>>(StatusCode::OK, "A page of groups.")
            .codes(&[Code::NameInvalid]),
        Endpoint::get("/api/v1/groups/{id}", Access::Role(Role::Viewer), one)
            .about(
                TAG,
                "Look up a group",
                "How far it is, and its members by where their jobs are: from a dispatcher's history, which is a fraction of a second behind and reaches back 7 days.",
            )
            .answers::<One<GroupView>>(StatusCode::OK, "The group.")
            .codes(NAMED)
            .codes(&[Code::HistoryUnavailable]),
        Endpoint::get("/api/v1/groups/{id}/agents", Access::Role(Role::Viewer), agents)
            .about(TAG, "List a group's members", "Each agent with its job, in the order in which they are sent. A page may be short and still have a cursor.")
            .query::<MembersQuery>()
            .answers::<Many<GroupMember>>(StatusCode::OK, "A page of members.")
            .codes(NAMED)
            .codes(&[Code::HistoryUnavailable]),
        Endpoint::post("/api/v1/groups/{id}/cancel", Access::Role(Role::Operator), stop)
            .about(
                TAG,
                "Cancel a group",
                "No further job of it is sent, and those sent that have not ended are cancelled, a moment later. Cancelling a cancelled group answers it again. Without a dispatcher the answer has no counts, and the jobs are cancelled once one runs.",
            )
            .answers::<One<GroupView>>(StatusCode::OK, "The group is being cancelled, or was.")
            .codes(NAMED)
            .codes(&[Code::GroupFinished])
            .audited("groups.cancel"),
    ]
}

/// Query of the list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GroupsQuery {
    /// Groups of this pool.
    pool: Option<String>,
    /// Groups with this status.
    status: Option<GroupStatus>,
    /// Entries on the page, 1 to 500. Default 50.
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
}

/// Query of a group's members.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MembersQuery {
    /// Members whose job is in this state, or `not_sent`.
    state: Option<String>,
    /// Entries on the page, 1 to 500. Default 50.
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
}

/// Takes a submit that is for every agent that matches `target`.
pub(crate) async fn submit(
    app: &App,
    submit: Submit,
    target: Target,
    waits: bool,
    headers: &HeaderMap,
    by: &Caller,
    noted: &Noted,
) -> Result<Response, ApiError> {
    let made = make(app, submit, target, waits, headers, by).await;
    place::count(app, &made, |made| made.repeated);
    let data = made?.view;
    noted.target(data.id.to_string());
    let place = HeaderValue::try_from(format!("{BASE}/groups/{}", data.id));
    let place = place.map_err(|error| ApiError::internal("name the group's place", error))?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], axum::Json(One { data })).into_response())
}

async fn make(app: &App, submit: Submit, target: Target, waits: bool, headers: &HeaderMap, by: &Caller) -> Result<Made, ApiError> {
    if waits {
        let detail = "wait is for one job; look at GET /groups/{id} until the group has ended";
        return Err(ApiError::new(Code::QueryInvalid, detail));
    }
    let Target::All(mut all) = target;
    if let (Some(name), true) = (&submit.connection, all.pool.is_empty()) {
        all.pool = named::pool_of(app, name).await?;
    }
    let now = Timestamp::now();
    let key = idempotency_key(headers)?;
    create::create(app, &Order::check(submit, Target::All(all), now)?, key, &by.name, now).await
}

async fn all(State(app): State<App>, Query(query): Query<GroupsQuery>) -> Result<axum::Json<Many<GroupView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let before = query.cursor.as_deref().map(page::Cursor::number).transpose()?;
    let filter = Filter { pool: query.pool.map(|pool| pool.parse()).transpose()?, status: query.status };
    Ok(axum::Json(list::page(&app, &filter, limit, before).await?))
}

async fn one(State(app): State<App>, Path(id): Path<GroupId>) -> Result<axum::Json<One<GroupView>>, ApiError> {
    let record = view::get(&app, &id).await?;
    let state = view::or_begun(view::state(&app, &id).await?);
    Ok(axum::Json(One { data: view::view(&app, &record, &state).await? }))
}

async fn agents(
    State(app): State<App>,
    Path(id): Path<GroupId>,
    Query(query): Query<MembersQuery>,
) -> Result<axum::Json<Many<GroupMember>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let wanted = query.state.as_deref().map(members::state).transpose()?;
    let from = query.cursor.as_deref().map(page::Cursor::number).transpose()?.unwrap_or(0);
    let record = view::get(&app, &id).await?;
    let state = view::or_begun(view::state(&app, &id).await?);
    Ok(axum::Json(members::page(&app, &record, &state, wanted, limit, from).await?))
}

async fn stop(State(app): State<App>, Path(id): Path<GroupId>, by: Caller) -> Result<axum::Json<One<GroupView>>, ApiError> {
    Ok(axum::Json(One { data: cancel::cancel(&app, &id, &by.name).await? }))
}
