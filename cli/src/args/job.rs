//! Flags of what has to do with jobs.

use super::*;

const SUBMIT_HELP: &str = "Examples:
  muster submit -- date
  muster submit --command 'uptime | cut -d, -f1'
  muster submit --pool build --timeout 10m --retry 3 -- make test
  muster submit --type http.request --params '{\"url\": \"https://example.com/\"}'
  muster submit --type http.request -P url=https://example.com/ -P follow_redirects:=false
  muster submit --type probe.echo --params @params.json
  echo '{\"text\": \"hi\"}' | muster submit --type probe.echo --params -
  muster submit --detach -- sleep 60
  muster submit --detach --at 2027-01-01T06:00:00+01:00 -- ./report.sh
  muster submit --in 10m --expires-in 1h --result-ttl 7d -- ./sync.sh

`muster types` lists what --type takes, and `muster types TYPE` shows the params of one.
TIME is written as RFC 3339 has it, in UTC or with an offset: 2027-01-01T06:00:00Z, 2027-01-01T07:00:00+01:00.
DURATION is 90s, 10m, 1h30m or 7d, and plain numbers are seconds. --in and --expires-in count from now, by this machine's
clock, which is taken to agree with the broker's.
--at and --in say from when on an agent may take the job, once; a time that has passed puts nothing off. Such a job is
queued at once: submit waits for it unless --detach is given, and `muster job cancel ID` takes it back. For jobs that come
again and again there is `muster schedules`.
--expires-at and --expires-in bound the start, that of a retry as well; --timeout bounds the run. An agent that gets the
job too late ends it as `expired`; a job that no agent takes is told as expired up to a minute after that time.

The output of the job is printed as it comes. Ctrl-C stops the printing, not the job: `muster job cancel ID` does that.
Exit codes:
  0      the job succeeded
  N      it failed, and its command ended with N; 128 and the signal's number when a signal ended it
  1      it failed without an exit status, or was cancelled, rejected or expired; or the submit itself failed
  2      the command line is wrong
  124    it ran into its time-out, or --wait is over and the job goes on
  130    Ctrl-C; the job goes on
  With --detach, 0 says that the job is queued.";

/// `muster submit`.
#[derive(Debug, Args)]
#[command(after_long_help = SUBMIT_HELP, after_help = "More with --help")]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    #[command(flatten)]
    pub(crate) times: TimeArgs,
    /// An id of your own: submitting it again answers the first job
    #[arg(long)]
    pub(crate) id: Option<JobId>,
    /// Print the id and return at once
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Stop waiting after this; the job goes on [default: wait until it ends]
    #[arg(long, value_name = "DURATION", conflicts_with = "detach")]
    pub(crate) wait: Option<Period>,
}

const EVENTS_HELP: &str = "Examples:
  muster job events job_01J…
  muster job events job_01J… --json | jq -r 'select(.event == \"state\") | .data.change'

A line per change of state, per line of output and per progress, from the first that is stored to the job's end. A lost
connection is taken up again where it broke off, and nothing is told twice. The exit code is 0 once the job has ended,
however it did. --json prints each event as {\"id\", \"event\", \"data\"}; the last one is the `end`, with the result.";

const RETRY_HELP: &str = "Examples:
  muster job retry job_01J…
  muster job events $(muster job retry job_01J…)

Prints the id of the new job. Its parent is the first one. Each call makes a job; a dead letter is run again, once, by
`muster dead replay`.";

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
    /// Say why a job waits, in one sentence, and what that was concluded from
    Why {
        /// The job
        id: JobId,
        /// Its pool, where several have a job of that id
        #[arg(long)]
        pool: Option<PoolName>,
    },
    /// Run a job that has ended again, as a new one
    #[command(after_help = RETRY_HELP)]
    Retry {
        /// The job
        id: JobId,
        /// Its pool, where several have a job of that id
        #[arg(long)]
        pool: Option<PoolName>,
    },
    /// Watch a job until it ends: its state, its progress and what it writes
    #[command(after_help = EVENTS_HELP)]
    Events {
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
