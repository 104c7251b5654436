//! `muster types`: what jobs there are, and what each takes.

use muster_schemas::api::{ExecutorView, TypeView};
use serde_json::Value;

use crate::{api::Api, args::TypesArgs, failure::Failure, output};

pub(crate) async fn run(api: &Api, args: TypesArgs, json: bool) -> anyhow::Result<()> {
    let query: Vec<_> = args.pool.iter().map(|pool| ("pool", pool.to_string())).collect();
    let executors: Vec<ExecutorView> = api.list("/executors", &query).await?;
    let Some(wanted) = args.job_type else {
        return if json { output::json(&executors) } else { Ok(output::line(&table(&executors))?) };
    };
    let found = executors.iter().flat_map(|executor| &executor.types).find(|kind| kind.info.name == wanted);
    let found = found.ok_or_else(|| unknown(&wanted, &executors, args.pool.is_some()))?;
    if json { output::json(found) } else { Ok(output::line(&show(found))?) }
}

fn unknown(wanted: &str, executors: &[ExecutorView], of_pool: bool) -> Failure {
    let executor = wanted.split('.').next().unwrap_or_default();
    let of_it = executors.iter().find(|there| there.name.as_str() == executor);
    let verbs = of_it.map(|there| there.types.iter().map(|kind| kind.info.name.as_str()).collect::<Vec<_>>().join(", "));
    let place = if of_pool { "no agent of the pool that is there has" } else { "there is no" };
    let hint = verbs.map_or_else(|| "`muster types` lists what there is".to_owned(), |verbs| format!("{executor} has {verbs}"));
    Failure::new(format!("{place} type `{wanted}`")).hint(hint)
}

fn table(executors: &[ExecutorView]) -> String {
    let row = |kind: &TypeView| [kind.info.name.clone(), kind.agents.to_string(), connection(kind), kind.info.about.clone()];
    let rows = executors.iter().flat_map(|executor| &executor.types).map(row).collect();
    output::table(["type", "agents", "connection", "what it does"], rows, "no agent that is there has said what it can do")
}

/// The kinds of connections that a job may name, or has to.
fn connection(kind: &TypeView) -> String {
    let kinds = kind.info.connections.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join("|");
    if kinds.is_empty() || kind.info.needs_connection { kinds } else { format!("[{kinds}]") }
}

fn show(kind: &TypeView) -> String {
    let differing = (kind.differing > 0).then(|| format!(", {} of them with other params", kind.differing));
    let connections = kind.info.connections.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(" or ");
    let connection = match (connections.is_empty(), kind.info.needs_connection) {
        (true, _) => None,
        (false, true) => Some(format!("{connections} (needed)")),
        (false, false) => Some(format!("{connections} (if wanted)")),
    };
    let head = output::fields(vec![
        ("type", Some(kind.info.name.clone())),
        ("about", Some(kind.info.about.clone())),
        ("agents", Some(format!("{}{}", kind.agents, differing.unwrap_or_default()))),
        ("connection", connection),
    ]);
    let params = params(&kind.info.params);
    let example = serde_json::to_string_pretty(&kind.info.example).unwrap_or_default();
    let quoted = kind.info.example.to_string().replace('\'', r"'\''");
    let connection = if kind.info.needs_connection { " --connection NAME" } else { "" };
    let run = format!("muster submit --type {}{connection} --params '{quoted}'", kind.info.name);
    let safe = crate::text::safe;
    format!("{head}\n\n{params}\n\nexample\n{}\n\nrun it\n  {}", safe(&indented(&example)), safe(&run))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// The fields of params, those that are needed first.
fn params(schema: &Value) -> String {
    let needed: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut fields: Vec<_> = schema["properties"].as_object().into_iter().flatten().collect();
    fields.sort_by_key(|(name, _)| !needed.contains(&name.as_str()));
    let row = |(name, field): (&String, &Value)| {
        let about = |field: &Value| field["description"].as_str().unwrap_or_default().to_owned();
        let needed = if needed.contains(&name.as_str()) { "needed" } else { "" };
        let inner = field["properties"].as_object().into_iter().flatten();
        let inner = inner.map(|(part, field)| [format!("{name}.{part}"), sort(field), String::new(), about(field)]).collect::<Vec<_>>();
        std::iter::once([name.clone(), sort(field), needed.to_owned(), about(field)]).chain(inner).collect::<Vec<_>>()
    };
    let none = if schema["additionalProperties"] == false { "it takes no params" } else { "it takes any params" };
    output::table(["param", "what", "", "about"], fields.into_iter().flat_map(row).collect(), none)
}

/// What a field takes, in a word or two.
fn sort(schema: &Value) -> String {
    if let Some(options) = schema["enum"].as_array() {
        return options
            .iter()
            .map(|option| option.as_str().map_or_else(|| option.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join("|");
    }
    let word = |name: &str| match name {
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "boolean" => "true|false".to_owned(),
        "object" => "map".to_owned(),
        "array" if schema.pointer("/items/type").is_some_and(|of| of == "string") => "list of texts".to_owned(),
        "array" => "list".to_owned(),
        other => other.to_owned(),
    };
    match &schema["type"] {
        Value::String(name) => word(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(word).collect::<Vec<_>>().join(" or "),
        _ => {
            let forms = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
            let mut forms: Vec<String> = forms.into_iter().flatten().map(sort).collect();
            forms.dedup();
            if forms.is_empty() { "anything".to_owned() } else { forms.join(" or ") }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use muster_schemas::builtin;

    use super::*;

    fn view(name: &str) -> TypeView {
        let description = builtin::description();
        let info = description.types().find(|info| info.name == name).unwrap().clone();
        TypeView { info, agents: 3, differing: 1 }
    }

    #[test]
    fn a_type_is_shown_with_its_params_an_example_and_the_line_that_runs_it() {
        let shown = show(&view("shell.run"));
        for part in ["3, 1 of them with other params", "command", "list of texts", "muster submit --type shell.run --params '{"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let connection = show(&view("probe.connection"));
        assert!(connection.contains("(needed)") && connection.contains("--connection NAME"), "{connection}");
        assert!(show(&view("probe.echo")).contains("it takes any params"));
        assert!(show(&view("probe.ping")).contains("it takes no params"));
    }

    #[test]
    fn fields_say_in_a_word_what_they_take_and_those_that_are_needed_come_first() {
        let schema = serde_json::json!({"properties": {
            "a": {"enum": ["x", "y"]}, "b": {"type": ["integer", "string"]}, "c": {"anyOf": [{"type": "array"}, {"type": "boolean"}]}, "d": {},
            "z": {"type": "object", "description": "Last."},
        }, "required": ["z"]});
        let shown = params(&schema);
        let lines: Vec<&str> = shown.lines().skip(1).collect();
        assert!(lines.first().unwrap().starts_with("z") && lines.first().unwrap().ends_with("Last."), "{shown}");
        for part in ["x|y", "whole number or text", "list or true|false", "anything"] {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn an_unknown_type_leads_to_those_of_its_executor() {
        let types = vec![view("shell.run")];
        let shell = ExecutorView { name: "shell".parse().unwrap(), about: String::new(), agents: 1, types };
        let failure = unknown("shell.walk", &[shell], false);
        assert!(failure.message.contains("`shell.walk`") && failure.hint.unwrap().contains("shell.run"));
        assert!(unknown("x.y", &[], true).hint.unwrap().contains("muster types"));
    }
}
