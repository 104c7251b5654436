//! What the stack's processes cost while nothing happens: resident memory and processor time, from /proc.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use muster_runtime::config::Period;
use serde_json::json;

use super::{
    processes,
    report::{MIB, Report, Row, progress},
    rig::Rig,
};

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long to watch
    #[arg(long, default_value = "30s")]
    over: Period,
}

/// Runs it.
///
/// # Errors
/// When one of the stack's processes ends meanwhile.
pub(super) async fn run(rig: &Rig, options: &Options) -> Result<Report> {
    let over: Duration = options.over.get();
    progress(&format!("watching for {}", options.over));
    let before = processes::of_stack(&rig.data_dir)?;
    tokio::time::sleep(over).await;
    let mut rows = Vec::new();
    for (name, pid, now) in processes::of_stack(&rig.data_dir)? {
        let known = before.iter().find(|(_, then, _)| *then == pid);
        let (.., then) = known.with_context(|| format!("{name} was restarted meanwhile"))?;
        let share = (now.seconds - then.seconds) / over.as_secs_f64() * 100.0;
        let (memory, processor) = match name.as_str() {
            "broker" => (None, None),
            "gateway" | "dispatcher" => (Some("≤ 40"), None),
            _ => (Some("≤ 20"), Some("≤ 0.5")),
        };
        let row = |what: &str, unit, ours, bar| Row { what: format!("{name} {what}"), unit, ours, floor: None, bar };
        rows.push(row("resident", "MiB", now.resident / MIB, memory));
        rows.push(row("processor", "% of a core", share, processor));
    }
    Ok(Report { name: "idle", setting: json!({"seconds": over.as_secs_f64()}), rows })
}
