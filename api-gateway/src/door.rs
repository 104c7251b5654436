//! The door: what every request passes before anything looks at what it asks for. Where it comes from, how large its head is, and how
//! often and how long its caller may ask.
//!
//! | to find | look in |
//! |---|---|
//! | the caller's address behind proxies | [`proxy`] |
//! | limits of a request's head | [`head`] |
//! | requests per second | [`rate`] |
//! | waits and streams that are open at once | [`open`] |
//!
//! Who the caller is, and how often one may be wrong about that, is [`crate::auth`]'s. Limits of bodies are [`crate::extract`]'s.

mod head;
mod open;
pub(crate) mod proxy;
pub(crate) mod rate;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::extract::Request;
use muster_schemas::code::Code;

pub(crate) use open::Place;

use crate::{app::Figures, config::Config, extract::Remote, problem::ApiError};
use open::Open;
use proxy::Network;
use rate::Rates;

/// How much may come at once, in seconds' worth of the rate.
const BURST: f64 = 2.0;
/// Callers remembered at once, of each kind; about 1 MB.
const CALLERS_MAX: usize = 10_000;

/// The limits of this gateway, and who has used how much of them.
pub(crate) struct Door {
    proxies: Vec<Network>,
    addresses: Option<Mutex<Rates<IpAddr>>>,
    keys: Option<Mutex<Rates<String>>>,
    open: Open,
    figures: Arc<Figures>,
}

impl Door {
    pub(crate) fn new(config: &Config, figures: Arc<Figures>) -> Self {
        // So that however many watch and wait, there are connections left for requests that are answered at once.
        let most = config.open_max.min(config.max_connections - config.max_connections / 4);
        Self {
            proxies: config.trusted_proxies.clone(),
            addresses: rates(config.requests_per_second_per_address),
            keys: rates(config.requests_per_second_per_key),
            open: Open::new(config.open_per_key, most),
            figures,
        }
    }

    /// Lets a request in, and tells it from where it comes.
    ///
    /// # Errors
    /// `header_invalid`, `head_too_large` or `rate_limited`.
    pub(crate) fn enter(&self, request: &mut Request) -> Result<(), ApiError> {
        let peer = request.extensions().get::<Remote>().map(|remote| remote.0);
        if let Some(peer) = peer {
            let remote = proxy::caller(&self.proxies, peer, request.headers());
            request.extensions_mut().insert(Remote(remote));
            let detail = "more requests from this address than it may send";
            limit(self.addresses.as_ref(), &rate::counted(remote), detail).inspect_err(|_| self.count("address"))?;
        }
        head::check(request.uri(), request.headers()).inspect_err(|_| self.count("head"))
    }

    /// Counts a request of this key.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(crate) fn count_key(&self, key_id: &String) -> Result<(), ApiError> {
        limit(self.keys.as_ref(), key_id, "more requests with this key than it may send").inspect_err(|_| self.count("key"))
    }

    /// A place for a request of this key that stays open: a wait or a stream.
    ///
    /// # Errors
    /// `rate_limited`.
    pub(crate) fn open(&self, key_id: &str) -> Result<Place, ApiError> {
        self.open.take(key_id).inspect_err(|_| self.count("open"))
    }

    fn count(&self, limit: &'static str) {
        self.figures.limited.with([limit]).inc();
    }
}

/// Buckets for so many requests a second; none for 0.
fn rates<K: std::hash::Hash + Eq + Clone>(per_second: u32) -> Option<Mutex<Rates<K>>> {
    let rate = f64::from(per_second);
    (per_second > 0).then(|| Mutex::new(Rates::new(rate, (rate * BURST).max(1.0), CALLERS_MAX)))
}

fn limit<K: std::hash::Hash + Eq + Clone>(rates: Option<&Mutex<Rates<K>>>, caller: &K, detail: &str) -> Result<(), ApiError> {
    let Some(rates) = rates else { return Ok(()) };
    let taken = rates.lock().unwrap_or_else(PoisonError::into_inner).take(caller, Instant::now());
    taken.map_err(|wait| ApiError::new(Code::RateLimited, format!("{detail}; wait before you send the next")).retry_after(wait))
}
