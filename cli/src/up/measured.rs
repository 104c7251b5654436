//! A stack that is there to be measured: the same parts started by the same code, in a folder that nobody keeps, and without a profile that
//! leads to it. What it may have otherwise is a [`Variant`], for which `muster up` has no flag: nobody gets a broker that is not durable by
//! mistake.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{GRACE, folder::Folder, process::Supervisor, stack};
use crate::args::UpArgs;

/// In what a stack differs from that of `muster up`.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// Whether what the broker has acknowledged is on disk.
    pub(crate) durable: bool,
    /// The program to start as the broker, which may wrap one.
    pub(crate) nats_server: Option<PathBuf>,
    /// The most jobs in the dispatcher's history.
    pub(crate) history_max_jobs: Option<u64>,
}

/// Such a stack, while it runs.
#[derive(Debug)]
pub(crate) struct Measured {
    supervisor: Supervisor,
    _lock: File,
}

impl Measured {
    /// Starts one in a folder, which is made, on ports that are free.
    pub(crate) async fn start(root: PathBuf, agents: u16, variant: &Variant) -> anyhow::Result<Self> {
        let folder = Folder::open(Some(root.clone()))?;
        let lock = folder.lock()?;
        let args = UpArgs { agents, pool: "default".parse()?, data_dir: Some(root), http_port: 0, nats_port: 0, tls: false };
        let mut supervisor = Supervisor::new(folder.clone());
        match stack::start(&args, &folder, &mut supervisor, Some(variant)).await {
            Ok(_) => Ok(Self { supervisor, _lock: lock }),
            Err(error) => {
                supervisor.stop(GRACE).await;
                Err(error)
            }
        }
    }

    /// Stops all of it.
    pub(crate) async fn stop(self) {
        self.supervisor.stop(GRACE).await;
    }
}

/// The processes of the stack in a data folder, by name, as its pid files say.
pub(crate) fn processes(data_dir: &Path) -> anyhow::Result<Vec<(String, u32)>> {
    let folder = Folder::open(Some(data_dir.to_owned()))?;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.run())? {
        let path = entry?.path();
        let (Some("pid"), Some(name)) = (path.extension().and_then(|end| end.to_str()), path.file_stem().and_then(|stem| stem.to_str()))
        else {
            continue;
        };
        // One that just ended takes its file along.
        if let Some(pid) = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
            found.push((name.to_owned(), pid));
        }
    }
    found.sort();
    Ok(found)
}
