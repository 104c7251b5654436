//! One file per command, and the table that leads to them.

mod agents;
mod audit;
mod connections;
mod creds;
mod dead;
mod groups;
mod init;
mod job;
mod jobs;
mod keys;
mod ping;
mod pools;
mod print;
mod run;
mod schedules;
mod signers;
mod submit;
mod types;
mod work;

pub(crate) use creds::{May, issue};
pub(crate) use signers::{key_of, register};

use std::process::ExitCode;

use crate::{
    api::Api,
    args::{AgentsCommand, Cli, Command, ConnectionsCommand, DeadCommand, GroupsCommand},
    complete, output, target, up,
};

/// Runs a command to its end.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let json = cli.global.json;
    let api = || target::find(&cli.global).and_then(Api::new);
    match cli.command {
        Command::Up(args) => return up::run(args, json).await,
        Command::Init(args) => init::run(args, json)?,
        Command::Creds { command } => creds::run(api, command, json).await?,
        Command::Submit(args) => return submit::run(&api()?, *args, json).await,
        Command::Run(args) => return run::run(&api()?, *args, json).await,
        Command::Types(args) => types::run(&api()?, args, json).await?,
        Command::Groups(listed) => return groups::run(&api()?, listed.or(GroupsCommand::List)?, json).await,
        Command::Job { command } => return job::run(&api()?, command, json).await,
        Command::Jobs(args) => jobs::run(&api()?, *args, json).await?,
        Command::Dead(listed) => return dead::run(&api()?, listed.or(DeadCommand::List)?, json).await,
        Command::Agents(listed) => agents::run(&api()?, listed.or(|list| AgentsCommand::List(Box::new(list)))?, json).await?,
        Command::Pools { command } => pools::run(&api()?, command, json).await?,
        Command::Connections { command } => {
            let command = command.unwrap_or_else(|| ConnectionsCommand::List(Default::default()));
            return connections::run(&api()?, command, json).await;
        }
        Command::Schedules { command } => schedules::run(&api()?, command, json).await?,
        Command::Ping(args) => ping::run(&api()?, args, json).await?,
        Command::Signers { command } => signers::run(&api()?, command, json).await?,
        Command::Keys { command } => keys::run(&api()?, command, json).await?,
        Command::JoinToken { command } => keys::join_token(&api()?, command, json).await?,
        Command::Audit(args) => audit::run(&api()?, *args, json).await?,
        Command::Completion(args) => output::raw(complete::script(&args)?.as_bytes(), false)?,
        Command::Bench(args) => crate::bench::run(args, json).await?,
        // `main` has it before there is a runtime.
        Command::Service { which } => return Ok(crate::service::run(which)),
    }
    Ok(ExitCode::SUCCESS)
}
