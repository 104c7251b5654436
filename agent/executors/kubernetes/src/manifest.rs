//! The objects of `params.manifest` (YAML, several documents) or `params.objects`: each read so far that it can be asked for by kind and name.
//! What else is in them is the cluster's to judge.

use muster_executor::{Rejection, fields::Fields, schema};
use serde_json::{Value, json};

use crate::fields::{is_api_version, is_kind, is_name};

/// The most objects of one job: a result names each.
const OBJECTS_MAX: usize = 100;

/// The most bytes of a manifest.
const MANIFEST_BYTES: usize = 512 * 1024;

/// One object of a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The namespace that it, or the job, names.
    pub(crate) namespace: Option<String>,
    /// All of it.
    pub(crate) value: Value,
}

/// Reads the fields `manifest`, `objects` and `namespace`. `None` when there is neither of the first two.
pub(crate) fn objects(fields: &mut Fields<'_>, namespace: Option<&str>) -> Result<Option<Vec<Object>>, Rejection> {
    let (field, documents) = match (fields.text("manifest")?, fields.value("objects")) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(Rejection::field("objects", "give one of `manifest` and `objects`")),
        (Some(text), None) => ("manifest", parse(text)?),
        (None, Some(Value::Array(list))) => ("objects", list.clone()),
        (None, Some(other)) => return Err(muster_executor::fields::wrong("objects", "a list of maps", other)),
    };
    let mut objects = Vec::new();
    for (at, document) in documents.into_iter().enumerate() {
        let items = match document {
            Value::Null => continue,
            // What `kubectl get -o yaml` prints.
            Value::Object(mut list) if list.get("kind").and_then(Value::as_str) == Some("List") => match list.remove("items") {
                Some(Value::Array(items)) => items,
                _ => return Err(Rejection::field(field, format!("object {}: a List has no `items`", at + 1))),
            },
            one => vec![one],
        };
        for item in items {
            objects.push(object(item, namespace).map_err(|problem| Rejection::field(field, format!("object {}: {problem}", at + 1)))?);
        }
    }
    match objects.len() {
        0 => Err(Rejection::field(field, "has no objects")),
        count if count > OBJECTS_MAX => Err(Rejection::field(field, format!("{count} objects; at most {OBJECTS_MAX}"))),
        _ => Ok(Some(objects)),
    }
}

fn parse(text: &str) -> Result<Vec<Value>, Rejection> {
    if text.len() > MANIFEST_BYTES {
        return Err(Rejection::field("manifest", format!("{} bytes; at most {MANIFEST_BYTES}", text.len())));
    }
    yaml(text).map_err(|problem| Rejection::field("manifest", problem))
}

/// The documents of a YAML text. Aliases can't blow it up: the parser has limits.
///
/// # Errors
/// Where and what is wrong, without a quotation: it may be of a secret.
pub(crate) fn yaml(text: &str) -> Result<Vec<Value>, String> {
    // As Kubernetes' own reader, which is of YAML 1.1: file modes are written as 0644.
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| match error.location() {
        Some(at) => format!("no YAML (line {}, column {})", at.line(), at.column()),
        None => "no YAML".to_owned(),
    })
}

fn object(value: Value, namespace: Option<&str>) -> Result<Object, String> {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str);
    let api_version = text("/apiVersion").filter(|text| is_api_version(text)).ok_or("no `apiVersion`, or none that can be one")?.to_owned();
    let kind = text("/kind").filter(|text| !text.is_empty() && is_kind(text)).ok_or("no `kind`, or none that can be one")?.to_owned();
    let problem = "no `metadata.name`, or none that can be one (names must be known: `generateName` can't be applied)";
    let name = text("/metadata/name").filter(|text| !text.is_empty() && is_name(text)).ok_or(problem)?.to_owned();
    let own = text("/metadata/namespace");
    if own.is_some_and(|own| own.is_empty() || !is_kind(own)) {
        return Err(format!("{kind} {name}: its namespace can't be one"));
    }
    let namespace = match (own, namespace) {
        (Some(own), Some(given)) if own != given => {
            return Err(format!("{kind} {name} is of the namespace {own}, and the job's is {given}"));
        }
        (own, given) => own.or(given).map(str::to_owned),
    };
    Ok(Object { api_version, kind, name, namespace, value })
}

/// `manifest` and `objects`, in schemas.
pub(crate) fn schemas() -> [(&'static str, Value); 2] {
    [
        ("manifest", schema::text("The objects, as YAML; several documents are fine.")),
        ("objects", json!({"type": "array", "items": {"type": "object"}, "description": "The objects, instead."})),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;

    fn read(params: Value) -> Result<Vec<Object>, String> {
        let mut fields = Fields::of(&params).unwrap();
        let namespace = crate::fields::namespace(&mut fields).unwrap();
        objects(&mut fields, namespace.as_deref()).map(Option::unwrap).map_err(|rejection| rejection.message)
    }

    #[test]
    fn documents_lists_and_octal_modes_are_read_as_kubectl_reads_them() {
        let manifest = "---\n# nothing\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a, namespace: x}\n\
                        ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b}\nspec: {defaultMode: 0644, on: \"yes\"}\n";
        let read = read(json!({"manifest": manifest})).unwrap();
        let names: Vec<_> =
            read.iter().map(|o| (o.api_version.as_str(), o.kind.as_str(), o.name.as_str(), o.namespace.as_deref())).collect();
        assert_eq!(names, [("v1", "Pod", "a", Some("x")), ("apps/v1", "Deployment", "b", None)]);
        assert_eq!(read[1].value["spec"], json!({"defaultMode": 420, "on": "yes"}));
    }

    #[test]
    fn what_can_not_be_asked_for_is_refused_and_says_which() {
        let pod = |change: Value| {
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
            pod.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            read(json!({"objects": [pod], "namespace": "here"})).unwrap_err()
        };
        assert!(pod(json!({"metadata": {"name": "../../secrets/x"}})).contains("object 1: no `metadata.name`"));
        assert!(pod(json!({"metadata": {"generateName": "a-"}})).contains("generateName"));
        assert!(pod(json!({"metadata": {"name": "a", "namespace": "there"}})).contains("of the namespace there, and the job's is here"));
        assert!(pod(json!({"metadata": {"name": "a", "namespace": "a/b"}})).contains("its namespace"));
        assert!(pod(json!({"apiVersion": "../v1"})).contains("apiVersion") && pod(json!({"kind": "a/b"})).contains("`kind`"));
        assert!(read(json!({"manifest": "a: [\nsecret-word"})).unwrap_err().contains("no YAML"));
        assert!(!read(json!({"manifest": "a: [\nsecret-word"})).unwrap_err().contains("secret-word"));
        assert!(read(json!({"manifest": "---\n"})).unwrap_err().contains("no objects"));
        assert!(
            read(json!({"objects": vec![json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}); 101]}))
                .unwrap_err()
                .contains("at most 100")
        );
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let before = vec![format!("*a{}", level - 1); 10].join(", ");
            text += &format!("a{level}: &a{level} [{before}]\n");
        }
        assert!(yaml(&text).is_err());
    }
}
