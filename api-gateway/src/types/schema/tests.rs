//! Schemas that agents may send, the good and the hostile ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

fn complaint(schema: &Value, params: &Value) -> Option<String> {
    Schema::compile(schema).unwrap().complaint(params, &mut Budget::of(params))
}

fn unfit(schema: Value) -> Unfit {
    Schema::compile(&schema).err().unwrap_or_else(|| panic!("{} is taken", schema.to_string().chars().take(200).collect::<String>()))
}

fn request() -> Value {
    json!({
        "$schema": "https://example.com/never-fetched",
        "type": "object",
        "properties": {
            "url": {"type": "string", "description": "Where.", "format": "uri", "pattern": "^https?://"},
            "method": {"type": "string", "enum": ["GET", "PUT"]},
            "retries": {"type": "integer", "minimum": 0, "maximum": 5},
            "headers": {"type": "object", "additionalProperties": {"type": "string"}},
            "expect": {"type": "object", "properties": {"status": {"type": "array", "items": {"type": "integer"}}}, "additionalProperties": false},
        },
        "required": ["url"],
        "additionalProperties": false,
    })
}

#[test]
fn a_complaint_names_the_field_and_never_its_value() {
    for (params, says) in [
        (json!({}), "params.url: missing"),
        (json!({"url": 5}), "params.url: expected text"),
        (json!({"url": "hunter2"}), "params.url: does not have the form ^https?://"),
        (json!({"url": "http://x", "hunter\n2": 1}), "params.hunter\\n2: unknown"),
        (json!({"url": "http://x", "method": "hunter2"}), "params.method: takes one of [\"GET\",\"PUT\"]"),
        (json!({"url": "http://x", "retries": 9}), "params.retries: must be 5 or less"),
        (json!({"url": "http://x", "headers": {"a": ["hunter2"]}}), "params.headers.a: expected text"),
        (json!({"url": "http://x", "expect": {"status": [200, "hunter2"]}}), "params.expect.status[1]: expected a whole number"),
        (json!([]), "params: expected a map"),
    ] {
        assert_eq!(complaint(&request(), &params).as_deref(), Some(says), "{params}");
    }
    assert_eq!(complaint(&request(), &json!({"url": "http://x", "retries": 3, "headers": {"a": "b"}})), None);
}

#[test]
fn null_counts_as_absent_as_it_does_with_agents() {
    assert_eq!(complaint(&request(), &json!({"url": "http://x", "method": null, "expect": {"status": null}})), None);
    assert_eq!(complaint(&request(), &json!({"url": null})).as_deref(), Some("params.url: missing"));
    let nullable = json!({"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]});
    assert_eq!(complaint(&nullable, &json!({"a": null})), None, "unless the schema says otherwise");
}

#[test]
fn references_are_none_to_check_with_wherever_they_lead() {
    for reference in ["#", "#/$defs/a", "https://example.com/schema.json", "file:///etc/passwd"] {
        assert_eq!(unfit(json!({"anyOf": [{"$ref": reference}, {"$ref": reference}]})), Unfit::Keyword("$ref".into()));
        assert_eq!(unfit(json!({"properties": {"a": {"items": {"$ref": reference}}}})), Unfit::Keyword("$ref".into()));
    }
    for (keyword, value) in [
        ("$id", json!("https://example.com/")),
        ("$defs", json!({"a": {}})),
        ("$dynamicRef", json!("#a")),
        ("unevaluatedProperties", json!(false)),
        ("patternProperties", json!({"(a+)+": {}})),
        ("x\r\n", json!(1)),
    ] {
        assert!(matches!(unfit(json!({ keyword: value })), Unfit::Keyword(_)), "{keyword}");
    }
}

#[test]
fn what_is_no_schema_is_refused_without_a_word_of_trust() {
    for schema in [
        json!(5),
        json!("x"),
        json!(null),
        json!([]),
        json!({"type": "text"}),
        json!({"type": 7}),
        json!({"properties": []}),
        json!({"anyOf": {}}),
        json!({"anyOf": [1]}),
        json!({"required": "a"}),
        json!({"minimum": "x"}),
        json!({"pattern": "("}),
        json!({"pattern": 3}),
        json!({"minLength": -1}),
        json!({"enum": 3}),
        json!({"items": 4}),
    ] {
        assert!(matches!(unfit(schema), Unfit::Wrong(_)));
    }
    let mut deep = json!({});
    for _ in 0..DEPTH_MAX {
        deep = json!({"items": deep});
    }
    assert_eq!(unfit(deep), Unfit::TooDeep);
    assert_eq!(unfit(json!({"allOf": vec![json!({"pattern": "a"}); PATTERNS_MAX + 1]})), Unfit::TooManyPatterns);
    // Patterns that look back, or become huge.
    for pattern in [r"(a)\1", "(?=a)b", "^(a{1,255}){1,255}$", "^((a{1,99}){1,99}){1,99}$"] {
        assert!(matches!(unfit(json!({"pattern": pattern})), Unfit::Wrong(_)), "{pattern}");
    }
}

#[test]
fn no_schema_and_no_params_make_a_check_long() {
    let words = |count: usize| Value::from((0..count).map(|n| format!("word {n}")).collect::<Vec<_>>());
    let schemas = [
        // As large as a description may be.
        json!({"anyOf": (0..2_000).map(|n| json!({"properties": {"a": {"items": {"const": n}}}})).collect::<Vec<_>>()}),
        json!({"properties": {"a": {"items": {"anyOf": (0..4_000).map(|n| json!({"const": n})).collect::<Vec<_>>()}}}}),
        json!({"properties": {"a": {"items": {"enum": words(15_000)}}}}),
        json!({"properties": {"a": {"items": {"allOf": vec![json!({"maxLength": 1_000_000}); 4_000]}}}}),
        json!({"properties": {"a": {"uniqueItems": true}}}),
        // Catastrophic where a matcher goes back.
        json!({"properties": {"a": {"items": {"pattern": "^(a+)+$"}}}}),
        json!({"properties": {"a": {"items": {"allOf": vec![json!({"pattern": "(.*a){20}(b|c)(x+x+)+y"}); PATTERNS_MAX]}}}}),
        json!({"properties": {"a": {"items": {"pattern": "[a-z]*a[a-z]{200}$"}}}}),
    ];
    let params = [
        json!({"a": words(60_000)}),
        json!({"a": ["a".repeat(500_000)]}),
        json!({"a": ["a".repeat(12_000) + "!"]}),
        json!({"a": words(200)}),
        json!({"a": "x".repeat(500_000)}),
    ];
    let mut longest = Duration::ZERO;
    for schema in &schemas {
        let compiled = Schema::compile(schema).unwrap();
        for params in &params {
            let began = Instant::now();
            compiled.complaint(params, &mut Budget::of(params));
            longest = longest.max(began.elapsed());
        }
    }
    // In a build that is not optimised, beside other tests; some milliseconds where it counts.
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[test]
fn many_descriptions_share_one_budget() {
    let params = json!({"a": "x"});
    let schema = Schema::compile(&json!({"type": "array"})).unwrap();
    let mut budget = Budget::of(&params);
    assert!(schema.complaint(&params, &mut budget).is_some());
    budget.steps = 1;
    assert_eq!(schema.complaint(&params, &mut budget), None, "what can't be checked any more is let through");
}
