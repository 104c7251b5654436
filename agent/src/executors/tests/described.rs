//! Every type of every executor: what it says that it takes, and what it takes. Schema and reading must agree on everything that a schema can say.

use serde_json::{Map, Value, json};

use super::*;

/// A value of each type of JSON, with the names of the types that it is of.
fn samples() -> [(Value, &'static [&'static str]); 6] {
    [
        (json!(true), &["boolean"]),
        (json!(1), &["integer", "number"]),
        (json!(1.5), &["number"]),
        (json!("wrong"), &["string"]),
        (json!([["wrong"]]), &["array"]),
        (json!({"wrong": ["wrong"]}), &["object"]),
    ]
}

/// The types that a field's schema lets through; `None` where it does not say.
fn types_of(schema: &Value) -> Option<Vec<String>> {
    match &schema["type"] {
        Value::String(one) => return Some(vec![one.clone()]),
        Value::Array(several) => return several.iter().map(|one| Some(one.as_str()?.to_owned())).collect(),
        _ => {}
    }
    if let Some(values) = schema["enum"].as_array() {
        let sorts = values.iter().map(|value| if value.is_string() { "string" } else { "number" });
        return Some(sorts.map(str::to_owned).collect());
    }
    let any = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array())?;
    any.iter().map(types_of).collect::<Option<Vec<_>>>().map(|all| all.concat())
}

/// A type, with what its schema and the agent's reading make of params. Gathers what is wrong, so that one run shows all of it.
struct Both<'a> {
    registry: &'a Registry,
    info: &'a TypeInfo,
    schema: jsonschema::Validator,
    wrong: &'a mut Vec<String>,
}

impl Both<'_> {
    fn say(&self, params: &Map<String, Value>) -> (bool, Option<Rejection>) {
        let params = Value::Object(params.clone());
        let connection: Option<ConnectionName> = self.info.needs_connection.then(|| "c".parse().unwrap());
        (self.schema.is_valid(&params), self.registry.check(&self.info.name, &params, connection.as_ref()).err())
    }

    fn accept(&mut self, params: &Map<String, Value>) {
        let (valid, refused) = self.say(params);
        if !valid || refused.is_some() {
            self.wrong.push(format!("{} of {}: good for the schema: {valid}, for the agent: {refused:?}", self.info.name, json!(params)));
        }
    }

    fn refuse(&mut self, params: &Map<String, Value>) {
        let (valid, refused) = self.say(params);
        if valid || refused.is_none_or(|refused| refused.code != Code::ParamsInvalid) {
            let refused = self.say(params).1;
            self.wrong.push(format!("{} of {}: good for the schema: {valid}, for the agent: {refused:?}", self.info.name, json!(params)));
        }
    }
}

fn with(params: &Map<String, Value>, field: &str, value: Value) -> Map<String, Value> {
    let mut params = params.clone();
    params.insert(field.to_owned(), value);
    params
}

#[test]
fn schema_and_reading_agree_on_every_field_of_every_type() {
    // What a setting forbids is forbidden whatever the params are.
    let registry = registry(&Options { allow_os_restart: true, ..options() });
    let description = registry.description();
    assert!(description.types().count() >= 7);
    let mut wrong = Vec::new();
    for info in description.types() {
        let schema = jsonschema::draft202012::new(&info.params).unwrap();
        let mut both = Both { registry: &registry, info, schema, wrong: &mut wrong };
        let example = info.example.as_object().unwrap_or_else(|| panic!("the example of {} is no map", info.name));
        both.accept(example);
        if info.params["additionalProperties"] != json!(false) {
            both.accept(&with(example, "no_field_of_ours", json!(1)));
            continue;
        }
        both.refuse(&with(example, "no_field_of_ours", json!(1)));
        let fields = info.params["properties"].as_object().unwrap_or_else(|| panic!("{} has no `properties`", info.name));
        assert!(example.keys().all(|key| fields.contains_key(key)), "{}", info.name);
        for (field, schema) in fields {
            let Some(fit) = types_of(schema) else { continue };
            for (sample, sorts) in samples() {
                if !sorts.iter().any(|sort| fit.iter().any(|fit| fit == sort)) {
                    both.refuse(&with(example, field, sample));
                }
            }
        }
        for field in info.params["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(example.contains_key(field), "the example of {} lacks `{field}`", info.name);
            let mut without = example.clone();
            without.remove(field);
            both.refuse(&without);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_type_and_every_field_says_what_it_is_for() {
    let description = registry(&options()).description();
    for executor in &description.executors {
        assert!(!executor.about.is_empty() && !executor.types.is_empty(), "{}", executor.name);
        for info in &executor.types {
            assert!(info.name.starts_with(&format!("{}.", executor.name)), "{}: {}", info.name, info.about);
            assert!(!info.needs_connection || !info.connections.is_empty(), "{} needs a connection of no kind", info.name);
            for (field, schema) in info.params["properties"].as_object().into_iter().flatten() {
                assert!(schema["description"].as_str().is_some_and(|about| !about.is_empty()), "{}: {field}", info.name);
            }
        }
    }
}

/// Gateways and the command line show these types also before any agent was heard. `UPDATE_GOLDEN=1` writes them anew.
#[test]
#[allow(clippy::disallowed_methods, reason = "a switch of this test alone")]
fn what_everybody_is_told_of_this_build_is_what_it_says() {
    let text = serde_json::to_string_pretty(&registry(&options()).description()).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas/golden/executors.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap() == text, "{path} differs; if that is meant, run this test with UPDATE_GOLDEN=1");
}
