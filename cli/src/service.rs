//! The services as hidden commands, so that `muster up` needs no other binary than itself.

use std::{ffi::OsString, os::unix::process::CommandExt as _, path::Path, process::ExitCode};

use muster_runtime::process;

use crate::args::ServiceCommand;

/// Runs a service until it ends. It sets up its own runtime, logs and signals.
pub(crate) fn run(which: ServiceCommand) -> ExitCode {
    // The first argument is a program's name, as each service shows it in its help.
    let args = |name: &str, args: Vec<OsString>| [OsString::from(format!("muster service {name}"))].into_iter().chain(args);
    match which {
        ServiceCommand::Gateway(passed) => muster_gateway::main_with(args("gateway", passed.args)),
        ServiceCommand::Dispatcher(passed) => muster_dispatcher::main_with(args("dispatcher", passed.args)),
        ServiceCommand::Agent(passed) => muster_agent::main_under(&["service", "agent"], args("agent", passed.args)),
        ServiceCommand::Broker { binary, config } => process::run_main("muster service broker", || become_broker(&binary, &config)),
    }
}

/// Becomes a nats-server. What `run_main` arranged holds on: it dies with its parent. Each connection of a client is an open file.
fn become_broker(binary: &Path, config: &Path) -> anyhow::Result<ExitCode> {
    process::raise_open_files()?;
    let error = std::process::Command::new(binary).arg("--config").arg(config).exec();
    Err(anyhow::Error::from(error).context(format!("can't run {}", binary.display())))
}
