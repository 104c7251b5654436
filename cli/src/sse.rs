//! Server-Sent Events, read from the bytes of an answer however they are cut. Pure; who asks and asks again is `commands::job::events`.

use std::mem;

use anyhow::ensure;

/// The largest event. The largest that a gateway sends is a job's `end`, with at most some hundred KiB of output in it.
const EVENT_MAX: usize = 16 * 1024 * 1024;

/// An event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Where a stream goes on that broke off behind it.
    pub(crate) id: Option<String>,
    /// What it is.
    pub(crate) name: String,
    /// What it says.
    pub(crate) data: String,
}

/// What has come of a stream and is not an event yet.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    line: Vec<u8>,
    event: Event,
}

impl Reader {
    /// The events that are complete with these bytes.
    ///
    /// # Errors
    /// An event is too large.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            ensure!(self.line.len() + self.event.data.len() <= EVENT_MAX, "an event of the gateway is larger than {EVENT_MAX} bytes");
            if self.line.ends_with(b"\n") {
                let line = mem::take(&mut self.line);
                events.extend(self.take(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])));
            }
        }
        Ok(events)
    }

    /// Takes a line; an empty one ends an event. Comments and fields that nobody here needs are left out.
    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            return Some(mem::take(&mut self.event)).filter(|event| !event.data.is_empty());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.event.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    const STREAM: &str = "retry: 1000\n\nid: 1-0\nevent: state\ndata: {\"a\": 1}\n\n: still here\n\nid: 1-2\nevent: log\ndata: \u{fc}\r\ndata:b\r\n\r\nid: 9";

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let whole = Reader::default().read(STREAM.as_bytes()).unwrap();
        let event = |id: &str, name: &str, data: &str| Event { id: Some(id.into()), name: name.into(), data: data.into() };
        assert_eq!(whole, [event("1-0", "state", "{\"a\": 1}"), event("1-2", "log", "\u{fc}\nb")]);
        for size in 1..STREAM.len() {
            let mut reader = Reader::default();
            let cut: Vec<_> = STREAM.as_bytes().chunks(size).flat_map(|part| reader.read(part).unwrap()).collect();
            assert_eq!(cut, whole, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_an_end_does_not_fill_the_memory() {
        let mut reader = Reader::default();
        let part = vec![b'x'; EVENT_MAX / 2];
        assert!(reader.read(&part).is_ok());
        assert!(reader.read(&part).is_ok());
        assert!(reader.read(b"x").is_err());
    }
}
