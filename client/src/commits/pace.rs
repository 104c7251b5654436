//! When to send what waits, alone or as a group: pure, with the clock as an argument.
//!
//! A message on its own costs the broker one flush; a commit of several costs as much as some [`super::FEW`] of them, whatever it holds. So as long
//! as few are under way each goes at once, and when many are, they wait for the one group that is. After a group its callers come
//! back: sending at once what had gathered meanwhile would split those who submit all the time into two halves that take turns, each
//! paying for a commit. So under load the next group waits a moment until about as many are there as there were.

use std::time::{Duration, Instant};

use super::{FEW, LINGER};

/// After so long without anything to send, the crowd is gone.
const QUIET: Duration = Duration::from_millis(50);

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, until something happens.
    Rest,
    /// Nothing, until then.
    Linger(Instant),
    /// Send so many, each alone and all at once.
    Alone(usize),
    /// Send all that waits as one group.
    Group,
}

/// What is known of the load.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Sent alone, and not answered.
    alone: usize,
    /// Whether a group is under way.
    group: bool,
    /// How many were under way or waiting at once lately.
    crowd: usize,
    /// Since when what waits could have been sent.
    idle_since: Option<Instant>,
    /// When something was last there to be sent.
    busy_at: Option<Instant>,
}

impl Pace {
    /// What to do while so many wait.
    pub(super) fn step(&mut self, waiting: usize, now: Instant) -> Step {
        if waiting == 0 {
            return Step::Rest;
        }
        if self.busy_at.replace(now).is_some_and(|at| at + QUIET <= now) && self.alone == 0 && !self.group {
            self.crowd = 0;
        }
        self.crowd = self.crowd.max(self.alone + waiting);
        if self.group {
            return Step::Rest;
        }
        if self.alone + waiting <= FEW && self.crowd <= FEW {
            return Step::Alone(waiting);
        }
        if self.alone > 0 {
            // They are answered within a few flushes, and who sent them comes back.
            return Step::Rest;
        }
        let since = *self.idle_since.get_or_insert(now);
        if waiting < self.crowd - self.crowd / 4 && now < since + LINGER {
            return Step::Linger(since + LINGER);
        }
        if waiting <= FEW { Step::Alone(waiting) } else { Step::Group }
    }

    /// So many were sent, each alone.
    pub(super) fn sent_alone(&mut self, count: usize) {
        self.alone += count;
        self.idle_since = None;
    }

    /// One that was sent alone is answered, while so many wait.
    pub(super) fn answered(&mut self, waiting: usize) {
        self.alone = self.alone.saturating_sub(1);
        if self.alone == 0 {
            self.fade(waiting);
        }
    }

    /// So many were sent as a group.
    pub(super) fn sent_group(&mut self, count: usize) {
        self.group = true;
        self.crowd = self.crowd.max(count);
        self.idle_since = None;
    }

    /// The group is answered, while so many wait.
    pub(super) fn group_answered(&mut self, sent: usize, waiting: usize) {
        self.group = false;
        self.crowd = self.crowd.max(sent + waiting);
        self.fade(waiting);
    }

    /// A crowd that went away is forgotten within a few rounds.
    fn fade(&mut self, waiting: usize) {
        self.crowd = waiting.max(self.crowd - self.crowd.div_ceil(8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_go_at_once_and_never_wait_for_each_other() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..FEW {
            assert_eq!(pace.step(1, now), Step::Alone(1));
            pace.sent_alone(1);
        }
        pace.answered(0);
        assert_eq!(pace.step(1, now), Step::Alone(1));
    }

    #[test]
    fn what_comes_while_a_group_is_under_way_is_the_next_one() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.step(100, now), Step::Group);
        pace.sent_group(100);
        assert_eq!(pace.step(50, now), Step::Rest);
        pace.group_answered(100, 50);
        assert_eq!(pace.step(50, now), Step::Linger(now + LINGER), "those of the group come back");
        assert_eq!(pace.step(140, now), Step::Group);
    }

    #[test]
    fn who_went_alone_is_waited_for_when_there_are_too_many() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.step(FEW, now), Step::Alone(FEW));
        pace.sent_alone(FEW);
        for left in (0..FEW).rev() {
            assert_eq!(pace.step(20, now), Step::Rest, "{left}");
            pace.answered(20);
        }
        assert_eq!(pace.step(34, now), Step::Group);
    }

    #[test]
    fn a_linger_ends_and_a_crowd_that_went_away_is_forgotten() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        pace.sent_group(100);
        pace.group_answered(100, 1);
        assert_eq!(pace.step(1, now), Step::Linger(now + LINGER));
        now += LINGER;
        assert_eq!(pace.step(1, now), Step::Alone(1));
        let rounds = std::iter::repeat_with(|| {
            pace.sent_alone(1);
            pace.answered(0);
            let step = pace.step(1, now);
            now += LINGER;
            assert_eq!(pace.step(1, now), Step::Alone(1));
            step
        });
        assert!(rounds.take(40).any(|step| step == Step::Alone(1)), "a lone caller lingers for ever");
        pace.sent_group(1000);
        pace.group_answered(1000, 0);
        assert_eq!(pace.step(1, now + QUIET), Step::Alone(1));
    }
}
