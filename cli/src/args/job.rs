//! Flags of what has to do with jobs.

use super::*;

const SUBMIT_HELP: &str = "Examples:
  muster submit -- date
  muster submit --command 'uptime | cut -d, -f1'
  muster submit --pool build --timeout 10m --retry 3 -- make test
  muster submit --type http.request --params '{\"url\": \"https://example.com/\"}'
  muster submit --type probe.echo --params @params.json
  echo '{\"text\": \"hi\"}' | muster submit --type probe.echo --params -
  muster submit --detach -- sleep 60

The output of the job is printed as it comes. Ctrl-C stops the printing, not the job: `muster job cancel ID` does that.
The exit code is the one of the job's command; 1 when it has none, 124 when the job ran into its time-out.";

/// `muster submit`.
#[derive(Debug, Args)]
#[command(after_long_help = SUBMIT_HELP, after_help = "More with --help")]
#[command(group(clap::ArgGroup::new("work").required(true).args(["job_type", "command", "argv"])))]
pub(crate) struct SubmitArgs {
    /// The pool that runs it
    #[arg(long, default_value = "default")]
    pub(crate) pool: PoolName,
    /// high, normal or low
    #[arg(long, default_value_t)]
    pub(crate) priority: Priority,
    /// How long an attempt may run, such as 90s or 10m [default: 5m]
    #[arg(long)]
    pub(crate) timeout: Option<Period>,
    /// A label to find the job by; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = crate::text::label)]
    pub(crate) labels: Vec<(String, String)>,
    /// An id of your own: submitting it again answers the first job
    #[arg(long)]
    pub(crate) id: Option<JobId>,
    /// Attempts in all when the job fails or times out
    #[arg(long, value_name = "ATTEMPTS")]
    pub(crate) retry: Option<i64>,
    /// Print the id and return at once
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Stop waiting after this; the job goes on [default: wait until it ends]
    #[arg(long, value_name = "DURATION", conflicts_with = "detach")]
    pub(crate) wait: Option<Period>,
    /// The type of the job, when it is no command
    #[arg(long = "type", value_name = "TYPE", conflicts_with_all = ["command", "argv"])]
    pub(crate) job_type: Option<String>,
    /// What the type takes: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON", requires = "job_type", conflicts_with_all = ["command", "argv"])]
    pub(crate) params: Option<String>,
    /// A line for the agent's shell
    #[arg(long, value_name = "LINE", conflicts_with = "argv")]
    pub(crate) command: Option<String>,
    /// A program and its arguments, run without a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<String>,
}

/// `muster job …`.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Show a job and how it ended
    Get {
        /// The job
        id: JobId,
        /// Its pool, where several have a job of that id
        #[arg(long)]
        pool: Option<PoolName>,
        /// Wait for its end, at most this long
        #[arg(long, value_name = "DURATION")]
        wait: Option<Period>,
    },
    /// Cancel a job: a waiting one never runs, a running one is stopped
    Cancel {
        /// The job
        id: JobId,
        /// Its pool, where several have a job of that id
        #[arg(long)]
        pool: Option<PoolName>,
    },
    /// Print what a job wrote
    Logs {
        /// The job
        id: JobId,
        /// Its pool, where several have a job of that id
        #[arg(long)]
        pool: Option<PoolName>,
        /// Go on until the job ends
        #[arg(long, short)]
        follow: bool,
    },
}

const PING_HELP: &str = "Examples:
  muster ping
  muster ping --pool build --count 20
  muster ping --agent agent-1";

/// `muster ping`.
#[derive(Debug, Args)]
#[command(after_help = PING_HELP)]
pub(crate) struct PingArgs {
    /// The pool to send the jobs to
    #[arg(long, default_value = "default", conflicts_with = "agent")]
    pub(crate) pool: PoolName,
    /// Ask this agent itself instead (its name or id), without a job
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// How many
    #[arg(long, short, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) count: u32,
    /// How long to wait for each
    #[arg(long, default_value = "10s")]
    pub(crate) timeout: Period,
}
