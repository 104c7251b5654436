//! What is stored of a job behind a position: messages of both streams as one list, in the order in which they were stored.

use muster_schemas::topology::{EVENTS, LOGS};

use super::{
    position::Position,
    show::{Item, Watched},
};
use crate::{
    app::App,
    stored::{self, StoreError},
};

/// State changes read at once: all that are kept of a job.
const EVENTS_AT_ONCE: usize = 64;
/// Chunks of output read at once, of at most 16 KiB: what one watcher that catches up holds in memory is at most 1 MiB.
const LOGS_AT_ONCE: usize = 64;

/// Part of what is stored.
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// Whether there is more behind it.
    pub(super) more: bool,
}

/// The next part behind a position.
pub(super) async fn read(app: &App, job: &Watched, position: Position) -> Result<Page, StoreError> {
    let (events, logs) = tokio::try_join!(
        stored::from(&app.nats, EVENTS, &job.events, position.events.saturating_add(1), EVENTS_AT_ONCE),
        stored::from(&app.nats, LOGS, &job.logs, position.logs.saturating_add(1), LOGS_AT_ONCE),
    )?;
    let events = Part { full: events.len() >= EVENTS_AT_ONCE, items: events.iter().map(|stored| job.event(stored)).collect() };
    let logs = Part { full: logs.len() >= LOGS_AT_ONCE, items: logs.iter().map(|stored| job.log(stored)).collect() };
    Ok(merge(events, logs))
}

/// Messages of one stream.
struct Part {
    items: Vec<Item>,
    /// Whether there may be more behind them.
    full: bool,
}

/// Both by the time of storing; within a stream by its own order, whatever the clock did. Where there is more of one stream, messages of
/// the other one that are newer than all of this part are left for later.
fn merge(events: Part, logs: Part) -> Page {
    let more = events.full || logs.full;
    let last = |part: &Part| part.full.then(|| part.items.last().map(|item| item.at)).flatten();
    let until = last(&events).into_iter().chain(last(&logs)).min();
    let mut items = Vec::with_capacity(events.items.len() + logs.items.len());
    let (mut events, mut logs) = (events.items.into_iter().peekable(), logs.items.into_iter().peekable());
    loop {
        let next = match (events.peek(), logs.peek()) {
            (Some(event), Some(log)) if log.at < event.at => logs.next(),
            (Some(_), _) => events.next(),
            (None, _) => logs.next(),
        };
        // A clock that goes back must not make a part empty: what was taken up to here is a beginning of each stream in any case.
        match next {
            Some(item) if items.is_empty() || until.is_none_or(|until| item.at <= until) => items.push(item),
            _ => return Page { items, more },
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_schemas::time::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::jobs::watch::{position::Place, show::sample};

    fn part(places: impl Iterator<Item = (Place, i64)>, full: bool) -> Part {
        let item = |(place, at)| {
            let mut item = sample(place, 1);
            item.at = Timestamp::from_secs(at);
            item
        };
        Part { items: places.map(item).collect(), full }
    }

    fn places(events: &[i64], logs: &[i64], full: (bool, bool)) -> Vec<Place> {
        let numbered = |times: &[i64]| (1..).zip(times.to_vec());
        let events = part(numbered(events).map(|(sequence, at)| (Place::Event(sequence), at)), full.0);
        let logs = part(numbered(logs).map(|(sequence, at)| (Place::Log(sequence), at)), full.1);
        merge(events, logs).items.into_iter().map(|item| item.place).collect()
    }

    #[test]
    fn both_streams_are_told_in_the_order_of_storing() {
        use Place::{Event, Log};
        assert_eq!(places(&[1, 5], &[2, 3, 9], (false, false)), [Event(1), Log(1), Log(2), Event(2), Log(3)]);
        // There is more output: an event that may come behind it waits.
        assert_eq!(places(&[1, 5], &[2, 3], (false, true)), [Event(1), Log(1), Log(2)]);
    }

    proptest! {
        #[test]
        fn whatever_the_clock_a_part_goes_forward_without_a_gap(
            events in prop::collection::vec(0..20_i64, 0..8),
            logs in prop::collection::vec(0..20_i64, 0..8),
            full: (bool, bool),
        ) {
            let told = places(&events, &logs, full);
            let of = |wanted: fn(&Place) -> Option<u64>| told.iter().filter_map(wanted).collect::<Vec<_>>();
            let told_events = of(|place| match place { Place::Event(sequence) => Some(*sequence), Place::Log(_) => None });
            let told_logs = of(|place| match place { Place::Log(sequence) => Some(*sequence), Place::Event(_) => None });
            prop_assert!(told_events.iter().copied().eq(1..=told_events.len() as u64));
            prop_assert!(told_logs.iter().copied().eq(1..=told_logs.len() as u64));
            prop_assert_eq!(told.is_empty(), events.is_empty() && logs.is_empty());
            if full == (false, false) {
                prop_assert_eq!(told.len(), events.len() + logs.len());
            }
        }
    }
}
