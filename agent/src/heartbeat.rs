//! Heartbeats: at every interval, at each connect, when draining begins, and a goodbye at the end.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use muster_runtime::shutdown::Shutdown;
use muster_schemas::{
    heartbeat::{Heartbeat, Load},
    subjects,
    time::Timestamp,
    wire::{self, V},
};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use tokio::sync::{Mutex, Notify};

use crate::core::Core;

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// The pulse; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    interval: Duration,
    state_dir: PathBuf,
    seq: AtomicU64,
    draining: AtomicBool,
    now: Notify,
    /// Whether the goodbye was said. Held while a beat is made and sent: nothing comes behind the goodbye.
    ended: Mutex<bool>,
}

impl Pulse {
    pub(crate) fn new(interval: Duration, state_dir: PathBuf) -> Self {
        Self(Arc::new(Inner {
            interval,
            state_dir,
            seq: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            now: Notify::new(),
            ended: Mutex::new(false),
        }))
    }

    /// The time between beats.
    pub(crate) fn interval(&self) -> Duration {
        self.0.interval
    }

    /// Has a beat go out at once: there is something to tell.
    pub(crate) fn tell(&self) {
        self.0.now.notify_one();
    }

    /// Says from now on that nothing new is taken, starting at once.
    pub(crate) fn draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.now.notify_one();
    }

    /// Beats for ever.
    pub(crate) async fn run(self, core: Arc<Core>, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut link = core.link.clone();
        let mut meter = Meter::new(self.0.state_dir.clone());
        let mut interval = tokio::time::interval(self.0.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                _ = interval.tick() => {}
                () = self.0.now.notified() => {}
                () = core.vault.changed() => {}
                changed = link.changed() => changed?,
            }
            let ended = self.0.ended.lock().await;
            if link.borrow_and_update().up && !*ended {
                let beat = self.beat(&core, meter.load(), false);
                core.js.send(subjects::heartbeat(&core.pool, &core.id), wire::encode(&beat).into()).await;
            }
        }
    }

    /// Says goodbye, and waits until the broker has it.
    pub(crate) async fn goodbye(&self, core: &Core) {
        let mut ended = self.0.ended.lock().await;
        *ended = true;
        let beat = self.beat(core, Load::default(), true);
        let subject = subjects::heartbeat(&core.pool, &core.id);
        match tokio::time::timeout(GOODBYE, core.js.store(subject, None, wire::encode(&beat).into())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not say goodbye"),
            Err(_) => tracing::warn!("could not say goodbye in time"),
        }
    }

    fn beat(&self, core: &Core, load: Load, goodbye: bool) -> Heartbeat {
        Heartbeat {
            v: V,
            at: Timestamp::now(),
            instance: core.instance.clone(),
            seq: self.0.seq.fetch_add(1, Ordering::Relaxed),
            started_at: core.started_at,
            interval_s: u32::try_from(self.0.interval.as_secs()).unwrap_or(u32::MAX).max(1),
            name: core.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            executors: core.registry.executors().iter().filter_map(|name| name.parse().ok()).collect(),
            slots: core.figures.slots(core.slots),
            load,
            spooled: core.spool.count() as u64,
            fault: core.spool.is_full().then(|| "the spool is full: the broker takes no results".to_owned()).or_else(|| vault_fault(core)),
            last_error: core.figures.last_error().map(|error| core.registry.masks().now().text(&error)),
            labels: Default::default(),
            description: core.description.digest(),
            sealing: core.sealing.clone().filter(|_| core.vault.opening_key().is_some()),
            credentials: core.vault.held(),
            vault: core.vault.mark(),
            draining: self.0.draining.load(Ordering::Relaxed),
            goodbye,
        }
    }
}

fn vault_fault(core: &Core) -> Option<String> {
    core.vault.fault().map(|why| format!("the vault is closed: {why}"))
}

/// Measures the machine: two small files of /proc and one system call each time.
struct Meter {
    /// Absent where the machine can't be measured.
    system: Option<System>,
    state_dir: PathBuf,
}

impl Meter {
    fn new(state_dir: PathBuf) -> Self {
        let kinds =
            RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing().with_usage()).with_memory(MemoryRefreshKind::nothing().with_ram());
        Self { system: System::new_with_specifics(kinds).ok(), state_dir }
    }

    fn load(&mut self) -> Load {
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        }
        let system = self.system.as_ref();
        let disk = nix::sys::statvfs::statvfs(&self.state_dir).ok();
        let bytes = |blocks: u64| disk.map_or(0, |disk| blocks.saturating_mul(disk.fragment_size()));
        let (total, free) = disk.map_or((0, 0), |disk| (disk.blocks(), disk.blocks_free()));
        Load {
            cpu_pct: system.map_or(0.0, System::global_cpu_usage).clamp(0.0, 100.0),
            memory_used: system.map_or(0, System::used_memory),
            memory_total: system.map_or(0, System::total_memory),
            disk_used: bytes(total.saturating_sub(free)),
            disk_total: bytes(total),
        }
    }
}
