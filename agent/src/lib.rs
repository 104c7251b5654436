//! The agent: takes jobs of its pool from the broker, runs them, and stores their results. It listens on loopback only.
//!
//! | to find | look in |
//! |---|---|
//! | settings and flags | [`config`], `default.toml` |
//! | start to end: the process, and one identity after the other | [`service`], [`start`] |
//! | with one identity: the parts and how they hang together, and end | `turn`, `shutdown`, `upkeep` |
//! | who the agent is, enrolment, renewal, the end of it | [`identity`] |
//! | which lanes are pulled, which job starts next | `intake` (pure), `pull` (the shell around it) |
//! | a delivery from arrival to ack | `attempt`; how it ends at the broker: `finish`; acks that wait: `acks` |
//! | results that wait for the broker | `spool` |
//! | lanes that others pull, until it is called up | `standby` |
//! | the credentials of connections; who may put some there by hand | `vault`; `admin`, `command` |
//! | running the work itself | [`executors`] |
//! | output on its way to the log | `logs` |
//! | standing, cancel, ping | `control` |
//! | credentials on their way | `connections` |
//! | heartbeats | `heartbeat` |
//! | what all parts share; the broker's few services; the connection | `core`, `js`, `connect`, `link` |
//!
//! Deliberately absent: any decision about which agent runs a job (the broker's), and any look into a job outside `attempt` and `executors`.

mod acks;
mod admin;
mod attempt;
mod clock;
pub mod command;
pub mod config;
mod connect;
mod connections;
mod control;
mod core;
mod description;
pub mod executors;
mod figures;
mod finish;
mod harden;
mod heartbeat;
pub mod identity;
mod intake;
mod js;
mod link;
mod logs;
mod pull;
pub mod service;
mod shutdown;
mod spool;
mod standby;
pub mod start;
mod trust;
mod turn;
mod upkeep;
mod vault;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use muster_runtime::process;

pub use config::Config;
pub use service::{Listeners, run};

/// Two threads do: one agent runs at most 50 jobs, whose work is done by other processes or waits for the network.
const WORKER_THREADS: usize = 2;

/// What the binary does: settings, logs, signals, [`run`]. Exit code 64 for wrong settings, [`start::EXIT_REFUSED`] for an agent that can't
/// start until somebody does something about it.
pub fn main_with(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    main_under(&[], args)
}

/// The same for a binary that becomes an agent by the `words` that come first in its arguments, which are not among `args`: it starts
/// itself again with them.
pub fn main_under(words: &[&str], args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    const NAME: &str = "muster-agent";
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    // Nothing before it: it has to be quick, and is not an agent.
    if let Some(code) = executors::launch(&args) {
        return code;
    }
    let hardened = harden::process();
    let launcher = executors::Launcher::own(words);
    process::run_main(NAME, || {
        hardened.context("can't protect the memory of this process")?;
        let args = config::args::Args::try_parse_from(args)?;
        let flags = args.overrides();
        if let Some(command) = args.command {
            return command.run(&args.config.load(flags)?.settings);
        }
        let options = |config: &Config| process::Options {
            log_filter: config.log_level.clone(),
            log_format: config.log_format,
            worker_threads: Some(WORKER_THREADS),
        };
        let ended = process::run_service(&args.config, flags, options, async |mut config: Config, shutdown| {
            config.launcher = Some(launcher);
            let listeners = Listeners::bind(&config).await?;
            run(config, listeners, shutdown).await
        });
        match ended {
            Err(error) if error.downcast_ref::<start::StartError>().is_some() => {
                process::report(NAME, &error);
                Ok(ExitCode::from(start::EXIT_REFUSED))
            }
            ended => ended,
        }
    })
}
