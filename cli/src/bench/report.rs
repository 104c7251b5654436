//! What a bench found, as a table and as JSON.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::stage::Flush;
use crate::output;

/// Bytes of a MiB.
pub(super) const MIB: f64 = 1_048_576.0;

/// One figure, with the floor's beside it where there is one.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// What was measured.
    pub(super) what: String,
    /// The unit of both figures.
    pub(super) unit: &'static str,
    /// Ours.
    pub(super) ours: f64,
    /// The bare broker's, in the same run.
    pub(super) floor: Option<f64>,
    /// The bar that the project set itself, for a person.
    pub(super) bar: Option<&'static str>,
}

/// The rows of one bench.
#[derive(Debug, Clone)]
pub(super) struct Report {
    /// The bench's name.
    pub(super) name: &'static str,
    /// What it did.
    pub(super) setting: Value,
    /// What it found.
    pub(super) rows: Vec<Row>,
}

impl Report {
    /// Prints it, as JSON on one line or as a table.
    ///
    /// # Errors
    /// When standard output is closed.
    pub(super) fn print(&self, flush: Flush, as_json: bool) -> Result<()> {
        if as_json {
            let rows: Vec<Value> = self
                .rows
                .iter()
                .map(|row| json!({"what": row.what, "unit": row.unit, "ours": row.ours, "floor": row.floor, "ratio": row.ratio(), "bar": row.bar}))
                .collect();
            return output::json(&json!({"bench": self.name, "fsync": flush.name(), "setting": self.setting, "rows": rows}));
        }
        let optional = |value: Option<f64>| value.map(figure).unwrap_or_default();
        let cells = |row: &Row| {
            [
                row.what.clone(),
                row.unit.into(),
                figure(row.ours),
                optional(row.floor),
                optional(row.ratio()),
                row.bar.unwrap_or_default().into(),
            ]
        };
        let rows = self.rows.iter().map(cells).collect();
        let table = output::table([self.name, "unit", "muster", "bare broker", "ratio", "bar"], rows, "nothing was measured");
        Ok(output::line(&format!("fsync {}, {}\n{table}", flush.name(), self.setting))?)
    }
}

impl Row {
    /// Ours divided by the floor's.
    fn ratio(&self) -> Option<f64> {
        self.floor.filter(|floor| *floor > 0.0).map(|floor| self.ours / floor)
    }

    /// The rows of two latency histograms in microseconds.
    pub(super) fn latencies(
        what: &str,
        ours: &Histogram<u64>,
        floor: Option<&Histogram<u64>>,
        bars: [Option<&'static str>; 2],
    ) -> Vec<Self> {
        [("p50", 0.5, bars[0]), ("p99", 0.99, bars[1])]
            .into_iter()
            .map(|(name, quantile, bar)| Self {
                what: format!("{what} {name}"),
                unit: "ms",
                ours: millis(ours, quantile),
                floor: floor.map(|floor| millis(floor, quantile)),
                bar,
            })
            .collect()
    }
}

/// Tells whoever waits what is going on, on standard error.
pub(super) fn progress(text: &str) {
    output::warn(&format!("bench: {text}"));
}

/// A histogram of microseconds up to two minutes, to three digits.
///
/// # Errors
/// Never for these bounds.
pub(super) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 120_000_000, 3)?)
}

fn millis(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

/// The middle one of several rounds.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn figure(value: f64) -> String {
    match value.abs() {
        big if big >= 100.0 => format!("{value:.0}"),
        mid if mid >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_rounds_is_one_of_them() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn a_ratio_needs_a_floor() {
        let row = |floor| Row { what: String::new(), unit: "", ours: 2.0, floor, bar: None };
        assert_eq!(row(Some(4.0)).ratio(), Some(0.5));
        assert_eq!(row(Some(0.0)).ratio(), None);
        assert_eq!(row(None).ratio(), None);
    }
}
