//! How far a watcher is: the last sequence told of each stream, which is also the id of an event, `<EVENTS>-<LOGS>`; the last event's id has
//! `-end` behind it.

use std::fmt;

use axum::http::HeaderMap;
use muster_schemas::code::Code;

use crate::problem::ApiError;

/// The header with which a watcher says where it was.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";
/// Marks the id of the last event.
const END: &str = "-end";

/// A message's place in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Among the state changes.
    Event(u64),
    /// Among the output.
    Log(u64),
}

/// The last sequence told of each stream; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    pub(super) events: u64,
    pub(super) logs: u64,
}

impl Position {
    /// Whether the message there was told.
    pub(super) fn covers(self, place: Place) -> bool {
        match place {
            Place::Event(sequence) => sequence <= self.events,
            Place::Log(sequence) => sequence <= self.logs,
        }
    }

    /// The position once the message there was told, too.
    pub(super) fn with(self, place: Place) -> Self {
        match place {
            Place::Event(sequence) => Self { events: self.events.max(sequence), ..self },
            Place::Log(sequence) => Self { logs: self.logs.max(sequence), ..self },
        }
    }

    /// The farther one of each stream.
    pub(super) fn max(self, other: Self) -> Self {
        Self { events: self.events.max(other.events), logs: self.logs.max(other.logs) }
    }

    /// Whether it is at least as far in both streams.
    pub(super) fn reaches(self, other: Self) -> bool {
        self.events >= other.events && self.logs >= other.logs
    }

    /// The id of the last event, told from here.
    pub(super) fn end(self) -> String {
        format!("{self}{END}")
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.events, self.logs)
    }
}

/// Where a watcher asks to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct From {
    pub(super) position: Position,
    /// It has seen the last event.
    pub(super) ended: bool,
}

impl From {
    /// From the header, or the query where there is none: a browser that reconnects repeats the query it began with.
    pub(super) fn asked(headers: &HeaderMap, after: Option<&str>) -> Result<Self, ApiError> {
        let (asked, code, what) = match (headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()), after) {
            (Some(id), _) => (id.to_str().ok().and_then(Self::read), Code::HeaderInvalid, "Last-Event-ID"),
            (None, Some(id)) => (Self::read(id), Code::QueryInvalid, "after"),
            (None, None) => return Ok(Self::default()),
        };
        asked.ok_or_else(|| ApiError::new(code, format!("{what} is no id of an event; it takes one as events have it, such as 12-40")))
    }

    fn read(id: &str) -> Option<Self> {
        let (position, ended) = id.strip_suffix(END).map_or((id, false), |position| (position, true));
        let (events, logs) = position.split_once('-')?;
        Some(Self { position: Position { events: number(events)?, logs: number(logs)? }, ended })
    }
}

/// Digits only: `parse` takes a sign as well.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_id_is_refused_where_it_was_given_and_the_header_goes_first() {
        let mut headers = HeaderMap::new();
        assert_eq!(From::asked(&headers, None).unwrap(), From::default());
        for text in ["", "1", "1-", "-1", "1-2-", "1-2-3", "+1-2", "1-2-END", "a-b", "99999999999999999999-1", "1--2", " 1-2"] {
            assert_eq!(From::asked(&headers, Some(text)).unwrap_err().code, Code::QueryInvalid, "{text:?}");
        }
        headers.insert(LAST_EVENT_ID, "".parse().unwrap());
        assert_eq!(From::asked(&headers, Some("1-2")).unwrap().position, Position { events: 1, logs: 2 });
        headers.insert(LAST_EVENT_ID, "3-4-end".parse().unwrap());
        assert_eq!(From::asked(&headers, Some("1-2")).unwrap(), From { position: Position { events: 3, logs: 4 }, ended: true });
        headers.insert(LAST_EVENT_ID, "x".parse().unwrap());
        assert_eq!(From::asked(&headers, Some("1-2")).unwrap_err().code, Code::HeaderInvalid);
    }

    proptest! {
        #[test]
        fn every_id_reads_back(events: u64, logs: u64) {
            let position = Position { events, logs };
            prop_assert_eq!(From::read(&position.to_string()), Some(From { position, ended: false }));
            prop_assert_eq!(From::read(&position.end()), Some(From { position, ended: true }));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = From::read(&text);
        }
    }
}
