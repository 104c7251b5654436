//! Reads a job's params field by field, so that every complaint names its field. `null` counts as absent.
//!
//! serde would do the reading, but its errors do not say which field had the wrong type.

use serde_json::{Map, Value};

use crate::finish::Rejection;

/// The params of one job; each field is taken once, and [`Fields::end`] refuses what is left.
#[derive(Debug)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    taken: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of a map.
    ///
    /// # Errors
    /// When it is not a map. Like all errors here, with `params_invalid`, naming the field.
    pub fn of(params: &'a Value) -> Result<Self, Rejection> {
        match params {
            Value::Object(map) => Ok(Self { map, taken: Vec::new() }),
            other => {
                Err(Rejection::new(muster_schemas::code::Code::ParamsInvalid, format!("params: expected a map, got {}", name_of(other))))
            }
        }
    }

    /// Any value.
    pub fn value(&mut self, field: &'static str) -> Option<&'a Value> {
        self.taken.push(field);
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// Text without NUL: it becomes part of a command, a header or a URL.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&mut self, field: &'static str) -> Result<Option<&'a str>, Rejection> {
        self.value(field).map(|value| text(field, value)).transpose()
    }

    /// True or false.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&mut self, field: &'static str) -> Result<Option<bool>, Rejection> {
        self.value(field).map(|value| value.as_bool().ok_or_else(|| wrong(field, "true or false", value))).transpose()
    }

    /// A number.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(&mut self, field: &'static str) -> Result<Option<f64>, Rejection> {
        self.value(field).map(|value| value.as_f64().ok_or_else(|| wrong(field, "a number", value))).transpose()
    }

    /// A whole number.
    ///
    /// # Errors
    /// When it is something else.
    pub fn integer(&mut self, field: &'static str) -> Result<Option<i64>, Rejection> {
        self.value(field).map(|value| value.as_i64().ok_or_else(|| wrong(field, "a whole number", value))).transpose()
    }

    /// A list of texts, none with NUL.
    ///
    /// # Errors
    /// When it is something else.
    pub fn texts(&mut self, field: &'static str) -> Result<Option<Vec<String>>, Rejection> {
        let Some(value) = self.value(field) else { return Ok(None) };
        let items = value.as_array().ok_or_else(|| wrong(field, "a list of texts", value))?;
        let item = |(at, item)| text(&format!("{field}[{at}]"), item).map(str::to_owned);
        items.iter().enumerate().map(item).collect::<Result<_, _>>().map(Some)
    }

    /// A map; the caller looks at its values.
    ///
    /// # Errors
    /// When it is something else.
    pub fn map(&mut self, field: &'static str) -> Result<Option<&'a Map<String, Value>>, Rejection> {
        self.value(field).map(|value| value.as_object().ok_or_else(|| wrong(field, "a map", value))).transpose()
    }

    /// Refuses fields that nobody took: a misspelt `timeuot` must not be ignored in silence.
    ///
    /// # Errors
    /// Names the first.
    pub fn end(&self) -> Result<(), Rejection> {
        match self.map.keys().find(|key| !self.taken.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) if self.taken.is_empty() => Err(Rejection::field(&shown(key), "this type takes no params")),
            Some(key) => Err(Rejection::field(&shown(key), format!("unknown (known: {})", self.taken.join(", ")))),
        }
    }
}

/// A value that must be text without NUL.
///
/// # Errors
/// When it is something else.
pub fn text<'a>(field: &str, value: &'a Value) -> Result<&'a str, Rejection> {
    let text = value.as_str().ok_or_else(|| wrong(field, "text", value))?;
    if text.contains('\0') {
        return Err(Rejection::field(field, "must not contain a NUL byte"));
    }
    Ok(text)
}

/// The complaint about a value of the wrong type.
pub fn wrong(field: &str, expected: &str, got: &Value) -> Rejection {
    Rejection::field(field, format!("expected {expected}, got {}", name_of(got)))
}

/// A caller's own key, made fit for a message: short, without control characters.
pub fn shown(key: &str) -> String {
    key.chars().take(64).flat_map(char::escape_debug).collect()
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
