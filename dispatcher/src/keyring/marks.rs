//! Marks of results that were made a moment ago: two tasks read the same results, and checking a signature is what costs most of that.

use std::collections::BTreeMap;

use muster_schemas::{signature::Mark, time::Timestamp};

/// Marks that are kept for the second task. While it is further behind, it makes them again.
const MOST: usize = 16 * 1024;

/// Where a result is: when it was stored, and under which sequence.
pub(super) type Place = (Timestamp, u64);

/// The marks, each until it is taken.
#[derive(Debug, Default)]
pub(super) struct Marks(BTreeMap<Place, Mark>);

impl Marks {
    /// The mark of a result, if the other task has made it. Nobody asks for it again.
    pub(super) fn take(&mut self, place: Place) -> Option<Mark> {
        self.0.remove(&place)
    }

    /// Keeps a mark for the other task, in the place of the oldest one.
    pub(super) fn keep(&mut self, place: Place, mark: Mark) {
        self.0.insert(place, mark);
        while self.0.len() > MOST {
            self.0.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_kept_for_one_other_reader_and_there_are_only_so_many() {
        let mut marks = Marks::default();
        let place = |sequence| (Timestamp::from_secs(7), sequence);
        marks.keep(place(0), Mark::Wrong);
        assert_eq!((marks.take(place(0)), marks.take(place(0))), (Some(Mark::Wrong), None));
        for sequence in 0..=MOST as u64 {
            marks.keep(place(sequence), Mark::Valid);
        }
        assert_eq!((marks.0.len(), marks.take(place(0)), marks.take(place(1))), (MOST, None, Some(Mark::Valid)));
    }
}
