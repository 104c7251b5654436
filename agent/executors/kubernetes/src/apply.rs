//! `kubernetes.apply`: objects, applied by the server. Fields that others own are left alone unless forced; whose they are is said.
//!
//! Each object has its own outcome; one that is refused does not keep the others from being applied.

use kube::api::{Patch, PatchParams};
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Stream, fields::Fields, schema};
use muster_schemas::code::Code;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

use crate::{
    Action, MANAGER,
    cluster::{Cluster, built},
    fields,
    kinds::Kind,
    manifest::{self, Object},
    object::Place,
    problem::{Problem, cut, owners},
    rollout,
};

/// How long a kind that this job itself defines may take until the cluster serves it.
const DEFINED: Duration = Duration::from_secs(10);

/// Between looks for it.
const PAUSE: Duration = Duration::from_millis(250);

/// The most characters of what is said of one object in data, where there may be a hundred.
const SAID: usize = 300;

/// The params.
#[derive(Debug)]
pub(crate) struct Apply {
    objects: Vec<Object>,
    force: bool,
    dry_run: bool,
    wait: bool,
}

/// The params' schema.
pub(crate) fn schema() -> Value {
    let [manifest, objects] = manifest::schemas();
    schema::object(
        &[],
        [
            manifest,
            objects,
            ("namespace", schema::text("The namespace of the objects that name none. Default: the connection's.")),
            ("force", schema::flag("Takes over fields that others own. Default: false; then it fails and says whose they are.")),
            ("dry_run", schema::flag("Lets the cluster check everything and change nothing.")),
            ("wait", schema::flag("Waits until deployments, stateful sets and daemon sets have rolled out.")),
        ],
    )
}

impl Apply {
    pub(crate) fn parse(params: &Value) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let namespace = fields::namespace(&mut fields)?;
        let objects = manifest::objects(&mut fields, namespace.as_deref())?;
        let apply = Self {
            force: fields.flag("force")?.unwrap_or(false),
            dry_run: fields.flag("dry_run")?.unwrap_or(false),
            wait: fields.flag("wait")?.unwrap_or(false),
            objects: objects.unwrap_or_default(),
        };
        fields.end()?;
        if apply.objects.is_empty() {
            return Err(Rejection::field("manifest", "give one of `manifest` and `objects`"));
        }
        Ok(apply)
    }

    /// Applies one object. Gives the word for what became of it.
    async fn one(&self, cluster: &Cluster, object: &Object, place: &Place) -> Result<&'static str, Problem> {
        let before = place.find(cluster).await?;
        let params =
            PatchParams { dry_run: self.dry_run, force: self.force, field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let mut value = object.value.clone();
        if let (Some(namespace), Some(metadata)) = (&place.namespace, value.get_mut("metadata").and_then(Value::as_object_mut)) {
            metadata.insert("namespace".to_owned(), namespace.clone().into());
        }
        let request = place.path().patch(&place.name, &params, &Patch::Apply(&value)).map_err(|error| built(&error))?;
        let (_, after) = cluster.send(request, &place.called).await?;
        Ok(match before.map(content) {
            None => "created",
            Some(before) if before == content(after) => "unchanged",
            Some(_) => "configured",
        })
    }

    /// The object's kind, which may be one that this job has just defined.
    async fn kind(&self, cluster: &Cluster, object: &Object, defined: bool) -> Result<Kind, Problem> {
        let end = Instant::now() + if defined { DEFINED } else { Duration::ZERO };
        loop {
            match cluster.kind(&object.kind, Some(&object.api_version)).await {
                Err(problem) if problem.code == Code::ClusterRefused && Instant::now() < end => tokio::time::sleep(PAUSE).await,
                answer => return answer,
            }
        }
    }
}

/// An object without what changes when nothing else does.
fn content(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(field);
        }
    }
    object
}

impl Action for Apply {
    fn act<'a>(&'a self, cluster: &'a Cluster, scope: &'a Scope) -> BoxFuture<'a, Result<Finish, Problem>> {
        Box::pin(async move {
            let mut said = Vec::new();
            let mut refused: Vec<Problem> = Vec::new();
            let mut to_wait = Vec::new();
            let mut defined = false;
            let share = if self.wait { 50 } else { 100 };
            for (at, object) in self.objects.iter().enumerate() {
                let percent = u8::try_from(at * share / self.objects.len()).unwrap_or(0);
                scope
                    .recorder
                    .progress(percent, &format!("applying {} {} ({} of {})", object.kind, object.name, at + 1, self.objects.len()));
                let (mut facts, called, outcome) = match self.kind(cluster, object, defined).await {
                    Ok(kind) => {
                        let place = Place::new(cluster, kind, object.namespace.as_deref(), &object.name);
                        let mut outcome = self.one(cluster, object, &place).await;
                        if place.is_secret() {
                            outcome = outcome.map_err(|problem| problem.without_words(&place.called));
                        }
                        defined |= outcome.is_ok() && place.kind.is("apiextensions.k8s.io", "CustomResourceDefinition");
                        if outcome.is_ok() && self.wait && !self.dry_run && rollout::rolls_out(&place.kind) {
                            to_wait.push(place.clone());
                        }
                        (place.facts(), place.called.clone(), outcome)
                    }
                    Err(problem) => {
                        let facts = json!({"api_version": object.api_version, "kind": object.kind, "name": object.name});
                        (facts.as_object().cloned().unwrap_or_default(), format!("{} {}", object.kind, object.name), Err(problem))
                    }
                };
                match outcome {
                    Ok(word) => {
                        let dry = if self.dry_run { " (dry run)" } else { "" };
                        scope.recorder.write(Stream::Stdout, format!("{called} {word}{dry}\n").as_bytes()).await;
                        facts.insert("outcome".to_owned(), word.into());
                    }
                    // Nobody there: the others would fare alike.
                    Err(problem) if problem.code == Code::RequestFailed => return Err(problem),
                    Err(problem) => {
                        scope.recorder.write(Stream::Stderr, format!("{}\n", problem.message).as_bytes()).await;
                        facts.insert("outcome".to_owned(), "refused".into());
                        facts.insert("error".to_owned(), cut(&problem.message, SAID).into());
                        if let Some(status) = &problem.status {
                            let conflicts: Vec<_> =
                                owners(status).take(10).map(|(owner, field)| json!({"owner": owner, "field": field})).collect();
                            if !conflicts.is_empty() {
                                facts.insert("conflicts".to_owned(), conflicts.into());
                            }
                        }
                        refused.push(problem);
                    }
                }
                said.push(Value::Object(facts));
            }
            let data = json!({"objects": said, "dry_run": self.dry_run});
            let count = refused.len();
            if let Some(mut first) = refused.into_iter().next() {
                if count > 1 {
                    first.message = format!("{count} of {} objects were refused; the first: {}", self.objects.len(), first.message);
                }
                if first.code == Code::ApplyConflict {
                    first.message += " (give `force` to take the fields over)";
                }
                return Ok(first.finish().with_data(data));
            }
            for place in to_wait {
                if let Err(problem) = rollout::follow(cluster, &place, scope).await {
                    return Ok(problem.finish().with_data(data));
                }
                scope.recorder.write(Stream::Stdout, format!("{} rolled out\n", place.called).as_bytes()).await;
            }
            Ok(Finish::succeeded(Some(data)))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn there_must_be_objects_given_in_one_way() {
        let refused = |params: Value| Apply::parse(&params).unwrap_err().message;
        assert_eq!(refused(json!({})), "params.manifest: give one of `manifest` and `objects`");
        assert!(refused(json!({"manifest": "a: 1", "objects": []})).contains("one of"));
        assert!(refused(json!({"manifest": "a: 1", "forse": true})).contains("object 1"));
    }
}
