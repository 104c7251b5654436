//! What a bench runs on: the stack that `muster up` runs, or one of the bench's own, and a folder on the same disk for all that it makes.

use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use muster_broker_config::server::{Places, find_binary};

use super::{
    flushes::trace::{self, Trace},
    report::progress,
    rig::Rig,
};
use crate::up::{Measured, Variant};

/// Agents of a stack of the bench's own, as many as `muster up` starts.
const AGENTS: u16 = 2;

/// Whether brokers flush each message to disk before they acknowledge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// They do, as in use.
    Always,
    /// They do not.
    Off,
}

/// The settings to measure with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Fsync {
    /// Each message is on disk before its acknowledgement
    Always,
    /// The broker flushes every two minutes
    Off,
    /// One after the other
    Both,
}

impl Fsync {
    pub(super) fn each(self) -> Vec<Flush> {
        match self {
            Self::Always => vec![Flush::Always],
            Self::Off => vec![Flush::Off],
            Self::Both => vec![Flush::Always, Flush::Off],
        }
    }
}

impl Flush {
    /// As it is written in a report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Off => "off",
        }
    }

    /// The bar that holds for this setting.
    pub(super) fn bar(self, always: &'static str, off: Option<&'static str>) -> Option<&'static str> {
        match self {
            Self::Always => Some(always),
            Self::Off => off,
        }
    }
}

/// What a stack of the bench's own has that others have not.
#[derive(Debug, Clone, Default)]
pub(super) struct Own {
    /// Its broker runs under strace.
    pub(super) traced: bool,
    /// The most jobs in its history.
    pub(super) history_max_jobs: Option<u64>,
}

/// The stack under measurement.
pub(super) struct Stage {
    /// How to reach it.
    pub(super) rig: Rig,
    /// What its broker flushes, where it is traced.
    pub(super) trace: Option<Trace>,
    /// Its processes, where it is the bench's own.
    measured: Option<Measured>,
    /// Last: whatever uses it is gone by then.
    _scratch: Scratch,
}

impl Stage {
    /// The stack that `muster up` runs on `data_dir`.
    ///
    /// # Errors
    /// When none runs there.
    pub(super) fn open(data_dir: &Path) -> Result<Self> {
        // Found first: a folder that nobody uses is left alone.
        crate::up::running(data_dir).with_context(|| format!("no stack runs on {}; start one with `muster up`", data_dir.display()))?;
        let scratch = Scratch::make(data_dir)?;
        Ok(Self { rig: Rig::open(data_dir, &scratch.0, Flush::Always)?, trace: None, measured: None, _scratch: scratch })
    }

    /// A stack that lives as long as the bench, on the disk of `data_dir`.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) async fn own(data_dir: &Path, flush: Flush, own: &Own) -> Result<Self> {
        progress(&format!("starting a stack of the bench's own, fsync {}", flush.name()));
        let scratch = Scratch::make(data_dir)?;
        let root = scratch.0.join("stack");
        let trace = match own.traced {
            true => Some(trace::wrap(&scratch.0, "stack", &find_binary(&Places::from_env()).await?)?),
            false => None,
        };
        let variant = Variant {
            durable: flush == Flush::Always,
            nats_server: trace.as_ref().map(|trace| trace.program.clone()),
            history_max_jobs: own.history_max_jobs,
        };
        let measured = Measured::start(root.clone(), AGENTS, &variant).await?;
        match Rig::open(&root, &scratch.0, flush) {
            Ok(rig) => Ok(Self { rig, trace, measured: Some(measured), _scratch: scratch }),
            Err(error) => {
                measured.stop().await;
                Err(error)
            }
        }
    }

    /// Stops the stack if it is the bench's own, and removes whatever the bench made on disk.
    pub(super) async fn close(self) {
        if let Some(measured) = self.measured {
            measured.stop().await;
        }
    }
}

/// A folder that goes with the bench.
struct Scratch(PathBuf);

impl Scratch {
    fn make(data_dir: &Path) -> Result<Self> {
        let path = std::path::absolute(data_dir)?.join(format!("bench-{}", std::process::id()));
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("can't make the folder {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
