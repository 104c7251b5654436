//! Output and progress of a running job, in chunks.

use serde::{Deserialize, Serialize};

use crate::{
    result::Output,
    time::Timestamp,
    wire::{Body, V},
};

/// The most bytes of output in one chunk.
pub const CHUNK_LIMIT: usize = 16 * 1024;

/// Where output was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A note by Muster itself, such as that output was dropped.
    Note,
    /// How far the attempt says it is: a [`Progress`] as text.
    Progress,
}

/// A piece of a job's output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LogChunk {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// Its place among the chunks of that attempt, from 0.
    pub seq: u64,
    /// Where it was written to.
    pub stream: OutputStream,
    /// When it was read.
    pub at: Timestamp,
    /// The bytes, at most [`CHUNK_LIMIT`].
    pub data: Output,
}

impl Body for LogChunk {
    const LIMIT: usize = 64 * 1024;
}

/// How far an attempt says it is. In a chunk it is the text `<percent> <message>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// For a person; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Progress {
    /// As a chunk holds it.
    pub fn to_data(&self) -> Output {
        Output::from(format!("{} {}", self.percent, self.message).trim_end().as_bytes().to_vec())
    }

    /// From what a chunk holds. `None` when that is no progress.
    pub fn read(data: &Output) -> Option<Self> {
        let text = std::str::from_utf8(data.as_bytes()).ok()?;
        let (percent, message) = text.split_once(' ').unwrap_or((text, ""));
        let percent = percent.parse().ok().filter(|percent| *percent <= 100)?;
        Some(Self { percent, message: message.to_owned() })
    }
}

impl LogChunk {
    /// What it says if it is progress.
    pub fn progress(&self) -> Option<Progress> {
        (self.stream == OutputStream::Progress).then(|| Progress::read(&self.data))?
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::wire;

    #[test]
    fn progress_is_a_percentage_and_a_message() {
        for (percent, message) in [(0, ""), (42, "half of it"), (100, "ü 1 2")] {
            let progress = Progress { percent, message: message.into() };
            assert_eq!(Progress::read(&progress.to_data()), Some(progress));
        }
        for text in ["", " ", "101 x", "-1", "x 1", "1x", "256"] {
            assert_eq!(Progress::read(&Output::from(text.as_bytes().to_vec())), None, "{text:?}");
        }
    }

    #[test]
    fn a_chunk_keeps_bytes_that_are_not_text_and_is_pinned_by_a_golden_file() {
        let chunk = LogChunk {
            v: V,
            attempt: 1,
            seq: 0,
            stream: OutputStream::Stdout,
            at: Timestamp::from_secs(1_800_000_000),
            data: Output::from(vec![0xff, 0xfe, b'a']),
        };
        assert_eq!(wire::decode::<LogChunk>(&wire::encode(&chunk)).unwrap(), chunk);
        assert_eq!(wire::decode::<LogChunk>(&serde_json::to_vec(&chunk).unwrap()).unwrap(), chunk);
        crate::json::golden("log_chunk.msgpack.hex", &crate::json::hex(&wire::encode(&chunk)));
    }
}
