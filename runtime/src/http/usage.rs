//! What this process uses: memory, CPU time, open files. Read when asked, never in between.
//!
//! The names are those that Prometheus clients use everywhere, so that common dashboards fit.

use std::fs;

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use prometheus::{Counter, Gauge, core::Collector, proto::MetricFamily};

/// The figures; those that can't be read are left out.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    memory: Option<Gauge>,
    cpu: Option<Counter>,
    files: Option<Gauge>,
}

impl Usage {
    pub(crate) fn new() -> Self {
        // Creating them fails only for a malformed name.
        Self {
            memory: Gauge::new("process_resident_memory_bytes", "Resident memory in bytes.").ok(),
            cpu: Counter::new("process_cpu_seconds_total", "User and system CPU time in seconds.").ok(),
            files: Gauge::new("process_open_fds", "Number of open file descriptors.").ok(),
        }
    }

    pub(crate) fn gather(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if let (Some(gauge), Some(bytes)) = (&self.memory, resident_bytes()) {
            gauge.set(bytes);
            families.extend(gauge.collect());
        }
        if let (Some(counter), Some(seconds)) = (&self.cpu, cpu_seconds()) {
            counter.reset();
            counter.inc_by(seconds);
            families.extend(counter.collect());
        }
        if let (Some(gauge), Some(count)) = (&self.files, open_files()) {
            gauge.set(count);
            families.extend(gauge.collect());
        }
        families
    }
}

/// `VmRSS:      5124 kB` in `/proc/self/status`.
fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of CPU time fit into 52 bits for 142 years")]
fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Some(micros as f64 / 1e6)
}

fn open_files() -> Option<f64> {
    // The directory that is being read is open itself.
    let count = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some(f64::from(u32::try_from(count).ok()?))
}
