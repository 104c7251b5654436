//! Where a message that a consumer was given stands in its stream.

use async_nats::jetstream;
use muster_schemas::time::Timestamp;

/// Where a message stands in its stream, from the subject that its acknowledgement would go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    /// When the broker stored it.
    pub(crate) stored: Timestamp,
    /// How many the consumer has after it.
    pub(crate) pending: u64,
    /// Its number in what the consumer gave out.
    pub(crate) number: u64,
}

/// Reads a message's place. `None` when it did not come from a consumer.
pub(crate) fn place(message: &jetstream::Message) -> Option<Place> {
    let info = message.info().ok()?;
    let stored = Timestamp::from_nanos(i64::try_from(info.published.unix_timestamp_nanos()).ok()?);
    Some(Place { sequence: info.stream_sequence, stored, pending: info.pending, number: info.consumer_sequence })
}
