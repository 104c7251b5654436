//! What is read each minute of a soak: memory and open files of each process, and what is on disk.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::trend::{Series, Unit};
use crate::bench::{
    processes,
    report::{MIB, Row},
    rig::{Pool, Rig},
};

/// Everything that was read so far.
pub(super) struct Readings {
    data_dir: PathBuf,
    /// The agents of the bench, which no pid file tells of.
    agents: Vec<(String, u32)>,
    folders: Vec<(&'static str, PathBuf)>,
    began: Instant,
    series: BTreeMap<String, Series>,
    /// The processes at the last reading.
    pids: BTreeMap<String, u32>,
    restarts: usize,
}

impl Readings {
    /// None yet.
    pub(super) fn of(rig: &Rig, pool: &Pool) -> Self {
        let within = |name: &str| rig.data_dir.join(name);
        let folders = vec![
            ("broker's streams", within("broker")),
            ("dispatcher's history", within("dispatcher")),
            ("logs", within("logs")),
            ("agents' files", pool.folder().to_owned()),
        ];
        Self {
            data_dir: rig.data_dir.clone(),
            agents: pool.agents(),
            folders,
            began: Instant::now(),
            series: BTreeMap::new(),
            pids: BTreeMap::new(),
            restarts: 0,
        }
    }

    /// How long it has been.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Reads once, and gives back a line about it. A process that is just being started again is missed.
    ///
    /// # Errors
    /// When the stack is gone.
    pub(super) fn read(&mut self) -> Result<String> {
        let (at, mut line) = (self.began.elapsed(), Vec::new());
        for (name, pid) in crate::up::processes(&self.data_dir)?.into_iter().chain(self.agents.clone()) {
            if self.pids.insert(name.clone(), pid).is_some_and(|before| before != pid) {
                self.restarts += 1;
            }
            let Ok(usage) = processes::usage(pid) else { continue };
            self.push(format!("{name}, memory"), Unit::Memory, at, usage.resident / MIB);
            self.push(format!("{name}, open files"), Unit::Files, at, usage.files);
            line.push(format!("{name} {:.1} MiB {:.0} files", usage.resident / MIB, usage.files));
        }
        for (name, folder) in self.folders.clone() {
            let size = processes::disk(&folder) / MIB;
            self.push(format!("{name}, disk"), Unit::Disk, at, size);
            line.push(format!("{name} {size:.1} MiB"));
        }
        Ok(line.join(", "))
    }

    fn push(&mut self, what: String, unit: Unit, at: Duration, value: f64) {
        self.series.entry(what).or_insert_with(|| Series::new(unit)).push(at, value);
    }

    /// A row for each thing that was read: what it was at the end, and how it went.
    pub(super) fn rows(&self) -> Vec<Row> {
        let of = |(what, series): (&String, &Series)| {
            let trend = series.trend();
            let said = trend.map_or_else(|| "too few readings for a trend".into(), |trend| trend.verdict(series.unit));
            let hourly = match series.unit {
                Unit::Memory | Unit::Disk => "MiB an hour",
                Unit::Files => "files an hour",
            };
            let at_end = series.last().map_or_else(String::new, |last| format!(", {last:.1} {} at the end", series.unit.name()));
            Row {
                what: format!("{what}{at_end}: {said}"),
                unit: hourly,
                ours: trend.map_or(0.0, |trend| trend.hourly),
                floor: None,
                bar: Some("flat"),
            }
        };
        let restarts = Row { what: "processes started again".into(), unit: "", ours: self.restarts as f64, floor: None, bar: Some("0") };
        self.series.iter().map(of).chain([restarts]).collect()
    }
}
