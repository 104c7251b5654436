//! `kubernetes.delete`: objects, with what belongs to them. One that is not there is as good as deleted.

use kube::api::DeleteParams;
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Stream, fields::Fields, schema};
use muster_schemas::code::Code;
use serde_json::{Value, json};

use crate::{
    Action,
    cluster::{Cluster, built},
    fields, manifest,
    object::{Named, Place, text},
    problem::Problem,
    wait,
};

/// The params.
#[derive(Debug)]
pub(crate) struct Delete {
    objects: Vec<Named>,
    wait: bool,
}

/// The params' schema.
pub(crate) fn schema() -> Value {
    let [manifest, objects] = manifest::schemas();
    let [kind, api_version, name, namespace] = fields::object_schema();
    let wait = ("wait", schema::flag("Waits until they are gone."));
    schema::object(&[], [kind, api_version, name, namespace, manifest, objects, wait])
}

impl Delete {
    pub(crate) fn parse(params: &Value) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let namespace = fields::namespace(&mut fields)?;
        let given = manifest::objects(&mut fields, namespace.as_deref())?;
        let (kind, api_version, name) = (fields::kind(&mut fields)?, fields::api_version(&mut fields)?, fields::name(&mut fields, "name")?);
        let wait = fields.flag("wait")?.unwrap_or(false);
        fields.end()?;
        let objects = match (given, kind, name) {
            // In reverse: what was made last may need what was made first.
            (Some(given), None, None) if api_version.is_none() => given
                .into_iter()
                .rev()
                .map(|object| Named {
                    kind: object.kind,
                    api_version: Some(object.api_version),
                    name: object.name,
                    namespace: object.namespace,
                })
                .collect(),
            (None, Some(kind), Some(name)) => vec![Named { kind, api_version, name, namespace }],
            (None, Some(_), None) => return Err(Rejection::field("name", "is missing")),
            (None, ..) => return Err(Rejection::field("kind", "give `kind` and `name`, or `manifest`, or `objects`")),
            (Some(_), ..) => return Err(Rejection::field("kind", "give it without `manifest` and `objects`")),
        };
        Ok(Self { objects, wait })
    }
}

/// Deletes one object. Gives its uid, where it was there.
async fn delete(cluster: &Cluster, place: &Place) -> Result<Option<String>, Problem> {
    // What belongs to it goes as well, a little later; so does kubectl.
    let request = place.path().delete(&place.name, &DeleteParams::background()).map_err(|error| built(&error))?;
    match cluster.send(request, &place.called).await {
        // The answer is the object, when it has something to finish first, or a status with its uid.
        Ok((_, answer)) => Ok(Some(["/metadata/uid", "/details/uid"].map(|pointer| text(&answer, pointer)).concat())),
        Err(problem) if problem.status_code() == 404 => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// Waits until it is gone. Another one of the same name is not it.
async fn gone(cluster: &Cluster, place: &Place, uid: &str, scope: &Scope) -> Result<(), Problem> {
    let mut told = false;
    let mut judge = |object: Option<&Value>| match object {
        Some(object) if uid.is_empty() || text(object, "/metadata/uid") == uid => {
            if !std::mem::replace(&mut told, true) {
                let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array).map_or(0, Vec::len);
                scope.recorder.progress(50, &format!("waiting for {} to go ({finalizers} finalizers)", place.called));
            }
            None
        }
        _ => Some(()),
    };
    wait::until(cluster, place, &mut judge).await
}

impl Action for Delete {
    fn act<'a>(&'a self, cluster: &'a Cluster, scope: &'a Scope) -> BoxFuture<'a, Result<Finish, Problem>> {
        Box::pin(async move {
            let mut said = Vec::new();
            let mut deleted = Vec::new();
            let mut failed = None;
            for (at, named) in self.objects.iter().enumerate() {
                let percent = u8::try_from(at * 50 / self.objects.len()).unwrap_or(0);
                scope.recorder.progress(percent, &format!("deleting {} {} ({} of {})", named.kind, named.name, at + 1, self.objects.len()));
                let answer = match named.place(cluster).await {
                    Ok(place) => delete(cluster, &place).await.map(|uid| (place, uid)),
                    Err(problem) => Err(problem),
                };
                match answer {
                    Ok((place, uid)) => {
                        let word = if uid.is_some() { "deleted" } else { "absent" };
                        scope.recorder.write(Stream::Stdout, format!("{} {word}\n", place.called).as_bytes()).await;
                        let mut facts = place.facts();
                        facts.insert("outcome".to_owned(), word.into());
                        said.push(Value::Object(facts));
                        deleted.extend(uid.map(|uid| (place, uid)));
                    }
                    Err(problem) if problem.code == Code::RequestFailed => return Err(problem),
                    Err(problem) => {
                        scope.recorder.write(Stream::Stderr, format!("{}\n", problem.message).as_bytes()).await;
                        said.push(json!({"kind": named.kind, "name": named.name, "outcome": "refused"}));
                        failed = failed.or(Some(problem));
                    }
                }
            }
            let data = json!({ "objects": said });
            if let Some(problem) = failed {
                return Ok(problem.finish().with_data(data));
            }
            if self.wait {
                for (place, uid) in &deleted {
                    gone(cluster, place, uid, scope).await?;
                }
            }
            Ok(Finish::succeeded(Some(data)))
        })
    }
}
