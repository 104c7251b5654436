//! The types of jobs in the document: those of the executors that are part of Muster. The document is for everybody, so what the agents of a pool have
//! beside is not in it; `GET /executors` lists that for whoever has a key.

use muster_schemas::describe::{Description, TypeInfo};
use serde_json::{Map, Value, json};

/// Where the schema of a submit has its params.
const PARAMS: &str = "/components/schemas/Submit/properties/params";
/// Where submits are described.
const SUBMIT_BODY: &str = "/paths/~1api~1v1~1jobs/post/requestBody/content/application~1json";

/// Adds each type's params to the schemas, under the name of the type, and all of them to what a submit takes.
pub(super) fn add(document: &mut Value, description: &Description) {
    let types: Vec<&TypeInfo> = description.types().collect();
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.extend(types.iter().map(|info| (info.name.clone(), schema(info))));
    }
    if let Some(params) = document.pointer_mut(PARAMS) {
        let about = params.get("description").and_then(Value::as_str).unwrap_or_default();
        let known = types.iter().map(|info| json!({"$ref": format!("#/components/schemas/{}", info.name)}));
        let other = json!({"type": "object", "description": "What a type of a plugin takes: GET /executors lists those."});
        let any: Vec<Value> = known.chain([other]).collect();
        *params = json!({"description": format!("{about} By `type`."), "anyOf": any});
    }
    if let Some(body) = document.pointer_mut(SUBMIT_BODY).and_then(Value::as_object_mut) {
        let example = |info: &&TypeInfo| {
            let mut job = json!({"pool": "default", "type": info.name, "params": info.example});
            if let Some(map) = job.as_object_mut().filter(|_| info.needs_connection) {
                map.insert("connection".into(), "NAME".into());
            }
            (info.name.clone(), json!({"summary": info.about, "value": job}))
        };
        body.insert("examples".into(), types.iter().map(example).collect::<Map<_, _>>().into());
    }
}

fn schema(info: &TypeInfo) -> Value {
    let mut schema = info.params.clone();
    let kinds: Vec<&str> = info.connections.iter().map(|kind| kind.as_str()).collect();
    let connection = match (kinds.is_empty(), info.needs_connection) {
        (true, _) => String::new(),
        (false, true) => format!(" Needs a connection: {}.", kinds.join(", ")),
        (false, false) => format!(" May name a connection: {}.", kinds.join(", ")),
    };
    if let Some(map) = schema.as_object_mut() {
        map.insert("description".into(), format!("Params of `{}`: {}{connection}", info.name, info.about).into());
        map.insert("examples".into(), json!([info.example]));
    }
    schema
}
