//! Why the consumer of a lane is paused. The broker keeps for a consumer only until when it is paused, so the reason is in that time.

use crate::time::Timestamp;

/// Why a lane gives out nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanePause {
    /// Its pool is paused, or somebody paused the consumer by hand.
    Pool,
    /// It has no share of its pool's limit on running jobs; the broker takes no limit of zero.
    NoShare,
}

/// The start of the year 2200, in seconds. Far enough to be for ever, and near enough for the broker's arithmetic in 64-bit nanoseconds.
const POOL_UNTIL_S: i64 = 7_258_118_400;
/// The start of the year 2199.
const NO_SHARE_UNTIL_S: i64 = 7_226_582_400;

impl LanePause {
    /// Until when a consumer is paused for this reason.
    pub fn until(self) -> Timestamp {
        Timestamp::from_secs(match self {
            Self::Pool => POOL_UNTIL_S,
            Self::NoShare => NO_SHARE_UNTIL_S,
        })
    }

    /// Why a consumer is paused until then.
    pub fn read(until: Timestamp) -> Self {
        if until == Self::NoShare.until() { Self::NoShare } else { Self::Pool }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_in_the_time() {
        for reason in [LanePause::Pool, LanePause::NoShare] {
            assert_eq!(LanePause::read(reason.until()), reason);
        }
        assert_eq!(LanePause::Pool.until().to_string(), "2200-01-01T00:00:00Z");
        assert_eq!(LanePause::NoShare.until().to_string(), "2199-01-01T00:00:00Z");
        assert_eq!(LanePause::read(Timestamp::from_secs(1)), LanePause::Pool);
    }
}
