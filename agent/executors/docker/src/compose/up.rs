//! `compose.up`: makes a project what its file says, and changes nothing that is so already.
//!
//! An attempt that is stopped leaves what it has done so far: all of it is the project's, and the next attempt goes on from there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bollard::{Docker, models::ContainerSummaryStateEnum};
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Work, fields::Fields, schema};
use muster_schemas::describe::TypeInfo;
use serde_json::json;
use tokio::time::Instant;

use super::{
    Compose, EXAMPLE, down,
    file::{Condition, File, Service},
    project::{self, Existing},
    provide,
    ready::{self, Want},
};
use crate::{
    container::{self, short},
    engine::Engine,
    failure::Failure,
    labels, params,
    parts::mounts::Source,
    pull::{self, Policy},
    registry::Login,
    spec::Spec,
};

/// How long services may take to be ready if nobody says, in seconds.
const WAIT_S: i64 = 300;

/// The longest that may be said.
const WAIT_MAX_S: i64 = 86_400;

/// What it takes.
pub(super) fn info() -> TypeInfo {
    let params = schema::object(
        &["project", "file"],
        [
            super::project_schema(),
            super::file_schema(),
            ("services", schema::texts("Only these, and those that they depend on.")),
            params::pull_schema(),
            ("remove_orphans", schema::flag("Remove containers of services that the file does not have.")),
            ("wait", schema::flag("Wait until the services run, and are healthy where they have a check; true if absent.")),
            ("wait_timeout_s", schema::integer("How long they may take, in seconds; 300 if absent.", 1..=WAIT_MAX_S)),
        ],
    );
    schema::type_info(Compose::NAME, "up", "Makes a project what its file says.", params, json!({"project": "shop", "file": EXAMPLE}))
}

/// A `compose.up`.
#[derive(Debug)]
pub(super) struct Up {
    engine: Arc<Engine>,
    project: String,
    file: File,
    /// In order.
    services: Vec<String>,
    pull: Policy,
    remove_orphans: bool,
    wait: bool,
    patience: Duration,
}

/// What became of a service's container.
#[derive(Debug)]
struct Done {
    id: String,
    action: &'static str,
}

impl Up {
    pub(super) fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        let project = super::project(fields)?;
        let file = super::file(fields, &engine)?;
        let wanted = params::texts(fields, "services")?.unwrap_or_default();
        let services = file.order(&wanted).map_err(|problem| Rejection::field("services", problem))?;
        let patience = params::within(fields, "wait_timeout_s", 1..=WAIT_MAX_S)?.unwrap_or(WAIT_S);
        Ok(Self {
            engine,
            project,
            file,
            services,
            pull: params::pull(fields)?,
            remove_orphans: fields.flag("remove_orphans")?.unwrap_or(false),
            wait: fields.flag("wait")?.unwrap_or(true),
            patience: Duration::from_secs(patience.unsigned_abs()),
        })
    }

    async fn bring_up(&self, scope: &Scope) -> Result<Finish, Failure> {
        let login = Login::of(scope.connection.as_ref())?;
        let client = self.engine.client(&scope.attempt.agent_id).await?;
        let mut images = BTreeMap::new();
        for (_, service) in self.chosen() {
            if !images.contains_key(&service.spec.image) {
                let found = pull::provide(client, &service.image, self.pull, login.as_ref(), &scope.recorder).await?;
                images.insert(service.spec.image.clone(), found.id.unwrap_or_default());
            }
        }
        provide::networks(client, &self.project, &self.file, self.chosen()).await?;
        provide::volumes(client, &self.project, &self.file, self.chosen()).await?;
        let existing = project::containers(client, &self.project).await?;
        let mut removed = Vec::new();
        if self.remove_orphans {
            for orphan in existing.iter().filter(|container| !self.file.services.contains_key(&container.service)) {
                down::remove(client, orphan, false).await?;
                removed.push(orphan.name.clone());
            }
        }
        removed.truncate(100);
        let deadline = Instant::now() + self.patience;
        let mut done: BTreeMap<String, Done> = BTreeMap::new();
        for (at, (name, service)) in self.chosen().enumerate() {
            let percent = u8::try_from(at * 100 / self.services.len().max(1)).unwrap_or(99);
            scope.recorder.progress(percent, &format!("starting {name}"));
            for (other, condition) in &service.depends_on {
                let want = match condition {
                    Condition::Started => continue,
                    Condition::Healthy => Want::Healthy,
                    Condition::Completed => Want::Completed,
                };
                if let Some(other_done) = done.get(other) {
                    ready::wait(client, other, &other_done.id, want, deadline, &scope.recorder).await?;
                }
            }
            let image_id = images.get(&service.spec.image).map_or("", String::as_str);
            let there: Vec<_> = existing.iter().filter(|container| container.service == name).collect();
            done.insert(name.to_owned(), self.provide_container(client, scope, (name, service), image_id, &there).await?);
        }
        if self.wait {
            scope.recorder.progress(99, "waiting until all are ready");
            for (name, done) in &done {
                ready::wait(client, name, &done.id, self.wanted(name), deadline, &scope.recorder).await?;
            }
        }
        let services: BTreeMap<_, _> =
            done.iter().map(|(name, done)| (name, json!({"container": short(&done.id), "action": done.action}))).collect();
        Ok(Finish::succeeded(Some(json!({"project": self.project, "services": services, "removed": removed}))))
    }

    fn chosen(&self) -> impl Iterator<Item = (&str, &Service)> {
        self.services.iter().filter_map(|name| Some((name.as_str(), self.file.services.get(name)?)))
    }

    /// What one that others wait for to end is to do in the end.
    fn wanted(&self, name: &str) -> Want {
        let is_step = self.chosen().any(|(_, service)| service.depends_on.get(name) == Some(&Condition::Completed));
        if is_step { Want::Completed } else { Want::Up }
    }

    /// The container of a service: as it is, started, or made anew.
    async fn provide_container(
        &self,
        client: &Docker,
        scope: &Scope,
        (name, service): (&str, &Service),
        image_id: &str,
        there: &[&Existing],
    ) -> Result<Done, Failure> {
        let spec = self.spec(name, service);
        let container_name = service.container_name.clone().unwrap_or_else(|| project::container_name(&self.project, name));
        let hash = project::hash(&container_name, &spec);
        let mut action = "created";
        let mut kept = None;
        for container in there {
            let fits = container.number == "1" && container.hash == hash && container.image_id == image_id && kept.is_none();
            if fits {
                kept = Some(container);
            } else {
                down::remove(client, container, false).await?;
                action = "recreated";
            }
        }
        if let Some(container) = kept {
            let is_running = container.summary.state == Some(ContainerSummaryStateEnum::RUNNING);
            if !is_running {
                container::start(client, &container.id).await.map_err(|failure| failure.of(&format!("service `{name}`")))?;
            }
            return Ok(Done { id: container.id.clone(), action: if is_running { "unchanged" } else { "started" } });
        }
        let mut labels = project::container_labels(&self.project, name, service, &hash, image_id);
        labels.extend(labels::of(&scope.attempt, false));
        let mut spec = spec;
        spec.labels.extend(labels);
        let place = |failure: Failure| failure.of(&format!("service `{name}`"));
        let id = container::create(client, Some(&container_name), &spec, &self.engine.bind_roots).await.map_err(place)?;
        container::start(client, &id).await.map_err(place)?;
        Ok(Done { id, action })
    }

    /// With the names that networks and volumes have outside of the file.
    fn spec(&self, name: &str, service: &Service) -> Spec {
        let mut spec = service.spec.clone();
        for mount in &mut spec.mounts {
            if let Source::Volume(key) = &mut mount.source
                && let Some(volume) = self.file.volumes.get(key)
            {
                *key = volume.name(&self.project, key);
            }
        }
        spec.networks = service
            .networks
            .iter()
            .map(|(key, aliases)| {
                let aliases = std::iter::once(name.to_owned()).chain(aliases.iter().cloned()).collect();
                (self.file.networks.get(key).cloned().unwrap_or_default().name(&self.project, key), aliases)
            })
            .collect();
        spec
    }
}

impl Work for Up {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.bring_up(scope).await.unwrap_or_else(Finish::from) })
    }
}
