//! Flags of `muster schedules`.

use muster_schemas::names::ScheduleName;

use super::*;

const PUT_HELP: &str = "Examples:
  muster schedules put nightly --cron '30 2 * * *' --time-zone Europe/Berlin -- ./backup.sh
  muster schedules put pulse --every 10s --overlap queue -- ./check.sh
  muster schedules put once --at 2027-01-01T00:00:00Z --type probe.echo --params '{\"text\": \"hi\"}'

Cron takes five fields, or six with seconds first. The whole schedule is written: what is not named gets its default.";

/// `muster schedules …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SchedulesCommand {
    /// List schedules (also without a word)
    List,
    /// Show a schedule, its last firing and its next ones
    Get {
        /// The schedule
        name: ScheduleName,
    },
    /// Make a schedule, or put another one in its place
    #[command(after_help = PUT_HELP)]
    Put(Box<SchedulePutArgs>),
    /// Delete a schedule; its jobs stay
    Delete {
        /// The schedule
        name: ScheduleName,
    },
    /// Stop it from firing
    Pause {
        /// The schedule
        name: ScheduleName,
    },
    /// Let it fire again
    Resume {
        /// The schedule
        name: ScheduleName,
    },
    /// Run its job now and print the id
    Trigger {
        /// The schedule
        name: ScheduleName,
    },
}

/// `muster schedules put`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("when").required(true).args(["cron", "every", "at"])))]
pub(crate) struct SchedulePutArgs {
    /// The schedule
    pub(crate) name: ScheduleName,
    /// When it fires, by the clock
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) cron: Option<String>,
    /// The time zone of --cron [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "cron")]
    pub(crate) time_zone: Option<String>,
    /// The time between two firings, such as 10s or 1h30m
    #[arg(long, value_name = "DURATION")]
    pub(crate) every: Option<String>,
    /// Fire once, at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// While the job of the firing before is there: skip, queue or replace
    #[arg(long, default_value = "skip", value_parser = crate::text::word::<muster_schemas::schedule::Overlap>)]
    pub(crate) overlap: muster_schemas::schedule::Overlap,
    /// Of firings that an outage kept: run_once or skip
    #[arg(long, default_value = "run_once", value_parser = crate::text::word::<muster_schemas::schedule::Missed>)]
    pub(crate) missed: muster_schemas::schedule::Missed,
    /// How late a firing may be before it counts as missed [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub(crate) grace: Option<Period>,
    /// Do not let it fire yet
    #[arg(long)]
    pub(crate) paused: bool,
    /// A note for people
    #[arg(long)]
    pub(crate) description: Option<String>,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}
