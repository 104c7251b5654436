//! What the broker says of a stream or a consumer, as far as is needed here.

use muster_schemas::time::Timestamp;
use serde::Deserialize;

/// A stream, as far as is needed here.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StreamInfo {
    /// When it was made: tells a stream from a later one of the same name.
    pub(crate) created: Timestamp,
    /// The broker's clock when it answered.
    pub(crate) ts: Option<Timestamp>,
    pub(crate) state: StreamState,
}

/// What a stream holds.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct StreamState {
    pub(crate) messages: u64,
    pub(crate) last_seq: u64,
    pub(crate) consumer_count: u64,
}

/// A consumer, as far as is needed here.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ConsumerInfo {
    /// Not given out yet.
    pub(crate) num_pending: u64,
    /// Given out and not acked.
    pub(crate) num_ack_pending: u64,
    /// Pulls that wait for a message.
    #[serde(default)]
    pub(crate) num_waiting: u64,
    /// Whether it gives out nothing for now.
    #[serde(default)]
    pub(crate) paused: bool,
    pub(crate) config: ConsumerLimits,
    /// Of those, given out more than once.
    pub(crate) num_redelivered: u64,
}

/// What a consumer's settings allow.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct ConsumerLimits {
    /// The most that may be given out and not acked; nothing, or less than one, is no limit.
    #[serde(default)]
    pub(crate) max_ack_pending: i64,
}
