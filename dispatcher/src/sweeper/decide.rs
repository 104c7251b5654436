//! When to look at which queue, and when to purge. `apply(event, now) -> questions`, no IO, no clock.
//!
//! One question at a time for each queue. What is known holds for one connection to the broker and one time of being the active
//! dispatcher; with either, all of it is forgotten, and answers to questions from before count for nothing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use muster_schemas::{names::PoolName, queue::Place};

use super::{
    Finished,
    known::{FEWEST, Facts, Known, Step, Walk},
};

/// The shortest time between two purges of a queue: together with what it takes to learn of a result, less than acks are held back.
pub(crate) const EVERY: Duration = Duration::from_millis(150);
/// After a purge the queue is left alone for so many times as long as it took: what a purge costs grows with the queue's depth (1.2 ms up
/// to 10 000 jobs, 55 ms at 400 000), and nothing else is stored in the queue meanwhile.
const REST: u32 = 10;
/// A purge that takes so long holds up everybody noticeably, and saves little. It is followed by a rest of at least this.
const LONG: Duration = Duration::from_millis(100);
const LONG_REST: Duration = Duration::from_secs(5);
/// How long a queue is left alone whose front is not finished: most often it will be in a moment.
const BLOCKED: Duration = Duration::from_millis(50);
/// How long a queue is left alone of which nothing could be learnt.
const FAILED: Duration = Duration::from_millis(500);
/// How long it may take from a look to the purge that follows from it. A pool that is removed and made anew takes longer.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// This is the active dispatcher on the connection of that number, or is not.
    Active(Option<u64>),
    /// A job is finished.
    Finished(Finished),
    /// A question was answered.
    Answered(Asked, Answer),
    /// Time has passed.
    Tick,
}

/// A question about a pool's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) pool: PoolName,
    pub(crate) question: Question,
    /// The connection that it must be asked on, and no other.
    pub(crate) connection: u64,
    /// Tells answers to questions that were forgotten.
    era: u64,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// What it holds.
    Facts,
    /// Its first message from this sequence on.
    Next(u64),
    /// To have all messages removed below a sequence, if there is still time to ask that.
    Purge { below: u64, until: Instant },
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Facts(Facts),
    Next(Option<Place>),
    /// They are gone, which took so long.
    Purged(Duration),
    /// There is none.
    Nothing,
}

/// All queues of which anything is known.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    active: Option<u64>,
    era: u64,
    queues: BTreeMap<PoolName, Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    known: Known,
    stage: Stage,
    rest_until: Option<Instant>,
}

/// What is being asked about a queue.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Looking {
        since: Instant,
    },
    Walking {
        since: Instant,
        walk: Walk,
    },
    Purging {
        below: u64,
    },
}

impl Sweeper {
    /// Takes in what happened, and says what is to be asked.
    pub(crate) fn apply(&mut self, event: Event, now: Instant) -> Vec<Asked> {
        match event {
            Event::Active(active) => {
                if active != self.active {
                    (self.active, self.era) = (active, self.era + 1);
                    self.queues.clear();
                }
                Vec::new()
            }
            Event::Finished(Finished { pool, place, connection }) => {
                if self.active != Some(connection) {
                    return Vec::new();
                }
                let queue = self.queues.entry(pool.clone()).or_default();
                queue.known.finished(place, now);
                let question = queue.look(now);
                self.ask(pool, question).into_iter().collect()
            }
            Event::Answered(asked, answer) => {
                let Some(queue) = self.queues.get_mut(&asked.pool).filter(|_| asked.era == self.era) else { return Vec::new() };
                let question = queue.answered(answer, now);
                self.ask(asked.pool, question).into_iter().collect()
            }
            Event::Tick => {
                let looks: Vec<_> = self.queues.iter_mut().map(|(pool, queue)| (pool.clone(), queue.look(now))).collect();
                looks.into_iter().filter_map(|(pool, question)| self.ask(pool, question)).collect()
            }
        }
    }

    /// When there may be something to do, if nothing else happens.
    pub(crate) fn next(&self) -> Option<Instant> {
        let waiting = self.queues.values().filter(|queue| matches!(queue.stage, Stage::Idle) && queue.known.is_many());
        waiting.filter_map(|queue| queue.rest_until).min()
    }

    fn ask(&self, pool: PoolName, question: Option<Question>) -> Option<Asked> {
        Some(Asked { pool, question: question?, connection: self.active?, era: self.era })
    }
}

impl Queue {
    /// Looks at the queue, if that is worth it.
    fn look(&mut self, now: Instant) -> Option<Question> {
        let idle = matches!(self.stage, Stage::Idle) && self.rest_until.is_none_or(|until| now >= until);
        if !idle || !self.known.is_many() || !self.known.is_ripe(now) {
            return None;
        }
        self.stage = Stage::Looking { since: now };
        Some(Question::Facts)
    }

    fn answered(&mut self, answer: Answer, now: Instant) -> Option<Question> {
        match (std::mem::take(&mut self.stage), answer) {
            (Stage::Looking { since }, Answer::Facts(facts)) => match self.known.begin(&facts, since) {
                Some(mut walk) => {
                    let step = self.known.walk(&mut walk);
                    self.step(step, walk, since, now)
                }
                None => self.rest(FAILED, now),
            },
            (Stage::Walking { since, mut walk }, Answer::Next(next)) => {
                let step = self.known.go_on(&mut walk, next);
                self.step(step, walk, since, now)
            }
            (Stage::Purging { below }, Answer::Purged(took)) => {
                self.known.gone(below);
                let least = if took < LONG { EVERY } else { LONG_REST };
                self.rest(least.max(took * REST), now)
            }
            _ => self.rest(FAILED, now),
        }
    }

    fn step(&mut self, step: Step, walk: Walk, since: Instant, now: Instant) -> Option<Question> {
        let until = since + GOOD_FOR;
        match step {
            _ if now >= until => self.rest(FAILED, now),
            Step::Ask(sequence) => {
                self.stage = Stage::Walking { since, walk };
                Some(Question::Next(sequence))
            }
            Step::End { below, finished } if finished >= FEWEST => {
                self.stage = Stage::Purging { below };
                Some(Question::Purge { below, until })
            }
            Step::End { .. } => self.rest(BLOCKED, now),
            Step::Doubt => self.rest(FAILED, now),
        }
    }

    fn rest(&mut self, rest: Duration, now: Instant) -> Option<Question> {
        self.rest_until = Some(now + rest);
        None
    }
}
