//! Flags of `muster pools`.

use super::*;

const PUT_HELP: &str = "Examples:
  muster pools put build
  muster pools put build --executor ssh --max-queued 10000
  muster pools put build --max-running 8
  muster pools put build --default-timeout 30m --default-retry 3 --default-backoff 5s --default-backoff-max 2m
  muster pools put build --no-defaults

Above --max-queued a submit is refused (429 over REST): a job is in the queue until it has ended, so those that run count,
and those that ended within the last second may.
Above --max-running a job waits.
Defaults hold for jobs that say nothing themselves, from the moment an agent starts them.";

const PAUSE_HELP: &str = "Examples:
  muster pools pause build --note 'the disk is full'
  muster pools resume build

Submits are taken and wait; jobs that run end normally. Commands and the jobs of groups (`muster run`) are for certain agents on
purpose: they run also in a paused pool, and do not count in its --max-running.
`muster job why ID` and `muster pools get NAME` say who paused it, and why.";

/// `muster pools …`.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolsCommand {
    /// List pools (also without a word)
    List,
    /// Show a pool
    Get {
        /// The pool
        pool: PoolName,
    },
    /// Make a pool, or change it; what is not named stays as it is
    #[command(after_help = PUT_HELP)]
    Put(Box<PoolPutArgs>),
    /// Delete a pool that has neither jobs nor agents
    Delete {
        /// The pool
        pool: PoolName,
        /// Cancel its jobs, and do not mind agents that are offline
        #[arg(long)]
        force: bool,
    },
    /// Let a pool give out no more jobs until it is resumed
    #[command(after_help = PAUSE_HELP)]
    Pause {
        /// The pool
        pool: PoolName,
        /// Why, for others
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Let a paused pool go on
    Resume {
        /// The pool
        pool: PoolName,
    },
    /// Show whether jobs of a pool run
    Health {
        /// The pool
        pool: PoolName,
    },
    /// Show a pool's figures: jobs by state, and how long they wait and run
    Stats {
        /// The pool
        pool: PoolName,
    },
}

/// `muster pools put`.
#[derive(Debug, Args)]
pub(crate) struct PoolPutArgs {
    /// The pool
    pub(crate) pool: PoolName,
    /// A note for people
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// An executor whose jobs it takes, beside those it does; may be repeated
    #[arg(long = "executor", value_name = "NAME")]
    pub(crate) executors: Vec<String>,
    /// Jobs in the queue, those that run included
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_queued: Option<i64>,
    /// Jobs that may run at once; from 10000 on there is no limit but agents' slots
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_running: Option<i64>,
    #[command(flatten)]
    pub(crate) defaults: DefaultsArgs,
}

/// What jobs of a pool get that say nothing themselves.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Defaults of its jobs")]
pub(crate) struct DefaultsArgs {
    /// How long an attempt may run
    #[arg(long = "default-timeout", value_name = "DURATION")]
    pub(crate) timeout: Option<Period>,
    /// Attempts in all when a job fails or times out
    #[arg(long = "default-retry", value_name = "ATTEMPTS")]
    pub(crate) retry: Option<i64>,
    /// The wait before the second attempt
    #[arg(long = "default-backoff", value_name = "DURATION")]
    pub(crate) backoff: Option<Period>,
    /// The longest wait before an attempt
    #[arg(long = "default-backoff-max", value_name = "DURATION")]
    pub(crate) backoff_max: Option<Period>,
    /// By what the wait grows with each attempt, 1 to 10
    #[arg(long = "default-backoff-factor", value_name = "NUMBER")]
    pub(crate) factor: Option<f64>,
    /// By which share a wait varies, 0 to 1
    #[arg(long = "default-jitter", value_name = "SHARE")]
    pub(crate) jitter: Option<f64>,
    /// Take all of them away
    #[arg(long, conflicts_with_all = ["timeout", "retry", "backoff", "backoff_max", "factor", "jitter"])]
    pub(crate) no_defaults: bool,
}
