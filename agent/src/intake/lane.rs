//! What the intake knows of one lane: its credits, whether it is hot, whether it can be pulled at all.

use std::time::{Duration, Instant};

use super::{Gate, OWN, Settings};

/// How much later than its own expiry a pull that the broker never ended is given up.
const GRACE: Duration = Duration::from_secs(5);

/// So many credits of an older priority go uncounted; more come only from priorities that change all the time.
const SPARE_MAX: u32 = 16;

/// What is left of a call must be worth a pull: several round trips.
const CALL_LEFT: Duration = Duration::from_millis(200);

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

/// A pull, as far as can be told: which one a job answers is not known, so the oldest is taken to be served first.
#[derive(Debug)]
struct Pull {
    asked: Instant,
    /// When it is given up, should the broker never end it.
    until: Instant,
    left: u32,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tier: u8,
    /// Counts the inboxes: what is told of an older one does not count.
    pub(super) epoch: u32,
    draining: bool,
    /// Oldest first; none with nothing left.
    pulls: Vec<Pull>,
    /// When it last gave a job.
    gave_at: Option<Instant>,
    /// How many credits it is to have while slots are free.
    goal: u32,
    /// How many jobs it gave towards a higher goal.
    given: u32,
    /// When it was last asked.
    asked_at: Option<Instant>,
    /// Credits of an older, worse priority. The broker serves them last; they are not counted, and expire.
    spare: u32,
    pub(super) hot: bool,
    pub(super) gate: Gate,
    /// Until when it is pulled although it is on standby.
    called_until: Option<Instant>,
    /// Whether nobody could call it up.
    pub(super) unled: bool,
    refusals: u32,
    retry_at: Option<Instant>,
    /// Told that something waits since it was last asked: a refusal that comes now is of the time before.
    told: bool,
}

impl Lane {
    pub(super) fn new(tier: u8) -> Self {
        Self {
            tier,
            epoch: 0,
            draining: false,
            pulls: Vec::new(),
            gave_at: None,
            goal: 1,
            given: 0,
            asked_at: None,
            spare: 0,
            hot: false,
            gate: Gate::Open,
            called_until: None,
            unled: false,
            refusals: 0,
            retry_at: None,
            told: false,
        }
    }

    /// Jobs asked for and not yet given.
    pub(super) fn credits(&self) -> u32 {
        self.pulls.iter().map(|pull| pull.left).sum()
    }

    /// The credits that count when it is asked for more.
    pub(super) fn counted(&self) -> u32 {
        let credits = self.credits();
        credits - self.spare.min(credits).min(SPARE_MAX)
    }

    /// How many credits it is to have while so many slots are free.
    pub(super) fn goal(&self, free: u32) -> u32 {
        self.goal.min(free)
    }

    /// Whether it can be pulled now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        !self.draining && self.is_wanted(now) && self.retry_at.is_none_or(|at| at <= now)
    }

    /// Whether this agent is to pull it, if it can be.
    fn is_wanted(&self, now: Instant) -> bool {
        match self.gate {
            Gate::Open => true,
            Gate::Standby => self.unled || self.called_until.is_some_and(|until| until >= now + CALL_LEFT),
            Gate::Closed => false,
        }
    }

    /// It is pulled until then, should it be on standby.
    pub(super) fn call(&mut self, until: Instant) {
        self.called_until = self.called_until.max(Some(until));
    }

    /// How long a pull may wait at the broker: no longer than the call that it is for.
    pub(super) fn expires(&self, wanted: Duration, now: Instant) -> Duration {
        let call = self.called_until.filter(|_| self.gate == Gate::Standby && !self.unled);
        call.map_or(wanted, |until| wanted.min(until.saturating_duration_since(now)))
    }

    /// Whether it has given nothing for so long.
    pub(super) fn is_quiet(&self, since: Duration, now: Instant) -> bool {
        self.gave_at.is_none_or(|at| at + since <= now)
    }

    /// A job came. It may be one of an inbox that is being drained, or that was forgotten.
    pub(super) fn gave(&mut self, settings: &Settings, now: Instant) {
        self.hot = self.is_wanted(now);
        self.refusals = 0;
        self.retry_at = None;
        self.gave_at = Some(now);
        if let Some(oldest) = self.pulls.first_mut() {
            oldest.left -= 1;
        }
        self.tidy();
        let soon = self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < settings.settled);
        self.given = if soon { self.given + 1 } else { 0 };
        if self.given >= self.goal {
            self.goal = self.goal.saturating_mul(2).min(settings.slots);
            self.given = 0;
        }
    }

    /// The broker was asked for so many more.
    pub(super) fn pulled(&mut self, batch: u32, expires: Duration, now: Instant) {
        self.told = false;
        self.pulls.push(Pull { asked: now, until: now + expires + GRACE, left: batch });
        self.asked_at = Some(now);
    }

    /// A pull ended, and so many of its jobs were not given.
    pub(super) fn expired(&mut self, mut pending: u32) {
        self.refusals = 0;
        self.spare = self.spare.saturating_sub(pending);
        while pending > 0
            && let Some(first) = self.pulls.iter_mut().filter(|pull| pull.left > 0).min_by_key(|pull| pull.until)
        {
            let taken = pending.min(first.left);
            first.left -= taken;
            pending -= taken;
        }
        self.tidy();
    }

    /// It is not given, or not any more. An own queue that is missing is asked again after `rest`.
    pub(super) fn refused(&mut self, why: Refusal, rest: Duration, now: Instant) {
        self.pulls.clear();
        self.tidy();
        let wait = match why {
            Refusal::Invalid => RETRY_MAX,
            Refusal::Missing if self.tier == OWN => rest,
            Refusal::Missing | Refusal::Busy => (RETRY_FIRST * 2_u32.pow(self.refusals.min(8))).min(RETRY_MAX),
        };
        self.refusals += 1;
        self.retry_at = (!self.told).then_some(now + wait);
        self.hot = false;
    }

    /// Something waits in it: it is asked now, or as soon as what it was asked before has been refused.
    pub(super) fn told(&mut self) {
        self.told = true;
        self.retry_at = None;
    }

    /// The priority became better: what is owed for the older one is served last, and does not count.
    pub(super) fn promoted(&mut self) {
        if self.tier != OWN {
            self.spare = self.credits();
        }
    }

    /// Begins to drain, if there is anything to drain.
    pub(super) fn drain(&mut self) -> Option<u32> {
        if self.draining || self.pulls.is_empty() {
            return None;
        }
        self.draining = true;
        Some(self.epoch)
    }

    /// Nothing is owed any more, and nothing that is told of the present inbox counts.
    pub(super) fn forget(&mut self) {
        self.draining = false;
        self.epoch = self.epoch.wrapping_add(1);
        self.pulls.clear();
        self.tidy();
        self.retry_at = None;
        self.refusals = 0;
        self.told = false;
    }

    /// Time has passed: a hot lane cools down, a pull that the broker forgot is given up.
    pub(super) fn tick(&mut self, settings: &Settings, now: Instant) {
        if self.is_quiet(settings.settled, now) {
            self.goal = 1;
            self.given = 0;
        }
        // A lane with a backlog answers all that it is asked for within a round trip, so one old credit shows that it has none.
        if self.pulls.first().is_some_and(|oldest| oldest.asked + settings.patience <= now) {
            self.hot = false;
        }
        // One that is not asked any more would keep lower ones from being asked.
        self.hot &= self.is_wanted(now);
        self.pulls.retain(|pull| pull.until > now);
        self.tidy();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
    }

    /// When [`Lane::tick`] has something to do.
    pub(super) fn wake_at(&self, patience: Duration) -> Option<Instant> {
        let cools = self.pulls.first().filter(|_| self.hot).map(|oldest| oldest.asked + patience);
        let given_up = self.pulls.iter().map(|pull| pull.until).min();
        [cools, given_up, self.retry_at].into_iter().flatten().min()
    }

    fn tidy(&mut self) {
        self.pulls.retain(|pull| pull.left > 0);
        self.spare = self.spare.min(self.credits());
    }
}
