//! Endpoints of connections: what each takes, answers and refuses.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use muster_schemas::{
    api::{ConnectionView, JobView, Many, One, PutConnection, PutCredentials, TestConnection},
    code::Code,
    connection::{ConnectionKind, ConnectionRecord},
    names::{ConnectionName, PoolName},
    records::Role,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{deliver, named, recipients, store, trial};
use crate::{
    app::App,
    audit::Noted,
    auth::Caller,
    endpoint::{Access, Endpoint},
    extract::{BATCH_LIMIT, Json, Path, Query, Trace},
    page,
    problem::ApiError,
};

const TAG: &str = "connections";
const VIEWER: Access = Access::Role(Role::Viewer);
const OPERATOR: Access = Access::Role(Role::Operator);
const ADMIN: Access = Access::Role(Role::Admin);
/// What a path with a connection's name can answer.
const CONNECTION: &[Code] = &[Code::NameInvalid, Code::ConnectionNotFound];

/// The endpoints.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::put("/api/v1/connections/{name}", ADMIN, save)
            .about(
                TAG,
                "Make a connection, or change its settings",
                "The settings are replaced as a whole, and hold no secret; docs/connections.md lists those of each kind. Kind and pool of one that exists can't be changed. Credentials are delivered on their own.",
            )
            .body::<PutConnection>()
            .answers::<One<ConnectionView>>(StatusCode::OK, "The connection as it is now.")
            .answers::<One<ConnectionView>>(StatusCode::CREATED, "The connection is made.")
            .codes(&[Code::NameInvalid, Code::PoolNotFound, Code::SettingsInvalid, Code::ConnectionExists])
            .audited("connections.put"),
        Endpoint::get("/api/v1/connections", VIEWER, list)
            .about(TAG, "List connections", "By name. All filters have to match.")
            .query::<ConnectionsQuery>()
            .answers::<Many<ConnectionView>>(StatusCode::OK, "A page of connections, without their agents.")
            .codes(&[Code::NameInvalid]),
        Endpoint::get("/api/v1/connections/{name}", VIEWER, get)
            .about(
                TAG,
                "Look up a connection",
                "With each agent of its pool: how far the credentials are with it, and the key to seal them to, signed with its identity. Check the signature before sealing.",
            )
            .answers::<One<ConnectionView>>(StatusCode::OK, "The connection.")
            .codes(CONNECTION),
        Endpoint::delete("/api/v1/connections/{name}", ADMIN, delete)
            .about(
                TAG,
                "Delete a connection",
                "With what lies in agents' mailboxes; agents then remove the credentials from their vaults. Jobs and schedules that name it stay, and are rejected from then on.",
            )
            .answers_other(StatusCode::NO_CONTENT, "The connection is gone.", "")
            .codes(CONNECTION)
            .audited("connections.delete"),
        Endpoint::put("/api/v1/connections/{name}/credentials", ADMIN, credentials)
            .about(
                TAG,
                "Deliver a connection's credentials",
                "Sealed by the caller to each agent (HPKE: X25519, HKDF-SHA256, AES-256-GCM, bound to agent, connection and revision) as the revision after the connection's, and passed on as they are. At most 16 MiB. Repeating the same request is safe, and goes on where one was cut off.",
            )
            .body::<PutCredentials>()
            .answers::<One<ConnectionView>>(StatusCode::OK, "They lie in the agents' mailboxes: the connection, with how far they are.")
            .codes(CONNECTION)
            .codes(&[Code::CredentialsInvalid, Code::RevisionConflict])
            .audited("connections.deliver"),
        Endpoint::post("/api/v1/connections/{name}/test", OPERATOR, test)
            .about(
                TAG,
                "Try a connection",
                "One agent of its pool, or the one that is named, connects with it, and is waited for up to 30 s. It is a job like any other, `probe.connection`.",
            )
            .body::<TestConnection>()
            .answers::<One<JobView>>(StatusCode::OK, "The job has ended: whether it succeeded says whether the connection can be used.")
            .answers::<One<JobView>>(StatusCode::ACCEPTED, "It has not ended yet; look it up.")
            .codes(named::CODES)
            .codes(&[Code::NameInvalid, Code::AgentNotFound, Code::AgentRevoked, Code::TypeUnknown, Code::PoolNotFound, Code::QueueFull])
            .audited("connections.test"),
    ]
}

/// Query of the list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConnectionsQuery {
    /// Entries on the page, 1 to 500. Default 50.
    limit: Option<u32>,
    /// From the page before.
    cursor: Option<String>,
    /// Only those of this pool.
    pool: Option<String>,
    /// Only those of this kind.
    kind: Option<ConnectionKind>,
}

fn view(record: ConnectionRecord) -> ConnectionView {
    let ConnectionRecord { name, kind, pool, settings, revision, created_at, updated_at, .. } = record;
    ConnectionView { name, kind, pool, settings, revision, agents: None, created_at, updated_at }
}

/// The connection with how far its credentials are.
async fn full(app: &App, record: ConnectionRecord) -> Result<axum::Json<One<ConnectionView>>, ApiError> {
    let agents = Some(recipients::all(app, &record).await?);
    Ok(axum::Json(One { data: ConnectionView { agents, ..view(record) } }))
}

async fn save(State(app): State<App>, Path(name): Path<ConnectionName>, Json(body): Json<PutConnection>) -> Result<Response, ApiError> {
    let wanted = store::Wanted::check(body)?;
    let (record, new) = app.in_full("store the connection", async move |app| store::put(&app, &name, &wanted).await).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, full(&app, record).await?).into_response())
}

async fn list(State(app): State<App>, Query(query): Query<ConnectionsQuery>) -> Result<axum::Json<Many<ConnectionView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let after = query.cursor.as_deref().map(page::Cursor::decode).transpose()?;
    let pool = query.pool.as_deref().map(str::parse::<PoolName>).transpose()?;
    let matches = |record: &ConnectionRecord| {
        pool.as_ref().is_none_or(|pool| record.pool == *pool) && query.kind.is_none_or(|kind| record.kind == kind)
    };
    let mut records = store::all(&app).await?;
    records.retain(|record| matches(record) && after.as_deref().is_none_or(|after| record.name.as_str() > after));
    Ok(axum::Json(page::cut(records.into_iter().map(view), limit, |connection| connection.name.to_string())))
}

async fn get(State(app): State<App>, Path(name): Path<ConnectionName>) -> Result<axum::Json<One<ConnectionView>>, ApiError> {
    let record = store::find(&app, &name).await?.record;
    full(&app, record).await
}

async fn delete(State(app): State<App>, caller: Caller, Path(name): Path<ConnectionName>) -> Result<StatusCode, ApiError> {
    let gone = name.clone();
    app.in_full("delete the connection", async move |app| store::remove(&app, &gone).await).await?;
    tracing::info!(connection = %name, by = caller.key_id, "a connection was deleted");
    Ok(StatusCode::NO_CONTENT)
}

async fn credentials(
    State(app): State<App>,
    caller: Caller,
    Path(name): Path<ConnectionName>,
    noted: Noted,
    Json(body): Json<PutCredentials, BATCH_LIMIT>,
) -> Result<axum::Json<One<ConnectionView>>, ApiError> {
    let delivered = app.in_full("deliver the credentials", async move |app| deliver::deliver(&app, &name, body).await).await?;
    let deliver::Delivered { record, agents } = delivered;
    noted.detail(format!("revision {} to {agents} agents", record.revision));
    tracing::info!(connection = %record.name, revision = record.revision, agents, by = caller.key_id, "credentials were delivered");
    full(&app, record).await
}

async fn test(
    State(app): State<App>,
    Path(name): Path<ConnectionName>,
    Trace(trace): Trace,
    noted: Noted,
    body: Option<Json<TestConnection>>,
) -> Result<(StatusCode, axum::Json<One<JobView>>), ApiError> {
    let agent = body.and_then(|Json(body)| body.agent_id);
    let data = trial::run(&app, &name, agent.as_ref(), &trace).await?;
    noted.detail(format!("job {}", data.id));
    let status = if data.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, axum::Json(One { data })))
}
