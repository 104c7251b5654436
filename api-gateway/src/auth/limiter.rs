//! How often one address may show a wrong key: a bucket of tries per address that fills up again with time. Pure; the clock is an argument.
//!
//! A try is taken before the key is looked at and given back when it was good. Counting only afterwards would let any number of tries
//! through as long as they are made at once.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Addresses remembered at once; about 1 MB. Whoever has more addresses than this is not stopped by counting addresses.
const ADDRESSES_MAX: usize = 10_000;
const MINUTE: Duration = Duration::from_secs(60);

/// Tries left, by address.
pub(crate) struct Limiter {
    per_minute: f64,
    tries: HashMap<IpAddr, Tries>,
}

#[derive(Clone, Copy)]
struct Tries {
    left: f64,
    at: Instant,
}

impl Limiter {
    pub(crate) fn new(per_minute: u32) -> Self {
        Self { per_minute: f64::from(per_minute), tries: HashMap::new() }
    }

    /// Looks whether a try is left.
    ///
    /// # Errors
    /// How long to wait for the next one.
    pub(crate) fn check(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let left = self.left(counted(address), now);
        if left < 1.0 { Err(MINUTE.mul_f64((1.0 - left) / self.per_minute)) } else { Ok(()) }
    }

    /// Takes a try.
    ///
    /// # Errors
    /// As [`Limiter::check`].
    pub(crate) fn take(&mut self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        self.check(address, now)?;
        let address = counted(address);
        let left = self.left(address, now);
        self.make_room(now);
        self.tries.insert(address, Tries { left: left - 1.0, at: now });
        Ok(())
    }

    /// Gives a try back.
    pub(crate) fn give_back(&mut self, address: IpAddr, now: Instant) {
        let address = counted(address);
        let left = self.left(address, now) + 1.0;
        if left >= self.per_minute {
            self.tries.remove(&address);
        } else {
            self.tries.insert(address, Tries { left, at: now });
        }
    }

    fn left(&self, address: IpAddr, now: Instant) -> f64 {
        self.tries.get(&address).map_or(self.per_minute, |tries| self.refilled(*tries, now))
    }

    fn refilled(&self, tries: Tries, now: Instant) -> f64 {
        let since = now.saturating_duration_since(tries.at);
        (tries.left + self.per_minute * since.as_secs_f64() / MINUTE.as_secs_f64()).min(self.per_minute)
    }

    /// Forgets those with all tries left, and if that is not enough the one that has been quiet the longest.
    fn make_room(&mut self, now: Instant) {
        if self.tries.len() < ADDRESSES_MAX {
            return;
        }
        let (per_minute, mut tries) = (self.per_minute, std::mem::take(&mut self.tries));
        tries.retain(|_, tries| self.refilled(*tries, now) < per_minute);
        if tries.len() >= ADDRESSES_MAX {
            let quietest = tries.iter().min_by_key(|(_, tries)| tries.at).map(|(address, _)| *address);
            quietest.map(|address| tries.remove(&address));
        }
        self.tries = tries;
    }
}

/// What is counted as one address: an IPv4 address in either writing, or a /64 of IPv6, of which one caller has all addresses.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn tries_run_out_and_come_back_with_time() {
        let (mut limiter, start) = (Limiter::new(20), Instant::now());
        for _ in 0..20 {
            limiter.take(HERE, start).unwrap();
        }
        let wait = limiter.take(HERE, start).unwrap_err();
        assert!(wait > Duration::from_millis(2_900) && wait <= Duration::from_secs(3), "{wait:?}");
        assert!(limiter.take(HERE, start + wait + Duration::from_millis(1)).is_ok());
        assert!(limiter.take(HERE, start + wait + Duration::from_millis(2)).is_err());
        assert!(limiter.take("10.0.0.1".parse().unwrap(), start).is_ok(), "another address has its own");
    }

    #[test]
    fn a_try_given_back_counts_as_never_taken() {
        let (mut limiter, start) = (Limiter::new(2), Instant::now());
        for _ in 0..100 {
            limiter.take(HERE, start).unwrap();
            limiter.give_back(HERE, start);
        }
        assert!(limiter.tries.is_empty());
    }

    #[test]
    fn addresses_of_one_network_and_two_writings_of_one_address_count_together() {
        let (mut limiter, start) = (Limiter::new(1), Instant::now());
        limiter.take("2001:db8::1".parse().unwrap(), start).unwrap();
        assert!(limiter.take("2001:db8::ffff:1".parse().unwrap(), start).is_err());
        assert!(limiter.take("2001:db8:0:1::1".parse().unwrap(), start).is_ok());
        limiter.take("1.2.3.4".parse().unwrap(), start).unwrap();
        assert!(limiter.take("::ffff:1.2.3.4".parse().unwrap(), start).is_err());
    }

    #[test]
    fn any_number_of_addresses_takes_bounded_memory_and_stops_nobody_else() {
        let (mut limiter, start) = (Limiter::new(1), Instant::now());
        for n in 0..(ADDRESSES_MAX as u32 + 100) {
            limiter.take(std::net::Ipv4Addr::from_bits(n).into(), start + Duration::from_micros(n.into())).unwrap();
        }
        assert!(limiter.tries.len() <= ADDRESSES_MAX);
    }
}
