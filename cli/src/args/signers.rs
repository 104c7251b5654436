//! Flags of the list of signers: whose jobs agents run.

use super::*;

const ADD_HELP: &str = "Example:
  muster signers add billing.creds --publish default --name billing

`muster creds issue` does this by itself where it reaches a gateway.";

const LIST_HELP: &str = "Examples:
  muster signers list
  muster signers list --json

Agents run a job only if one of these keys signed it, and may for its pool. Those of gateways and dispatchers may for all, and roll
over with `muster init --roll-job-keys`.";

const REMOVE_HELP: &str = "Examples:
  muster signers remove billing.creds
  muster signers list                     # shows the keys
  muster signers remove UBXK…             # in full, as listed

Agents refuse what the key signed from about a second later on: jobs that wait in queues end as `rejected`. What runs already, runs on.
The credentials still let the service connect, and `muster signers add` lets it in again. Keys of gateways and dispatchers stay.";

/// `muster signers …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SignersCommand {
    /// List the keys whose jobs agents run
    #[command(after_help = LIST_HELP)]
    List,
    /// Have agents run what a service's key signs, or give a key that is there other pools
    #[command(after_help = ADD_HELP)]
    Add {
        /// The public key (U…), or the credentials file that holds it
        key: String,
        /// A pool that it may sign for; may be repeated
        #[arg(long = "publish", value_name = "POOL", required = true)]
        pools: Vec<PoolName>,
        /// The service's name
        #[arg(long, value_parser = crate::text::service_name)]
        name: String,
    },
    /// Have agents refuse what a service's key signs, also what waits already
    #[command(after_help = REMOVE_HELP)]
    Remove {
        /// The public key (U…), or the credentials file that holds it
        key: String,
    },
}
