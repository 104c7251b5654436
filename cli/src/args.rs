//! Every command and flag. The help is the manual: each command shows examples that can be typed as they are.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use muster_runtime::config::Period;
use muster_schemas::{
    lane::Priority,
    names::{JobId, PoolName},
    records::Role,
};

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod connections;
pub(crate) mod groups;
pub(crate) mod job;
pub(crate) mod jobs;
pub(crate) mod listed;
pub(crate) mod operate;
pub(crate) mod pools;
pub(crate) mod schedules;
pub(crate) mod signers;
pub(crate) mod stack;
pub(crate) mod types;
pub(crate) mod work;

pub(crate) use agents::{AgentCreateArgs, AgentEditArgs, AgentsCommand, AgentsListArgs, JoinTokenCommand};
pub(crate) use audit::AuditArgs;
pub(crate) use connections::{ConnectionPutArgs, ConnectionsCommand, ConnectionsListArgs, CredentialsArgs};
pub(crate) use groups::{GroupsCommand, GroupsListArgs, RunArgs};
pub(crate) use job::{JobCommand, PingArgs, SubmitArgs};
pub(crate) use jobs::{DeadCommand, DeadListArgs, JobsArgs, Which};
pub(crate) use listed::Listed;
pub(crate) use operate::{CredsCommand, KeysCommand};
pub(crate) use pools::{DefaultsArgs, PoolPutArgs, PoolsCommand};
pub(crate) use schedules::{SchedulePutArgs, SchedulesCommand};
pub(crate) use signers::SignersCommand;
pub(crate) use stack::{InitArgs, ServiceCommand, UpArgs};
pub(crate) use types::{CompletionArgs, Shell, TypesArgs};
pub(crate) use work::{TimeArgs, WhatArgs, WorkArgs};

const LONG_ABOUT: &str = "Muster runs jobs on agents: machines that pull work from a queue, the fittest one first.

`muster up` starts everything on this machine. `muster submit -- date` runs a first job.";

const AFTER_HELP: &str = "Which gateway, and which key (the first that is given counts):
  1. --url and --api-key, or MUSTER_URL and MUSTER_API_KEY
  2. --profile or MUSTER_PROFILE: a name in ~/.config/muster/profiles.toml
  3. the profile `local`, which `muster up` writes

Exit codes:
  0    done
  1    failed; the reason is on standard error
  2    the command line is wrong
  124  timed out
  130  interrupted
  `muster submit` ends as its job ended, with the exit status of the job's own command: `muster submit --help`.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "muster", version, about = "Run jobs on the fittest of your machines", long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Global {
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The gateway, such as http://127.0.0.1:8080
    #[arg(long, global = true, env = "MUSTER_URL", value_name = "URL", help_heading = "Gateway")]
    pub(crate) url: Option<String>,
    /// The API key. Prefer the variable: a command line is visible to others on this machine
    #[arg(long, global = true, env = "MUSTER_API_KEY", value_name = "KEY", hide_env_values = true, help_heading = "Gateway")]
    pub(crate) api_key: Option<String>,
    /// File with the certificates (PEM) that the gateway's one must be signed by [default: the profile's, else the system's]
    #[arg(long, global = true, env = "MUSTER_CA", value_name = "FILE", help_heading = "Gateway")]
    pub(crate) ca: Option<PathBuf>,
    /// A profile of ~/.config/muster/profiles.toml
    #[arg(long, global = true, env = "MUSTER_PROFILE", value_name = "NAME", help_heading = "Gateway")]
    pub(crate) profile: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything on this machine: broker, gateway, dispatcher and agents
    Up(UpArgs),
    /// Make the keys, credentials and server config of a deployment
    Init(InitArgs),
    /// Submit a job, wait for it and print its output
    Submit(Box<SubmitArgs>),
    /// Run a command on every agent of a pool, or on one of them, and show how it went on each
    Run(Box<RunArgs>),
    /// List the types of jobs that agents run, and show what one takes
    Types(TypesArgs),
    /// List groups, the runs of `muster run --all`: show one, watch it, cancel it
    #[command(visible_alias = "group")]
    Groups(Box<Listed<GroupsCommand, GroupsListArgs>>),
    /// Look at a job, watch it, cancel it, run it again, read its output, ask why it waits
    Job {
        #[command(subcommand)]
        command: JobCommand,
    },
    /// List jobs, newest first, by pool, agent, state, label and time
    Jobs(Box<JobsArgs>),
    /// List, show, replay and delete dead letters: jobs that nobody could finish
    Dead(Box<Listed<DeadCommand, DeadListArgs>>),
    /// List agents, look at one, create, change, stop, revoke and delete them
    #[command(visible_alias = "agent")]
    Agents(Box<Listed<AgentsCommand, AgentsListArgs>>),
    /// List, make, change, pause and delete pools, see their health
    #[command(visible_alias = "pool")]
    Pools {
        #[command(subcommand)]
        command: Option<PoolsCommand>,
    },
    /// List, make, try and remove connections, deliver their credentials to agents
    #[command(visible_alias = "connection")]
    Connections {
        #[command(subcommand)]
        command: Option<ConnectionsCommand>,
    },
    /// List, make, pause and delete schedules, run one now
    Schedules {
        #[command(subcommand)]
        command: Option<SchedulesCommand>,
    },
    /// Send small jobs to a pool and print how long each takes, or ask after one agent
    Ping(PingArgs),
    /// Issue credentials with which a service puts jobs straight onto NATS
    Creds {
        #[command(subcommand)]
        command: CredsCommand,
    },
    /// List, add and remove the keys whose jobs agents run
    Signers {
        #[command(subcommand)]
        command: SignersCommand,
    },
    /// Create, list and revoke API keys
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Create, list and delete tokens with which agents join a pool
    JoinToken {
        #[command(subcommand)]
        command: JoinTokenCommand,
    },
    /// Look at the audit trail: who did what, or tried to
    Audit(Box<AuditArgs>),
    /// Measure a running stack, beside the bare broker in the same run
    Bench(crate::bench::BenchArgs),
    /// Print what a shell reads to complete command lines: words, flags, types, their params, pools, connections
    Completion(CompletionArgs),
    /// Run one of the services; `muster up` does this for you
    #[command(hide = true)]
    Service {
        #[command(subcommand)]
        which: ServiceCommand,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_and_flag_is_well_formed_and_has_a_help() {
        Cli::command().debug_assert();
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            assert!(command.get_about().is_some(), "{} says nothing about itself", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let name = argument.get_id();
                let known = ["help", "version"].contains(&name.as_str());
                assert!(known || argument.get_help().is_some(), "{} of {} has no help", name, command.get_name());
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }
}
