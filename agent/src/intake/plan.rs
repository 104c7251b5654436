//! How free slots become pull requests, and how jobs that can't be run are given back.

use std::time::{Duration, Instant};

use super::{Command, Held, IDLE, Intake, Lane, PRIORITY_LAST, Why};

impl Intake {
    /// When to come back with [`super::Event::Tick`] if nothing else happens before.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let lanes = self.lanes.iter().filter_map(|lane| lane.wake_at(self.settings.patience));
        let releases = self.held.iter().map(|job| job.since + self.settings.hold);
        lanes.chain(releases).chain(self.drain_at).chain(self.back_until).min()
    }

    pub(super) fn plan(&mut self, now: Instant, commands: &mut Vec<Command>) {
        for lane in &mut self.lanes {
            lane.tick(&self.settings, now);
        }
        if self.back_until.is_some_and(|until| until <= now) {
            self.back_until = None;
            if self.priority < PRIORITY_LAST {
                self.lanes.iter_mut().for_each(Lane::promoted);
            }
        }
        if self.connected && self.may_run() && self.running < self.settings.slots {
            self.pull(now, commands);
        }
        self.drain_at = None;
        if self.connected && self.stopping {
            self.drain(now, commands);
        }
        self.release(now, commands);
    }

    /// Tops up the lanes, the most urgent first.
    fn pull(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let free = self.settings.slots.saturating_sub(self.running);
        let (count, turn) = (self.lanes.len().max(1), self.turn);
        let mut order: Vec<usize> = (0..self.lanes.len()).collect();
        // Lanes of one priority take turns; `turn` only matters between those that are hot.
        order.sort_by_key(|index| (self.lanes.get(*index).map_or(u8::MAX, |lane| lane.tier), (index + count - turn.min(count)) % count));
        let priority = if self.back_until.is_some() { PRIORITY_LAST } else { self.priority };
        let mut hot_tier = None;
        for index in order {
            let Some(tier) = self.lanes.get(index).map(|lane| lane.tier) else { continue };
            if hot_tier.is_some_and(|hot| hot < tier) {
                break;
            }
            // Hot lanes are expected to answer, so those of one priority ask for no more than is free between them.
            let rivals = self.lanes.iter().filter(|lane| lane.hot && lane.tier == tier);
            let shared = free.saturating_sub(rivals.map(Lane::counted).sum());
            let Some(lane) = self.lanes.get_mut(index) else { continue };
            if lane.hot {
                hot_tier = Some(tier);
            }
            let (goal, owed) = (lane.goal(free), lane.counted());
            let missing = goal.saturating_sub(owed);
            let batch = if lane.hot { missing.min(shared) } else { missing };
            // Asking again only when half is gone keeps the number of waiting pulls, and of messages, small.
            if batch == 0 || owed * 2 > goal || !lane.is_open(now) {
                continue;
            }
            if lane.hot {
                self.turn = (index + 1) % count;
            }
            let idle = self.arrived_at.is_none_or(|at| at + IDLE <= now);
            let expires = lane.expires(if idle && batch == 1 { self.settings.expires } else { self.settings.lapse }, now);
            lane.pulled(batch, expires, now);
            commands.push(Command::Pull { lane: index, epoch: lane.epoch, batch, priority, expires });
        }
    }

    /// Drains the lanes that are quiet; the others use up their credits by themselves.
    fn drain(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let hold = self.settings.hold;
        let mut waiting = false;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if !lane.is_quiet(hold, now) {
                waiting |= lane.credits() > 0;
            } else if let Some(epoch) = lane.drain() {
                commands.push(Command::Drain { lane: index, epoch });
            }
        }
        self.drain_at = waiting.then_some(now + DRAIN_LOOK);
    }

    /// Gives back what was held too long, or must not be held at all.
    fn release(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let may_run = self.may_run();
        let overdue = |job: &Held| match may_run && self.is_open(job.lane) {
            false => Some(Why::Closed),
            true => (now.saturating_duration_since(job.since) >= self.settings.hold).then_some(Why::Full),
        };
        let due: Vec<_> = self.held.iter().filter_map(|job| Some((job.clone(), overdue(job)?))).collect();
        for (job, why) in due {
            self.held.remove(&job);
            commands.push(Command::Release(job.handle, why));
        }
    }
}

/// How often an agent that shuts down looks whether its lanes are quiet.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
