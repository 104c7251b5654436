//! What the agents of each pool can be asked to do: learnt from the agents themselves, shown to callers, and used to refuse wrong params
//! before they are queued.
//!
//! | to find | look in |
//! |---|---|
//! | asking agents | [`learn`] |
//! | what is known, by pool | [`known`] |
//! | one schema, and params checked against it within bounds | [`schema`], [`complaint`] |
//! | `GET /executors` | [`view`] |
//!
//! The agent has the last word: whatever is not known here, or would take too long to check, is let through. What is refused here, every agent
//! of the pool that has the type would refuse.

mod complaint;
mod known;
mod learn;
mod schema;
mod view;

use std::sync::{Arc, PoisonError, RwLock};

use muster_schemas::{
    code::Code,
    describe::TypeInfo,
    names::{AgentId, JobType, PoolName},
};
use serde_json::Value;

use crate::{app::App, problem::ApiError};
use known::Known;

pub(crate) use learn::run;
pub(crate) use view::endpoints;

/// What is known of types; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Types(Arc<RwLock<Arc<Known>>>);

impl Types {
    /// What is known now.
    fn now(&self) -> Arc<Known> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, known: Known) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }
}

/// Checks the params of a job for a pool, or for one agent of it.
///
/// # Errors
/// `params_invalid` when every agent there that has the type is known to refuse them.
pub(crate) fn check(app: &App, pool: &PoolName, agent: Option<&AgentId>, job_type: &JobType, params: &Value) -> Result<(), ApiError> {
    let known = app.types.now();
    let complaint = match agent {
        None => known.complaint(pool, job_type.as_str(), params),
        Some(agent) => described_as(app, agent).and_then(|digest| known.complaint_of(&digest, job_type.as_str(), params)),
    };
    match complaint {
        None => Ok(()),
        Some(complaint) => {
            let detail = format!("{complaint}; `muster types {job_type}` and GET /executors show what `{job_type}` takes");
            Err(ApiError::new(Code::ParamsInvalid, detail))
        }
    }
}

/// What agents of a pool say of a type, where all of them that are there have said.
pub(crate) fn of_type(app: &App, pool: &PoolName, job_type: &JobType) -> Option<TypeInfo> {
    app.types.now().of_type(pool, job_type.as_str())
}

/// What the standing of an agent that is there calls its description.
fn described_as(app: &App, agent: &AgentId) -> Option<String> {
    let standing = app.mirror.standings.get(agent).filter(|standing| known::is_there(standing))?;
    standing.description.clone()
}
