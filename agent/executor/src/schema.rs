//! JSON Schemas of params, written as they are read: closed maps whose fields say what they are.
//!
//! A schema is for people, completion and the gateway's check before the queue; the executor's own reading ([`crate::fields`]) has the last word,
//! and knows rules that no schema can say.

use muster_schemas::describe::TypeInfo;
use serde_json::{Map, Value, json};

/// A map with these fields and no others.
pub fn object<const N: usize>(required: &[&str], fields: [(&str, Value); N]) -> Value {
    let properties: Map<String, Value> = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// Text.
pub fn text(about: &str) -> Value {
    json!({"type": "string", "description": about})
}

/// One of these words.
pub fn one_of(about: &str, words: &[&str]) -> Value {
    json!({"type": "string", "enum": words, "description": about})
}

/// True or false.
pub fn flag(about: &str) -> Value {
    json!({"type": "boolean", "description": about})
}

/// A whole number within a range.
pub fn integer(about: &str, range: std::ops::RangeInclusive<i64>) -> Value {
    json!({"type": "integer", "minimum": range.start(), "maximum": range.end(), "description": about})
}

/// A number, 0 or more, up to `most`.
pub fn number(about: &str, most: f64) -> Value {
    json!({"type": "number", "minimum": 0, "maximum": most, "description": about})
}

/// A list of texts.
pub fn texts(about: &str) -> Value {
    json!({"type": "array", "items": {"type": "string"}, "description": about})
}

/// A map whose values are texts.
pub fn text_map(about: &str) -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}, "description": about})
}

/// Any value.
pub fn any(about: &str) -> Value {
    json!({"description": about})
}

/// What there is to say of the type `<executor>.<verb>`, which takes no connection.
pub fn type_info(executor: &str, verb: &str, about: &str, params: Value, example: Value) -> TypeInfo {
    let (name, about) = (format!("{executor}.{verb}"), about.to_owned());
    TypeInfo { name, about, params, example, connections: Vec::new(), needs_connection: false }
}
