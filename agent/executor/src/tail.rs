//! The last bytes of a stream that may be endless. Memory is bounded by the capacity, whatever is pushed.

use std::collections::VecDeque;

/// Keeps the last `capacity` bytes, unchanged: invalid UTF-8 stays as it came.
#[derive(Debug)]
pub(crate) struct Tail {
    kept: VecDeque<u8>,
    capacity: usize,
    total: u64,
}

impl Tail {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { kept: VecDeque::new(), capacity, total: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let newest = bytes.get(bytes.len().saturating_sub(self.capacity)..).unwrap_or_default();
        let excess = (self.kept.len() + newest.len()).saturating_sub(self.capacity);
        self.kept.drain(..excess);
        self.kept.extend(newest);
    }

    /// The bytes kept, and whether earlier ones were dropped.
    pub(crate) fn take(&mut self) -> (Vec<u8>, bool) {
        let kept: Vec<u8> = std::mem::take(&mut self.kept).into();
        let truncated = self.total > kept.len() as u64;
        (kept, truncated)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tail_is_the_end_of_all_that_was_pushed(
            pushes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            capacity in 0_usize..64,
        ) {
            let mut tail = Tail::new(capacity);
            for push in &pushes {
                tail.push(push);
            }
            let all = pushes.concat();
            let (kept, truncated) = tail.take();
            prop_assert_eq!(&kept, &all[all.len().saturating_sub(capacity)..]);
            prop_assert_eq!(truncated, all.len() > capacity);
        }
    }
}
