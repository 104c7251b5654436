//! `muster-agent vault …`: what a person puts into the vault of the agent on this machine. It talks to that agent, and opens no vault itself.
//!
//! Secrets come from stdin, or are asked for; never from an argument, which everybody on the machine can read.

mod ask;
mod talk;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::bail;
use clap::{Args, Subcommand};
use muster_schemas::names::ConnectionName;
use serde_json::Value;

use crate::config::Config;
use talk::Agent;

/// What to do instead of running an agent.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put credentials into the vault of the agent on this machine, list and remove them
    Vault {
        /// What to do with it.
        #[command(subcommand)]
        what: Vault,
    },
}

const PUT_HELP: &str = "Examples:
  muster-agent vault put db --field password
  pass show db | muster-agent vault put db --field password
  muster-agent vault put deploy --field private_key < ~/.ssh/id_ed25519
  echo '{\"username\": \"ci\", \"password\": \"…\"}' | muster-agent vault put registry

On a terminal the value is asked for, and not shown. From a pipe it is read to its end, without the last line break. The other fields of
the connection stay as they are; without --field a JSON object says all of them.

The agent must run. It is found by its state directory: give --state-dir, --config or STATE_DIR as the agent got it, before `vault`.
Credentials that `muster connections` delivers replace those that were put by hand.";

/// What can be done with the vault.
#[derive(Debug, Subcommand)]
pub enum Vault {
    /// Keep credentials for a connection
    #[command(after_help = PUT_HELP)]
    Put(Put),
    /// List the connections that there are credentials for
    List,
    /// Remove the credentials of a connection
    Rm {
        /// The connection
        name: ConnectionName,
    },
    /// See whether the credentials of a connection can be opened, and which fields they have
    Test {
        /// The connection
        name: ConnectionName,
    },
}

/// `vault put`.
#[derive(Debug, Args)]
pub struct Put {
    /// The connection
    name: ConnectionName,
    /// The field that the secret is, such as password, token or private_key
    #[arg(long, value_name = "FIELD")]
    field: Option<String>,
}

impl Command {
    /// Does it.
    pub(crate) fn run(self, config: &Config) -> anyhow::Result<ExitCode> {
        let Self::Vault { what } = self;
        let mut out = io::stdout();
        match what {
            Vault::Put(Put { name, field }) => {
                // Before anybody types a secret for nothing.
                let agent = Agent::find(config)?;
                let (path, body) = match &field {
                    Some(field) => (format!("/vault/{name}?field={}", escaped(field)), ask::value(&name, field)?),
                    None => (format!("/vault/{name}"), ask::object()?),
                };
                let entry = agent.ask("PUT", &path, &body)?;
                writeln!(out, "{name}: {}", fields(&entry))?;
                warn(&entry);
            }
            Vault::List => {
                let names = Agent::find(config)?.ask("GET", "/vault", b"")?;
                for name in names.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    writeln!(out, "{name}")?;
                }
            }
            Vault::Rm { name } => {
                Agent::find(config)?.ask("DELETE", &format!("/vault/{name}"), b"")?;
                writeln!(out, "{name}: removed")?;
            }
            Vault::Test { name } => {
                let entry = Agent::find(config)?.ask("POST", &format!("/vault/{name}/test"), b"")?;
                let from = match entry.get("revision").and_then(Value::as_u64) {
                    Some(0) | None => "put by hand".to_owned(),
                    Some(revision) => format!("delivered, revision {revision}"),
                };
                writeln!(out, "{name}: {} ({from})", fields(&entry))?;
                warn(&entry);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn fields(entry: &Value) -> String {
    entry.get("fields").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn warn(entry: &Value) {
    for warning in entry.get("warnings").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
}

/// For a query.
fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// What the agent says no with.
fn refused(problem: &Value) -> anyhow::Result<Value> {
    match problem.get("detail").and_then(Value::as_str) {
        Some(detail) => bail!("the agent refuses: {detail} ({})", problem.get("code").and_then(Value::as_str).unwrap_or_default()),
        None => bail!("the agent gave an answer that makes no sense"),
    }
}
