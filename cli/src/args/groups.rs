//! Flags of what runs on many agents at once, or on a certain one.

use muster_schemas::{
    api::{JobState, NOT_SENT},
    group::{GroupStatus, Share},
    names::GroupId,
};

use super::*;
use crate::text;

const RUN_HELP: &str = "Examples:
  muster run --all -- uptime
  muster run --all --pool build --label site=berlin -- apt-get -y upgrade
  muster run --all --pool build --batch 10%,100% --stop-after 3 -- ./upgrade.sh
  muster run --all --limit 10% --expires-in 1h --command 'df -h / | tail -1'
  muster run --all --detach --type http.request --params '{\"url\": \"https://example.com/\"}'
  muster run --agent web-3 -- journalctl -n 50

`muster types` lists what --type takes, and `muster types TYPE` shows the params of one.

--all makes a group: a job for each agent of the pool that matches, in no order, but those that are there first. An agent
that is offline gets its job when it is back, unless the job has expired by then: after 24 hours, or as --expires-in and
--expires-at say. A job that no agent takes is told as `expired` up to a minute after that. Agents that are disabled, draining
or without the executor are left out.

--batch sends them in waves, the next one when all of the wave before have ended. The last size is repeated: 10%,100% is a
tenth first and then the rest, 10% a tenth at a time. Once --stop-after jobs have ended otherwise than well (with --batch
the first one, unless you say more), no further wave is sent; what was sent runs on.

As each agent ends, a line says how, with the last line of its output; at the end there is a table of how many ended how.
Ctrl-C stops the watching, not the group: `muster groups watch ID` takes it up again, `muster groups cancel ID` stops it.
`muster job get ID` shows the job of one agent, `muster groups show ID` the ids of all.
--json prints one document at the end: {\"group\", \"agents\"}.

--agent sends one agent a command. It goes before all jobs that wait for the agent, and its output is printed as it comes.

Commands, and the jobs of a group, are for certain agents on purpose: they run also while the pool is paused, and do not count
in its --max-running.

Exit codes with --all:
  0    every agent's job succeeded
  1    one did not, or was not sent; or the run could not be begun
  130  Ctrl-C; the group goes on
With --agent the exit code is that of the command, as `muster submit --help` has it. With --detach, 0 says that it is queued.";

/// `muster run`.
#[derive(Debug, Args)]
#[command(after_long_help = RUN_HELP, after_help = "More with --help")]
#[command(group(clap::ArgGroup::new("whom").required(true).args(["all", "agent"])))]
pub(crate) struct RunArgs {
    /// Run it on every agent that matches: a group
    #[arg(long)]
    pub(crate) all: bool,
    /// Run it on this agent (its name or id)
    #[arg(long, value_name = "AGENT")]
    pub(crate) agent: Option<String>,
    /// The pool of the agents [default: that of the connection, or `default`]
    #[arg(long, conflicts_with = "agent")]
    pub(crate) pool: Option<PoolName>,
    /// Only agents with this label; may be repeated, and they have all of them
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = text::label, conflicts_with = "agent")]
    pub(crate) labels: Vec<(String, String)>,
    /// Only so many agents, such as 10 or 10%, those that are there first
    #[arg(long, value_name = "SHARE", conflicts_with = "agent")]
    pub(crate) limit: Option<Share>,
    /// Send it in waves of these sizes, such as 10%,100% or 5 [default: all at once]
    #[arg(long, value_name = "SHARE,…", value_delimiter = ',', conflicts_with = "agent")]
    pub(crate) batch: Vec<Share>,
    /// Send no further wave after so many failures [default: 1 with --batch]
    #[arg(long, value_name = "FAILURES", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "agent")]
    pub(crate) stop_after: Option<u32>,
    #[command(flatten)]
    pub(crate) what: WhatArgs,
    #[command(flatten)]
    pub(crate) times: TimeArgs,
    /// Print the id of the group, or of the job, and return at once
    #[arg(long, short)]
    pub(crate) detach: bool,
}

const GROUPS_HELP: &str = "Examples:
  muster groups
  muster groups --pool build --status stopped
  muster groups show grp_01J… --state failed
  muster groups watch grp_01J…
  muster groups cancel grp_01J…

A group is made by `muster run --all`. It is running until all of its jobs have ended (finished), or until too many failed
(stopped: no further wave is sent) or somebody cancels it. Groups are remembered for 30 days, and how their jobs ended for 7.";

const WATCH_HELP: &str = "Examples:
  muster groups watch grp_01J…
  muster groups watch $(muster run --all --detach -- ./upgrade.sh)

A line for each agent whose job has ended, then those that follow as they end, and a table of how many ended how.
The exit code is 0 when every agent's job succeeded, otherwise 1.";

/// `muster groups …`.
#[derive(Debug, Subcommand)]
#[command(after_help = GROUPS_HELP)]
pub(crate) enum GroupsCommand {
    /// List groups, newest first (also without a word, with the same flags)
    List(GroupsListArgs),
    /// Show a group: how far it is, and each agent with its job
    Show {
        /// The group
        id: GroupId,
        /// Only agents whose job is in this state, such as failed, or not_sent
        #[arg(long, value_parser = member_state)]
        state: Option<String>,
    },
    /// Cancel a group: no further job of it is sent, and those that have not ended are cancelled
    Cancel {
        /// The group
        id: GroupId,
    },
    /// Follow a group until it has ended
    #[command(after_help = WATCH_HELP)]
    Watch {
        /// The group
        id: GroupId,
    },
}

/// `muster groups list`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct GroupsListArgs {
    /// Of this pool
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
    /// With this status: running, stopped, cancelling, cancelled or finished
    #[arg(long, value_parser = text::word::<GroupStatus>)]
    pub(crate) status: Option<GroupStatus>,
    /// How many, 1 to 100000 [default: 20]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: Option<u32>,
}

/// Where a member's job is.
fn member_state(text: &str) -> Result<String, String> {
    let known = text == NOT_SENT || text::word::<JobState>(text).is_ok();
    if known { Ok(text.to_owned()) } else { Err(format!("it takes {NOT_SENT} or a state of a job, such as failed or running")) }
}
