//! `kubernetes.restart`: new pods for a deployment, stateful set or daemon set, one after the other, as `kubectl rollout restart` does it: an
//! annotation of the pods' template gets the time, so that it is another template.

use kube::api::{Patch, PatchParams};
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Stream, fields::Fields, schema};
use muster_schemas::{code::Code, time::Timestamp};
use serde_json::{Value, json};

use crate::{
    Action, MANAGER,
    cluster::{Cluster, built},
    fields,
    object::Named,
    problem::Problem,
    rollout,
};

/// The annotation, which is kubectl's, so that its history shows the restart as its own.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// The params.
#[derive(Debug)]
pub(crate) struct Restart {
    object: Named,
    wait: bool,
}

/// The params' schema.
pub(crate) fn schema() -> Value {
    let wait = ("wait", schema::flag("Waits until all pods are new and available. Default: true."));
    let [kind, api_version, name, namespace] = fields::object_schema();
    schema::object(&["kind", "name"], [kind, api_version, name, namespace, wait])
}

impl Restart {
    pub(crate) fn parse(params: &Value) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let object = Named::read(&mut fields)?;
        let wait = fields.flag("wait")?.unwrap_or(true);
        fields.end()?;
        Ok(Self { object, wait })
    }
}

impl Action for Restart {
    fn act<'a>(&'a self, cluster: &'a Cluster, scope: &'a Scope) -> BoxFuture<'a, Result<Finish, Problem>> {
        Box::pin(async move {
            let place = self.object.place(cluster).await?;
            if !rollout::rolls_out(&place.kind) {
                let message = format!("{}: only deployments, stateful sets and daemon sets (apps/v1) restart", place.called);
                return Ok(Finish::rejected(Code::ParamsInvalid, message));
            }
            let object = cluster.read(place.get()?, &place.called).await?;
            if object.pointer("/spec/paused") == Some(&json!(true)) {
                let message = format!("{}: its rollout is paused, so nothing would restart; resume it first", place.called);
                return Ok(Finish::failed(Code::RolloutFailed, message));
            }
            let at = Timestamp::now().to_string();
            let mut annotation = serde_json::Map::new();
            annotation.insert(RESTARTED_AT.to_owned(), at.clone().into());
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            let patch = Patch::Merge(json!({"spec": {"template": {"metadata": {"annotations": annotation}}}}));
            let request = place.path().patch(&place.name, &params, &patch).map_err(|error| built(&error))?;
            cluster.send(request, &place.called).await?;
            scope.recorder.write(Stream::Stdout, format!("{} restarted\n", place.called).as_bytes()).await;
            let mut data = place.facts();
            data.insert("restarted_at".to_owned(), at.into());
            if self.wait {
                match rollout::follow(cluster, &place, scope).await {
                    Ok(wanted) => drop(data.insert("available".to_owned(), wanted.into())),
                    Err(problem) => return Ok(problem.finish().with_data(Value::Object(data))),
                }
                scope.recorder.write(Stream::Stdout, format!("{} rolled out\n", place.called).as_bytes()).await;
            }
            Ok(Finish::succeeded(Some(Value::Object(data))))
        })
    }
}
