//! Output of a running job, in chunks.

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::wire;

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
