//! How often one may show a wrong key or token: so often per address, and so often with the beginning of one key from all addresses
//! together.
//!
//! A try is taken before the key is looked at and given back when it was good. Counting only afterwards would let any number of tries
//! through as long as they are made at once.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use muster_schemas::code::Code;

use crate::{
    door::rate::{Rates, counted},
    problem::ApiError,
};

/// Wrong secrets that one key's beginning may be shown with in a minute, as a multiple of what one address may show. Whoever guesses from
/// many addresses takes turns of hashing away from everybody else. Keys that were checked before are not held up by this.
const GUESSES: u32 = 10;
/// Addresses, and keys, remembered at once; about 1 MB.
const MOST: usize = 10_000;

/// Who has how many tries left.
pub(super) struct Tries {
    addresses: Mutex<Rates<IpAddr>>,
    prefixes: Mutex<Rates<String>>,
}

impl Tries {
    pub(super) fn new(per_minute: u32) -> Self {
        Self { addresses: Mutex::new(a_minute(per_minute)), prefixes: Mutex::new(a_minute(per_minute.saturating_mul(GUESSES))) }
    }

    /// Looks whether the address has a try left.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(super) fn check(&self, remote: IpAddr) -> Result<(), ApiError> {
        lock(&self.addresses).check(&counted(remote), Instant::now()).map_err(|wait| limited(FROM_HERE, wait))
    }

    /// Takes a try of the address.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(super) fn take(&self, remote: IpAddr) -> Result<(), ApiError> {
        lock(&self.addresses).take(&counted(remote), Instant::now()).map_err(|wait| limited(FROM_HERE, wait))
    }

    /// Takes a try of the address with a key of this prefix.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(super) fn guess(&self, remote: IpAddr, prefix: &String) -> Result<(), ApiError> {
        self.take(remote)?;
        let taken = lock(&self.prefixes).take(prefix, Instant::now());
        taken.map_err(|wait| {
            lock(&self.addresses).give_back(&counted(remote), Instant::now());
            limited("that begin like this one", wait)
        })
    }

    /// The key was good, or nobody knows: gives both tries back.
    pub(super) fn give_back(&self, remote: IpAddr, prefix: &String) {
        lock(&self.addresses).give_back(&counted(remote), Instant::now());
        lock(&self.prefixes).give_back(prefix, Instant::now());
    }
}

const FROM_HERE: &str = "or tokens from this address";

fn limited(which: &str, wait: Duration) -> ApiError {
    ApiError::new(Code::RateLimited, format!("too many wrong keys {which}; wait before you try again")).retry_after(wait)
}

fn a_minute<K: std::hash::Hash + Eq + Clone>(count: u32) -> Rates<K> {
    let count = f64::from(count);
    Rates::new(count / 60.0, count, MOST)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
