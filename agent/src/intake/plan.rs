//! How free slots become pull requests, and a full agent gives back what it can't run.

use std::time::Instant;

use super::{Command, Intake};

impl Intake {
    /// When to come back with [`super::Event::Tick`] if nothing else happens before.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let lanes = self.lanes.iter().filter_map(|lane| lane.wake_at(self.settings.patience));
        let lasting = self.lanes.iter().any(|lane| lane.credits() > 0 && !lane.is_draining());
        let full = self.full_since.filter(|_| lasting).map(|since| since + self.settings.hold);
        // While lanes are being drained there is nothing to do but wait for them.
        let releasable = self.held.iter().filter(|_| !self.is_draining()).map(|job| job.since + self.settings.hold);
        lanes.chain(full).chain(releasable).min()
    }

    pub(super) fn plan(&mut self, now: Instant, commands: &mut Vec<Command>) {
        for lane in &mut self.lanes {
            lane.tick(self.settings.patience, now);
        }
        if !self.may_pull() {
            if self.connected {
                self.drain_all(commands);
            }
        } else if self.running < self.settings.slots {
            self.pull(now, commands);
        } else if self.full_since.is_some_and(|since| now.saturating_duration_since(since) >= self.settings.hold) {
            self.drain_all(commands);
        }
        self.release(now, commands);
    }

    fn may_pull(&self) -> bool {
        self.connected && self.accepting && !self.blocked && !self.stopping
    }

    fn is_draining(&self) -> bool {
        self.lanes.iter().any(super::Lane::is_draining)
    }

    /// Tops up the lanes, the most urgent first.
    fn pull(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let free = self.settings.slots.saturating_sub(self.running);
        let mut order: Vec<usize> = (0..self.lanes.len()).collect();
        let count = order.len();
        let turn = self.turn;
        // Lanes of one priority take turns; `turn` only matters between those that are hot.
        order.sort_by_key(|index| (self.lanes.get(*index).map_or(u8::MAX, |lane| lane.tier), (index + count - turn.min(count)) % count.max(1)));
        let mut hot_tier = None;
        for index in order {
            let Some(tier) = self.lanes.get(index).map(|lane| lane.tier) else { continue };
            // Hot lanes are expected to answer, so those of one priority ask for no more than is free between them.
            let rivals = self.lanes.iter().filter(|lane| lane.hot && lane.tier == tier);
            let shared = free.saturating_sub(rivals.map(super::Lane::credits).sum());
            let Some(lane) = self.lanes.get_mut(index) else { continue };
            if hot_tier.is_some_and(|tier| tier < lane.tier) {
                break;
            }
            if lane.hot {
                hot_tier = Some(lane.tier);
            }
            let missing = free.saturating_sub(lane.credits());
            let batch = if lane.hot { missing.min(shared) } else { missing };
            // Asking again only when half is gone keeps the number of waiting pulls, and of messages, small.
            if batch == 0 || lane.credits() * 2 > free || !lane.is_open(now) {
                continue;
            }
            if lane.hot {
                self.turn = (index + 1) % count.max(1);
            }
            lane.pulled(batch, self.settings.expires, now);
            commands.push(Command::Pull { lane: index, epoch: lane.epoch, batch, priority: self.priority });
        }
    }

    /// Gives back what was held too long, once the broker can no longer send it straight back to us.
    fn release(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let due = |since: Instant| self.stopping || now.saturating_duration_since(since) >= self.settings.hold;
        let overdue = self.held.iter().filter(|job| due(job.since)).cloned().collect::<Vec<_>>();
        if overdue.is_empty() {
            return;
        }
        self.drain_all(commands);
        if self.is_draining() {
            return;
        }
        for job in overdue {
            self.held.remove(&job);
            commands.push(Command::Release(job.handle));
        }
    }
}
