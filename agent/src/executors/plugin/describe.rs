//! What a plugin says of itself: `<plugin> describe`, asked once at the agent's start, within a time and a size.

use std::{path::Path, process::Stdio, time::Duration};

use muster_schemas::{connection::ConnectionKind, describe::TypeInfo, names::JobType};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, process::Command};

use super::super::process::{Host, environment, tree::Tree};

/// How long it may take to describe itself.
pub(super) const TIME: Duration = Duration::from_secs(5);

/// The longest description. All of an agent's are one answer of at most 512 KiB.
pub(super) const BYTES: usize = 256 * 1024;

/// The most verbs of one plugin.
const VERBS: usize = 64;

/// The longest line about a plugin or a verb, in bytes.
const ABOUT_BYTES: usize = 512;

/// A description, read and found good.
#[derive(Debug, Default)]
pub(super) struct Described {
    pub(super) about: String,
    pub(super) types: Vec<TypeInfo>,
    /// Bytes that it was read from.
    pub(super) size: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    about: String,
    verbs: Vec<Verb>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verb {
    name: String,
    #[serde(default)]
    about: String,
    #[serde(default = "any_map")]
    params: Value,
    #[serde(default = "empty_map")]
    example: Value,
    #[serde(default)]
    connections: Vec<ConnectionKind>,
    #[serde(default)]
    needs_connection: bool,
}

fn any_map() -> Value {
    json!({"type": "object"})
}

fn empty_map() -> Value {
    json!({})
}

/// Asks a plugin.
///
/// # Errors
/// Why it is of no use.
pub(super) async fn ask(name: &str, program: &Path, host: &Host) -> Result<Described, String> {
    let mut command = Command::new(program);
    command.arg("describe").env_clear().envs(environment::inherited(&host.env_allow)).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).kill_on_drop(true);
    let mut process = command.spawn().map_err(|error| format!("can't be started: {error}"))?;
    let mut tree = Tree::new(process.id(), b"no process has this in its environment".to_vec(), None);
    let mut text = Vec::new();
    let asked = async {
        if let Some(stdout) = process.stdout.take() {
            // A byte more than it may have tells whether it has more.
            let _cut_short = stdout.take(BYTES as u64 + 1).read_to_end(&mut text).await;
        }
        if text.len() > BYTES { None } else { Some(process.wait().await) }
    };
    let status = tokio::time::timeout(TIME, asked).await;
    tree.kill().await;
    let _reaped = process.wait().await;
    match status {
        Err(_) => Err(format!("`describe` did not end within {} s", TIME.as_secs())),
        Ok(None) => Err(format!("`describe` wrote more than {BYTES} bytes")),
        Ok(Some(Err(error))) => Err(format!("could not wait for `describe`: {error}")),
        Ok(Some(Ok(status))) if !status.success() => Err(format!("`describe` ended badly ({status}); run it by hand to see why")),
        Ok(Some(Ok(_))) => read(name, &text),
    }
}

/// Reads a description.
fn read(name: &str, text: &[u8]) -> Result<Described, String> {
    let said: Said = serde_json::from_slice(text).map_err(|error| format!("what `describe` wrote is no description: {error}"))?;
    if said.verbs.is_empty() || said.verbs.len() > VERBS {
        return Err(format!("it describes {} verbs; 1 to {VERBS} are allowed", said.verbs.len()));
    }
    let mut types: Vec<TypeInfo> = Vec::new();
    for Verb { name: verb, about, params, example, connections, needs_connection } in said.verbs {
        let kind: JobType =
            format!("{name}.{verb}").parse().map_err(|_| format!("verb `{}` is not 1 to 63 of a-z, 0-9 and -", verb.escape_debug()))?;
        let wrong = |problem: &str| Err(format!("verb `{verb}`: {problem}"));
        if types.iter().any(|info| info.name == kind.as_str()) {
            return wrong("is described twice");
        }
        if !params.is_object() {
            return wrong("`params` is not a JSON Schema in a map");
        }
        if !example.is_object() {
            return wrong("`example` is not a map of params");
        }
        if needs_connection && connections.is_empty() {
            return wrong("it needs a connection, and names no kind in `connections`");
        }
        types.push(TypeInfo { name: kind.to_string(), about: short(&about), params, example, connections, needs_connection });
    }
    Ok(Described { about: short(&said.about), types, size: text.len() })
}

/// One line that is not too long.
fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.get(..line.floor_char_boundary(ABOUT_BYTES)).unwrap_or_default().chars().filter(|letter| !letter.is_control()).collect()
}
