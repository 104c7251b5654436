//! `compose.ps`: the containers of a project, as data.

use std::sync::Arc;

use muster_executor::{BoxFuture, Finish, Rejection, Scope, Work, fields::Fields, schema};
use muster_schemas::describe::TypeInfo;
use serde_json::{Value, json};

use super::{Compose, project};
use crate::{
    docker::ps::{CONTAINERS_MAX, row},
    engine::Engine,
    failure::Failure,
};

/// What it takes.
pub(super) fn info() -> TypeInfo {
    let params = schema::object(&["project"], [super::project_schema()]);
    schema::type_info(Compose::NAME, "ps", "Lists the containers of a project.", params, json!({"project": "shop"}))
}

/// A `compose.ps`.
#[derive(Debug)]
pub(super) struct Ps {
    engine: Arc<Engine>,
    project: String,
}

impl Ps {
    pub(super) fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        Ok(Self { engine, project: super::project(fields)? })
    }

    async fn list(&self, scope: &Scope) -> Result<Finish, Failure> {
        let client = self.engine.client(&scope.attempt.agent_id).await?;
        let mut found = project::containers(client, &self.project).await?;
        found.sort_by(|one, other| one.name.cmp(&other.name));
        let truncated = found.len() > CONTAINERS_MAX;
        found.truncate(CONTAINERS_MAX);
        let containers: Vec<Value> = found
            .iter()
            .map(|container| {
                let mut row = row(&container.summary);
                if let Some(row) = row.as_object_mut() {
                    row.insert("service".to_owned(), json!(container.service.chars().take(64).collect::<String>()));
                }
                row
            })
            .collect();
        Ok(Finish::succeeded(Some(json!({"project": self.project, "containers": containers, "truncated": truncated}))))
    }
}

impl Work for Ps {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.list(scope).await.unwrap_or_else(Finish::from) })
    }
}
