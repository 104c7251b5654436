//! `muster up`: the whole stack on one machine, one process per part, watched and started again when one dies.
//!
//! It runs the same services as any other deployment, with the same settings; there is no special mode. All that it adds is
//! in its folder: a lock, the ports, pid files, logs. A part that dies is started again; when `up` itself dies, the kernel
//! ends the parts.

mod deployment;
mod first;
mod folder;
mod measured;
mod ports;
mod process;
mod ready;
mod report;
mod stack;
mod stale;

pub(crate) use measured::{Measured, Variant, processes};

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use muster_broker_config::layout::Layout;
use muster_runtime::shutdown::Shutdown;

use crate::args::UpArgs;
use folder::Folder;
use ports::Ports;
use process::Supervisor;

/// A stack that runs, as its folder tells.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) layout: Layout,
    pub(crate) url: String,
    pub(crate) nats_url: String,
    pub(crate) api_key: String,
}

/// The stack on a data folder.
pub(crate) fn running(data_dir: &Path) -> anyhow::Result<Running> {
    let folder = Folder::open(Some(data_dir.to_owned()))?;
    if folder.lock().is_ok() {
        anyhow::bail!("no `muster up` runs there");
    }
    let ports = Ports::last(&folder.ports()).context("it has not chosen its ports yet")?;
    let layout = Layout::new(folder.deployment());
    let api_key = std::fs::read_to_string(layout.admin_key()).context("can't read the administrator's key")?.trim().to_owned();
    let (url, nats_url) = ports.urls(layout.ca().exists());
    Ok(Running { url, nats_url, layout, api_key })
}

/// How long the parts have to finish, one after the other, before they are killed. Agents wait 30 s for running jobs.
const GRACE: Duration = Duration::from_secs(40);

/// Runs the stack until it is told to stop.
pub(crate) async fn run(args: UpArgs, json: bool) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::on_signals()?;
    let folder = Folder::open(args.data_dir.clone())?;
    let _lock = folder.lock()?;
    stale::stop_all(&folder).await?;
    let mut supervisor = Supervisor::new(folder.clone());
    let started = tokio::select! {
        started = stack::start(&args, &folder, &mut supervisor, None) => Some(started),
        () = shutdown.requested() => None,
    };
    let outcome = match started {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(stack)) => {
            let printed = report::print(&stack, json);
            if printed.is_ok() {
                shutdown.requested().await;
                report::stopping(json);
            }
            printed
        }
    };
    supervisor.stop(GRACE).await;
    outcome.map(|()| ExitCode::SUCCESS)
}
