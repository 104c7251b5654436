//! Lanes that a submit needs: whether they are declared, and declaring them.

use std::collections::BTreeSet;

use muster_broker_config::provision;
use muster_schemas::{
    code::Code,
    names::{ExecutorName, PoolName},
    records::AgentRecord,
};

use super::EXECUTORS_MAX;
use crate::{app::App, problem::ApiError};

/// Makes sure that the pool exists and has lanes for the executor. Costs nothing when both are known here.
///
/// # Errors
/// `pool_not_found`; `type_unknown` when nobody runs or declared the executor, or the pool has as many as it may; `broker_unavailable`.
pub(crate) async fn ready(app: &App, pool: &PoolName, executor: &ExecutorName) -> Result<(), ApiError> {
    match app.mirror.pools.get(pool) {
        Some(record) if record.executors.contains(executor) => Ok(()),
        _ => declare(app, pool, executor).await,
    }
}

/// Declares the executor's lanes, or repairs them when they are declared but not there.
///
/// # Errors
/// As [`ready`].
pub(crate) async fn declare(app: &App, pool: &PoolName, executor: &ExecutorName) -> Result<(), ApiError> {
    // The mirror may lag behind: what is refused is refused on the bucket's word.
    let record = app.buckets.pool(pool).await?.record;
    let known = |agent: &AgentRecord| agent.pool == *pool && agent.may_run(executor);
    if !record.executors.contains(executor) && !app.mirror.agents.all().iter().any(|(_, agent)| known(agent)) {
        let have = record.executors.iter().map(ExecutorName::as_str).collect::<Vec<_>>().join(", ");
        let detail = format!(
            "no agent of pool `{pool}` runs `{executor}` jobs; it has {have}. To let jobs wait for such an agent, declare the executor: \
             PUT /pools/{pool} {{\"executors\": [\"{executor}\"]}}"
        );
        return Err(ApiError::new(Code::TypeUnknown, detail));
    }
    if !record.executors.contains(executor) && record.executors.len() >= EXECUTORS_MAX {
        let detail = format!("pool `{pool}` has no lane for `{executor}` jobs, and {EXECUTORS_MAX} executors already");
        return Err(ApiError::new(Code::TypeUnknown, detail));
    }
    let declared = provision::ensure_lanes(&app.nats, pool, &BTreeSet::from([executor.clone()])).await;
    declared.map(drop).map_err(|error| failed("declare a lane", error))
}

/// The error that a caller gets when the broker could not be brought to what a pool's record says.
pub(super) fn failed(doing: &str, error: provision::Error) -> ApiError {
    match error {
        provision::Error::NoPool(pool) => ApiError::new(Code::PoolNotFound, format!("there is no pool `{pool}`")),
        provision::Error::NotEmpty { pool, jobs } => {
            ApiError::new(Code::PoolNotEmpty, format!("pool `{pool}` has {jobs} jobs in its queue"))
        }
        error if error.is_transient() => ApiError::broker(doing, error),
        error => ApiError::internal(doing, error),
    }
}
