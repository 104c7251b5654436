//! Flags of the list of signers: whose jobs agents run.

use super::*;

const ADD_HELP: &str = "Example:
  muster signers add billing.creds --publish default --name billing

`muster creds issue` does this by itself where it reaches a gateway.";

/// `muster signers …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SignersCommand {
    /// List the keys whose jobs agents run
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
    Remove {
        /// The public key (U…), or the credentials file that holds it
        key: String,
    },
}
