//! Flags of what operates a deployment: keys, credentials.

use super::*;

const CREDS_HELP: &str = "Example:
  muster creds issue --publish default --name billing --out billing.creds
  muster creds issue --watch default --name wallboard --out wallboard.creds

This signs with a key of the deployment, so it runs where the deployment's files are. It registers the service's key with
the gateway, as an administrator, so that agents run what it signs (`muster signers`). Give the file to the service and
nobody else: whoever has it can submit jobs.";

/// `muster creds …`.
#[derive(Debug, Subcommand)]
pub(crate) enum CredsCommand {
    /// Issue a credentials file for a service
    #[command(after_help = CREDS_HELP)]
    Issue {
        /// A pool that the service may submit to; may be repeated
        #[arg(long, value_name = "POOL", required_unless_present = "watch")]
        publish: Vec<PoolName>,
        /// A pool that it may only watch (results, events and output); may be repeated
        #[arg(long, value_name = "POOL", conflicts_with = "publish")]
        watch: Vec<PoolName>,
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
    /// Sign a job that goes straight onto NATS, and print the header
    #[command(after_help = SIGN_HELP)]
    Sign {
        /// The credentials with which it is published
        #[arg(long, value_name = "FILE")]
        creds: PathBuf,
        /// Where it is published: jobs.<pool>.<priority>.<executor>.<job id>
        subject: String,
        /// The message, byte for byte [default: standard input]
        body: Option<String>,
    },
}

const SIGN_HELP: &str = "Example, with the NATS command line:
  S=jobs.default.normal.shell.hello  B='{\"type\": \"shell.run\", \"params\": {\"command\": \"date\"}}'
  nats --creds billing.creds pub -H \"$(muster creds sign --creds billing.creds $S \"$B\")\" $S \"$B\"

Agents run the job if the broker stores it within ten minutes. Client libraries sign by themselves: client/examples.";

const KEY_CREATE_HELP: &str = "Examples:
  muster keys create --name wallboard --role viewer
  muster keys create --name deploy --role operator --expires-in 90d
  muster keys create --name anna --role admin --json

A viewer reads jobs, agents and pools; an operator also submits and cancels jobs and stops agents; an admin does everything, making keys too.
The key is printed once and kept nowhere. Give it to MUSTER_API_KEY, or to a profile.";

const KEY_LIST_HELP: &str = "Examples:
  muster keys list
  muster keys list --json

Newest first, those that are revoked or have expired too; never the keys themselves. When a key was last used is written once a minute.";

const KEY_REVOKE_HELP: &str = "Examples:
  muster keys list
  muster keys revoke key_01JA8M3N4P5Q6R7S8T9V0W1X2Y

When this returns, the key works at no gateway: new requests are refused, and streams and waits that are open with it end at once. The jobs that it
submitted run on. There is no way back; make another key first, and put it where this one is used. The last admin key that
does not expire cannot be revoked.";

/// `muster keys …`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create an API key; it is shown once
    #[command(after_help = KEY_CREATE_HELP)]
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
    #[command(after_help = KEY_LIST_HELP)]
    List,
    /// Revoke an API key
    #[command(after_help = KEY_REVOKE_HELP)]
    Revoke {
        /// Its id, as `muster keys list` shows it
        id: String,
    },
}
