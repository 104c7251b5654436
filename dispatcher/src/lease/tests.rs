//! The lease against a model of its bucket: time is a number of milliseconds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use proptest::prelude::*;

use super::*;

const CONNECTION: u64 = 1;

fn start() -> Instant {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *START
}

fn ms(n: u64) -> Instant {
    start() + Duration::from_millis(n)
}

fn sent(n: u64) -> Sent {
    Sent { at: ms(n), connection: CONNECTION }
}

/// A lease held since the time 0, at revision 5.
fn held() -> Lease {
    let mut lease = Lease::new(ms(0));
    assert_eq!(lease.apply(Event::Tick, ms(0)), Some(Command::Look));
    assert_eq!(lease.apply(Event::Seen(Holder::Nobody, 4), ms(0)), Some(Command::Write(4)));
    assert_eq!(lease.apply(Event::Stored(5, sent(0)), ms(10)), None);
    assert_eq!(lease.holds(), Some((ms(3000), CONNECTION)));
    lease
}

#[test]
fn a_free_key_is_taken_and_renewed_each_second_naming_its_revision() {
    let mut lease = held();
    assert_eq!(lease.apply(Event::Tick, ms(999)), None);
    assert_eq!(lease.next(), ms(1000));
    assert_eq!(lease.apply(Event::Tick, ms(1000)), Some(Command::Write(5)));
    assert_eq!(lease.apply(Event::Stored(6, sent(1000)), ms(1100)), None);
    assert_eq!((lease.holds(), lease.next()), (Some((ms(4000), CONNECTION)), ms(2000)));
}

#[test]
fn a_follower_looks_twice_a_second_and_takes_over_when_the_key_is_gone() {
    let mut lease = Lease::new(ms(0));
    lease.apply(Event::Tick, ms(0));
    assert_eq!(lease.apply(Event::Seen(Holder::Other, 7), ms(0)), None);
    assert_eq!(lease.next(), ms(500));
    assert_eq!(lease.apply(Event::Tick, ms(500)), Some(Command::Look));
    assert_eq!(lease.apply(Event::Seen(Holder::Nobody, 0), ms(500)), Some(Command::Write(0)));
    assert_eq!(lease.holds(), None, "not before the write was accepted");
    assert_eq!(lease.apply(Event::Refused, ms(500)), Some(Command::Look), "another follower was faster");
    assert_eq!(lease.apply(Event::Seen(Holder::Other, 8), ms(500)), None);
}

#[test]
fn a_holder_without_answers_tries_again_and_steps_down_before_the_key_can_vanish() {
    let mut lease = held();
    let mut now = 1000;
    while now < 3000 {
        assert_eq!(lease.apply(Event::Tick, ms(now)), Some(Command::Write(5)));
        assert_eq!(lease.apply(Event::Failed, ms(now)), None);
        assert_eq!(lease.holds(), Some((ms(3000), CONNECTION)));
        now += 250;
    }
    assert_eq!(lease.apply(Event::Tick, ms(3000)), Some(Command::Look));
    assert_eq!(lease.holds(), None);
}

#[test]
fn a_write_whose_answer_was_lost_is_found_and_adopted() {
    let mut lease = held();
    lease.apply(Event::Tick, ms(1000));
    lease.apply(Event::Failed, ms(2000));
    assert_eq!(lease.apply(Event::Tick, ms(2250)), Some(Command::Write(5)));
    assert_eq!(lease.apply(Event::Refused, ms(2260)), Some(Command::Look));
    assert_eq!(lease.apply(Event::Seen(Holder::Me, 6), ms(2270)), Some(Command::Write(6)));
    lease.apply(Event::Stored(7, sent(2270)), ms(2280));
    assert_eq!(lease.holds(), Some((ms(5270), CONNECTION)));
}

#[test]
fn a_holder_that_finds_another_one_or_no_bucket_steps_down_at_once() {
    for event in [Event::Seen(Holder::Other, 9), Event::NoBucket, Event::Seen(Holder::Nobody, 0)] {
        let mut lease = held();
        lease.apply(event, ms(1200));
        assert_eq!(lease.holds(), None, "{event:?}");
    }
}

#[test]
fn an_answer_that_comes_too_late_is_not_trusted() {
    let mut lease = Lease::new(ms(0));
    assert_eq!(lease.apply(Event::Stored(5, sent(0)), ms(3000)), Some(Command::Look));
    assert_eq!(lease.holds(), None);
}

/// The bucket, and what is on its way to it and back.
#[derive(Default)]
struct Bucket {
    revision: u64,
    key: Option<(usize, u64, u64)>,
}

impl Bucket {
    fn expire(&mut self, now: u64) {
        self.key = self.key.filter(|(_, _, written)| now < written + u64::try_from(LEASE_AGE.as_millis()).unwrap());
    }

    fn answer(&mut self, command: Command, who: usize, asked: u64, now: u64) -> Event {
        self.expire(now);
        let current = self.key.map_or(0, |(_, revision, _)| revision);
        match command {
            Command::Look => {
                let holder = self.key.map_or(Holder::Nobody, |(holder, ..)| if holder == who { Holder::Me } else { Holder::Other });
                Event::Seen(holder, current)
            }
            Command::Write(named) if named == current => {
                self.revision += 1;
                self.key = Some((who, self.revision, now));
                Event::Stored(self.revision, sent(asked))
            }
            Command::Write(_) => Event::Refused,
        }
    }
}

/// A command under way: it reaches the bucket, then its answer comes back or never does.
enum Way {
    There { command: Command, asked: u64, arrives: u64, answer_takes: u64, lost: bool },
    Back { event: Event, arrives: u64 },
}

proptest! {
    /// Three dispatchers, requests that take up to two seconds each way, and answers that are lost.
    #[test]
    fn there_is_never_more_than_one_holder(delays in prop::collection::vec((0u64..2000, 0u64..2000, prop::bool::weighted(0.2)), 200)) {
        let mut bucket = Bucket::default();
        let mut leases = [Lease::new(ms(0)); 3];
        let mut ways: [Option<Way>; 3] = [None, None, None];
        let mut delays = delays.into_iter().cycle();
        for now in (0..60_000).step_by(50) {
            for who in 0..3 {
                let event = match ways[who].take() {
                    Some(Way::There { command, asked, arrives, answer_takes, lost }) if now >= arrives => {
                        let event = bucket.answer(command, who, asked, now);
                        // The shell waits a second for an answer, then it counts as lost.
                        let lost = lost || now + answer_takes > asked + 1000;
                        let event = if lost { Event::Failed } else { event };
                        ways[who] = Some(Way::Back { event, arrives: if lost { asked + 1000 } else { now + answer_takes } });
                        continue;
                    }
                    Some(Way::Back { event, arrives }) if now >= arrives => event,
                    None if now >= u64::try_from(leases[who].next().duration_since(start()).as_millis()).unwrap() => Event::Tick,
                    on_its_way => {
                        ways[who] = on_its_way;
                        continue;
                    }
                };
                if let Some(command) = leases[who].apply(event, ms(now)) {
                    let (there, back, lost) = delays.next().unwrap();
                    ways[who] = Some(Way::There { command, asked: now, arrives: now + there, answer_takes: back, lost });
                }
            }
            let holders = leases.iter().filter(|lease| lease.holds().is_some_and(|(until, _)| ms(now) < until)).count();
            prop_assert!(holders <= 1, "{holders} holders at {now} ms");
        }
    }

    #[test]
    fn with_a_quick_bucket_somebody_holds_within_five_seconds_of_any_crash(crash_at in 2000u64..4000) {
        let mut bucket = Bucket::default();
        let mut leases = [Lease::new(ms(0)), Lease::new(ms(0))];
        let mut taken_over = None;
        for now in 0..12_000 {
            for (who, lease) in leases.iter_mut().enumerate() {
                if who == 0 && now >= crash_at {
                    continue;
                }
                let mut command = lease.apply(Event::Tick, ms(now));
                while let Some(asked) = command {
                    let event = bucket.answer(asked, who, now, now);
                    command = lease.apply(event, ms(now));
                }
            }
            if now >= crash_at && taken_over.is_none() && leases[1].holds().is_some() {
                taken_over = Some(now - crash_at);
            }
        }
        // The broker removes what is too old within a quarter of a second, which the model does at once.
        prop_assert!(taken_over.is_some_and(|after| after <= 4750), "{taken_over:?}");
    }
}
