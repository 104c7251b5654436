//! The sweeper against a model of a queue: whatever happens, no purge removes a job that is not finished. Time is a number of milliseconds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use muster_schemas::time::Timestamp;
use proptest::prelude::*;

use super::{
    decide::{Answer, Asked, Event, Question, Sweeper},
    known::{Known, Step},
    *,
};

fn start() -> Instant {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *START
}

/// A pool's queue, the results of its jobs on their way to the sweeper, and the sweeper with the questions that it has asked.
struct World {
    sweeper: Sweeper,
    now_ms: u64,
    connection: u64,
    created: Timestamp,
    next: u64,
    /// By sequence: when each was stored, and whether its job is finished.
    queue: BTreeMap<u64, (Timestamp, bool)>,
    results: VecDeque<Finished>,
    asked: Vec<Asked>,
    answers: Vec<(Asked, Answer)>,
    purges: u32,
    swept: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            sweeper: Sweeper::default(),
            now_ms: 0,
            connection: 1,
            created: Timestamp::from_secs(1_800_000_000),
            next: 1,
            queue: BTreeMap::new(),
            results: VecDeque::new(),
            asked: vec![],
            answers: vec![],
            purges: 0,
            swept: 0,
        };
        world.tell(Event::Tick);
        world
    }

    /// The broker's clock.
    fn clock(&self) -> Timestamp {
        Timestamp::from_secs(1_800_000_000) + Duration::from_millis(self.now_ms)
    }

    fn tell(&mut self, event: Event) {
        let now = start() + Duration::from_millis(self.now_ms);
        let mut asked = self.sweeper.apply(Event::Active(Some(self.connection)), now);
        asked.extend(self.sweeper.apply(event, now));
        self.asked.extend(asked);
    }

    fn publish(&mut self, count: u64) {
        for _ in 0..count {
            self.now_ms += 1;
            self.queue.insert(self.next, (self.clock(), false));
            self.next += 1;
        }
    }

    /// The sequences of jobs of which it is known, or not, that they are finished: so many, not counting the first `skip`.
    fn pick(&self, finished: bool, skip: usize, count: usize) -> Vec<u64> {
        let all = self.queue.iter().filter(|(_, (_, is))| *is == finished);
        all.map(|(sequence, _)| *sequence).skip(skip).take(count).collect()
    }

    /// Results with places are stored; the jobs stay in the queue.
    fn finish(&mut self, skip: usize, count: usize) {
        for sequence in self.pick(false, skip, count) {
            let (stored_at, finished) = self.queue.get_mut(&sequence).unwrap();
            *finished = true;
            let place = Place { sequence, stored_at: *stored_at };
            self.results.push_back(Finished { pool: "p".parse().unwrap(), place, connection: self.connection });
        }
    }

    /// They are acked; or, unfinished, cancelled, or ended by an agent that says no place.
    fn leave(&mut self, finished: bool, skip: usize, count: usize) {
        for sequence in self.pick(finished, skip, count) {
            self.queue.remove(&sequence);
        }
    }

    fn hear(&mut self, count: usize) {
        for _ in 0..count {
            let Some(finished) = self.results.pop_front() else { return };
            self.tell(Event::Finished(finished));
        }
    }

    fn place(&self, sequence: u64) -> Option<Place> {
        self.queue.range(sequence..).next().map(|(sequence, (stored_at, _))| Place { sequence: *sequence, stored_at: *stored_at })
    }

    /// The broker answers so many questions. The answers are under way.
    fn serve(&mut self, count: usize) {
        for _ in 0..count.min(self.asked.len()) {
            let asked = self.asked.remove(0);
            let answer = match asked.question {
                Question::Facts => {
                    let facts = Facts { created: self.created, now: self.clock(), first: self.place(0), last: self.next - 1 };
                    Answer::Facts(facts)
                }
                Question::Next(sequence) => Answer::Next(self.place(sequence)),
                Question::Purge { below, .. } => {
                    let stay = self.queue.split_off(&below);
                    let gone = std::mem::replace(&mut self.queue, stay);
                    let unfinished: Vec<_> = gone.iter().filter(|(_, (_, finished))| !finished).collect();
                    assert!(unfinished.is_empty(), "purged below {below}: {unfinished:?}");
                    self.purges += 1;
                    self.swept += gone.len() as u64;
                    Answer::Purged(Duration::from_millis(2))
                }
            };
            self.answers.push((asked, answer));
        }
    }

    fn arrive(&mut self, count: usize) {
        for _ in 0..count {
            if self.answers.is_empty() {
                return;
            }
            // In any order.
            let (asked, answer) = self.answers.remove(self.now_ms as usize % self.answers.len());
            self.tell(Event::Answered(asked, answer));
        }
    }

    /// The broker dies and comes back without the last messages of the queue, whose sequences it will use again. What was under way on the
    /// connections there were is lost, but results that were read before may be heard later; agents say no places of before.
    fn lose(&mut self, count: u64) {
        let left = self.next.saturating_sub(count).max(1);
        self.queue.split_off(&left);
        self.next = left;
        self.connection += 1;
        for asked in self.asked.drain(..) {
            self.answers.push((asked, Answer::Nothing));
        }
    }

    /// The pool is removed, which takes that its queue is empty and its agents are stopped, and made anew. All of that takes seconds.
    fn remake(&mut self) {
        self.queue.clear();
        self.serve(usize::MAX);
        self.now_ms += 2000;
        (self.created, self.next) = (self.clock(), 1);
    }

    /// Another dispatcher is the active one for a while.
    fn lose_lead(&mut self) {
        let now = start() + Duration::from_millis(self.now_ms);
        self.sweeper.apply(Event::Active(None), now);
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.tell(Event::Tick);
    }

    fn act(&mut self, (what, a, b): (u8, u16, u16)) {
        let (skip, some) = (usize::from(a % 8).saturating_sub(4), usize::from(b % 100));
        match what {
            0..10 => self.publish(u64::from(b % 80)),
            10..22 => self.finish(skip, some),
            // Anywhere: short jobs behind long ones, and jobs that are put off.
            22..26 => self.finish(usize::from(a % 200), some),
            26..30 => self.leave(true, usize::from(a % 50), some),
            30..33 => self.leave(false, usize::from(a % 50), some % 4),
            33..52 => self.hear(2 * some),
            52..68 => self.serve(1 + some % 3),
            68..84 => self.arrive(1 + some % 3),
            84..94 => self.pass(u64::from(a % 400)),
            94 => match a % 8 {
                0..3 => self.lose(u64::from(b % 60)),
                3..5 => self.remake(),
                5 => self.lose_lead(),
                _ => self.pass(u64::from(b % 3000)),
            },
            _ => self.publish(u64::from(b % 160)),
        }
    }

    /// All that is under way comes to its end.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.hear(usize::MAX);
            self.serve(usize::MAX);
            self.arrive(usize::MAX);
            self.pass(250);
        }
    }
}

/// Numbers that only look random.
fn programme(seed: u64, steps: usize) -> Vec<(u8, u16, u16)> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u16
    };
    (0..steps).map(|_| ((next() % 100) as u8, next(), next())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn no_job_is_removed_that_is_not_finished(steps in prop::collection::vec((0u8..100, any::<u16>(), any::<u16>()), 1..600)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.act(step));
        world.settle();
    }
}

#[test]
fn in_the_model_something_is_swept() {
    let worlds = (0..64).map(|seed| {
        let mut world = World::new();
        programme(seed, 600).into_iter().for_each(|step| world.act(step));
        world.settle();
        world
    });
    let (purges, swept) = worlds.fold((0, 0), |(purges, swept), world| (purges + world.purges, swept + world.swept));
    assert!(purges > 80 && swept > 10_000, "{purges} purges of {swept} jobs");
}

#[test]
fn finished_jobs_go_by_one_purge_up_to_the_first_that_is_not() {
    let mut world = World::new();
    world.publish(100);
    world.finish(0, 60);
    world.finish(1, 39);
    world.settle();
    assert_eq!((world.purges, world.swept, world.queue.len()), (1, 60, 40));
    world.finish(0, 1);
    world.settle();
    assert_eq!((world.purges, world.queue.len()), (2, 0));
}

#[test]
fn a_few_finished_jobs_and_an_idle_queue_cost_nothing() {
    let mut world = World::new();
    world.publish(31);
    world.finish(0, 31);
    world.hear(31);
    assert_eq!((world.asked.len(), world.sweeper.next()), (0, None));
    world.publish(1);
    world.finish(0, 1);
    world.settle();
    assert_eq!((world.purges, world.asked.len(), world.sweeper.next()), (1, 0, None));
}

#[test]
fn what_has_left_by_itself_is_no_obstacle_and_is_asked_for_once() {
    let mut world = World::new();
    world.publish(200);
    world.leave(false, 20, 100);
    world.finish(0, 100);
    world.hear(100);
    let mut questions = 0;
    while !world.asked.is_empty() {
        questions += world.asked.len();
        world.serve(1);
        world.arrive(1);
    }
    assert_eq!((questions, world.purges, world.queue.len()), (3, 1, 0), "what there is, what is behind the gap, the purge");
}

#[test]
fn nothing_is_swept_after_a_reconnect_of_what_was_heard_before_it() {
    let mut world = World::new();
    world.publish(100);
    world.finish(1, 60);
    world.hear(31);
    world.lose(0);
    world.finish(0, 40);
    world.settle();
    assert_eq!((world.purges, world.queue.len()), (0, 100));
}

#[test]
fn whatever_contradicts_what_is_known_makes_all_of_it_be_forgotten() {
    // A stream that was made anew, one that has lost its end, and one that has used the sequences of its end again.
    let made = Timestamp::from_secs(1_800_000_000);
    let place = |sequence: u64, late: u64| Place { sequence, stored_at: made + Duration::from_millis(sequence + late) };
    let facts = Facts { created: made, now: made + Duration::from_secs(10), first: Some(place(1, 0)), last: 100 };
    let known = |told: Option<Facts>| {
        let mut known = Known::default();
        (1..=100).for_each(|sequence| known.finished(place(sequence, 0), start()));
        let asked = start() + Duration::from_millis(1);
        told.iter().for_each(|told| assert!(known.begin(told, asked).is_some()));
        (known, asked)
    };
    let anew = Facts { created: made + Duration::from_millis(1), ..facts };
    let another = Facts { first: Some(place(1, 5)), ..facts };
    let shorter = Facts { last: 99, ..facts };
    for (told, facts) in [(Some(facts), anew), (None, another), (None, shorter), (Some(facts), shorter)] {
        let (mut known, asked) = known(told);
        assert!(known.begin(&facts, asked).is_none(), "{facts:?}");
        assert!(!known.is_many(), "{facts:?}");
    }
    // A place of before the stream was made, or later than the broker's clock, does not count.
    for (created, now) in [(made + Duration::from_millis(3), facts.now), (made, made + Duration::from_millis(2))] {
        let (mut known, asked) = known(None);
        let first = Some(place(if created > made { 1 } else { 2 }, 0));
        let mut walk = known.begin(&Facts { created, now, first, ..facts }, asked).unwrap();
        let Step::End { finished, .. } = known.walk(&mut walk) else { panic!("it goes on") };
        assert!(finished < 2, "{finished}");
    }
    // Neither does one that is told with two times, nor a gap behind which there is another message.
    let (mut known, asked) = known(None);
    let mut gap = known.begin(&facts, asked).unwrap();
    known.gone(50);
    known.finished(place(1, 0), start());
    known.finished(place(60, 0), start());
    assert_eq!(known.walk(&mut gap), Step::Ask(2));
    assert_eq!(known.go_on(&mut gap, Some(place(60, 1))), Step::Doubt);
    known.finished(place(7, 0), start());
    known.finished(place(8, 0), start());
    known.finished(place(7, 1), start());
    let mut walk = known.begin(&Facts { first: Some(place(8, 0)), ..facts }, asked).unwrap();
    assert_eq!(known.walk(&mut walk), Step::End { below: 8, finished: 0 });
}

#[test]
fn the_deeper_the_queue_the_longer_it_is_left_alone() {
    let mut world = World::new();
    world.publish(1000);
    let mut swept = |count: usize, took: u64| {
        world.finish(0, count);
        world.hear(count);
        let mut waited = 0;
        while world.asked.is_empty() {
            world.pass(10);
            waited += 10;
        }
        world.serve(1);
        world.arrive(1);
        let asked = world.asked.remove(0);
        assert!(matches!(asked.question, Question::Purge { .. }), "{asked:?}");
        world.leave(true, 0, count);
        world.tell(Event::Answered(asked, Answer::Purged(Duration::from_millis(took))));
        waited
    };
    assert_eq!(swept(100, 2), 0);
    assert_eq!(swept(150, 20), 150);
    assert_eq!(swept(100, 120), 200);
    assert_eq!(swept(100, 2), 5000);
    assert_eq!(swept(100, 2), 150);
}
