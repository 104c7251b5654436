//! The processor time that a job takes, part by part: on a machine whose cores are all busy this is what sets the pace.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{
    floor::Floor,
    processes,
    report::Row,
    rig::{Pool, Rig},
};

/// Processor time by part, in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Work(BTreeMap<&'static str, f64>);

/// The parts whose work is told, and whether the floor has such a part in a process of its own: its agents are in the bench's.
const PARTS: [(&str, bool); 5] = [("broker", true), ("gateway", false), ("dispatcher", false), ("agents", false), ("bench", true)];

impl Work {
    /// What the stack, the pool's agents and this process have taken so far.
    ///
    /// # Errors
    /// When a process is gone.
    pub(super) fn ours(rig: &Rig, pool: &Pool) -> Result<Self> {
        let mut work = Self::bench()?;
        for (name, _, used) in processes::of_stack(&rig.data_dir)? {
            // The stack's own agents are in another pool.
            if let Some((part, _)) = PARTS.iter().find(|(part, _)| *part == name) {
                work.0.insert(part, used.seconds);
            }
        }
        let agents: Result<Vec<_>> = pool.agents().into_iter().map(|(_, pid)| processes::usage(pid)).collect();
        work.0.insert("agents", agents?.iter().map(|used| used.seconds).sum());
        Ok(work)
    }

    /// What the floor's broker and this process have taken so far.
    ///
    /// # Errors
    /// When the broker is gone.
    pub(super) fn floor(floor: &Floor) -> Result<Self> {
        let mut work = Self::bench()?;
        work.0.insert("broker", processes::usage(floor.pid())?.seconds);
        Ok(work)
    }

    fn bench() -> Result<Self> {
        Ok(Self(BTreeMap::from([("bench", processes::own_seconds()?)])))
    }

    /// Adds what was taken between two looks.
    pub(super) fn add(&mut self, before: &Self, after: &Self) {
        for (part, seconds) in &after.0 {
            *self.0.entry(part).or_default() += seconds - before.0.get(part).unwrap_or(seconds);
        }
    }

    /// A row for each part, and one for all of them together.
    pub(super) fn rows(&self, floor: &Self, jobs: usize) -> Vec<Row> {
        let each = |seconds: f64| seconds / jobs.max(1) as f64 * 1e6;
        let row = |part: &str, ours: f64, floor: Option<f64>| Row {
            what: format!("processor time of a job put in with a batch: {part}"),
            unit: "µs",
            ours: each(ours),
            floor: floor.map(each),
            bar: None,
        };
        let of = |work: &Self, part| work.0.get(part).copied().unwrap_or_default();
        let parts = PARTS.iter().map(|(part, in_floor)| row(part, of(self, part), in_floor.then(|| of(floor, part))));
        let all = row("all parts", self.0.values().sum(), Some(floor.0.values().sum()));
        parts.chain([all]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(parts: &[(&'static str, f64)]) -> Work {
        Work(parts.iter().copied().collect())
    }

    #[test]
    fn what_is_taken_between_looks_is_told_for_each_job_and_each_part() {
        let (mut ours, mut floor) = (Work::default(), Work::default());
        for _ in 0..2 {
            ours.add(
                &work(&[("broker", 1.0), ("agents", 2.0), ("bench", 5.0)]),
                &work(&[("broker", 1.5), ("agents", 2.25), ("bench", 5.0)]),
            );
            floor.add(&work(&[("broker", 1.0)]), &work(&[("broker", 2.0)]));
        }
        let rows = ours.rows(&floor, 1000);
        let told: Vec<_> = rows.iter().map(|row| (row.what.rsplit(": ").next().unwrap_or_default(), row.ours, row.floor)).collect();
        let expected = [
            ("broker", 1000.0, Some(2000.0)),
            ("gateway", 0.0, None),
            ("dispatcher", 0.0, None),
            ("agents", 500.0, None),
            ("bench", 0.0, Some(0.0)),
            ("all parts", 1500.0, Some(2000.0)),
        ];
        assert_eq!(told, expected);
    }
}
