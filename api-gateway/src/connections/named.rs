//! Jobs that name a connection: the pool that they go to, and whether they can use it there.

use muster_schemas::{
    api::Submit,
    builtin,
    code::Code,
    connection::{ConnectionKind, ConnectionRecord},
    describe::TypeInfo,
    names::{AgentId, ConnectionName, JobType, NameError, PoolName},
};

use super::{recipients, store};
use crate::{app::App, problem::ApiError, types};

/// What a job that names a connection can be refused with.
pub(crate) const CODES: &[Code] = &[Code::ConnectionNotFound, Code::ConnectionMismatch, Code::ConnectionUndelivered];

/// Gives a submit without a pool that of the connection that it names.
///
/// # Errors
/// `field_invalid` when the name is none; `connection_not_found`.
pub(crate) async fn settle_pool(app: &App, submit: &mut Submit) -> Result<(), ApiError> {
    if let (Some(name), true) = (&submit.connection, submit.pool.is_empty()) {
        submit.pool = pool_of(app, name).await?;
    }
    Ok(())
}

/// The pool of the connection that a caller names.
///
/// # Errors
/// `field_invalid`; `connection_not_found`.
pub(crate) async fn pool_of(app: &App, name: &str) -> Result<String, ApiError> {
    let name: ConnectionName =
        name.parse().map_err(|error: NameError| ApiError::new(Code::FieldInvalid, format!("field `connection`: {error}")))?;
    Ok(store::find(app, &name).await?.record.pool.to_string())
}

/// Makes sure that a job can use the connection that it names, if it names one, and that it names one if it needs one.
///
/// # Errors
/// `connection_not_found`; `connection_mismatch`; `connection_undelivered`.
pub(crate) async fn ready(
    app: &App,
    pool: &PoolName,
    agent: Option<&AgentId>,
    job_type: &JobType,
    name: Option<&ConnectionName>,
) -> Result<(), ApiError> {
    // Of a plugin only agents know.
    let learned = if builtin::type_info(job_type).is_some() { None } else { types::of_type(app, pool, job_type) };
    let takes = builtin::type_info(job_type).or(learned.as_ref());
    let Some(name) = name else {
        return match takes.filter(|takes| takes.needs_connection) {
            Some(takes) => {
                Err(mismatch(format!("`{job_type}` needs a connection, {}; name it in `connection`", kinds(&takes.connections))))
            }
            None => Ok(()),
        };
    };
    let connection = store::find(app, name).await?.record;
    fits(&connection, pool, job_type, takes)?;
    if recipients::anybody(app, &connection, agent).await? {
        return Ok(());
    }
    let who = match agent {
        Some(agent) => format!("agent {agent} does not have"),
        None => format!("no agent of pool `{pool}` has"),
    };
    let detail = format!("{who} the credentials of connection `{name}`; `muster connections credentials {name}` delivers them");
    Err(ApiError::new(Code::ConnectionUndelivered, detail))
}

/// Whether a job of this type in this pool can use the connection; `takes` is what is known of the type.
fn fits(connection: &ConnectionRecord, pool: &PoolName, job_type: &JobType, takes: Option<&TypeInfo>) -> Result<(), ApiError> {
    let ConnectionRecord { name, kind, .. } = connection;
    if connection.pool != *pool {
        let detail = format!("connection `{name}` is of pool `{}`, and the job is for pool `{pool}`; leave the pool out", connection.pool);
        return Err(mismatch(detail));
    }
    match takes {
        Some(takes) if takes.connections.is_empty() => Err(mismatch(format!("`{job_type}` takes no connection"))),
        Some(takes) if !takes.connections.contains(kind) => {
            let detail =
                format!("connection `{name}` is of the kind {}, and `{job_type}` takes one {}", kind.as_str(), kinds(&takes.connections));
            Err(mismatch(detail))
        }
        _ => Ok(()),
    }
}

fn kinds(kinds: &[ConnectionKind]) -> String {
    format!("of the kind {}", kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or "))
}

fn mismatch(detail: String) -> ApiError {
    ApiError::new(Code::ConnectionMismatch, detail)
}
