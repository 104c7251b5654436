//! What a watcher of a job is told over REST, as Server-Sent Events: `state`, `progress` and `log` events, and a last one named `end`, whose
//! data is the [`JobView`](super::JobView) with its result. The data of a `log` event is a [`LogView`](super::LogView).

use serde::{Deserialize, Serialize};

use crate::{event::EventKind, log::Progress, time::Timestamp};

use super::JobView;

/// What changed a job's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The broker stored it in its pool's queue.
    Queued,
    /// An agent told of it.
    #[serde(untagged)]
    Told(EventKind),
}

/// A job just after a change of its state: the data of a `state` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StateView {
    /// What happened: `queued`, or the word of the agent's event, such as `started` or `released`.
    pub change: Change,
    /// When.
    pub at: Timestamp,
    /// The job as it was then.
    #[serde(flatten)]
    pub job: JobView,
}

/// How far an attempt says it is: the data of a `progress` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ProgressView {
    /// Its place in the stored log.
    pub seq: u64,
    /// The attempt that says so.
    pub attempt: u32,
    /// When it said so.
    pub at: Timestamp,
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_change_is_one_word() {
        for (change, word) in [(Change::Queued, "\"queued\""), (Change::Told(EventKind::Retrying), "\"retrying\"")] {
            assert_eq!(serde_json::to_string(&change).unwrap(), word);
            assert_eq!(serde_json::from_str::<Change>(word).unwrap(), change);
        }
    }
}
