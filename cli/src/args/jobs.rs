//! Flags of what looks at many jobs: the list of them, and the dead letters.

use muster_schemas::{api::JobState, names::JobType, signature::Mark};

use super::*;
use crate::text::{self, Moment};

const JOBS_HELP: &str = "Examples:
  muster jobs
  muster jobs --pool build --status failed --since 1h
  muster jobs --agent agent-1 --limit 100
  muster jobs --label release=42 --since 2026-08-01T00:00:00Z --until 2026-08-02T00:00:00Z
  muster jobs --watch --status running
  muster jobs --signature wrong --since 1d
  muster jobs --status timed_out --json | jq -r '.[].id'

All filters that are given have to match. Newest first, by the time a job was queued, whoever submitted it.
STATUS: scheduled, pending, running, retrying, succeeded, failed, timed_out, cancelled, expired, rejected.
A result that its agent has not signed is marked: NOT SIGNED, or WRONG SIGNATURE. It ended its job, and counts in no score.
TIME: how long ago, such as 90s, 1h30m or 7d; or a time as RFC 3339 has it.
--json prints one array; with --watch, one each time something changes.";

/// `muster jobs`.
#[derive(Debug, Args)]
#[command(after_long_help = JOBS_HELP, after_help = "More with --help")]
pub(crate) struct JobsArgs {
    /// Show the list again and again, until Ctrl-C
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// Of this pool
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
    /// That this agent runs or ran last (its name or id)
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// Of this type, such as shell.run
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) job_type: Option<JobType>,
    /// In this state, such as running or failed
    #[arg(long, value_parser = text::word::<JobState>)]
    pub(crate) status: Option<JobState>,
    /// That have ended with a result whose signature is valid, missing or wrong
    #[arg(long, value_parser = text::word::<Mark>)]
    pub(crate) signature: Option<Mark>,
    /// With this label
    #[arg(long, value_name = "KEY=VALUE", value_parser = text::label)]
    pub(crate) label: Option<(String, String)>,
    /// Queued at this time or later
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Queued before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// How many, 1 to 100000 [default: 50, or 20 with --watch]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: Option<u32>,
}

const REPLAY_HELP: &str = "Examples:
  muster dead replay job_01J…
  muster dead replay --pool build --type shell.run
  muster dead replay --until 1h --to spare
  muster dead replay --all

A replay is a new job whose parent is the first one; the letter goes once that job is queued. Replaying one again does not
make a second job. With one ID the new job's id is printed, otherwise how many were replayed; --json prints the new job, or
{\"done\", \"failed\", \"left\"}. The exit code is 1 when some could not be replayed; these stay.";

const DELETE_HELP: &str = "Examples:
  muster dead delete job_01J…
  muster dead delete --pool build --until 7d
  muster dead delete --all

The jobs' results stay. --json prints {\"done\", \"failed\", \"left\"}. The exit code is 1 when some could not be deleted.";

const DEAD_HELP: &str = "Examples:
  muster dead
  muster dead --pool build --since 1d
  muster dead show job_01J…
  muster dead replay job_01J… --to spare

A job with a retry policy, or one that lost every agent that ran it, is a dead letter when its attempts are used up.
TIME: how long ago, such as 90s, 1h30m or 7d; or a time as RFC 3339 has it.";

/// `muster dead …`.
#[derive(Debug, Subcommand)]
#[command(after_help = DEAD_HELP)]
pub(crate) enum DeadCommand {
    /// List dead letters, newest first (also without a word, with the same flags)
    List(DeadListArgs),
    /// Show a dead letter: the job, why it died, and each attempt
    Show {
        /// The job
        id: JobId,
        /// Its pool, where several have a job of that id
        #[arg(long)]
        pool: Option<PoolName>,
    },
    /// Queue dead letters' jobs again: one, or all that a filter matches
    #[command(after_help = REPLAY_HELP)]
    Replay {
        #[command(flatten)]
        which: Which,
        /// The pool whose queue they go to [default: each one's own]
        #[arg(long, value_name = "POOL")]
        to: Option<PoolName>,
    },
    /// Throw dead letters away: one, or all that a filter matches
    #[command(after_help = DELETE_HELP)]
    Delete {
        #[command(flatten)]
        which: Which,
    },
}

/// `muster dead list`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct DeadListArgs {
    /// Of this pool
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
    /// Of this type, such as shell.run
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) job_type: Option<JobType>,
    /// Stored at this time or later
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Stored before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// How many, 1 to 100000 [default: 50]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: Option<u32>,
}

/// Which dead letters are meant. Nothing said is not all: that is said with `--all`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["ids", "pool", "job_type", "until", "all"])))]
pub(crate) struct Which {
    /// The jobs
    #[arg(value_name = "ID")]
    pub(crate) ids: Vec<JobId>,
    /// Of this pool
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
    /// Of this type, such as shell.run
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) job_type: Option<JobType>,
    /// Stored before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// All there are, of every pool
    #[arg(long, conflicts_with_all = ["ids", "pool", "job_type", "until"])]
    pub(crate) all: bool,
}
