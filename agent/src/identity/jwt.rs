//! What is read from the agent's own JWT: its lifetime. Whether it is genuine is for the broker to say.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use muster_schemas::time::Timestamp;
use serde::Deserialize;

/// The lifetime of a JWT, as its claims say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Lifetime {
    /// When it was issued, in seconds since 1970.
    iat: i64,
    /// When it expires; 0 is never.
    #[serde(default)]
    exp: i64,
}

/// A JWT this close to its end is as good as expired: connecting takes a moment.
const MARGIN: Duration = Duration::from_secs(10);

impl Lifetime {
    /// Reads the claims. `None` when the text is no JWT.
    pub(crate) fn of(jwt: &str) -> Option<Self> {
        let claims = jwt.split('.').nth(1)?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// Whether it can still be used for a connect, by this machine's clock.
    pub(crate) fn is_valid_at(&self, now: Timestamp) -> bool {
        self.exp == 0 || Timestamp::from_secs(self.exp) > now + MARGIN
    }

    /// How long it lives in all; `None` is for ever. Independent of this machine's clock.
    pub(crate) fn length(&self) -> Option<Duration> {
        let secs = self.exp.checked_sub(self.iat)?;
        u64::try_from(secs).ok().filter(|_| self.exp != 0).map(Duration::from_secs)
    }
}

/// How long after its arrival a JWT is renewed: two thirds of its life, ± 5 % so that agents that were enrolled together don't come
/// together. `random` is uniform in 0..1.
pub(crate) fn renew_after(length: Duration, random: f64) -> Duration {
    length.mul_f64(2.0 / 3.0 * (0.95 + 0.1 * random.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn jwt(claims: &str) -> String {
        format!("head.{}.signature", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn the_lifetime_is_read_from_the_claims() {
        let life = Lifetime::of(&jwt(r#"{"iat":1000,"exp":87400,"sub":"U"}"#)).unwrap();
        assert_eq!(life.length(), Some(Duration::from_secs(86_400)));
        assert!(life.is_valid_at(Timestamp::from_secs(87_389)));
        assert!(!life.is_valid_at(Timestamp::from_secs(87_390)));
    }

    #[test]
    fn a_jwt_without_an_expiry_never_expires() {
        let life = Lifetime::of(&jwt(r#"{"iat":1000}"#)).unwrap();
        assert_eq!(life.length(), None);
        assert!(life.is_valid_at(Timestamp::from_secs(i64::MAX / 2_000_000)));
    }

    #[test]
    fn what_is_no_jwt_has_no_lifetime() {
        for text in ["", "a.b", "a.b.c", "..", &jwt("[]"), &jwt(r#"{"exp":"soon"}"#)] {
            assert_eq!(Lifetime::of(text), None, "{text}");
        }
        let odd = Lifetime::of(&jwt(r#"{"iat":9223372036854775807,"exp":-9223372036854775808}"#)).unwrap();
        assert_eq!(odd.length(), None);
        assert!(!odd.is_valid_at(Timestamp::from_secs(0)));
    }

    #[test]
    fn renewal_comes_at_two_thirds_give_or_take() {
        let day = Duration::from_secs(86_400);
        for random in [0.0, 0.5, 1.0] {
            let after = renew_after(day, random);
            assert!(after > day * 6 / 10 && after <= day * 7 / 10, "{after:?}");
        }
    }
}
