//! Whether something grows: readings over time, and the slope through them. Pure; what is read is `soak/readings.rs`'s.

use std::time::Duration;

/// The part of a run at its beginning in which caches and caps fill, and that says nothing of what follows.
const FILLING: f64 = 0.1;
/// Growth in an hour that is none, as a share of what is there.
const FLAT: f64 = 0.05;
/// Fewer readings than this have no trend.
const READINGS_MIN: usize = 4;

/// What a series counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Memory, in MiB.
    Memory,
    /// Open files.
    Files,
    /// Space on disk, in MiB.
    Disk,
}

/// Readings of one thing.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// What it counts.
    pub(super) unit: Unit,
    /// When, and how much.
    readings: Vec<(Duration, f64)>,
}

/// What a series says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trend {
    /// What is added in an hour; negative when it shrinks.
    pub(super) hourly: f64,
    /// Whether it is more than noise.
    pub(super) grows: bool,
}

impl Unit {
    /// As it is written.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory | Self::Disk => "MiB",
            Self::Files => "files",
        }
    }

    /// Growth in an hour that is none, however little is there: a file more or less, an allocator's arena, a block of a stream.
    fn noise(self) -> f64 {
        match self {
            Self::Memory => 2.0,
            Self::Files => 2.0,
            Self::Disk => 16.0,
        }
    }
}

impl Series {
    pub(super) fn new(unit: Unit) -> Self {
        Self { unit, readings: Vec::new() }
    }

    pub(super) fn push(&mut self, at: Duration, value: f64) {
        self.readings.push((at, value));
    }

    /// The last reading.
    pub(super) fn last(&self) -> Option<f64> {
        self.readings.last().map(|(_, value)| *value)
    }

    /// The trend after the first tenth; `None` when there are too few readings.
    ///
    /// The slope is the median of those between all pairs of readings (Theil and Sen), so that spikes and the saw of a stream that drops
    /// its oldest block count for nothing.
    pub(super) fn trend(&self) -> Option<Trend> {
        let (end, _) = *self.readings.last()?;
        let counted: Vec<_> = self.readings.iter().filter(|(at, _)| at.as_secs_f64() >= end.as_secs_f64() * FILLING).collect();
        if counted.len() < READINGS_MIN {
            return None;
        }
        let mut slopes = Vec::new();
        for (number, (from, before)) in counted.iter().enumerate() {
            for (to, after) in counted.iter().skip(number + 1) {
                let hours = (*to - *from).as_secs_f64() / 3600.0;
                if hours > 0.0 {
                    slopes.push((after - before) / hours);
                }
            }
        }
        slopes.sort_by(f64::total_cmp);
        let hourly = *slopes.get(slopes.len() / 2)?;
        let mean = counted.iter().map(|(_, value)| value).sum::<f64>() / counted.len() as f64;
        Some(Trend { hourly, grows: hourly > self.unit.noise().max(mean * FLAT) })
    }
}

impl Trend {
    /// In words.
    pub(super) fn verdict(&self, unit: Unit) -> String {
        match self.grows {
            true => format!("grows by {:.0} {} an hour", self.hourly, unit.name()),
            false => "flat".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn trend(unit: Unit, value: impl Fn(u64) -> f64) -> Trend {
        let mut series = Series::new(unit);
        (0..=60).for_each(|minute| series.push(Duration::from_secs(60 * minute), value(minute)));
        series.trend().unwrap()
    }

    #[test]
    fn what_grows_all_the_time_is_said_to_grow() {
        let leak = trend(Unit::Memory, |minute| 50.0 + minute as f64 * 0.1);
        assert!(leak.grows && (leak.hourly - 6.0).abs() < 0.01, "{leak:?}");
        assert_eq!(leak.verdict(Unit::Memory), "grows by 6 MiB an hour");
        assert!(trend(Unit::Files, |minute| 20.0 + (minute / 10) as f64).grows, "a file each ten minutes");
    }

    #[test]
    fn what_fills_first_and_then_swings_or_has_a_spike_is_flat() {
        let filling = trend(Unit::Memory, |minute| if minute < 6 { 10.0 * minute as f64 } else { 60.0 });
        assert!(!filling.grows, "{filling:?}");
        let saw = trend(Unit::Disk, |minute| 64.0 + (minute % 7) as f64 * 8.0);
        assert!(!saw.grows, "{saw:?}");
        let spike = trend(Unit::Memory, |minute| if minute == 59 { 500.0 } else { 60.0 });
        assert_eq!(spike.verdict(Unit::Memory), "flat");
        assert!(!trend(Unit::Memory, |minute| 60.0 - minute as f64 * 0.5).grows, "shrinking is not growing");
    }

    #[test]
    fn a_share_of_what_is_there_counts_and_so_does_a_fixed_noise() {
        assert!(!trend(Unit::Memory, |minute| 1000.0 + minute as f64 * 0.5).grows, "3 % an hour");
        assert!(!trend(Unit::Memory, |minute| 10.0 + minute as f64 * 0.02).grows, "1.2 MiB an hour");
    }

    #[test]
    fn few_readings_have_no_trend() {
        let mut series = Series::new(Unit::Files);
        assert_eq!(series.trend(), None);
        (1..=3).for_each(|minute| series.push(Duration::from_secs(60 * minute), 1.0));
        assert_eq!((series.trend(), series.last()), (None, Some(1.0)));
    }
}
