//! Walking through a stream by sequence, newest first or oldest first, and removing single messages. No consumer is made for it.
//!
//! The broker reads forwards only. Backwards is in windows: each is read forwards from its lower end. Where messages are missing, windows grow,
//! so that a stream of which little is left costs few requests.

use async_nats::Client;
use muster_schemas::{headers, subjects::broker::StreamApi, time::Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Get, StoreError, Stored, call, several};

/// Messages read at once. A dead letter has up to 320 KiB, so a window has at most 10 MiB.
pub(crate) const WINDOW: usize = 32;

/// The oldest and the newest sequence of a stream.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Ends {
    #[serde(rename = "first_seq")]
    pub(crate) first: u64,
    #[serde(rename = "last_seq")]
    pub(crate) last: u64,
}

/// The ends of a stream.
pub(crate) async fn ends(client: &Client, stream: &str) -> Result<Ends, StoreError> {
    let info = call(client, StreamApi::Info.subject(stream), &json!({})).await?;
    let state = info.and_then(|mut info| info.get_mut("state").map(Value::take)).ok_or_else(|| StoreError::NoStream(stream.into()))?;
    Ends::deserialize(state).map_err(|error| StoreError::Answer(error.to_string()))
}

/// The sequence of the first message that was stored at or after a time. `None` when there is none so young.
pub(crate) async fn first_since(client: &Client, stream: &str, filter: &str, at: Timestamp) -> Result<Option<u64>, StoreError> {
    let get = Get { next_by_subj: Some(filter), start_time: Some(at), batch: Some(1), ..Get::default() };
    Ok(several(client, stream, get).await?.first().map(|stored| stored.sequence))
}

/// How many messages that match `filter` lie behind the first one at or after `sequence`. `None` when there is none at all.
pub(crate) async fn behind(client: &Client, stream: &str, filter: &str, sequence: u64) -> Result<Option<u64>, StoreError> {
    let first = super::from(client, stream, filter, sequence, 1).await?;
    Ok(first.first().map(|stored| pending(stored).unwrap_or(0)))
}

/// How many messages matched behind this one when it was read.
pub(crate) fn pending(stored: &Stored) -> Option<u64> {
    stored.headers.get_last(headers::PENDING)?.as_str().parse().ok()
}

/// Removes one message. One that is not there is removed already.
pub(crate) async fn delete(client: &Client, stream: &str, stored: &Stored) -> Result<(), StoreError> {
    let sequence = stored.sequence;
    // Without overwriting it on disk, which costs a flush: nothing in the stream is a secret.
    let removed = call(client, StreamApi::MessageDelete.subject(stream), &json!({"seq": sequence, "no_erase": true})).await;
    match removed {
        // The broker has several words for a message that is gone, or goes at this moment; so the stream itself is asked.
        Err(error @ StoreError::Answer(_)) => {
            let there = super::from(client, stream, &stored.subject, sequence, 1).await?;
            if there.iter().any(|there| there.sequence == sequence) { Err(error) } else { Ok(()) }
        }
        other => other.map(drop),
    }
}

/// A walk from a place in a stream towards its beginning.
#[derive(Debug)]
pub(crate) struct Backwards {
    /// The lowest sequence that it goes to.
    first: u64,
    /// The highest one that was not looked at.
    next: u64,
    /// Sequences in the next window.
    size: u64,
    /// Messages read at once.
    window: usize,
}

impl Backwards {
    /// From below `before` on, or from the newest.
    pub(crate) fn new(ends: Ends, before: Option<u64>) -> Self {
        Self::in_windows(ends, before, WINDOW)
    }

    /// The same, with so many messages read at once.
    pub(crate) fn in_windows(ends: Ends, before: Option<u64>, window: usize) -> Self {
        let next = before.map_or(ends.last, |before| before.saturating_sub(1).min(ends.last));
        Self { first: ends.first.max(1), next, size: window as u64, window }
    }

    /// Whether nothing is left to look at.
    pub(crate) fn is_over(&self) -> bool {
        self.next < self.first
    }

    /// Below which sequence to go on.
    pub(crate) fn before(&self) -> u64 {
        self.next.saturating_add(1)
    }

    /// The next messages that match, newest first; at most a window's, and perhaps none although the walk is not over.
    pub(crate) async fn step(&mut self, client: &Client, stream: &str, filter: &str) -> Result<Vec<Stored>, StoreError> {
        if self.is_over() {
            return Ok(Vec::new());
        }
        let lowest = self.lowest();
        let mut found = super::from(client, stream, filter, lowest, self.window).await?;
        found.retain(|stored| stored.sequence <= self.next);
        let last = found.last().map_or(0, |stored| stored.sequence);
        if !self.take(lowest, found.len(), last) {
            return Ok(Vec::new());
        }
        found.reverse();
        Ok(found)
    }

    fn lowest(&self) -> u64 {
        self.next.saturating_sub(self.size - 1).max(self.first)
    }

    /// Notes what a window had, and says whether that was all of it.
    fn take(&mut self, lowest: u64, found: usize, last: u64) -> bool {
        if found >= self.window && last < self.next {
            // There may be more in it than was read.
            self.size = (self.size / 2).max(self.window as u64);
            return false;
        }
        self.next = lowest.saturating_sub(1);
        self.size = if found == 0 { self.size.saturating_mul(2) } else { self.window as u64 };
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a walk finds in a stream of these sequences, and in how many steps.
    fn walk(sequences: &[u64], before: Option<u64>) -> (Vec<u64>, usize) {
        let (Some(first), Some(last)) = (sequences.first().copied(), sequences.last().copied()) else { return (Vec::new(), 0) };
        let mut walk = Backwards::new(Ends { first, last }, before);
        let (mut seen, mut steps) = (Vec::new(), 0);
        while !walk.is_over() {
            let lowest = walk.lowest();
            let mut found: Vec<u64> = sequences.iter().copied().filter(|sequence| *sequence >= lowest).take(WINDOW).collect();
            found.retain(|sequence| *sequence <= walk.next);
            if walk.take(lowest, found.len(), found.last().copied().unwrap_or(0)) {
                seen.extend(found.into_iter().rev());
            }
            steps += 1;
        }
        (seen, steps)
    }

    proptest! {
        #[test]
        fn a_walk_backwards_sees_each_message_once_newest_first(
            gaps in prop::collection::vec(prop_oneof![8 => 1..3_u64, 1 => 1..5_000_u64], 0..300),
            before in prop::option::of(0..10_000_u64),
        ) {
            let sequences: Vec<u64> = gaps.iter().scan(0, |last, gap| { *last += gap; Some(*last) }).collect();
            let mut expected: Vec<u64> = sequences.iter().copied().filter(|at| before.is_none_or(|before| *at < before)).collect();
            expected.reverse();
            prop_assert_eq!(walk(&sequences, before).0, expected);
        }
    }

    #[test]
    fn what_is_missing_costs_few_requests() {
        let (seen, steps) = walk(&[1, 1_000_000_000], None);
        assert_eq!(seen, [1_000_000_000, 1]);
        assert!(steps < 64, "{steps}");
    }
}
