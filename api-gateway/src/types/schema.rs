//! One type's schema, and params checked against it. It comes from an agent, which may be anybody's, so the work is bounded.
//!
//! Only schemas that are trees of the keywords below are checked with: without references the work is the product of schema and params, and
//! that is counted before it is done. Patterns are matched in linear time. Nothing is ever fetched.

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value};

use super::complaint;

/// How deep a schema may nest; the library recurses once per level.
const DEPTH_MAX: usize = 16;
/// The most patterns in a schema.
const PATTERNS_MAX: usize = 32;
/// How large a compiled pattern may be, in bytes: some hundred states. `a{1,255}` fits, `(a{1,255}){1,255}` does not.
const PATTERN_BYTES: usize = 32 * 1024;
/// The work that a check may be, in steps of about 10 ns: a tenth of a second at the very most, and microseconds for what is usual.
const STEPS_MAX: u64 = 10_000_000;
/// Steps of a value of the schema at a value of the params.
const STEPS_PER_VALUE: u64 = 10;
/// Steps of a pattern at a byte of text, where the matcher can't keep its states.
const STEPS_PER_MATCH: u64 = 100;

/// Why a schema is none to check with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it is no schema: {0}")]
    Wrong(String),
    #[error("it nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("it has more than {PATTERNS_MAX} patterns")]
    TooManyPatterns,
    #[error("it uses `{0}`")]
    Keyword(String),
}

/// A schema, compiled.
#[derive(Debug)]
pub(super) struct Schema {
    validator: Validator,
    values: u64,
    patterns: u64,
}

/// How large params are, and what work may still be done on them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    values: u64,
    text: u64,
    steps: u64,
}

impl Budget {
    /// For these params, whatever they are checked against.
    pub(super) fn of(params: &Value) -> Self {
        Self { values: values(params) as u64, text: text(params) as u64, steps: STEPS_MAX }
    }

    /// Takes the steps of a check; `false` when they are too many.
    fn take(&mut self, schema: &Schema) -> bool {
        // Half a step per byte: lengths are counted in characters, and what is wrong is copied once per alternative.
        let per_value = self.values.saturating_mul(STEPS_PER_VALUE).saturating_add(self.text / 2);
        let matches = schema.patterns.saturating_mul(self.text).saturating_mul(STEPS_PER_MATCH);
        let steps = schema.values.saturating_mul(per_value).saturating_add(matches);
        let enough = steps <= self.steps;
        self.steps = self.steps.saturating_sub(steps);
        enough
    }
}

impl Schema {
    /// Compiles a schema.
    pub(super) fn compile(schema: &Value) -> Result<Self, Unfit> {
        let mut patterns = 0;
        let pruned = prune(schema, 0, &mut patterns)?;
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES))
            .should_validate_formats(false)
            .offline()
            .build(&pruned)
            .map_err(|error| Unfit::Wrong(complaint::shown(&error.to_string())))?;
        Ok(Self { validator, values: values(&pruned) as u64, patterns })
    }

    /// What is wrong with params; `None` when nothing is, or when it would take too long to tell. As with agents, a field that is null counts
    /// as absent.
    pub(super) fn complaint(&self, params: &Value, budget: &mut Budget) -> Option<String> {
        if !budget.take(self) || self.validator.is_valid(params) {
            return None;
        }
        let without = without_nulls(params);
        if without != *params && self.validator.is_valid(&without) {
            return None;
        }
        self.validator.validate(&without).err().map(|error| complaint::of(&error))
    }
}

/// How many values there are in a value, names of fields included.
pub(super) fn values(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(values).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(|value| 1 + values(value)).sum::<usize>(),
        _ => 1,
    }
}

/// How many bytes of text there are in a value, names of fields included.
fn text(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(text).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + text(value)).sum(),
        _ => 0,
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), without_nulls(value))).collect()
        }
        other => other.clone(),
    }
}

/// The schema without what only people read; refuses what can't be bounded.
fn prune(schema: &Value, depth: usize, patterns: &mut u64) -> Result<Value, Unfit> {
    if depth >= DEPTH_MAX {
        return Err(Unfit::TooDeep);
    }
    let map = match schema {
        Value::Bool(_) => return Ok(schema.clone()),
        Value::Object(map) => map,
        _ => return Err(Unfit::Wrong("a schema is a map, true or false".into())),
    };
    let mut pruned = Map::new();
    for (keyword, value) in map {
        let mut inner = |value: &Value| prune(value, depth + 1, patterns);
        let kept = match keyword.as_str() {
            "title" | "description" | "default" | "examples" | "deprecated" | "format" | "$comment" | "$schema" => continue,
            "type" | "required" | "enum" | "const" | "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "minLength"
            | "maxLength" | "minItems" | "maxItems" | "uniqueItems" | "minProperties" | "maxProperties" | "dependentRequired" => {
                value.clone()
            }
            "pattern" => {
                *patterns += 1;
                value.clone()
            }
            "additionalProperties" | "propertyNames" | "items" | "contains" | "not" | "if" | "then" | "else" => inner(value)?,
            "prefixItems" | "allOf" | "anyOf" | "oneOf" => {
                let list = value.as_array().ok_or_else(|| Unfit::Wrong(format!("`{keyword}` takes a list")))?;
                list.iter().map(inner).collect::<Result<_, _>>()?
            }
            "properties" => {
                let map = value.as_object().ok_or_else(|| Unfit::Wrong(format!("`{keyword}` takes a map")))?;
                map.iter().map(|(name, schema)| Ok((name.clone(), inner(schema)?))).collect::<Result<Map<_, _>, _>>()?.into()
            }
            other => return Err(Unfit::Keyword(complaint::shown(other))),
        };
        if *patterns > PATTERNS_MAX as u64 {
            return Err(Unfit::TooManyPatterns);
        }
        pruned.insert(keyword.clone(), kept);
    }
    Ok(pruned.into())
}

#[cfg(test)]
mod tests;
