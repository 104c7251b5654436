//! What time it is for others. Jobs name times, and nobody's clock is exact: a job starts and expires by the time of those who queue and keep
//! it, however many minutes this machine's clock is off.
//!
//! How far it is off is measured whenever something comes that says what time it is where it was made: a registration, a renewal, a standing
//! that was just written, an event of ours that the broker stored. The newest word counts.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use muster_schemas::{signature::SKEW_MAX, time::Timestamp};

use crate::identity::Skew;

/// This machine's clock and another one, at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    ours: Timestamp,
    theirs: Timestamp,
}

impl Reading {
    /// `theirs` was read between `sent` and `received`, which are by our clock.
    pub(crate) fn between(sent: Timestamp, received: Timestamp, theirs: Timestamp) -> Self {
        // That of ours which is the nearest to it.
        Self { ours: theirs.min(received).max(sent), theirs }
    }

    /// `theirs` was read just now, somewhere else.
    pub(crate) fn at_once(ours: Timestamp, theirs: Timestamp) -> Self {
        Self { ours, theirs }
    }

    /// Whether the two are too far apart for anything that has a time in it.
    pub(crate) fn skew(self) -> Option<Skew> {
        let Self { ours, theirs } = self;
        (ours.apart(theirs) > SKEW_MAX).then_some(Skew { ours, theirs })
    }
}

/// How far this machine's clock is off; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<AtomicI64>);

/// No measurement yet.
const UNMEASURED: i64 = i64::MIN;

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(UNMEASURED)))
    }
}

impl Clock {
    /// Takes in a measurement.
    pub(crate) fn read(&self, reading: Reading) {
        self.0.store(reading.ours.micros().saturating_sub(reading.theirs.micros()), Ordering::Relaxed);
    }

    pub(crate) fn is_measured(&self) -> bool {
        self.ahead().is_some()
    }

    /// What time it is for others when it is `ours` here.
    pub(crate) fn now(&self, ours: Timestamp) -> Now {
        let at = Timestamp::from_micros(ours.micros().saturating_sub(self.ahead().unwrap_or(0)));
        Now { at, measured: self.is_measured() }
    }

    /// What our clock said, or will say, when it is `theirs` for others.
    pub(crate) fn ours(&self, theirs: Timestamp) -> Timestamp {
        Timestamp::from_micros(theirs.micros().saturating_add(self.ahead().unwrap_or(0)))
    }

    /// By how many microseconds our clock is ahead.
    fn ahead(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|micros| *micros != UNMEASURED)
    }
}

/// What time it is for others, as far as this agent can tell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) at: Timestamp,
    /// Otherwise it is what our own clock says.
    pub(crate) measured: bool,
}

impl Now {
    /// The same for one who holds something that was stored at `stored_at`: it is later than that.
    pub(crate) fn not_before(self, stored_at: Timestamp) -> Self {
        Self { at: self.at.max(stored_at), ..self }
    }

    /// Whether nobody can say on which side of `time` we are.
    pub(crate) fn is_doubtful(self, time: Timestamp) -> bool {
        !self.measured && self.at.apart(time) <= SKEW_MAX
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    #[test]
    fn clocks_that_are_five_minutes_apart_do_no_harm_and_a_day_is_named_with_both_times() {
        for theirs in [-600, -300, 0, 300, 600] {
            assert_eq!(Reading::at_once(at(0), at(theirs)).skew(), None, "{theirs}");
        }
        for theirs in [-601, 601, -86_400, 86_400] {
            let text = Reading::at_once(at(0), at(theirs)).skew().unwrap().to_string();
            assert!(text.contains(&at(0).to_string()) && text.contains(&at(theirs).to_string()), "{text}");
        }
    }

    #[test]
    fn the_time_that_an_answer_took_is_no_skew() {
        let skew = |theirs: i64| Reading::between(at(0), at(1200), at(theirs)).skew();
        assert_eq!((skew(600), skew(1800)), (None, None));
        assert!(skew(1801).is_some() && skew(-601).is_some());
    }

    #[test]
    fn the_time_is_that_of_others_once_it_was_heard() {
        for ahead in [-300, 0, 300] {
            let clock = Clock::default();
            assert!(!clock.is_measured());
            assert_eq!(clock.now(at(ahead)).at, at(ahead));
            clock.clone().read(Reading::at_once(at(ahead), at(0)));
            let now = clock.now(at(ahead + 60));
            assert!(now.measured);
            assert_eq!((now.at, clock.ours(at(60))), (at(60), at(ahead + 60)));
        }
    }
}
