//! Flags of `muster agents` and `muster join-token`.

use muster_schemas::api::{AgentStatus, Credential};

use super::*;
use crate::text;

const CREATE_HELP: &str = "Examples:
  muster agents create web-3 --pool build --label site=berlin
  muster agents create web-3 --credential api-key

This prints a secret for this agent alone, once. With a join token, which works once and for 24 hours, start it so:
  AGENT_API_URL=https://muster.example.com AGENT_JOIN_TOKEN=mst_join_… muster-agent
With an API key, AGENT_API_KEY=mst_agent_… takes the token's place, and does not run out.
`muster agents enable web-3` replaces a token that was lost. For many agents that are alike, make one token for all:
`muster join-token create --uses 20`.";

const EDIT_HELP: &str = "Examples:
  muster agents edit web-3 --label site=berlin --label rack=7
  muster agents edit web-3 --executor shell --executor http
  muster agents edit web-3 --pool deploy

What is not named stays. Labels go before those that the agent says itself; those that you name are all that you have set then,
and so are tags. --executor allows some of the executors that the agent has, --no-executors none, --all-executors all.
With --pool the agent is cut off at once and comes back in the other pool by itself. Commands that wait for it have to end first.";

const DISABLE_HELP: &str = "Examples:
  muster agents disable web-3    # it is not to be used for now
  muster agents enable web-3

What it runs, it ends; it takes nothing new until it is enabled again. Jobs of its pool go to other agents, and commands wait for it.
It is listed as `disabled`, whether it is there or not. `muster agents drain` does the same, and lists it as it is: take that before maintenance.";

const DRAIN_HELP: &str = "Examples:
  muster agents drain web-3      # before maintenance
  muster agents health web-3     # shows whether it still runs something
  muster agents enable web-3     # afterwards; until then it takes nothing

What it runs, it ends; it takes nothing new until it is enabled again. Jobs of its pool go to other agents, and commands wait for it.
It is still listed as `online` or `offline`, and `muster agents get web-3` says that it is draining. `muster agents disable` does the same,
and lists it as `disabled`: take that for one that is not to be used.";

const ENABLE_HELP: &str = "Example:
  muster agents enable web-3

An agent that was revoked, or has never registered, gets a join token for itself, printed once: give it that; its
state directory may stay. That takes an admin key.";

const REVOKE_HELP: &str = "Example:
  muster agents revoke web-3 --reason 'the laptop was stolen'

When this returns, the agent is cut off, and its API key and credentials are worthless. What it was running is run by another agent
within a minute. Its record and its name stay; `muster agents enable web-3` lets it in again with a fresh token, `muster agents
delete web-3` removes it.";

const ROTATE_HELP: &str = "Example:
  muster agents drain web-3
  muster agents rotate-key web-3

When this returns, the old key is worthless and the agent is cut off. Put the new one, printed once, into AGENT_API_KEY on its machine
and restart the agent: what its vault holds is void.";

const DELETE_HELP: &str = "Example:
  muster agents delete web-3

Cuts the agent off and removes it. Commands that wait for it end as `agent_deleted`; jobs of its pool go to other agents; its name is
free. The history of its jobs stays.";

/// `muster agents …`.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentsCommand {
    /// List agents (also without a word, with the same flags)
    List(Box<AgentsListArgs>),
    /// Show an agent
    Get {
        /// Its name or id
        agent: String,
    },
    /// Show an agent's health: score, load, slots
    Health {
        /// Its name or id
        agent: String,
    },
    /// List what an agent was told to do by name: its last 100 commands, newest first
    #[command(after_help = COMMANDS_HELP)]
    Commands {
        /// Its name or id
        agent: String,
    },
    /// Create an agent before it is there; prints what it proves itself with the first time
    #[command(after_help = CREATE_HELP)]
    Create(Box<AgentCreateArgs>),
    /// Change an agent's description, labels, tags, executors or pool
    #[command(after_help = EDIT_HELP)]
    Edit(Box<AgentEditArgs>),
    /// Take an agent out of use: it takes nothing new until it is enabled again, and is listed as disabled
    #[command(after_help = DISABLE_HELP)]
    Disable {
        /// Its name or id
        agent: String,
    },
    /// Let an agent take jobs again; one that was revoked gets a new join token
    #[command(after_help = ENABLE_HELP)]
    Enable {
        /// Its name or id
        agent: String,
    },
    /// Let an agent end what it has before maintenance: it takes nothing new until it is enabled again, and is still listed as online
    #[command(after_help = DRAIN_HELP)]
    Drain {
        /// Its name or id
        agent: String,
    },
    /// Cut an agent off, and refuse whatever it proves itself with
    #[command(after_help = REVOKE_HELP)]
    Revoke {
        /// Its name or id
        agent: String,
        /// Why, for others and for the agent's log
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Give an agent a new API key, printed once; the old one is worthless at once
    #[command(after_help = ROTATE_HELP)]
    RotateKey {
        /// Its name or id
        agent: String,
    },
    /// Remove an agent
    #[command(after_help = DELETE_HELP)]
    Delete {
        /// Its name or id
        agent: String,
    },
}

/// `muster agents list`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct AgentsListArgs {
    /// Only of this pool
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
    /// Only these: online, offline, degraded, pending, disabled or revoked
    #[arg(long, value_parser = text::word::<AgentStatus>)]
    pub(crate) status: Option<AgentStatus>,
    /// Only those with this tag
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// Only those with a label that, written KEY=VALUE, contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
    /// Only those that may run jobs of this executor
    #[arg(long, value_name = "NAME")]
    pub(crate) executor: Option<String>,
}

/// `muster agents create`.
#[derive(Debug, Args)]
pub(crate) struct AgentCreateArgs {
    /// Its name: 1 to 63 of a-z, 0-9 and -
    pub(crate) name: String,
    /// Its pool
    #[arg(long, default_value = "default")]
    pub(crate) pool: PoolName,
    /// A note for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// A tag; may be repeated
    #[arg(long = "tag", value_name = "TEXT")]
    pub(crate) tags: Vec<String>,
    /// A label, which goes before the agent's own; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = text::label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Whatever you want to keep with it; may be repeated
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = text::label)]
    pub(crate) metadata: Vec<(String, String)>,
    /// What it is meant to run on, for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) platform: Option<String>,
    /// What it proves itself with the first time: join-token or api-key
    #[arg(long, default_value = "join-token", value_parser = credential)]
    pub(crate) credential: Credential,
}

/// `muster agents edit`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true).args([
    "description", "no_description", "tags", "no_tags", "labels", "no_labels", "executors", "no_executors", "all_executors", "pool",
])))]
pub(crate) struct AgentEditArgs {
    /// Its name or id
    pub(crate) agent: String,
    /// A note for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Take the note away
    #[arg(long, conflicts_with = "description")]
    pub(crate) no_description: bool,
    /// A tag, in place of those that it has; may be repeated
    #[arg(long = "tag", value_name = "TEXT")]
    pub(crate) tags: Vec<String>,
    /// Take all tags away
    #[arg(long, conflicts_with = "tags")]
    pub(crate) no_tags: bool,
    /// A label, in place of those that were set before; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = text::label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Take all labels away that were set; those that the agent says itself stay
    #[arg(long, conflicts_with = "labels")]
    pub(crate) no_labels: bool,
    /// An executor that it may run jobs of; may be repeated
    #[arg(long = "executor", value_name = "NAME")]
    pub(crate) executors: Vec<String>,
    /// Let it run jobs of no executor
    #[arg(long, conflicts_with = "executors")]
    pub(crate) no_executors: bool,
    /// Let it run jobs of all executors that it has
    #[arg(long, conflicts_with_all = ["executors", "no_executors"])]
    pub(crate) all_executors: bool,
    /// The pool to move it to
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
}

fn credential(text: &str) -> Result<Credential, String> {
    match text {
        "join-token" => Ok(Credential::JoinToken),
        "api-key" => Ok(Credential::ApiKey),
        _ => Err("it is join-token or api-key".into()),
    }
}

const COMMANDS_HELP: &str = "Examples:
  muster agents commands web-3
  muster run --agent web-3 -- uptime

Each with the last line that it wrote. The jobs of `muster run --all` are among them; jobs of a pool that the agent took are not,
they are in `muster jobs --agent web-3`.";

const TOKEN_HELP: &str = "Examples:
  muster join-token create --pool build --uses 10 --expires-in 12h
  muster join-token create --name-pattern 'web-*' --uses 20
  muster join-token create --ephemeral --uses 500 --expires-in 1h   # for machines that come and go

Start each agent with it: AGENT_JOIN_TOKEN=mst_join_… AGENT_API_URL=https://muster.example.com muster-agent
Whoever has the token can put a machine of their own into the pool, so keep it as you keep a password, its life short and its uses few.
For one certain agent `muster agents create` makes a token that nobody else can use.";

const TOKEN_LIST_HELP: &str = "Examples:
  muster join-token list
  muster join-token list --json

Those that are used up or have expired too; never the tokens themselves.";

const TOKEN_DELETE_HELP: &str = "Examples:
  muster join-token list                  # shows the prefixes
  muster join-token delete k4q2m7xwab

When this returns, nobody joins with it. Agents that joined with it stay, and need it no more: `muster agents revoke` is what cuts one off.";

/// `muster join-token …`.
#[derive(Debug, Subcommand)]
pub(crate) enum JoinTokenCommand {
    /// Create a token with which an agent joins a pool; it is shown once
    #[command(after_help = TOKEN_HELP)]
    Create {
        /// The pool
        #[arg(long, default_value = "default")]
        pool: PoolName,
        /// How many agents may use it [default: 1]
        #[arg(long)]
        uses: Option<i64>,
        /// How long it works, such as 12h [default: 24h]
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Period>,
        /// Only for agents with such names: * stands for any characters, as in 'web-*'
        #[arg(long, value_name = "PATTERN")]
        name_pattern: Option<String>,
        /// Agents that join with it are removed once they leave, or have been away for an hour
        #[arg(long)]
        ephemeral: bool,
    },
    /// List join tokens
    #[command(after_help = TOKEN_LIST_HELP)]
    List,
    /// Delete a join token: nobody joins with it any more. Agents that did stay
    #[command(after_help = TOKEN_DELETE_HELP)]
    Delete {
        /// Its prefix, as `muster join-token list` shows it
        prefix: String,
    },
}
