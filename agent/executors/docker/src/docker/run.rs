//! `docker.run`: a container for one command, watched to its end; or one that is left running.
//!
//! What is watched ends with the attempt, whatever happens: it is stopped and removed. Its output goes straight to the attempt; the engine keeps a
//! copy only where the container stays.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use bollard::{Docker, models::ContainerState, query_parameters::AttachContainerOptionsBuilder};
use muster_executor::{
    BoxFuture, Finish, Rejection, Scope, Work,
    fields::{Fields, wrong},
    schema,
};
use muster_schemas::{code::Code, describe::TypeInfo};
use serde_json::{Value, json};

use crate::{
    container::{self, short, stopped, unless_stopped},
    engine::Engine,
    failure::Failure,
    image::Image,
    labels, params,
    parts::{self, CPUS_MAX, Limits, MEMORY_MAX, MEMORY_MIN, PIDS_MAX, Port, mounts::Mount},
    pull::{self, Policy},
    registry::Login,
    spec::Spec,
};

/// What it takes.
pub(super) fn info() -> TypeInfo {
    let mut limits = schema::object(
        &[],
        [
            ("memory_bytes", schema::integer("Memory, without swap beside it.", MEMORY_MIN..=MEMORY_MAX)),
            ("cpus", schema::number("Processors; 0.5 is half of one.", CPUS_MAX)),
            ("pids", schema::integer("Processes and threads.", 1..=PIDS_MAX)),
        ],
    );
    if let Some(limits) = limits.as_object_mut() {
        limits.insert("description".to_owned(), json!("What the container may use of the host; absent is as much as there is."));
    }
    let params = schema::object(
        &["image"],
        [
            params::image_schema(),
            params::pull_schema(),
            ("command", schema::texts("The command and its arguments, instead of the image's.")),
            ("entrypoint", schema::texts("What comes before the command, instead of the image's.")),
            ("env", schema::text_map("Variables, beside the image's.")),
            ("workdir", schema::text("The folder to start in.")),
            ("user", schema::text("USER[:GROUP], by name or number.")),
            ("name", schema::text("The container's name.")),
            ("labels", schema::text_map("Labels of the container.")),
            ("ports", schema::texts("Ports that the host passes on: [[IP:]HOST:]CONTAINER[/PROTOCOL].")),
            ("volumes", schema::texts("Mounts: VOLUME:PATH[:ro], or /FOLDER:PATH[:ro] beneath the agent's DOCKER_BIND_ROOTS.")),
            ("network", schema::text("A network's name, or none; the engine's default one if absent.")),
            ("limits", limits),
            ("detach", schema::flag("Leave it running, and end with its start.")),
            ("restart", schema::text("With `detach`: no, always, unless-stopped, on-failure[:TIMES].")),
            ("remove", schema::flag("Remove it when it has ended; true if absent, but false with `detach`.")),
        ],
    );
    let example = json!({"image": "debian:bookworm-slim", "command": ["cat", "/etc/os-release"], "limits": {"memory_bytes": 67_108_864}});
    schema::type_info(super::Docker::NAME, "run", "Runs a command in a container of its own.", params, example)
}

/// A `docker.run`.
#[derive(Debug)]
pub(super) struct Run {
    engine: Arc<Engine>,
    image: Image,
    pull: Policy,
    name: Option<String>,
    detach: bool,
    remove: bool,
    spec: Spec,
}

impl Run {
    pub(super) fn parse(engine: Arc<Engine>, fields: &mut Fields<'_>) -> Result<Self, Rejection> {
        let (image, pull) = (params::image(fields)?, params::pull(fields)?);
        let detach = fields.flag("detach")?.unwrap_or(false);
        let restart = params::parsed(fields, "restart", str::parse)?;
        if restart.is_some() && !detach {
            return Err(Rejection::field("restart", "only with `detach`: what the job watches ends with it"));
        }
        let remove = fields.flag("remove")?;
        if detach && remove == Some(true) && restart.is_some() {
            return Err(Rejection::field("remove", "contradicts `restart`"));
        }
        let remove = remove.unwrap_or(!detach);
        let mounts = params::list(fields, "volumes", |text| {
            let mount: Mount = text.parse()?;
            mount.allowed(&engine.bind_roots).map(|()| mount)
        })?;
        let network = params::parsed(fields, "network", parts::network)?;
        let spec = Spec {
            image: image.full(),
            command: params::texts(fields, "command")?,
            entrypoint: params::texts(fields, "entrypoint")?,
            env: params::env(fields)?,
            workdir: params::parsed(fields, "workdir", parts::mounts::target)?,
            user: fields.text("user")?.map(str::to_owned),
            labels: params::labels(fields)?,
            ports: params::list(fields, "ports", str::parse::<Port>)?,
            mounts,
            limits: fields.value("limits").map_or(Ok(Limits::default()), limits)?,
            restart,
            networks: network.map(|name| (name, Vec::new())).into_iter().collect::<BTreeMap<_, _>>(),
            is_unlogged: !detach && remove,
            is_removed_at_end: detach && remove,
            ..Spec::default()
        };
        let name = params::parsed(fields, "name", parts::name)?;
        Ok(Self { engine, image, pull, name, detach, remove, spec })
    }

    async fn perform(mut self, scope: &Scope) -> Result<Finish, Failure> {
        let login = Login::of(scope.connection.as_ref())?;
        if let Some(login) = &login {
            login.must_be_for(&self.image)?;
        }
        let client = match unless_stopped(&scope.stop, self.engine.client(&scope.attempt.agent_id)).await {
            Some(client) => client?,
            None => return Ok(stopped()),
        };
        let provide = pull::provide(client, &self.image, self.pull, login.as_ref(), &scope.recorder);
        match unless_stopped(&scope.stop, provide).await {
            Some(provided) => drop(provided?),
            None => return Ok(stopped()),
        }
        self.spec.labels.extend(labels::of(&scope.attempt, !self.detach));
        // From here on nothing is dropped half way: what the engine has begun to make would be nobody's.
        let id = container::create(client, self.name.as_deref(), &self.spec, &self.engine.bind_roots).await?;
        let outcome = if self.detach { self.leave(client, &id).await } else { self.watch(client, &id, scope).await };
        let is_over = matches!(&outcome, Ok(finish) if !finish.stopped);
        if !is_over || (self.remove && !self.detach) {
            let removed = container::remove(client, &id, true).await;
            if is_over {
                removed?;
            }
        }
        outcome
    }

    /// Starts it, and no more.
    async fn leave(&self, client: &Docker, id: &str) -> Result<Finish, Failure> {
        container::start(client, id).await?;
        Ok(Finish::succeeded(Some(self.facts(id))))
    }

    /// Starts it and watches it to its end, or the attempt's.
    async fn watch(&self, client: &Docker, id: &str, scope: &Scope) -> Result<Finish, Failure> {
        let options = AttachContainerOptionsBuilder::default().stream(true).stdout(true).stderr(true).build();
        let attached = client.attach_container(id, Some(options)).await?;
        let mut output = pin!(container::pump(attached.output, &scope.recorder));
        let mut has_output = true;
        container::start(client, id).await?;
        scope.recorder.progress(0, "running");
        let mut end = pin!(container::ended(client, id));
        let state = loop {
            tokio::select! {
                biased;
                () = scope.stop.cancelled() => break None,
                state = &mut end => break Some(state?),
                read = &mut output, if has_output => { has_output = false; read?; }
            }
        };
        if state.is_none() {
            // Its last words are part of its output.
            let ending = container::end(client, id, scope.settings.kill_grace);
            let (ended, _) = tokio::join!(ending, async { if has_output { output.await } else { Ok(()) } });
            return ended.map(|()| stopped());
        }
        if has_output {
            // Cut off only where somebody else holds the container's output.
            let _late = tokio::time::timeout(scope.settings.drain, output).await;
        }
        Ok(self.judge(id, &state.unwrap_or_default()))
    }

    fn judge(&self, id: &str, state: &ContainerState) -> Finish {
        let status = state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
        let finish = match status {
            0 => Finish::succeeded(None),
            _ => {
                let killed = if state.oom_killed == Some(true) { ": the kernel killed it for its memory" } else { "" };
                Finish::failed(Code::ExitNonzero, format!("the container ended with exit status {status}{killed}"))
            }
        };
        Finish { exit_code: Some(status), ..finish.with_data(self.facts(id)) }
    }

    fn facts(&self, id: &str) -> Value {
        json!({"container": short(id), "name": self.name, "image": self.image.full(), "removed": self.remove && !self.detach})
    }
}

impl Work for Run {
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish> {
        Box::pin(async move { self.perform(scope).await.unwrap_or_else(Finish::from) })
    }

    fn cleans_up(&self) -> bool {
        true
    }
}

fn limits(value: &Value) -> Result<Limits, Rejection> {
    if !value.is_object() {
        return Err(wrong("limits", "a map", value));
    }
    let read = || {
        let mut fields = Fields::of(value)?;
        let cpus =
            fields.number("cpus")?.map(|cpus| Limits::cpus(cpus).map_err(|problem| Rejection::field("cpus", problem))).transpose()?;
        let memory_bytes = params::within(&mut fields, "memory_bytes", MEMORY_MIN..=MEMORY_MAX)?;
        let pids = params::within(&mut fields, "pids", 1..=PIDS_MAX)?;
        fields.end()?;
        Ok(Limits { memory_bytes, cpus, pids })
    };
    read().map_err(|rejection: Rejection| Rejection::new(rejection.code, rejection.message.replacen("params.", "params.limits.", 1)))
}
