//! `kubernetes.get`: an object, or those that a selector finds, as data. Never the content of a Secret: it would go through broker and log.
//!
//! The answer is bounded: a list says that there is more, one object that is too large asks for `fields`.

use kube::api::ListParams;
use muster_executor::{BoxFuture, Finish, Rejection, Scope, Stream, fields::Fields, schema};
use muster_schemas::code::Code;
use serde_json::{Map, Value, json};

use crate::{
    Action,
    cluster::{Cluster, built},
    fields,
    kinds::Kind,
    object::{Place, text},
    problem::Problem,
};

/// The most bytes (as JSON) of objects in one answer: a result has 96 KiB for it as MessagePack, which is smaller.
const ANSWER_BYTES: usize = 64 * 1024;

/// The most objects of one answer, and how many unless said otherwise.
const LIMIT_MAX: i64 = 500;
const LIMIT: i64 = 50;

/// The most fields that can be chosen.
const FIELDS_MAX: usize = 32;

/// What others keep of the whole object in an annotation: of a Secret, its content.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The params.
#[derive(Debug)]
pub(crate) struct Get {
    kind: String,
    api_version: Option<String>,
    namespace: Option<String>,
    which: Which,
    chosen: Option<Vec<String>>,
    limit: u32,
}

#[derive(Debug)]
enum Which {
    One(String),
    /// All, or those that the selector finds.
    Several(Option<String>),
}

/// The params' schema.
pub(crate) fn schema() -> Value {
    let [kind, api_version, name, namespace] = fields::object_schema();
    schema::object(
        &["kind"],
        [
            kind,
            api_version,
            name,
            namespace,
            ("selector", schema::text("A label selector, instead of a name; without either, all of the namespace.")),
            ("fields", schema::texts("Only these fields, such as status.readyReplicas.")),
            ("limit", schema::integer("At most so many objects. Default: 50.", 1..=LIMIT_MAX)),
        ],
    )
}

impl Get {
    pub(crate) fn parse(params: &Value) -> Result<Self, Rejection> {
        let mut fields = Fields::of(params)?;
        let kind = fields::needed(fields::kind(&mut fields)?, "kind")?;
        let api_version = fields::api_version(&mut fields)?;
        let (name, selector) = (fields::name(&mut fields, "name")?, fields::selector(&mut fields)?);
        let namespace = fields::namespace(&mut fields)?;
        let chosen = fields.texts("fields")?;
        let limit = fields::integer(&mut fields, "limit", 1..=LIMIT_MAX)?;
        fields.end()?;
        if chosen.as_ref().is_some_and(|chosen| chosen.is_empty() || chosen.len() > FIELDS_MAX) {
            return Err(Rejection::field("fields", format!("give 1 to {FIELDS_MAX}")));
        }
        let which = match (name, selector) {
            (Some(_), Some(_)) => return Err(Rejection::field("selector", "give one of `name` and `selector`")),
            (Some(name), None) => Which::One(name),
            (None, selector) => Which::Several(selector),
        };
        let limit = u32::try_from(limit.unwrap_or(LIMIT)).unwrap_or(1);
        Ok(Self { kind, api_version, namespace, which, chosen, limit })
    }

    fn shown(&self, kind: &Kind, mut object: Value) -> Value {
        veil(kind, &mut object);
        match &self.chosen {
            None => object,
            Some(chosen) => choose(&object, chosen),
        }
    }

    async fn one(&self, cluster: &Cluster, kind: Kind, name: &str) -> Result<Finish, Problem> {
        let place = Place::new(cluster, kind, self.namespace.as_deref(), name);
        let object = cluster.read(place.get()?, &place.called).await?;
        let object = self.shown(&place.kind, object);
        let size = object.to_string().len();
        if size > ANSWER_BYTES {
            let message = format!("{} has {size} bytes, more than the {ANSWER_BYTES} of an answer; choose `fields`", place.called);
            return Ok(Finish::failed(Code::ResultTooLarge, message));
        }
        Ok(Finish::succeeded(Some(json!({ "object": object }))))
    }

    async fn several(&self, cluster: &Cluster, kind: &Kind, selector: Option<&str>, scope: &Scope) -> Result<Finish, Problem> {
        let mut params = ListParams::default().limit(self.limit);
        if let Some(selector) = selector {
            params = params.labels(selector);
        }
        let namespace = cluster.namespace_of(kind, self.namespace.as_deref());
        let request = Cluster::path(&kind.resource, namespace).list(&params).map_err(|error| built(&error))?;
        let mut list = cluster.read(request, &kind.resource.plural).await?;
        let mut more = !text(&list, "/metadata/continue").is_empty();
        let Some(Value::Array(found)) = list.get_mut("items").map(Value::take) else {
            return Err(Problem::unanswered(format!("{} answers with no list of {}", cluster.server, kind.resource.plural)));
        };
        let mut items = Vec::new();
        let mut left = ANSWER_BYTES;
        // A server that knows no limits gives all of them.
        more |= found.len() > self.limit as usize;
        for object in found.into_iter().take(self.limit as usize) {
            let called = kind.call(text(&object, "/metadata/name"));
            let object = self.shown(kind, object);
            let Some(rest) = left.checked_sub(object.to_string().len()) else {
                more = true;
                break;
            };
            left = rest;
            scope.recorder.write(Stream::Stdout, format!("{called}\n").as_bytes()).await;
            items.push(object);
        }
        if items.is_empty() && more {
            let message =
                format!("the first of the {} is larger than the {ANSWER_BYTES} bytes of an answer; choose `fields`", kind.resource.plural);
            return Ok(Finish::failed(Code::ResultTooLarge, message));
        }
        Ok(Finish::succeeded(Some(json!({"count": items.len(), "items": items, "more": more}))))
    }
}

/// Takes out what is not for others: the content of Secrets; and what nobody wants to read.
fn veil(kind: &Kind, object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    if kind.is("", "Secret") {
        for field in ["data", "stringData"] {
            for value in object.get_mut(field).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
                *value = "(left out)".into();
            }
        }
    }
}

/// Only these fields, where they are.
fn choose(object: &Value, chosen: &[String]) -> Value {
    let mut out = json!({});
    for path in chosen {
        let steps: Vec<&str> = path.split('.').filter(|step| !step.is_empty()).collect();
        if let Some(found) = steps.iter().try_fold(object, |at, step| at.get(*step)) {
            put(&mut out, &steps, found.clone());
        }
    }
    out
}

fn put(into: &mut Value, steps: &[&str], value: Value) {
    match steps {
        [] => *into = value,
        [first, rest @ ..] => {
            if !into.is_object() {
                *into = json!({});
            }
            if let Some(map) = into.as_object_mut() {
                put(map.entry(*first).or_insert(Value::Null), rest, value);
            }
        }
    }
}

impl Action for Get {
    fn act<'a>(&'a self, cluster: &'a Cluster, scope: &'a Scope) -> BoxFuture<'a, Result<Finish, Problem>> {
        Box::pin(async move {
            let kind = cluster.kind(&self.kind, self.api_version.as_deref()).await?;
            match &self.which {
                Which::One(name) => self.one(cluster, kind, name).await,
                Which::Several(selector) => self.several(cluster, &kind, selector.as_deref(), scope).await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_fields_keep_their_places() {
        let object = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "status": {"ready": 1, "all": 2}});
        let chosen = |paths: &[&str]| choose(&object, &paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
        assert_eq!(chosen(&["metadata.name", "status.ready", "no.such"]), json!({"metadata": {"name": "a"}, "status": {"ready": 1}}));
        assert_eq!(chosen(&["status", "status.ready"]), json!({"status": {"ready": 1, "all": 2}}));
    }
}
