//! `docker.stop`: has a container end, gently first.

use std::sync::Arc;

use muster_executor::{BoxFuture, Finish, Rejection, Scope, Work, fields::Fields, schema};
use muster_schemas::describe::TypeInfo;
use serde_json::json;

use crate::{
    container::{self, short},
    engine::Engine,
    failure::Failure,
    params,
    parts::STOP_MAX_S,
};

/// What it takes.
pub(super) fn info() -> TypeInfo {
    let grace = schema::integer(
        "Seconds between its stop signal and KILL; the container's own time if absent, which is mostly 10.",
        0..=STOP_MAX_S,
    );
    let params = schema::object(&["container"], [params::container_schema(), ("grace_s", grace)]);
    schema::type_info(super::Docker::NAME, "stop", "Stops a container.", params, json!({"container": "web", "grace_s": 10}))
}

/// A `docker.stop`.
#[derive(Debug)]
pub(super) struct Stop {
    engine: Arc<Engine>,
    container: String,
    grace: Option<i64>,
}

impl Stop {
    pub(super) fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        Ok(Self { engine, container: params::container(fields)?, grace: params::within(fields, "grace_s", 0..=STOP_MAX_S)? })
    }

    async fn stop(&self, scope: &Scope) -> Result<Finish, Failure> {
        let client = self.engine.client(&scope.attempt.agent_id).await?;
        let before = container::inspect(client, &self.container).await?;
        container::stop(client, &self.container, self.grace).await?;
        // One that the engine removes at its end is gone by now.
        let after = container::inspect(client, &self.container).await.ok().and_then(|container| container.state);
        let was_running = before.state.and_then(|state| state.running).unwrap_or(false);
        let id = before.id.unwrap_or_default();
        let status = after.and_then(|state| state.exit_code);
        Ok(Finish::succeeded(Some(json!({"container": short(&id), "was_running": was_running, "exit_code": status}))))
    }
}

impl Work for Stop {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.stop(scope).await.unwrap_or_else(Finish::from) })
    }
}
