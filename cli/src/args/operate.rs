//! Flags of what operates a deployment: agents, keys, credentials.

use super::*;

/// `muster agents …`.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentsCommand {
    /// List agents (also without a word, with the same flags)
    List(AgentsListArgs),
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
}

/// `muster agents list`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct AgentsListArgs {
    /// Only of this pool
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
}

const COMMANDS_HELP: &str = "Examples:
  muster agents commands web-3
  muster run --agent web-3 -- uptime

Each with the last line that it wrote. The jobs of `muster run --all` are among them; jobs of a pool that the agent took are not,
they are in `muster jobs --agent web-3`.";

const CREDS_HELP: &str = "Example:
  muster creds issue --publish default --name billing --out billing.creds

This signs with a key of the deployment, so it runs where the deployment's files are. Give the file to the service and
nobody else: whoever has it can submit jobs.";

/// `muster creds …`.
#[derive(Debug, Subcommand)]
pub(crate) enum CredsCommand {
    /// Issue a credentials file for a service
    #[command(after_help = CREDS_HELP)]
    Issue {
        /// A pool that the service may submit to; may be repeated
        #[arg(long = "publish", value_name = "POOL", required = true)]
        pools: Vec<PoolName>,
        /// The service's name
        #[arg(long, value_parser = crate::text::service_name)]
        name: String,
        /// The file to write; it must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// The deployment's folder [default: that of `muster up`]
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

/// `muster keys …`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create an API key; it is shown once
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// viewer, operator or admin
        #[arg(long, default_value = "operator", value_parser = crate::text::role)]
        role: Role,
        /// How long it works, such as 90d [default: for ever]
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Period>,
    },
    /// List API keys
    List,
    /// Revoke an API key
    Revoke {
        /// Its id, as `muster keys list` shows it
        id: String,
    },
}

/// `muster join-token …`.
#[derive(Debug, Subcommand)]
pub(crate) enum JoinTokenCommand {
    /// Create a token with which an agent joins a pool; it is shown once
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
    },
}
