//! `compose.down`: stops and removes all that belongs to a project, whoever made it. Works by labels alone, and so needs no file.

use std::{collections::BTreeMap, sync::Arc};

use bollard::{
    Docker,
    query_parameters::{ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptionsBuilder},
};
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Work, fields::Fields, schema};
use muster_schemas::describe::TypeInfo;
use serde_json::json;

use super::{
    Compose,
    project::{self, Existing},
};
use crate::{
    container,
    engine::Engine,
    failure::{Failure, is_missing},
};

/// What it takes.
pub(super) fn info() -> TypeInfo {
    let volumes = schema::flag("Remove its volumes, too, with all that is in them.");
    let params = schema::object(&["project"], [super::project_schema(), ("volumes", volumes)]);
    let about = "Stops and removes the containers and networks of a project.";
    schema::type_info(Compose::NAME, "down", about, params, json!({"project": "shop"}))
}

/// A `compose.down`.
#[derive(Debug)]
pub(super) struct Down {
    engine: Arc<Engine>,
    project: String,
    volumes: bool,
}

impl Down {
    pub(super) fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        Ok(Self { engine, project: super::project(fields)?, volumes: fields.flag("volumes")?.unwrap_or(false) })
    }

    async fn take_down(&self, scope: &Scope) -> Result<Finish, Failure> {
        let client = self.engine.client(&scope.attempt.agent_id).await?;
        let existing = project::containers(client, &self.project).await?;
        let all = existing.len();
        let mut containers = Vec::new();
        for (at, container) in in_order_of_end(existing).into_iter().enumerate() {
            let percent = u8::try_from(at * 90 / all.max(1)).unwrap_or(90);
            scope.recorder.progress(percent, &format!("stopping {}", container.name));
            remove(client, &container, self.volumes).await?;
            containers.push(container.name);
        }
        scope.recorder.progress(90, "removing networks and volumes");
        let networks = self.remove_networks(client).await?;
        let volumes = if self.volumes { self.remove_volumes(client).await? } else { Vec::new() };
        let data =
            json!({"project": self.project, "containers": first(containers), "networks": first(networks), "volumes": first(volumes)});
        Ok(Finish::succeeded(Some(data)))
    }

    async fn remove_networks(&self, client: &Docker) -> Result<Vec<String>, Failure> {
        let options = ListNetworksOptionsBuilder::default().filters(&project::filter(&self.project)).build();
        let mut removed = Vec::new();
        for network in client.list_networks(Some(options)).await? {
            let (Some(id), Some(name)) = (network.id, network.name) else { continue };
            match client.remove_network(&id).await {
                Err(error) if !is_missing(&error) => return Err(Failure::from(error).of(&format!("network `{name}`"))),
                _ => removed.push(name),
            }
        }
        Ok(removed)
    }

    async fn remove_volumes(&self, client: &Docker) -> Result<Vec<String>, Failure> {
        let options = ListVolumesOptionsBuilder::default().filters(&project::filter(&self.project)).build();
        let mut removed = Vec::new();
        for volume in client.list_volumes(Some(options)).await?.volumes.unwrap_or_default() {
            match client.remove_volume(&volume.name, Some(RemoveVolumeOptionsBuilder::default().build())).await {
                Err(error) if !is_missing(&error) => return Err(Failure::from(error).of(&format!("volume `{}`", volume.name))),
                _ => removed.push(volume.name),
            }
        }
        Ok(removed)
    }
}

impl Work for Down {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.take_down(scope).await.unwrap_or_else(Finish::from) })
    }
}

/// Stops a container in its own time, and removes it.
pub(super) async fn remove(client: &Docker, container: &Existing, with_volumes: bool) -> Result<(), Failure> {
    match container::stop(client, &container.id, None).await {
        Err(failure) if failure.code != muster_schemas::code::Code::ContainerNotFound => Err(failure),
        _ => container::remove(client, &container.id, with_volumes).await,
    }
}

/// Each before those that it depends on, as its labels say.
fn in_order_of_end(containers: Vec<Existing>) -> Vec<Existing> {
    let mut needs: BTreeMap<String, _> = BTreeMap::new();
    for container in &containers {
        needs.insert(container.service.clone(), container.depends_on.clone());
    }
    // Labels that somebody else wrote may say anything.
    let order = project::order(&needs).unwrap_or_default();
    let place = |container: &Existing| order.iter().position(|name| *name == container.service);
    let mut containers = containers;
    containers.sort_by_key(|container| std::cmp::Reverse(place(container)));
    containers
}

/// What a result can tell of a long list.
fn first(mut names: Vec<String>) -> Vec<String> {
    names.truncate(100);
    names
}
