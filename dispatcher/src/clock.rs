//! The broker's time, kept on this process's monotonic clock.
//!
//! Ages of heartbeats are told by one clock only, the broker's, which stamps each message when it stores it. So neither an agent's clock
//! nor a step of this machine's clock can make an agent look fresh or gone. Nothing is read here: the caller passes both readings.

use std::time::{Duration, Instant};

use muster_schemas::time::Timestamp;

/// A difference below this is the network, not the clock.
const NOISE: Duration = Duration::from_millis(250);

/// What the broker's clock says, as far as is known.
#[derive(Debug, Clone, Copy)]
pub struct BrokerClock {
    said: Timestamp,
    at: Instant,
}

impl BrokerClock {
    /// Starts from a reading of the broker's clock, or of this machine's as long as there is none.
    pub fn new(said: Timestamp, at: Instant) -> Self {
        Self { said, at }
    }

    /// The broker's time at `at`.
    pub fn now(&self, at: Instant) -> Timestamp {
        self.said + at.saturating_duration_since(self.at)
    }

    /// The broker was asked, and said this: believed, unless it differs by no more than the time an answer takes.
    pub fn asked(&mut self, said: Timestamp, at: Instant) {
        let known = self.now(at);
        if known.since(said).max(said.since(known)) > NOISE {
            *self = Self { said, at };
        }
    }

    /// A message with this stamp has arrived: the broker's time is at least that.
    pub fn stamped(&mut self, stamp: Timestamp, at: Instant) {
        if stamp > self.now(at) {
            *self = Self { said: stamp, at };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_time_goes_on_between_readings_and_follows_steps_of_its_clock() {
        let (noon, start) = (Timestamp::from_secs(1_800_000_000), Instant::now());
        let later = start + Duration::from_secs(10);
        let mut clock = BrokerClock::new(noon, start);
        assert_eq!(clock.now(later), noon + Duration::from_secs(10));

        clock.stamped(noon, later);
        assert_eq!(clock.now(later), noon + Duration::from_secs(10), "an old message says nothing");
        clock.stamped(noon + Duration::from_secs(60), later);
        assert_eq!(clock.now(later), noon + Duration::from_secs(60));

        clock.asked(noon + Duration::from_millis(60_100), later);
        assert_eq!(clock.now(later), noon + Duration::from_secs(60), "the time of an answer is no step");
        clock.asked(noon - Duration::from_secs(3600), later);
        assert_eq!(clock.now(later), noon - Duration::from_secs(3600), "a step back is followed");
    }
}
