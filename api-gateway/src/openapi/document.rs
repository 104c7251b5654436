//! Makes the document from the table. What every endpoint of an access, with a body or behind the broker can answer is added here, so that
//! the table names only what is special.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use muster_schemas::{api::Problem, builtin, code::Code};
use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json, map::Entry};

use super::types;
use crate::{
    endpoint::{Access, Endpoint},
    problem::{PROBLEM_JSON, status},
};

/// Where the schemas are in the document.
const SCHEMAS: &str = "/components/schemas";

/// The document of these endpoints.
pub(crate) fn document(table: &[Endpoint]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = SCHEMAS.into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for endpoint in table {
        let operation = operation(endpoint, &mut generator);
        paths.entry(endpoint.path).or_default().insert(endpoint.method.as_str().to_lowercase(), operation);
    }
    let problem = generator.subschema_for::<Problem>();
    let mut tags: Vec<&str> = Vec::new();
    for endpoint in table {
        if !tags.contains(&endpoint.tag) {
            tags.push(endpoint.tag);
        }
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Muster",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Dispatches jobs to agents. Every error is a problem document (RFC 9457) with a stable code.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags.iter().map(|tag| json!({"name": tag})).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, `mst_…`, or an agent's, `mst_agent_…`."},
                "keyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key, in a header of its own."},
                "joinToken": {"type": "apiKey", "in": "header", "name": "X-Agent-Token", "description": "A join token, `mst_join_…`."},
            },
            "responses": {
                "Problem": {"description": "A problem.", "content": {PROBLEM_JSON: {"schema": problem}}},
            },
        },
    });
    types::add(&mut document, &builtin::description());
    document
}

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": operation_id(endpoint),
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": parameters(endpoint, generator),
        "responses": responses(endpoint, generator),
        // For programs; the description says it for people.
        "x-access": match endpoint.access {
            Access::Public => "public".to_owned(),
            Access::Role(role) => role.to_string(),
            Access::AgentOrToken => "agent".to_owned(),
        },
        // What the audit trail calls it, where it tells of every use.
        "x-audit": endpoint.audit.always(),
        "security": match endpoint.access {
            Access::Public => json!([]),
            Access::Role(_) => json!([{"key": []}, {"keyHeader": []}]),
            Access::AgentOrToken => json!([{"joinToken": []}, {"key": []}]),
        },
    });
    let access = match endpoint.access {
        Access::Public => "For everybody.".to_owned(),
        Access::Role(role) => format!("Role: {role}."),
        Access::AgentOrToken => "For join tokens and agents' keys.".to_owned(),
    };
    if let Some(map) = operation.as_object_mut() {
        map.insert("description".into(), format!("{}\n\n{access}", endpoint.description).trim().into());
        if let Some(body) = endpoint.body {
            let schema = body(generator);
            map.insert("requestBody".into(), json!({"required": true, "content": {"application/json": {"schema": schema}}}));
        }
    }
    operation
}

/// Unique, and stable while the route is: `post_api_v1_jobs`, `get_api_v1_jobs_id`.
fn operation_id(endpoint: &Endpoint) -> String {
    let words = endpoint.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(endpoint.method.as_str().to_lowercase()).chain(words.map(str::to_owned)).collect::<Vec<_>>().join("_")
}

fn parameters(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Vec<Value> {
    let in_path = endpoint.path.split(['{', '}']).skip(1).step_by(2);
    let mut parameters: Vec<Value> =
        in_path.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})).collect();
    if let Some(query) = endpoint.query {
        parameters.extend(fields(&query(generator)).into_iter().map(|(name, mut schema, required)| {
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            json!({"name": name, "in": "query", "required": required, "description": description, "schema": schema})
        }));
    }
    parameters.extend(
        endpoint
            .headers
            .iter()
            .map(|(name, what)| json!({"name": name, "in": "header", "description": what, "schema": {"type": "string"}})),
    );
    for parameter in &mut parameters {
        if let Some(map) = parameter.as_object_mut() {
            map.retain(|_, value| !value.is_null());
        }
    }
    parameters
}

/// The fields of a flat struct: name, schema, whether it is needed.
fn fields(schema: &Schema) -> Vec<(String, Value, bool)> {
    let schema = schema.as_value();
    let required: Vec<&str> = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    properties.map(|(name, schema)| (name.clone(), schema.clone(), required.contains(&name.as_str()))).collect()
}

fn responses(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    for answer in &endpoint.answers {
        let mut response = json!({"description": answer.what});
        let schema = answer.schema.map(|schema| schema(generator));
        if !answer.content_type.is_empty() {
            let media = schema.map_or_else(|| json!({}), |schema| json!({"schema": schema}));
            if let Some(map) = response.as_object_mut() {
                map.insert("content".into(), json!({ answer.content_type: media }));
            }
        }
        match responses.entry(answer.status.as_u16().to_string()) {
            Entry::Vacant(free) => drop(free.insert(response)),
            Entry::Occupied(mut there) => join(there.get_mut(), response),
        }
    }
    let problem = generator.subschema_for::<Problem>();
    for (status, codes) in problems(endpoint) {
        let list: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
        let meanings = codes.iter().map(|code| format!("- `{code}`: {}", code.meaning())).collect::<Vec<_>>().join("\n");
        // An extension beside the description, for programs.
        let response = json!({"description": meanings, "content": {PROBLEM_JSON: {"schema": problem}}, "x-codes": list});
        responses.entry(status.as_u16().to_string()).or_insert(response);
    }
    Value::Object(responses)
}

/// Adds another answer of the same status: it has another type of content, or another body of the same type.
fn join(there: &mut Value, other: Value) {
    let text = |response: &Value| response.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    let description = format!("{} {}", text(there), text(&other));
    let schema = |content: &Value, kind: &str| content.get(kind).and_then(|media| media.get("schema")).cloned();
    let mut content = there.get("content").cloned().unwrap_or_else(|| json!({}));
    for (kind, media) in other.get("content").and_then(Value::as_object).into_iter().flatten() {
        let bodies: Vec<Value> = [schema(&content, kind), media.get("schema").cloned()].into_iter().flatten().collect();
        let media = if bodies.len() > 1 { json!({"schema": {"oneOf": bodies}}) } else { media.clone() };
        if let Some(map) = content.as_object_mut() {
            map.insert(kind.clone(), media);
        }
    }
    *there = json!({"description": description, "content": content});
}

/// Every code that the endpoint can answer, by status.
fn problems(endpoint: &Endpoint) -> BTreeMap<StatusCode, Vec<Code>> {
    let mut codes = endpoint.codes.clone();
    match endpoint.access {
        Access::Public => {}
        Access::Role(_) => {
            codes.extend([
                Code::HeaderInvalid,
                Code::Unauthenticated,
                Code::Forbidden,
                Code::HeadTooLarge,
                Code::RateLimited,
                Code::BrokerUnavailable,
                Code::Internal,
            ]);
        }
        Access::AgentOrToken => codes.extend([
            Code::HeaderInvalid,
            Code::Unauthenticated,
            Code::TokenInvalid,
            Code::Forbidden,
            Code::HeadTooLarge,
            Code::RateLimited,
            Code::BrokerUnavailable,
            Code::Internal,
        ]),
    }
    if endpoint.body.is_some() {
        codes.extend([Code::HeaderInvalid, Code::BodyTooLarge, Code::BodyTooDeep, Code::BodyMalformed, Code::FieldInvalid]);
    }
    if endpoint.query.is_some() {
        codes.push(Code::QueryInvalid);
    }
    if endpoint.method != Method::GET && endpoint.access != Access::Public {
        codes.push(Code::BrokerUnavailable);
    }
    codes.sort_unstable();
    codes.dedup();
    let mut by_status: BTreeMap<StatusCode, Vec<Code>> = BTreeMap::new();
    for code in codes {
        by_status.entry(status(code)).or_default().push(code);
    }
    by_status
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use std::collections::BTreeSet;

    use super::*;
    use crate::routes;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_in_the_document_and_described() {
        let table = routes::table();
        let document = document(&table);
        for endpoint in &table {
            let operation = &document["paths"][endpoint.path][endpoint.method.as_str().to_lowercase()];
            assert!(operation.is_object(), "{} {}", endpoint.method, endpoint.path);
            assert!(!endpoint.summary.is_empty() && !endpoint.tag.is_empty(), "{} {}", endpoint.method, endpoint.path);
            assert!(!endpoint.answers.is_empty(), "{} {}", endpoint.method, endpoint.path);
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document(&routes::table());
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 10);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn types_have_names_of_their_own() {
        let document = document(&routes::table());
        let names: Vec<&String> = document["components"]["schemas"].as_object().unwrap().keys().collect();
        assert!(names.iter().any(|name| *name == "JobViewAnswer") && names.iter().any(|name| *name == "AgentViewPage"), "{names:?}");
        assert!(!names.iter().any(|name| name.ends_with(|last: char| last.is_ascii_digit())), "two types of one name: {names:?}");
    }

    #[test]
    fn operation_ids_are_unique_and_path_parameters_are_declared() {
        let document = document(&routes::table());
        let mut ids = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for operation in operations.as_object().unwrap().values() {
                assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()));
                let declared = operation["parameters"].as_array().unwrap().iter().filter(|parameter| parameter["in"] == "path").count();
                assert_eq!(declared, path.matches('{').count(), "{path}");
            }
        }
    }

    #[test]
    fn two_answers_of_one_status_are_both_described() {
        let document = document(&routes::table());
        let submit = &document["paths"]["/api/v1/jobs"]["post"]["responses"]["202"];
        let bodies: Vec<_> = submit["content"]["application/json"]["schema"]["oneOf"].as_array().unwrap().iter().collect();
        assert_eq!(bodies.len(), 2, "{submit}");
        let log = &document["paths"]["/api/v1/jobs/{id}/logs"]["get"]["responses"]["200"]["content"];
        assert!(log["application/json"]["schema"].is_object() && log["text/plain"].is_object(), "{log}");
    }

    #[test]
    fn the_types_of_jobs_are_in_it_and_a_submit_names_them() {
        let document = document(&routes::table());
        let schemas = &document["components"]["schemas"];
        let command = &schemas["shell.run"];
        assert!(command["properties"]["command"]["description"].is_string() && command["examples"][0].is_object(), "{command}");
        let params = schemas["Submit"]["properties"]["params"]["anyOf"].as_array().unwrap();
        let examples = &document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"];
        for info in builtin::description().types() {
            let reference = format!("#/components/schemas/{}", info.name);
            assert!(params.iter().any(|one| one["$ref"] == reference), "{reference}");
            assert_eq!(examples[&info.name]["value"]["params"], info.example);
        }
    }

    #[test]
    fn an_endpoint_behind_a_role_says_so_and_lists_what_it_refuses() {
        let document = document(&routes::table());
        let operation = &document["paths"]["/api/v1/api-keys"]["post"];
        assert!(operation["description"].as_str().unwrap().contains("Role: admin."));
        for status in ["201", "400", "401", "403", "413", "429", "503"] {
            assert!(operation["responses"][status].is_object(), "{status}");
        }
    }
}
