//! `kubernetes.scale`: how many replicas there are to be, through the scale subresource, which custom kinds may have as well.

use kube::api::{Patch, PatchParams};
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Stream, fields::Fields, schema};
use serde_json::{Value, json};

use crate::{
    Action, MANAGER,
    cluster::{Cluster, built},
    fields,
    object::{Named, count},
    problem::Problem,
    rollout, wait,
};

/// The most replicas. A slip of the finger must not ask a cluster for a million pods.
const REPLICAS_MAX: i64 = 10_000;

/// The params.
#[derive(Debug)]
pub(crate) struct Scale {
    object: Named,
    replicas: i64,
    wait: bool,
}

/// The params' schema.
pub(crate) fn schema() -> Value {
    let [kind, api_version, name, namespace] = fields::object_schema();
    let replicas = ("replicas", schema::integer("How many.", 0..=REPLICAS_MAX));
    let wait = ("wait", schema::flag("Waits until they are there, or gone."));
    schema::object(&["kind", "name", "replicas"], [kind, api_version, name, namespace, replicas, wait])
}

impl Scale {
    pub(crate) fn parse(params: &Value) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let object = Named::read(&mut fields)?;
        let replicas = fields::needed(fields::integer(&mut fields, "replicas", 0..=REPLICAS_MAX)?, "replicas")?;
        let wait = fields.flag("wait")?.unwrap_or(false);
        fields.end()?;
        Ok(Self { object, replicas, wait })
    }
}

impl Action for Scale {
    fn act<'a>(&'a self, cluster: &'a Cluster, scope: &'a Scope) -> BoxFuture<'a, Result<Finish, Problem>> {
        Box::pin(async move {
            let place = self.object.place(cluster).await?;
            let before = place.path().get_subresource("scale", &place.name).map_err(|error| built(&error))?;
            let before = count(&cluster.read(before, &place.called).await?, "/spec/replicas");
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            let patch = Patch::Merge(json!({"spec": {"replicas": self.replicas}}));
            let request = place.path().patch_subresource("scale", &place.name, &params, &patch).map_err(|error| built(&error))?;
            cluster.send(request, &place.called).await?;
            let said = format!("{} scaled from {before} to {}\n", place.called, self.replicas);
            scope.recorder.write(Stream::Stdout, said.as_bytes()).await;
            scope.recorder.progress(10, said.trim_end());
            if self.wait && rollout::rolls_out(&place.kind) {
                rollout::follow(cluster, &place, scope).await?;
            } else if self.wait {
                let mut judge = |object: Option<&Value>| match object {
                    Some(object) => (count(object, "/status/replicas") == self.replicas).then_some(Ok(())),
                    None => Some(Err(Problem::absent(format!("{} was deleted meanwhile", place.called)))),
                };
                wait::until(cluster, &place, &mut judge).await??;
            }
            let mut data = place.facts();
            data.insert("before".to_owned(), before.into());
            data.insert("replicas".to_owned(), self.replicas.into());
            Ok(Finish::succeeded(Some(Value::Object(data))))
        })
    }
}
