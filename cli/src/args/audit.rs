//! Flags of `muster audit`.

use muster_schemas::audit::AuditOutcome;

use super::*;
use crate::text::{self, Moment};

const HELP: &str = "Examples:
  muster audit
  muster audit --action agents.revoke --since 7d
  muster audit --action 'api_keys.*' --actor ops
  muster audit --outcome refused --address 10.0.0.7
  muster audit --target agt_01J… --json | jq -r '.[].action'
  muster audit --follow

All filters that are given have to match. Newest first; with --follow oldest first, and then what comes. Attempts that failed are there
too; those that are alike are folded, and one entry stands for how many there were. Takes an admin key, and is audited itself.
OUTCOME: done, refused, failed. TIME: how long ago, such as 90s, 1h30m or 7d; or a time as RFC 3339 has it.
--json prints one array; with --follow, an entry a line.";

/// `muster audit`.
#[derive(Debug, Args)]
#[command(after_long_help = HELP, after_help = "More with --help")]
pub(crate) struct AuditArgs {
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// What was done: an action such as agents.revoke, or all of an area such as 'agents.*'
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Who did it: an id, a name, or a kind such as agent or nobody
    #[arg(long)]
    pub(crate) actor: Option<String>,
    /// To whom or what: an id or a name
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// What came of it
    #[arg(long, value_parser = text::word::<AuditOutcome>)]
    pub(crate) outcome: Option<AuditOutcome>,
    /// From which address
    #[arg(long)]
    pub(crate) address: Option<String>,
    /// Stored at this time or later
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Stored before this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub(crate) until: Option<Moment>,
    /// How many, 1 to 100000 [default: 50, or 10 with --follow]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: Option<u32>,
}
