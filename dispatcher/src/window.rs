//! How the jobs of an agent ended within a sliding hour, in bounded memory.
//!
//! Counts are kept per minute, so an agent costs at most sixty of them however many jobs it runs, and nothing when it runs none. It reads no
//! clock and stores no job. The points that follow are in [`crate::score`].

use std::collections::VecDeque;

use muster_schemas::time::Timestamp;

use crate::score::Tally;

/// How many minutes count, the one that has just begun included.
pub const MINUTES: i64 = 60;

/// Outcomes of one agent's jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// By minute since 1970, ascending; none is empty.
    minutes: VecDeque<Minute>,
    total: Tally,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Minute {
    minute: i64,
    tally: Tally,
}

impl Window {
    /// Counts a job that finished `at`. One that is older than the window does not count; one from the future counts as of now.
    pub fn record(&mut self, succeeded: bool, at: Timestamp, now: Timestamp) {
        self.advance(now);
        let minute = minute_of(at).min(minute_of(now));
        if minute <= minute_of(now) - MINUTES {
            return;
        }
        let place = self.minutes.partition_point(|known| known.minute < minute);
        if self.minutes.get(place).is_none_or(|known| known.minute != minute) {
            self.minutes.insert(place, Minute { minute, tally: Tally::default() });
        }
        let counted = self.minutes.get_mut(place).map(|known| &mut known.tally);
        for tally in counted.into_iter().chain([&mut self.total]) {
            tally.finished = tally.finished.saturating_add(1);
            tally.succeeded = tally.succeeded.saturating_add(succeeded.into());
        }
    }

    /// Forgets what is older than the window.
    pub fn advance(&mut self, now: Timestamp) {
        let oldest = minute_of(now) - MINUTES + 1;
        while let Some(first) = self.minutes.front().filter(|first| first.minute < oldest).copied() {
            self.minutes.pop_front();
            self.total = less(self.total, first.tally);
        }
    }

    /// What counts now.
    pub fn tally(&self, now: Timestamp) -> Tally {
        let oldest = minute_of(now) - MINUTES + 1;
        self.minutes.iter().take_while(|known| known.minute < oldest).fold(self.total, |total, known| less(total, known.tally))
    }
}

/// The start of the window: what was stored before it does not count.
pub fn start(now: Timestamp) -> Timestamp {
    Timestamp::from_secs((minute_of(now) - MINUTES + 1) * 60)
}

fn minute_of(at: Timestamp) -> i64 {
    at.secs().div_euclid(60)
}

fn less(total: Tally, part: Tally) -> Tally {
    Tally { finished: total.finished.saturating_sub(part.finished), succeeded: total.succeeded.saturating_sub(part.succeeded) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// The first second of a minute.
    fn noon() -> Timestamp {
        Timestamp::from_secs(30_000_000 * 60)
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn tally(succeeded: u32, finished: u32) -> Tally {
        Tally { finished, succeeded }
    }

    #[test]
    fn a_job_counts_for_sixty_minutes_and_not_longer() {
        let mut window = Window::default();
        window.record(true, noon(), noon());
        for (later, want) in [(0, tally(1, 1)), (3599, tally(1, 1)), (3600, tally(0, 0)), (86_400, tally(0, 0))] {
            assert_eq!(window.tally(noon() + secs(later)), want, "{later} s later");
        }
    }

    #[test]
    fn a_job_from_before_the_window_does_not_count_and_one_from_the_future_counts_as_of_now() {
        let mut window = Window::default();
        window.record(false, start(noon()) - secs(1), noon());
        assert_eq!(window.tally(noon()), tally(0, 0));
        window.record(false, start(noon()), noon());
        assert_eq!(window.tally(noon()), tally(0, 1));
        window.record(true, noon() + secs(86_400), noon());
        assert_eq!(window.tally(noon()), tally(1, 2));
        assert_eq!(window.tally(noon() + secs(3600)), tally(0, 0));
    }

    #[test]
    fn an_hour_of_jobs_costs_sixty_counts() {
        let mut window = Window::default();
        for second in 0..36_000 {
            window.record(second % 2 == 0, noon() + secs(second), noon() + secs(second));
        }
        assert_eq!(window.minutes.len(), 60);
        assert_eq!(window.tally(noon() + secs(35_999)), tally(1800, 3600));
    }

    proptest! {
        #[test]
        fn the_window_counts_what_a_list_would_in_any_order(
            jobs in prop::collection::vec((any::<bool>(), 0u64..10_000), 0..200),
            mut reads in prop::collection::vec(0u64..20_000, 1..5),
        ) {
            // All recorded at one moment, as after a restart, in whatever order they come.
            let recorded = noon() + secs(10_000);
            let mut window = Window::default();
            for (succeeded, at) in &jobs {
                window.record(*succeeded, noon() + secs(*at), recorded);
            }
            reads.sort_unstable();
            for read in reads {
                let now = recorded + secs(read);
                let counted = jobs.iter().filter(|(_, at)| noon() + secs(*at) >= start(now));
                let finished = u32::try_from(counted.clone().count()).unwrap_or(0);
                let succeeded = u32::try_from(counted.filter(|(succeeded, _)| *succeeded).count()).unwrap_or(0);
                prop_assert_eq!(window.tally(now), tally(succeeded, finished));
                window.advance(now);
                prop_assert_eq!(window.tally(now), tally(succeeded, finished));
            }
        }
    }
}
