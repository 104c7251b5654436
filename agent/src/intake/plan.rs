//! How free slots become pull requests, and a full agent gives back what it can't run.

use std::time::{Duration, Instant};

use super::{Command, Intake};

impl Intake {
    /// When to come back with [`super::Event::Tick`] if nothing else happens before.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let hold = self.settings.hold;
        let lanes = self.lanes.iter().filter_map(|lane| lane.wake_at(self.settings.patience));
        let full = self.full_since.map(|since| since + hold);
        let withdrawals = self.lanes.iter().enumerate().filter(|_| self.connected).filter_map(|(index, lane)| {
            let quiet = lane.quiet_at(self.quiet(index));
            if lane.has_unwanted(!self.may_pull()) {
                quiet
            } else {
                full.filter(|_| lane.has_unwanted(true)).map(|full| quiet.map_or(full, |quiet| quiet.max(full)))
            }
        });
        // One that waits for its lane is looked at again when the lane is drained.
        let releases = self.held.iter().filter(|job| self.is_spent(job.lane)).map(|job| job.since + hold);
        lanes.chain(withdrawals).chain(releases).min()
    }

    pub(super) fn plan(&mut self, now: Instant, commands: &mut Vec<Command>) {
        for lane in &mut self.lanes {
            lane.tick(&self.settings, now);
        }
        let full = self.full_since.is_some_and(|since| now.saturating_duration_since(since) >= self.settings.hold);
        if self.connected {
            self.withdraw(full || !self.may_pull(), now, commands);
        }
        if self.may_pull() && self.running < self.settings.slots {
            self.pull(now, commands);
        }
        self.release(now, commands);
    }

    /// Drains lanes with credits that are no longer wanted, if they are quiet.
    fn withdraw(&mut self, all: bool, now: Instant, commands: &mut Vec<Command>) {
        let quiet: Vec<_> = (0..self.lanes.len()).map(|index| self.quiet(index)).collect();
        for (index, (lane, quiet)) in self.lanes.iter_mut().zip(quiet).enumerate() {
            if lane.has_unwanted(all) && lane.quiet_at(quiet).is_none_or(|at| at <= now) {
                commands.push(Command::Drain { lane: index, epoch: lane.drain() });
            }
        }
    }

    /// How long a lane must have been quiet before it is drained: not long if a job waits for it to be.
    fn quiet(&self, lane: super::LaneIndex) -> Duration {
        let settled = self.may_pull() && self.held.iter().all(|job| job.lane != lane);
        if settled { self.settings.settled } else { self.settings.hold }
    }

    fn may_pull(&self) -> bool {
        self.connected && self.accepting && !self.blocked && !self.stopping
    }

    /// Whether the broker owes nothing of a lane, so that it can't send a job straight back to us.
    fn is_spent(&self, lane: super::LaneIndex) -> bool {
        self.lanes.get(lane).is_none_or(|lane| lane.credits() == 0 && !lane.is_draining())
    }

    /// Tops up the lanes, the most urgent first.
    fn pull(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let free = self.settings.slots.saturating_sub(self.running);
        let mut order: Vec<usize> = (0..self.lanes.len()).collect();
        let count = order.len();
        let turn = self.turn;
        // Lanes of one priority take turns; `turn` only matters between those that are hot.
        order.sort_by_key(|index| {
            (self.lanes.get(*index).map_or(u8::MAX, |lane| lane.tier), (index + count - turn.min(count)) % count.max(1))
        });
        let mut hot_tier = None;
        for index in order {
            let Some(tier) = self.lanes.get(index).map(|lane| lane.tier) else { continue };
            // Hot lanes are expected to answer, so those of one priority ask for no more than is free between them.
            let rivals = self.lanes.iter().filter(|lane| lane.hot && lane.tier == tier);
            let shared = free.saturating_sub(rivals.map(super::Lane::counted).sum());
            let Some(lane) = self.lanes.get_mut(index) else { continue };
            if hot_tier.is_some_and(|tier| tier < lane.tier) {
                break;
            }
            if lane.hot {
                hot_tier = Some(lane.tier);
            }
            let goal = lane.goal(free);
            let missing = goal.saturating_sub(lane.counted());
            let batch = if lane.hot { missing.min(shared) } else { missing };
            // Asking again only when half is gone keeps the number of waiting pulls, and of messages, small.
            if batch == 0 || lane.counted() * 2 > goal || !lane.is_open(now) {
                continue;
            }
            if lane.hot {
                self.turn = (index + 1) % count.max(1);
            }
            lane.pulled(batch, self.settings.expires, now);
            commands.push(Command::Pull { lane: index, epoch: lane.epoch, batch, priority: self.priority });
        }
    }

    /// Gives back what was held too long.
    fn release(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let due = |since: Instant| self.stopping || now.saturating_duration_since(since) >= self.settings.hold;
        let overdue: Vec<_> = self.held.iter().filter(|job| due(job.since) && self.is_spent(job.lane)).cloned().collect();
        for job in overdue {
            self.held.remove(&job);
            commands.push(Command::Release(job.handle));
        }
    }
}
