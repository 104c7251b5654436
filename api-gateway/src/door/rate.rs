//! How often somebody may do something: a bucket per caller that is emptied by doing it and fills up again with time. Pure; the clock is
//! an argument.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// What is left to whom.
pub(crate) struct Rates<K> {
    per_second: f64,
    burst: f64,
    /// Callers remembered at once. Whoever has more faces than this is not stopped by counting them.
    most: usize,
    callers: HashMap<K, Left>,
}

#[derive(Clone, Copy)]
struct Left {
    tokens: f64,
    at: Instant,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    /// So many per second, and at first `burst` at once, which is 1 or more.
    pub(crate) fn new(per_second: f64, burst: f64, most: usize) -> Self {
        Self { per_second, burst, most, callers: HashMap::new() }
    }

    /// Looks whether one is left.
    ///
    /// # Errors
    /// How long to wait for the next one.
    pub(crate) fn check(&self, caller: &K, now: Instant) -> Result<(), Duration> {
        let left = self.left(caller, now);
        if left < 1.0 { Err(Duration::from_secs_f64((1.0 - left) / self.per_second)) } else { Ok(()) }
    }

    /// Takes one.
    ///
    /// # Errors
    /// As [`Rates::check`].
    pub(crate) fn take(&mut self, caller: &K, now: Instant) -> Result<(), Duration> {
        self.check(caller, now)?;
        let left = Left { tokens: self.left(caller, now) - 1.0, at: now };
        if let Some(known) = self.callers.get_mut(caller) {
            *known = left;
        } else {
            self.make_room(now);
            self.callers.insert(caller.clone(), left);
        }
        Ok(())
    }

    /// Gives one back.
    pub(crate) fn give_back(&mut self, caller: &K, now: Instant) {
        let tokens = self.left(caller, now) + 1.0;
        if tokens >= self.burst {
            self.callers.remove(caller);
        } else if let Some(known) = self.callers.get_mut(caller) {
            *known = Left { tokens, at: now };
        }
    }

    fn left(&self, caller: &K, now: Instant) -> f64 {
        self.callers.get(caller).map_or(self.burst, |left| self.refilled(*left, now))
    }

    fn refilled(&self, left: Left, now: Instant) -> f64 {
        let since = now.saturating_duration_since(left.at);
        (left.tokens + self.per_second * since.as_secs_f64()).min(self.burst)
    }

    /// Forgets those who have all left, and if that is not enough the one that has been quiet the longest.
    fn make_room(&mut self, now: Instant) {
        if self.callers.len() < self.most {
            return;
        }
        let mut callers = std::mem::take(&mut self.callers);
        callers.retain(|_, left| self.refilled(*left, now) < self.burst);
        if callers.len() >= self.most {
            let quietest = callers.iter().min_by_key(|(_, left)| left.at).map(|(caller, _)| caller.clone());
            quietest.map(|caller| callers.remove(&caller));
        }
        self.callers = callers;
    }
}

/// What is counted as one address: an IPv4 address in either writing, or a /64 of IPv6, of which one caller has all addresses.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    /// As many a minute, as for wrong keys.
    fn a_minute(count: u32) -> Rates<IpAddr> {
        Rates::new(f64::from(count) / 60.0, f64::from(count), 1_000)
    }

    fn address(text: &str) -> IpAddr {
        counted(text.parse().unwrap())
    }

    #[test]
    fn tries_run_out_and_come_back_with_time() {
        let (mut rates, start, here) = (a_minute(20), Instant::now(), address("127.0.0.1"));
        for _ in 0..20 {
            rates.take(&here, start).unwrap();
        }
        let wait = rates.take(&here, start).unwrap_err();
        assert!(wait > Duration::from_millis(2_900) && wait <= Duration::from_secs(3), "{wait:?}");
        assert!(rates.take(&here, start + wait + Duration::from_millis(1)).is_ok());
        assert!(rates.take(&here, start + wait + Duration::from_millis(2)).is_err());
        assert!(rates.take(&address("10.0.0.1"), start).is_ok(), "another address has its own");
    }

    #[test]
    fn one_given_back_counts_as_never_taken() {
        let (mut rates, start, here) = (a_minute(2), Instant::now(), address("127.0.0.1"));
        for _ in 0..100 {
            rates.take(&here, start).unwrap();
            rates.give_back(&here, start);
        }
        assert!(rates.callers.is_empty());
        rates.give_back(&here, start);
        assert!(rates.callers.is_empty(), "more than all cannot be left");
    }

    #[test]
    fn addresses_of_one_network_and_two_writings_of_one_address_count_together() {
        let (mut rates, start) = (a_minute(1), Instant::now());
        rates.take(&address("2001:db8::1"), start).unwrap();
        assert!(rates.take(&address("2001:db8::ffff:1"), start).is_err());
        assert!(rates.take(&address("2001:db8:0:1::1"), start).is_ok());
        rates.take(&address("1.2.3.4"), start).unwrap();
        assert!(rates.take(&address("::ffff:1.2.3.4"), start).is_err());
    }

    #[test]
    fn any_number_of_callers_takes_bounded_memory_and_stops_nobody_else() {
        let (mut rates, start) = (a_minute(1), Instant::now());
        for n in 0..1_200 {
            rates.take(&std::net::Ipv4Addr::from_bits(n).into(), start + Duration::from_micros(n.into())).unwrap();
        }
        assert!(rates.callers.len() <= 1_000);
    }
}
