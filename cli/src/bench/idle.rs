//! What the stack's processes cost while nothing happens: resident memory and processor time, from /proc.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use muster_runtime::config::Period;
use serde_json::json;

use super::report::{Report, Row};

/// Clock ticks per second in /proc: fixed at 100 on Linux for user space.
const TICKS: f64 = 100.0;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long to watch
    #[arg(long, default_value = "30s")]
    over: Period,
}

/// A process of the stack at one moment.
struct Sample {
    pid: u32,
    what: String,
    ticks: u64,
    resident: u64,
}

/// Runs it.
///
/// # Errors
/// When no stack runs on the data folder, or one of its processes ends meanwhile.
pub(super) async fn run(data_dir: &Path, options: &Options) -> Result<Report> {
    let over: Duration = options.over.get();
    let before = samples(data_dir)?;
    tokio::time::sleep(over).await;
    let after = samples(data_dir)?;
    let mut rows = Vec::new();
    for now in after {
        let then = before.iter().find(|then| then.pid == now.pid).with_context(|| format!("{} was restarted meanwhile", now.what))?;
        let share = (now.ticks - then.ticks) as f64 / TICKS / over.as_secs_f64() * 100.0;
        let (memory, processor) = match now.what.as_str() {
            "agent" => (Some("≤ 20"), Some("≤ 0.5")),
            "gateway" | "dispatcher" => (Some("≤ 40"), None),
            _ => (None, None),
        };
        rows.push(Row {
            what: format!("{} resident", now.what),
            unit: "MiB",
            ours: now.resident as f64 / 1048576.0,
            floor: None,
            bar: memory,
        });
        rows.push(Row { what: format!("{} processor", now.what), unit: "% of a core", ours: share, floor: None, bar: processor });
    }
    Ok(Report { name: "idle", setting: json!({"seconds": over.as_secs_f64()}), rows })
}

/// The processes of the stack on this data folder: what `muster up` started as `muster service …`.
fn samples(data_dir: &Path) -> Result<Vec<Sample>> {
    let mut found: Vec<Sample> = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| sample(pid, data_dir))
        .collect();
    if found.is_empty() {
        bail!("no stack runs on {}; start one with `muster up`", data_dir.display());
    }
    found.sort_by(|a, b| (&a.what, a.pid).cmp(&(&b.what, b.pid)));
    Ok(found)
}

/// `None` for a process that is not of the stack, or is gone.
fn sample(pid: u32, data_dir: &Path) -> Option<Sample> {
    let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).ok();
    let command = String::from_utf8_lossy(&read("cmdline")?).into_owned();
    let words: Vec<&str> = command.split('\0').collect();
    let what = match words.windows(2).find(|pair| pair.first() == Some(&"service")) {
        Some(pair) => pair.get(1)?.to_string(),
        None if words.first()?.ends_with("nats-server") => "broker".into(),
        None => return None,
    };
    let environment = String::from_utf8_lossy(&read("environ")?).into_owned();
    let folder = data_dir.to_str()?;
    if !command.contains(folder) && !environment.contains(folder) {
        return None;
    }
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    // After the name in brackets: state is the first field, user and system time the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse::<u64>().ok()? * 1024;
    Some(Sample { pid, what, ticks, resident })
}
