//! `docker.rm`: removes a container. Its named volumes stay.

use std::sync::Arc;

use bollard::query_parameters::RemoveContainerOptionsBuilder;
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Work, fields::Fields, schema};
use muster_schemas::describe::TypeInfo;
use serde_json::json;

use crate::{
    container::{self, short},
    engine::Engine,
    failure::Failure,
    params,
};

/// What it takes.
pub(super) fn info() -> TypeInfo {
    let force = schema::flag("Kill it first where it runs; otherwise one that runs is not removed.");
    let params = schema::object(&["container"], [params::container_schema(), ("force", force)]);
    schema::type_info(super::Docker::NAME, "rm", "Removes a container.", params, json!({"container": "web"}))
}

/// A `docker.rm`.
#[derive(Debug)]
pub(super) struct Rm {
    engine: Arc<Engine>,
    container: String,
    force: bool,
}

impl Rm {
    pub(super) fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        Ok(Self { engine, container: params::container(fields)?, force: fields.flag("force")?.unwrap_or(false) })
    }

    async fn remove(&self, scope: &Scope) -> Result<Finish, Failure> {
        let client = self.engine.client(&scope.attempt.agent_id).await?;
        let id = container::inspect(client, &self.container).await?.id.unwrap_or_default();
        let options = RemoveContainerOptionsBuilder::default().force(self.force).v(true).build();
        client.remove_container(&id, Some(options)).await?;
        Ok(Finish::succeeded(Some(json!({"container": short(&id)}))))
    }
}

impl Work for Rm {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.remove(scope).await.unwrap_or_else(Finish::from) })
    }
}
