//! What makes an answer a success beyond its status: a place in its JSON body, and what is to be there.

use muster_executor::{
    Rejection,
    fields::{self, Fields},
};
use serde_json::Value;
use serde_json_path::JsonPath;

/// Longest path, in bytes.
const PATH_BYTES: usize = 1024;

/// Most conditions of one job.
const CONDITIONS: usize = 16;

/// What must hold of the JSON body.
#[derive(Debug, Default)]
pub(super) struct Conditions(Vec<Condition>);

#[derive(Debug)]
struct Condition {
    /// As the job has it.
    text: String,
    path: JsonPath,
    /// What each place must be equal to; that there is one is enough if absent.
    equals: Option<Value>,
}

impl Conditions {
    /// Reads `expect_json`: one condition `{path, equals?}`, or a list of these.
    pub(super) fn parse(value: &Value) -> Result<Self, Rejection> {
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        if items.is_empty() || items.len() > CONDITIONS {
            return Err(Rejection::field("expect_json", format!("takes 1 to {CONDITIONS} conditions")));
        }
        items.iter().enumerate().map(|(at, item)| condition(at, item)).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of them hold of this body; `Err` says which does not.
    pub(super) fn hold(&self, body: &[u8]) -> Result<(), String> {
        let value: Value = serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
        self.0.iter().try_for_each(|condition| condition.holds(&value))
    }
}

fn condition(at: usize, item: &Value) -> Result<Condition, Rejection> {
    let field = |name: &str| format!("expect_json[{at}].{name}");
    if !item.is_object() {
        return Err(fields::wrong(&format!("expect_json[{at}]"), "a map with `path` and `equals`", item));
    }
    let mut given = Fields::of(item)?;
    let text = given.value("path").ok_or_else(|| Rejection::field(&field("path"), "is missing"))?;
    let text = fields::text(&field("path"), text)?;
    // `null` is a value that a place may be expected to have.
    let equals = item.get("equals").cloned();
    let _read = given.value("equals");
    given.end().map_err(|_| Rejection::field(&format!("expect_json[{at}]"), "takes `path` and `equals` only"))?;
    if text.len() > PATH_BYTES {
        return Err(Rejection::field(&field("path"), format!("is longer than {PATH_BYTES} bytes")));
    }
    let path = JsonPath::parse(text).map_err(|error| Rejection::field(&field("path"), format!("is not a JSONPath: {error}")))?;
    Ok(Condition { text: text.to_owned(), path, equals })
}

impl Condition {
    fn holds(&self, body: &Value) -> Result<(), String> {
        let found = self.path.query(body).all();
        let text = &self.text;
        match (&self.equals, found.as_slice()) {
            (_, []) => Err(format!("the body has nothing at {text}")),
            (None, _) => Ok(()),
            (Some(wanted), found) => match found.iter().find(|value| **value != wanted) {
                None => Ok(()),
                Some(other) => Err(format!("at {text} the body has {}, expected {}", short(other), short(wanted))),
            },
        }
    }
}

/// A value, cut for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_hold_or_say_why_not() {
        let body = br#"{"status": "ok", "nodes": [{"up": true}, {"up": false}], "none": null}"#;
        let says = |conditions: Value| Conditions::parse(&conditions).unwrap().hold(body);
        assert_eq!(says(json!({"path": "$.status", "equals": "ok"})), Ok(()));
        assert_eq!(says(json!([{"path": "$.nodes[0].up", "equals": true}, {"path": "$.none", "equals": null}])), Ok(()));
        assert_eq!(says(json!({"path": "$.nodes"})), Ok(()));
        assert_eq!(says(json!({"path": "$.status", "equals": "bad"})).unwrap_err(), r#"at $.status the body has "ok", expected "bad""#);
        assert_eq!(
            says(json!({"path": "$.nodes[*].up", "equals": true})).unwrap_err(),
            "at $.nodes[*].up the body has false, expected true"
        );
        assert_eq!(says(json!({"path": "$.missing"})).unwrap_err(), "the body has nothing at $.missing");
        let words = Conditions::parse(&json!({"path": "$"})).unwrap().hold(b"<html>").unwrap_err();
        assert!(words.starts_with("the body is not JSON"), "{words}");
    }

    #[test]
    fn conditions_that_are_none_are_refused_with_the_field() {
        for (wrong, field) in [
            (json!([]), "params.expect_json: takes 1 to 16"),
            (json!("$.a"), "params.expect_json[0]: expected a map"),
            (json!({"equals": 1}), "params.expect_json[0].path: is missing"),
            (json!({"path": 1}), "params.expect_json[0].path: expected text"),
            (json!([{"path": "$"}, {"path": "$.["}]), "params.expect_json[1].path: is not a JSONPath"),
            (json!({"path": "$", "equal": 1}), "params.expect_json[0]: takes `path`"),
            (json!({"path": format!("$.{}", "a".repeat(2000))}), "params.expect_json[0].path: is longer"),
        ] {
            let message = Conditions::parse(&wrong).unwrap_err().message;
            assert!(message.starts_with(field), "{wrong}: {message}");
        }
    }
}
