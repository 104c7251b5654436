//! Whether a request that failed is sent again within the same attempt, and when. Only where sending it twice does no more than once.

use std::time::Duration;

use muster_executor::{Rejection, fields::Fields};
use reqwest::header::{HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Method, StatusCode};

/// Most requests beyond the first.
const RETRIES_MAX: i64 = 5;

/// The first wait; each one after it is twice as long.
const FIRST: Duration = Duration::from_millis(250);

/// The longest wait, also where the server asks for more: the job's own retry policy is for longer ones.
const LONGEST: Duration = Duration::from_secs(30);

/// What makes any method safe to send again: the server knows the second for the first.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How often a request may still be sent again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retries {
    left: u32,
    done: u32,
}

impl Retries {
    /// Reads `retries`; refuses it for what must not be sent twice.
    pub(super) fn parse(fields: &mut Fields<'_>, method: &Method, headers: &HeaderMap) -> Result<Self, Rejection> {
        let left = match fields.integer("retries")? {
            None => 0,
            Some(number) if (0..=RETRIES_MAX).contains(&number) => u32::try_from(number).unwrap_or(0),
            Some(_) => return Err(Rejection::field("retries", format!("takes 0 to {RETRIES_MAX}"))),
        };
        // RFC 9110, 9.2.2.
        if left > 0 && !method.is_idempotent() && !headers.contains_key(IDEMPOTENCY_KEY) {
            return Err(Rejection::field(
                "retries",
                format!("{method} is not idempotent: give it an Idempotency-Key header, or no retries"),
            ));
        }
        Ok(Self { left, done: 0 })
    }

    /// How many requests were sent again.
    pub(super) fn done(self) -> u32 {
        self.done
    }

    /// After an answer that says "not now": how long to wait before the next try, if there is one.
    pub(super) fn after_answer(&mut self, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        if !matches!(status.as_u16(), 429 | 502 | 503 | 504) {
            return None;
        }
        let asked = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse().ok());
        let asked = asked.map(Duration::from_secs);
        // Who asks for longer is not served by asking again sooner.
        if asked.is_some_and(|asked| asked > LONGEST) {
            return None;
        }
        self.after_failure().map(|wait| wait.max(asked.unwrap_or_default()))
    }

    /// After no answer at all.
    pub(super) fn after_failure(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let wait = (FIRST * 2_u32.saturating_pow(self.done)).min(LONGEST);
        self.done += 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;

    fn retries(method: Method, headers: &HeaderMap, number: i64) -> Result<Retries, Rejection> {
        Retries::parse(&mut Fields::of(&json!({"retries": number})).unwrap(), &method, headers)
    }

    #[test]
    fn only_what_may_be_sent_twice_is() {
        let (none, key) = (HeaderMap::new(), HeaderMap::from_iter([(IDEMPOTENCY_KEY, "k".parse().unwrap())]));
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert!(retries(method, &none, 3).is_ok());
        }
        for method in [Method::POST, Method::PATCH] {
            assert!(retries(method.clone(), &none, 3).unwrap_err().message.contains("not idempotent"));
            assert!(retries(method.clone(), &none, 0).is_ok());
            assert!(retries(method, &key, 3).is_ok());
        }
        assert!(retries(Method::GET, &none, 6).is_err() && retries(Method::GET, &none, -1).is_err());
    }

    #[test]
    fn waits_grow_and_end_and_the_server_may_ask_for_longer_ones() {
        let mut left = retries(Method::GET, &HeaderMap::new(), 3).unwrap();
        let waits: Vec<_> = std::iter::from_fn(|| left.after_failure()).map(|wait| wait.as_millis()).collect();
        assert_eq!((waits.as_slice(), left.done()), ([250, 500, 1000].as_slice(), 3));
        let asks = |text: &str| HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
        let after = |status: u16, headers: HeaderMap| {
            let mut left = retries(Method::GET, &HeaderMap::new(), 1).unwrap();
            left.after_answer(StatusCode::from_u16(status).unwrap(), &headers).map(|wait| wait.as_millis())
        };
        assert_eq!((after(503, asks("2")), after(429, HeaderMap::new()), after(503, asks("soon"))), (Some(2000), Some(250), Some(250)));
        assert_eq!((after(503, asks("31")), after(500, HeaderMap::new()), after(404, HeaderMap::new())), (None, None, None));
    }
}
