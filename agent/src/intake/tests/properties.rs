//! The intake against a model of the broker, under any order of events.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::super::*;

#[derive(Debug, Clone)]
enum Op {
    /// The broker gives a job, if it was asked for one.
    Give(usize),
    Free,
    /// A pull ends without its jobs.
    Expire(usize),
    Refuse(usize),
    /// The own queue is not there.
    Miss,
    /// A command waits in it.
    Commands,
    FinishDrain(usize),
    Pass(u64),
    Standing(bool, u8),
    Block(bool),
    Gates(Vec<Gate>),
    /// Being called up for some lanes, for so many milliseconds.
    CallUp(Vec<bool>, u64),
    Unled(bool),
    StepBack,
    Reconnect,
    Disconnect,
    Shutdown,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..LANES).prop_map(Op::Give),
        8 => Just(Op::Free),
        2 => (0..LANES).prop_map(Op::Expire),
        1 => (0..LANES).prop_map(Op::Refuse),
        2 => Just(Op::Miss),
        2 => Just(Op::Commands),
        6 => (0..LANES).prop_map(Op::FinishDrain),
        6 => prop_oneof![Just(1u64), Just(10), Just(200), 0..100_000u64].prop_map(Op::Pass),
        1 => (any::<bool>(), 0..10u8).prop_map(|(accepting, priority)| Op::Standing(accepting, priority)),
        1 => any::<bool>().prop_map(Op::Block),
        1 => prop::collection::vec(gate(), LANES).prop_map(Op::Gates),
        2 => (prop::collection::vec(any::<bool>(), LANES), 0..20_000u64).prop_map(|(lanes, ms)| Op::CallUp(lanes, ms)),
        1 => any::<bool>().prop_map(Op::Unled),
        1 => Just(Op::StepBack),
        1 => Just(Op::Reconnect),
        1 => Just(Op::Disconnect),
        1 => prop::bool::weighted(0.1).prop_map(|shutdown| if shutdown { Op::Shutdown } else { Op::Free }),
    ]
}

fn gate() -> impl Strategy<Value = Gate> {
    prop_oneof![Just(Gate::Open), Just(Gate::Standby), Just(Gate::Closed)]
}

/// The own queue, and two lanes of each priority.
const LANES: usize = 7;
const TIERS: [u8; LANES] = [OWN, 1, 1, 2, 2, 3, 3];

/// What the broker and the shell know.
struct World {
    intake: Intake,
    now: Instant,
    slots: u32,
    /// Jobs that the broker still owes, by inbox and by the time it was asked.
    owed: BTreeMap<(LaneIndex, u32), Vec<(Instant, u32)>>,
    draining: HashSet<(LaneIndex, u32)>,
    running: Vec<Handle>,
    held: BTreeMap<Handle, (LaneIndex, Instant)>,
    next: Handle,
    accepting: bool,
    blocked: bool,
    connected: bool,
    stopping: bool,
    refused_until: BTreeMap<LaneIndex, Instant>,
    /// Told of a command since it asked its own queue last.
    told: bool,
    gates: Vec<Gate>,
    called_until: BTreeMap<LaneIndex, Instant>,
    unled: bool,
}

impl World {
    fn apply(&mut self, events: Vec<Event>) {
        let may_pull = |w: &Self| w.accepting && !w.blocked && !w.stopping && w.connected;
        for command in self.intake.apply(events, self.now) {
            match command {
                Command::Pull { lane, epoch, batch, expires, .. } => {
                    assert!(may_pull(self), "pulled although it may not");
                    assert!(self.is_wanted(lane), "pulled lane {lane}, which is {:?}", self.gates[lane]);
                    let call_ends = self.called_until.get(&lane).filter(|_| self.gates[lane] == Gate::Standby && !self.unled);
                    assert!(call_ends.is_none_or(|until| self.now + expires <= *until), "a pull outlives the call");
                    assert!(!self.draining.contains(&(lane, epoch)), "pulled an inbox that is being drained");
                    self.told &= TIERS[lane] != OWN;
                    self.owed.entry((lane, epoch)).or_default().push((self.now + expires, batch));
                    let owed: u32 = self.owed[&(lane, epoch)].iter().map(|(_, n)| n).sum();
                    let free = self.slots - u32::try_from(self.running.len()).unwrap();
                    assert!(batch > 0 && batch <= free && owed <= free + 16 + self.slots, "{owed} asked of a lane for {free} free slots");
                    assert!(TIERS[lane] != OWN || owed <= self.slots, "{owed} asked of the own queue with {} slots", self.slots);
                }
                Command::Drain { lane, epoch } => {
                    assert!(self.stopping && self.draining.insert((lane, epoch)), "drained without need, or twice");
                }
                Command::Start(handle) => {
                    let (lane, _) = self.held.remove(&handle).expect("started what was not held");
                    assert_ne!(self.gates[lane], Gate::Closed, "started a job that may not run here");
                    let first = |other: LaneIndex| TIERS[lane] <= TIERS[other] || self.gates[other] == Gate::Closed;
                    assert!(self.held.values().all(|(other, _)| first(*other)), "a less urgent job was started first");
                    self.running.push(handle);
                }
                Command::Release(handle, why) => {
                    let (lane, since) = self.held.remove(&handle).expect("released what was not held");
                    match why {
                        Why::Full => assert!(self.now - since >= Duration::from_millis(200), "released too early"),
                        Why::Closed => {
                            let closed = self.gates[lane] == Gate::Closed;
                            assert!(closed || !self.accepting || self.blocked || self.stopping, "released for no reason");
                        }
                    }
                }
            }
        }
        assert!(self.running.len() <= self.slots as usize, "more jobs run than there are slots");
        assert_eq!(self.intake.running() as usize, self.running.len());
        assert_eq!(self.intake.held(), self.held.len());
        assert!(self.held.is_empty() || self.running.len() == self.slots as usize, "a job waits beside a free slot");
        let overdue = self.held.values().any(|(_, since)| self.now - *since >= Duration::from_millis(200));
        assert!(!overdue, "a job is held too long");
        if may_pull(self) && self.running.len() < self.slots as usize && self.draining.is_empty() {
            self.check_pulls();
        }
        assert!(self.intake.wake_at().is_none_or(|at| at > self.now), "wants to be woken at once, for ever");
    }

    /// On standby with a call that is worth a pull, or with nobody who could call.
    fn is_wanted(&self, lane: LaneIndex) -> bool {
        let called = || self.called_until.get(&lane).is_some_and(|until| *until >= self.now + Duration::from_millis(200));
        match self.gates[lane] {
            Gate::Open => true,
            Gate::Standby => self.unled || called(),
            Gate::Closed => false,
        }
    }

    fn owes(&self, lane: LaneIndex) -> bool {
        self.owed.keys().any(|(l, _)| *l == lane)
    }

    /// A free slot: every lane that is wanted has a pull, unless it was refused or one of a higher or the same priority is hot.
    fn check_pulls(&self) {
        let asked = |lane| self.owes(lane);
        for (lane, tier) in TIERS.iter().enumerate() {
            let refused = self.refused_until.get(&lane).is_some_and(|until| *until > self.now);
            let behind = (0..LANES).any(|other| other != lane && TIERS[other] <= *tier && self.intake.lanes[other].hot && asked(other));
            assert!(asked(lane) || refused || behind || !self.is_wanted(lane), "a free slot, and lane {lane} is not pulled");
        }
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Give(lane) => {
                let Some((key, pulls)) = self.owed.iter_mut().find(|((l, _), _)| *l == lane) else { return };
                let key = *key;
                pulls[0].1 -= 1;
                pulls.retain(|(_, left)| *left > 0);
                self.owed.retain(|_, pulls| !pulls.is_empty());
                assert!(self.connected, "gave to {key:?} without a connection");
                let handle = self.next;
                self.next += 1;
                self.held.insert(handle, (lane, self.now));
                self.refused_until.remove(&lane);
                self.apply(vec![Event::Arrived { lane, handle }]);
            }
            Op::Free => {
                if self.running.pop().is_some() {
                    self.apply(vec![Event::SlotFreed]);
                }
            }
            Op::Expire(lane) | Op::Refuse(lane) => {
                let Some(key) = self.owed.keys().find(|key| key.0 == lane && !self.draining.contains(key)).copied() else { return };
                let pending = self.owed.remove(&key).unwrap().iter().map(|(_, n)| n).sum();
                let event = if matches!(op, Op::Expire(_)) {
                    self.refused_until.remove(&lane);
                    Event::Expired { lane, epoch: key.1, pending }
                } else {
                    self.refused_until.insert(lane, self.now + Duration::from_secs(30));
                    Event::Refused { lane, epoch: key.1, why: Refusal::Busy }
                };
                self.apply(vec![event]);
            }
            Op::Miss => {
                let Some(key) = self.owed.keys().find(|key| key.0 == 0 && !self.draining.contains(key)).copied() else { return };
                self.owed.remove(&key);
                if !self.told {
                    self.refused_until.insert(0, self.now + Duration::from_secs(60));
                }
                self.apply(vec![Event::Refused { lane: 0, epoch: key.1, why: Refusal::Missing }]);
            }
            Op::Commands => {
                self.told = true;
                self.refused_until.remove(&0);
                self.apply(vec![Event::Commands]);
            }
            Op::FinishDrain(lane) => {
                let Some(key) = self.draining.iter().find(|(l, _)| *l == lane).copied() else { return };
                self.draining.remove(&key);
                self.owed.remove(&key);
                self.refused_until.remove(&lane);
                self.apply(vec![Event::Drained { lane, epoch: key.1 }]);
            }
            Op::Pass(ms) => {
                self.now += Duration::from_millis(ms);
                // The broker ends what has expired; no drain takes this long.
                let mut events = Vec::new();
                if ms >= 10_000 {
                    for (lane, epoch) in std::mem::take(&mut self.draining) {
                        self.owed.remove(&(lane, epoch));
                        events.push(Event::Drained { lane, epoch });
                    }
                }
                for ((lane, epoch), pulls) in &mut self.owed {
                    for (_, pending) in pulls.extract_if(.., |(until, _)| *until <= self.now) {
                        if !self.draining.contains(&(*lane, *epoch)) {
                            events.push(Event::Expired { lane: *lane, epoch: *epoch, pending });
                        }
                    }
                }
                self.owed.retain(|_, pulls| !pulls.is_empty());
                self.apply(events);
                self.apply(vec![Event::Tick]);
            }
            Op::Standing(accepting, priority) => {
                self.accepting = accepting;
                self.apply(vec![Event::Standing { accepting, priority }]);
            }
            Op::Block(blocked) => {
                self.blocked = blocked;
                self.apply(vec![Event::Blocked(blocked)]);
            }
            Op::Gates(mut gates) => {
                gates[0] = Gate::Open;
                self.gates.clone_from(&gates);
                self.apply(vec![Event::Gates(gates)]);
            }
            Op::CallUp(lanes, ms) => {
                let until = self.now + Duration::from_millis(ms);
                for lane in (0..LANES).filter(|lane| lanes[*lane]) {
                    let ends = self.called_until.entry(lane).or_insert(until);
                    *ends = until.max(*ends);
                }
                self.apply(vec![Event::CallUp { lanes, until }]);
            }
            Op::Unled(unled) => {
                self.unled = unled;
                self.apply(vec![Event::Unled(unled)]);
            }
            Op::StepBack => self.apply(vec![Event::StepBack]),
            Op::Shutdown => {
                self.stopping = true;
                self.apply(vec![Event::Shutdown]);
            }
            Op::Disconnect | Op::Reconnect => {
                let mut events = vec![Event::Disconnected];
                self.owed.clear();
                self.draining.clear();
                self.refused_until.clear();
                self.told = false;
                self.connected = matches!(op, Op::Reconnect);
                if self.connected {
                    events.push(Event::Connected);
                }
                self.apply(events);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_job_is_forgotten_and_no_rule_is_broken(slots in 1..8u32, ops in prop::collection::vec(op(), 1..300)) {
        let mut world = World {
            intake: Intake::new(Settings::new(slots), TIERS, 5),
            now: Instant::now(),
            slots,
            owed: BTreeMap::new(),
            draining: HashSet::new(),
            running: Vec::new(),
            held: BTreeMap::new(),
            next: 0,
            accepting: true,
            blocked: false,
            connected: true,
            stopping: false,
            refused_until: BTreeMap::new(),
            told: false,
            gates: vec![Gate::Open; LANES],
            called_until: BTreeMap::new(),
            unled: false,
        };
        world.apply(vec![Event::Connected]);
        for op in ops {
            world.perform(op);
        }
        // Each job that came ends in a start or a release, however it is left.
        world.perform(Op::Disconnect);
        world.perform(Op::Pass(1000));
        while !world.running.is_empty() {
            world.perform(Op::Free);
        }
        prop_assert!(world.held.is_empty());
    }
}
