//! Flags of `muster connections`.

use muster_schemas::{connection::ConnectionKind, names::ConnectionName};
use serde_json::Value;

use super::*;
use crate::text;

const HELP: &str =
    "A connection is where jobs may go with a secret. Its settings are kept by the gateway and hold none; its credentials are sealed on
this machine to each agent of its pool, so that nothing in between can read them.

Examples:
  muster connections put billing --kind http --pool web --set base_url=https://billing.example.com --set auth=bearer
  muster connections credentials billing
  muster connections test billing
  muster submit --connection billing --type http.request --params '{\"url\": \"https://billing.example.com/\"}'
  muster connections show billing

docs/connections.md lists the settings and the credentials of each kind.";

const PUT_HELP: &str = "Examples:
  muster connections put billing --kind http --pool web --set base_url=https://billing.example.com --set auth=basic
  muster connections put db-1 --kind ssh --set host=db-1.lan --set port:=2222 --set user=deploy --set first_use:=true
  muster connections put ghcr --kind registry --set registry=ghcr.io

All settings are written: one that is not named is gone. Kind and pool stay as they were made. No setting is a secret: everybody
who may look at the gateway sees them.";

const CREDENTIALS_HELP: &str = "Examples:
  muster connections credentials billing                                    # asks, and does not show what is typed
  muster connections credentials db-1 --file private_key=$HOME/.ssh/deploy
  vault read -field=token app | muster connections credentials billing --field token
  jq -n '{username: \"ci\", password: env.TOKEN}' | muster connections credentials ghcr --stdin

Secrets come from a prompt, a file or standard input, and never from the command line, which others on this machine can read.
They are checked against the connection's kind, sealed to the key of each agent of the pool whose signature holds, and sent. Then a
line for each agent says when it has them, until all do or --wait is over; an agent that is away gets them when it is back.
`muster connections show NAME` says how far they are.

Agents share them with an agent that joins the pool later. With --no-share they do not: deliver again then.

Exit codes:
  0    all agents that can have them do; with --no-wait, they are on their way
  1    they are wrong, or were not sent
  124  --wait is over, and some agents have not said so yet";

/// `muster connections …`.
#[derive(Debug, Subcommand)]
#[command(after_help = HELP)]
pub(crate) enum ConnectionsCommand {
    /// List connections (also without a word)
    List(ConnectionsListArgs),
    /// Show a connection, and how far its credentials are with each agent
    Show {
        /// The connection
        connection: ConnectionName,
    },
    /// Make a connection, or change its settings
    #[command(after_help = PUT_HELP)]
    Put(ConnectionPutArgs),
    /// Remove a connection, with the credentials that agents have of it
    Rm {
        /// The connection
        connection: ConnectionName,
    },
    /// Have an agent try a connection
    Test {
        /// The connection
        connection: ConnectionName,
        /// The agent that tries it (its name or id) [default: any of its pool]
        #[arg(long, value_name = "AGENT")]
        agent: Option<String>,
    },
    /// Deliver a connection's credentials to the agents of its pool, sealed to each
    #[command(after_help = CREDENTIALS_HELP)]
    Credentials(CredentialsArgs),
}

/// `muster connections list`.
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct ConnectionsListArgs {
    /// Of this pool
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
    /// Of this kind: http, ssh, registry, kubernetes or secret
    #[arg(long, value_parser = text::word::<ConnectionKind>)]
    pub(crate) kind: Option<ConnectionKind>,
}

/// `muster connections put`.
#[derive(Debug, Args)]
pub(crate) struct ConnectionPutArgs {
    /// The connection
    pub(crate) connection: ConnectionName,
    /// What is at the other end: http, ssh, registry, kubernetes or secret
    #[arg(long, value_parser = text::word::<ConnectionKind>)]
    pub(crate) kind: ConnectionKind,
    /// The pool whose agents have it
    #[arg(long, default_value = "default")]
    pub(crate) pool: PoolName,
    /// A setting: TEXT as it is, JSON behind `:=`; may be repeated
    #[arg(long = "set", value_name = "NAME=TEXT|NAME:=JSON", value_parser = text::param)]
    pub(crate) settings: Vec<(String, Value)>,
}

/// `muster connections credentials`.
#[derive(Debug, Args)]
pub(crate) struct CredentialsArgs {
    /// The connection
    pub(crate) connection: ConnectionName,
    /// Read all fields from standard input, as a JSON object of texts
    #[arg(long, conflicts_with = "field")]
    pub(crate) stdin: bool,
    /// Read this field from standard input, without the line break at its end
    #[arg(long, value_name = "FIELD")]
    pub(crate) field: Option<String>,
    /// Read a field from a file, as it is; may be repeated
    #[arg(long = "file", value_name = "FIELD=PATH", value_parser = text::label)]
    pub(crate) files: Vec<(String, String)>,
    /// Let no agent share them with one that joins the pool later
    #[arg(long)]
    pub(crate) no_share: bool,
    /// Return once they are sent
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
    /// How long to wait for the agents to have them
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub(crate) wait: Period,
}
