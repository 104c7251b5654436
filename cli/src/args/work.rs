//! Flags that say what a job is, and when it may start: the same wherever a command makes jobs. `commands/work.rs` makes a job of them.

use muster_schemas::{names::ConnectionName, time::Timestamp};

use super::*;

/// A job of a pool.
#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    /// The pool that runs it [default: that of its connection, or `default`]
    #[arg(long)]
    pub(crate) pool: Option<PoolName>,
    /// high, normal or low
    #[arg(long, default_value_t)]
    pub(crate) priority: Priority,
    /// A label to find the job by; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = crate::text::label)]
    pub(crate) labels: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) what: WhatArgs,
}

/// What a job does, and within which limits. Exactly one of `--type`, `--command` and words after `--` is its work.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("work").required(true).args(["job_type", "command", "argv"])))]
pub(crate) struct WhatArgs {
    /// How long an attempt may run, such as 90s or 10m [default: that of the pool, or 5m]
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<Period>,
    /// Attempts in all when the job fails or times out [default: that of the pool, or 1]
    #[arg(long, value_name = "ATTEMPTS")]
    pub(crate) retry: Option<i64>,
    /// The connection whose secrets it needs; `muster connections` lists them
    #[arg(long, value_name = "NAME")]
    pub(crate) connection: Option<ConnectionName>,
    /// How long its result can be looked up once it has ended, such as 10m or 7d, at most 30d [default: 1d]
    #[arg(long, value_name = "DURATION", value_parser = crate::text::result_ttl)]
    pub(crate) result_ttl: Option<Period>,
    /// The type of the job, when it is no command; `muster types` lists them
    #[arg(long = "type", value_name = "TYPE", conflicts_with_all = ["command", "argv"])]
    pub(crate) job_type: Option<String>,
    /// What the type takes: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON", requires = "job_type", conflicts_with_all = ["command", "argv"])]
    pub(crate) params: Option<String>,
    /// One param: TEXT as it is, JSON behind `:=`, such as url=https://example.com/ or follow_redirects:=false; may be repeated
    #[arg(long = "param", short = 'P', value_name = "NAME=TEXT|NAME:=JSON", value_parser = crate::text::param, requires = "job_type", conflicts_with_all = ["command", "argv"])]
    pub(crate) given: Vec<(String, serde_json::Value)>,
    /// A line for the agent's shell
    #[arg(long, value_name = "LINE", conflicts_with = "argv")]
    pub(crate) command: Option<String>,
    /// A program and its arguments, run without a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<String>,
}

/// When a job may start, and until when. What is said as a duration counts from now.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct TimeArgs {
    /// Do not start it before this time, such as 2027-01-01T06:00:00Z; at most 365 days away
    #[arg(long, value_name = "TIME", conflicts_with = "delay")]
    pub(crate) at: Option<Timestamp>,
    /// Do not start it before so long from now, such as 90s, 10m or 1d12h
    #[arg(long = "in", value_name = "DURATION")]
    pub(crate) delay: Option<Period>,
    /// Do not start it after this time: it ends as expired instead
    #[arg(long, value_name = "TIME", conflicts_with = "expires_in")]
    pub(crate) expires_at: Option<Timestamp>,
    /// Do not start it later than so long from now, whatever --at or --in says
    #[arg(long, value_name = "DURATION")]
    pub(crate) expires_in: Option<Period>,
}
