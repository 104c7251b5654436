//! `muster`: operate everything, and run the whole stack on one machine (`muster up`).
//!
//! It has no logic that the REST interface lacks: a command asks the gateway and shows the answer. What works on files of a
//! deployment (`init`, `creds issue`) and on processes (`up`, `service`) is the exception.
//!
//! | to find | look in |
//! |---|---|
//! | every command and flag, with its help | [`args`] |
//! | which gateway, with which key | [`target`], [`profile`] |
//! | requests to the gateway, and its refusals | [`api`], [`failure`] |
//! | a job's events as they come | [`sse`] |
//! | tables and JSON | [`output`] |
//! | one file per command | [`commands`] |
//! | proposals while somebody types | [`complete`] |
//! | the whole stack on one machine | [`up`] |
//! | figures of the running stack | [`bench`] |
//! | the services as hidden commands | [`service`] |

mod api;
mod args;
mod bench;
mod commands;
mod complete;
mod failure;
mod output;
mod profile;
mod service;
mod sse;
mod target;
mod text;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};

fn main() -> ExitCode {
    complete::answer();
    let cli = Cli::parse();
    // A service sets up its own runtime, logs and signals.
    if let Command::Service { which } = cli.command {
        return service::run(which);
    }
    let json = cli.global.json;
    // The floor of a bench and what is measured against it get all cores.
    let mut builder = match cli.command {
        Command::Bench(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    // One thread: children that are to die with their parent die with the thread that started them, so it must be the one that stays.
    let runtime = builder.enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(commands::run(cli));
        runtime.shutdown_background();
        outcome
    });
    outcome.unwrap_or_else(|error| failure::report(&error, json))
}
