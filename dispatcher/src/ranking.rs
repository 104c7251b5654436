//! Who is served first: ranks and pull priorities of the accepting agents of a pool, from their scores.
//!
//! Pure: no clock, no IO. Who is accepting is decided in [`crate::state`]; scores come from [`crate::score`].
//!
//! Ranks are dense: the best score has rank 0, the next different one rank 1. So as long as a pool has at most ten different scores, each
//! has a pull priority of its own, however many agents share it. (Were ranks counted in agents, 99 equal agents behind one better one in a
//! pool of a hundred would be scaled onto its priority.)

use std::collections::BTreeSet;

/// The last pull priority.
pub const PRIORITY_LAST: u8 = 9;

/// An agent's place in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From 0, the best; equal scores share one.
    pub rank: u32,
    /// 0 to 9; 0 is served first.
    pub pull_priority: u8,
}

/// A score as far as ranking sees it: in tenths, so that a difference that means nothing changes no place.
pub fn tenths(score: f64) -> u16 {
    // A cast of a float saturates, and NaN becomes 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000 first")]
    let tenths = (score.clamp(0.0, 100.0) * 10.0).round() as u16;
    tenths
}

/// The places of the accepting agents of one pool, in the order of their scores as given (in tenths).
pub fn places(scores: &[u16]) -> Vec<Place> {
    let best_first: Vec<u16> = scores.iter().copied().collect::<BTreeSet<_>>().into_iter().rev().collect();
    let last = u32::try_from(best_first.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let rank = |score: &u16| u32::try_from(best_first.partition_point(|better| better > score)).unwrap_or(u32::MAX);
    scores.iter().map(rank).map(|rank| Place { rank, pull_priority: pull_priority(rank, last) }).collect()
}

/// The rank itself while there are at most ten; else the rank scaled, rounded up so that the best score keeps priority 0 for itself.
fn pull_priority(rank: u32, last: u32) -> u8 {
    let limit = u64::from(PRIORITY_LAST);
    let scaled = if u64::from(last) <= limit { rank.into() } else { (u64::from(rank) * limit).div_ceil(last.into()) };
    u8::try_from(scaled).unwrap_or(PRIORITY_LAST).min(PRIORITY_LAST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn priorities(scores: &[u16]) -> Vec<u8> {
        places(scores).iter().map(|place| place.pull_priority).collect()
    }

    #[test]
    fn the_best_score_is_rank_0_and_equal_scores_share_a_rank() {
        let ranks: Vec<u32> = places(&[900, 1000, 1000, 250, 900]).iter().map(|place| place.rank).collect();
        assert_eq!(ranks, [1, 0, 0, 2, 1]);
        assert_eq!(priorities(&[900, 1000, 1000, 250, 900]), [1, 0, 0, 2, 1]);
        assert_eq!(places(&[]), []);
        assert_eq!(places(&[5]), [Place { rank: 0, pull_priority: 0 }]);
    }

    #[test]
    fn ten_different_scores_have_the_priorities_0_to_9() {
        let scores: Vec<u16> = (0..10).map(|n| 1000 - n).collect();
        assert_eq!(priorities(&scores), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn more_ranks_than_ten_are_scaled_and_the_best_stays_alone() {
        let scores: Vec<u16> = (0..20).map(|n| 1000 - n).collect();
        assert_eq!(priorities(&scores), [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 9]);
    }

    #[test]
    fn one_better_agent_of_a_hundred_is_served_first() {
        let mut scores = vec![950; 100];
        scores.push(1000);
        let got = priorities(&scores);
        assert_eq!((got.first(), got.last()), (Some(&1), Some(&0)));
    }

    #[test]
    fn a_difference_under_a_twentieth_of_a_point_is_none() {
        assert_eq!(tenths(97.44), tenths(97.40));
        assert_ne!(tenths(97.5), tenths(97.4));
        assert_eq!((tenths(-1.0), tenths(0.0), tenths(100.0), tenths(1e9), tenths(f64::NAN)), (0, 0, 1000, 1000, 0));
    }

    proptest! {
        #[test]
        fn priorities_follow_scores_in_any_pool(scores in prop::collection::vec(0u16..=1000, 1..300)) {
            let placed: Vec<_> = scores.iter().copied().zip(places(&scores)).collect();
            let best = scores.iter().max().copied().unwrap_or(0);
            for (score, place) in &placed {
                prop_assert!(place.pull_priority <= PRIORITY_LAST);
                prop_assert_eq!(*score == best, place.pull_priority == 0);
                for (other, its) in &placed {
                    prop_assert_eq!(score.cmp(other), its.rank.cmp(&place.rank));
                    prop_assert!(score < other || place.pull_priority <= its.pull_priority);
                }
            }
        }

        #[test]
        fn places_do_not_depend_on_the_order_of_agents(scores in prop::collection::vec(0u16..=1000, 0..100)) {
            let backwards: Vec<u16> = scores.iter().rev().copied().collect();
            let mut places_of_backwards = places(&backwards);
            places_of_backwards.reverse();
            prop_assert_eq!(places(&scores), places_of_backwards);
        }
    }
}
