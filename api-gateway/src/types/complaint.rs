//! What is wrong with params, in the words of the agents: the field first, and none of its value, which may be secret.

use jsonschema::{
    JsonType, ValidationError,
    error::{TypeKind, ValidationErrorKind as Kind},
    paths::LocationSegment,
};
use serde_json::Value;

/// The longest part of a complaint that is somebody else's words, in characters.
const SHOWN_MAX: usize = 200;

/// The complaint, such as `params.url: expected text`.
pub(super) fn of(error: &ValidationError<'_>) -> String {
    let mut field = String::from("params");
    for segment in error.instance_path().segments() {
        push(&mut field, &segment);
    }
    match error.kind() {
        Kind::AdditionalProperties { unexpected } => {
            if let Some(name) = unexpected.first() {
                push(&mut field, &LocationSegment::Property(name.as_str().into()));
            }
        }
        Kind::Required { property: Value::String(name) } => push(&mut field, &LocationSegment::Property(name.as_str().into())),
        _ => {}
    }
    format!("{field}: {}", problem(error))
}

fn push(field: &mut String, segment: &LocationSegment<'_>) {
    match segment {
        LocationSegment::Property(name) => {
            field.push('.');
            field.push_str(&shown(name));
        }
        LocationSegment::Index(at) => field.push_str(&format!("[{at}]")),
    }
}

fn problem(error: &ValidationError<'_>) -> String {
    match error.kind() {
        Kind::AdditionalProperties { .. } | Kind::FalseSchema => "unknown".into(),
        Kind::Required { .. } => "missing".into(),
        Kind::Type { kind: TypeKind::Single(kind) } => format!("expected {}", name(*kind)),
        Kind::Type { kind: TypeKind::Multiple(kinds) } => {
            format!("expected {}", kinds.iter().map(name).collect::<Vec<_>>().join(" or "))
        }
        Kind::Enum { options } => format!("takes one of {}", shown(&options.to_string())),
        Kind::Constant { expected_value } => format!("takes {}", shown(&expected_value.to_string())),
        Kind::Minimum { limit } => format!("must be {limit} or more"),
        Kind::Maximum { limit } => format!("must be {limit} or less"),
        Kind::Pattern { pattern } => format!("does not have the form {}", shown(pattern)),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => "fits none of the forms that it may have".into(),
        Kind::OneOfMultipleValid { .. } => "fits several of the forms of which it may have one".into(),
        _ => shown(&error.masked().to_string()),
    }
}

fn name(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Null => "nothing",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Number => "a number",
        JsonType::String => "text",
        JsonType::Array => "a list",
        JsonType::Object => "a map",
    }
}

/// Somebody else's words, made fit for a message: short, without control characters.
pub(super) fn shown(words: &str) -> String {
    words.chars().take(SHOWN_MAX).flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}
