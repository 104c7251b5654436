//! How a pool's limit on running jobs is divided over its lanes: pure, no broker, no clock.
//!
//! A lane's share is what its consumer may have out at once. What is out cannot be taken back, so a lane that has to give up something
//! uses more than its share until enough of its jobs have ended; only then others get it. At every step what lanes use together, that is
//! the larger of share and jobs out of each, is at most the limit. A job that was put off (a delayed NAK) is out: the broker gives it
//! out again whatever the share is by then, so it has to count.

use muster_schemas::lane::Priority;

/// What is known of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) priority: Priority,
    /// What it may have out now.
    pub(super) share: u64,
    /// Jobs that are out: running, or put off.
    pub(super) held: u64,
    /// Jobs that wait.
    pub(super) waiting: u64,
    /// When it was last seen giving out a job; a larger number is later.
    pub(super) served: u64,
}

impl Load {
    /// What it takes from the limit.
    pub(super) fn used(&self) -> u64 {
        self.share.max(self.held)
    }

    fn need(&self) -> u64 {
        self.held.saturating_add(self.waiting)
    }
}

/// How much more a lane of a priority gets than one of another, where both could use it.
fn weight(priority: Priority) -> u64 {
    match priority {
        Priority::High => 4,
        Priority::Normal => 2,
        Priority::Low => 1,
    }
}

/// The share of each lane, in their order; together never more than `limit`.
///
/// Each lane with jobs gets one first. Where there are too few for that, higher priorities come first, and among equals the one that was
/// not served for longest, so that they take turns. The rest goes to lanes that need it, by weight, and what nobody needs now is spread
/// over all, so that the next job need not wait for a division.
pub(super) fn divide(limit: u64, lanes: &[Load]) -> Vec<u64> {
    let mut order: Vec<(usize, &Load)> = lanes.iter().enumerate().filter(|(_, lane)| lane.need() > 0).collect();
    order.sort_by_key(|(_, lane)| (lane.priority, lane.served));
    let mut shares = vec![0; lanes.len()];
    let mut rest = limit;
    let mut give = |place: usize, most: u64, rest: &mut u64| {
        let given = most.min(*rest);
        *rest -= given;
        shares.get_mut(place).map_or(0, |share| {
            *share += given;
            *share
        })
    };
    for (place, _) in &order {
        give(*place, 1, &mut rest);
    }
    order.retain(|(_, lane)| lane.need() > 1);
    let mut short: Vec<(usize, &Load, u64)> = order.into_iter().map(|(place, lane)| (place, lane, 1)).collect();
    while rest > 0 && !short.is_empty() {
        let weights: u64 = short.iter().map(|(_, lane, _)| weight(lane.priority)).sum();
        let round = rest;
        for (place, lane, has) in &mut short {
            // At least one, the first ones first: so every round gives something, and less than all only where needs are met.
            let part = (round / weights).saturating_mul(weight(lane.priority)).max(1);
            *has = give(*place, part.min(lane.need() - *has), &mut rest);
        }
        short.retain(|(_, lane, has)| *has < lane.need());
    }
    let mut room: Vec<(usize, &Load)> = lanes.iter().enumerate().collect();
    // A lane that was used lately may well be used next; of those never used, most jobs are normal ones.
    room.sort_by_key(|(_, lane)| (std::cmp::Reverse(lane.served), lane.priority != Priority::Normal, lane.priority));
    let (each, odd) = (rest / lanes.len().max(1) as u64, rest % lanes.len().max(1) as u64);
    for (nth, (place, _)) in room.into_iter().enumerate() {
        give(place, each + u64::from((nth as u64) < odd), &mut rest);
    }
    shares
}

/// Opens lanes that are to have no share while jobs of theirs are out. The broker gives a job out again, after a delay or when its agent
/// was lost, only from a lane that is open; and that takes no more from the limit than the job does already.
pub(super) fn let_back(lanes: &[Load], shares: &mut [u64]) {
    for (lane, share) in lanes.iter().zip(shares) {
        *share = (*share).max(lane.held.min(1));
    }
}

/// Whether a lane could use more than it may and would get it by `shares`, or all use more than the limit: only then are shares changed,
/// since a change costs the broker a flush.
pub(super) fn is_due(limit: u64, lanes: &[Load], shares: &[u64]) -> bool {
    let total: u64 = lanes.iter().map(|lane| lane.share).sum();
    total > limit || lanes.iter().zip(shares).any(|(lane, share)| lane.share < (*share).min(lane.need()))
}

/// The lanes that must give up something, with the share that they keep.
pub(super) fn lowered<'a>(lanes: &'a [Load], shares: &'a [u64]) -> impl Iterator<Item = (usize, u64)> + 'a {
    lanes
        .iter()
        .zip(shares)
        .map(|(lane, share)| (lane.share, *share))
        .enumerate()
        .filter(|(_, (now, then))| then < now)
        .map(|(n, (_, then))| (n, then))
}

/// The lanes that may have more, with their new share: as much of it as nobody else uses. Lanes with jobs come first.
pub(super) fn raised(limit: u64, lanes: &[Load], shares: &[u64]) -> Vec<(usize, u64)> {
    let used: u64 = lanes.iter().map(Load::used).sum();
    let mut room = limit.saturating_sub(used);
    let mut wanting: Vec<(usize, &Load, u64)> = lanes
        .iter()
        .zip(shares)
        .enumerate()
        .filter(|(_, (lane, share))| **share > lane.share)
        .map(|(n, (lane, share))| (n, lane, *share))
        .collect();
    wanting.sort_by_key(|(_, lane, _)| (lane.waiting == 0, lane.priority, lane.served));
    let mut raised = Vec::new();
    for (place, lane, share) in wanting {
        let then = share.min(lane.used().saturating_add(room));
        room -= then.max(lane.held).saturating_sub(lane.used());
        if then > lane.share {
            raised.push((place, then));
        }
    }
    raised
}

#[cfg(test)]
mod tests;
