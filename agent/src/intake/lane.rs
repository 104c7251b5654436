//! What the intake knows of one lane: its credits, whether it is hot, whether it can be pulled at all.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Settings;

/// How much later than its own expiry a pull that the broker never ended is given up.
const GRACE: Duration = Duration::from_secs(5);

/// So many credits of a worse priority go uncounted; more come only from priorities that change all the time.
const SPARE_MAX: u32 = 16;

/// The first wait after a refusal, doubled with each further one up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// A lane that appears is found within this time, and a fleet without its lane costs the broker next to nothing.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Why the broker refused a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such stream or consumer (yet), or it went away.
    Missing,
    /// The broker has too much to do, or is about to stop.
    Busy,
    /// The broker does not understand the pull: ours and its configuration do not fit.
    Invalid,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tier: u8,
    /// Counts the inboxes: what is told of an older one does not count.
    pub(super) epoch: u32,
    draining: bool,
    credits: u32,
    /// Pulls by the time at which they are given up, with the credits that are left of them as far as can be told.
    pulls: VecDeque<(Instant, u32)>,
    /// Since when the present credits go unanswered.
    waiting_since: Option<Instant>,
    /// When it last gave a job.
    gave_at: Option<Instant>,
    /// How many credits it is to have while slots are free.
    goal: u32,
    /// How many jobs it gave towards a higher goal.
    given: u32,
    /// When it was last asked.
    asked_at: Option<Instant>,
    /// Credits of a worse priority than the present one. The broker serves them last; they are not counted, and expire.
    spare: u32,
    /// Credits of a better priority than the present one, to be withdrawn. The broker serves them first.
    unwanted: u32,
    pub(super) hot: bool,
    refusals: u32,
    retry_at: Option<Instant>,
}

impl Lane {
    pub(super) fn new(tier: u8) -> Self {
        Self {
            tier,
            epoch: 0,
            draining: false,
            credits: 0,
            pulls: VecDeque::new(),
            waiting_since: None,
            gave_at: None,
            goal: 1,
            given: 0,
            asked_at: None,
            spare: 0,
            unwanted: 0,
            hot: false,
            refusals: 0,
            retry_at: None,
        }
    }

    /// Jobs asked for and not yet given.
    pub(super) fn credits(&self) -> u32 {
        self.credits
    }

    /// The credits that count when it is asked for more.
    pub(super) fn counted(&self) -> u32 {
        self.credits - self.spare.min(self.credits).min(SPARE_MAX)
    }

    /// How many credits it is to have while so many slots are free.
    pub(super) fn goal(&self, free: u32) -> u32 {
        self.goal.min(free)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether it can be pulled now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        !self.draining && self.retry_at.is_none_or(|at| at <= now)
    }

    /// A job came. It may be one of an inbox that is being drained, or that was forgotten.
    pub(super) fn gave(&mut self, settings: &Settings, now: Instant) {
        self.hot = true;
        self.refusals = 0;
        self.retry_at = None;
        self.gave_at = Some(now);
        self.unwanted = self.unwanted.saturating_sub(1);
        self.take(1);
        self.spare = self.spare.min(self.credits);
        let soon = self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < settings.settled);
        self.given = if soon { self.given + 1 } else { 0 };
        if self.given >= self.goal {
            self.goal = self.goal.saturating_mul(2).min(settings.slots);
            self.given = 0;
        }
        self.waiting_since = (self.credits > 0).then_some(now);
    }

    /// The broker was asked for so many more.
    pub(super) fn pulled(&mut self, batch: u32, expires: Duration, now: Instant) {
        self.credits += batch;
        self.pulls.push_back((now + expires + GRACE, batch));
        self.waiting_since = Some(now);
        self.asked_at = Some(now);
    }

    pub(super) fn expired(&mut self, pending: u32) {
        // The oldest expire first.
        self.spare = self.spare.saturating_sub(pending);
        self.take(pending);
        self.refusals = 0;
    }

    pub(super) fn refused(&mut self, why: Refusal, now: Instant) {
        self.no_credits();
        let wait = match why {
            Refusal::Invalid => RETRY_MAX,
            Refusal::Missing | Refusal::Busy => (RETRY_FIRST * 2_u32.pow(self.refusals.min(8))).min(RETRY_MAX),
        };
        self.refusals += 1;
        self.retry_at = Some(now + wait);
        self.hot = false;
    }

    /// The priority became better.
    pub(super) fn promoted(&mut self) {
        self.spare = self.credits;
        self.unwanted = 0;
    }

    /// The priority became worse.
    pub(super) fn demoted(&mut self) {
        self.unwanted = self.credits;
        self.spare = 0;
    }

    /// Whether there are credits to withdraw: any of them, or only those of a better priority.
    pub(super) fn has_unwanted(&self, all: bool) -> bool {
        !self.draining && self.credits > 0 && (all || self.unwanted > 0)
    }

    /// From when on it counts as quiet, if it gives nothing more.
    pub(super) fn quiet_at(&self, after: Duration) -> Option<Instant> {
        self.gave_at.map(|at| at + after)
    }

    /// Begins to drain.
    pub(super) fn drain(&mut self) -> u32 {
        self.draining = true;
        self.epoch
    }

    pub(super) fn drained(&mut self) {
        self.forget();
    }

    /// The broker knows nothing of our pulls any more.
    pub(super) fn forget(&mut self) {
        self.draining = false;
        self.epoch = self.epoch.wrapping_add(1);
        self.no_credits();
        self.retry_at = None;
        self.refusals = 0;
    }

    /// Time has passed: a hot lane cools down, a pull that the broker forgot is given up.
    pub(super) fn tick(&mut self, settings: &Settings, now: Instant) {
        if self.quiet_at(settings.settled).is_none_or(|at| at <= now) {
            self.goal = 1;
            self.given = 0;
        }
        if self.credits > 0 && self.waiting_since.is_some_and(|since| now.saturating_duration_since(since) >= settings.patience) {
            self.hot = false;
        }
        while let Some((_, left)) = self.pulls.pop_front_if(|(until, _)| *until <= now) {
            self.credits = self.credits.saturating_sub(left);
        }
        if self.credits == 0 {
            self.no_credits();
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
    }

    /// When [`Lane::tick`] has something to do.
    pub(super) fn wake_at(&self, patience: Duration) -> Option<Instant> {
        let cools = self.waiting_since.filter(|_| self.hot && self.credits > 0).map(|since| since + patience);
        let given_up = self.pulls.front().map(|(until, _)| *until);
        [cools, given_up, self.retry_at].into_iter().flatten().min()
    }

    /// Which pull a job came from can't be told, so the oldest pays.
    fn take(&mut self, count: u32) {
        self.credits = self.credits.saturating_sub(count);
        let mut rest = count;
        while let Some((_, left)) = self.pulls.front_mut() {
            let paid = rest.min(*left);
            *left -= paid;
            rest -= paid;
            if *left > 0 {
                break;
            }
            self.pulls.pop_front();
        }
        if self.credits == 0 {
            self.no_credits();
        }
    }

    fn no_credits(&mut self) {
        self.credits = 0;
        self.spare = 0;
        self.unwanted = 0;
        self.pulls.clear();
        self.waiting_since = None;
    }
}
