//! Output of running jobs on its way to the stream of logs: bounded, in order, and never a reason for a job to wait.
//!
//! What finds no room is dropped and counted; the next chunk that goes through is preceded by a note that says how much is missing.

use bytes::Bytes;
use muster_runtime::{metrics::Counter, shutdown::Shutdown};
use muster_schemas::{
    log::{CHUNK_LIMIT, LogChunk, OutputStream},
    names::{JobId, PoolName},
    result::Output,
    subjects::About,
    time::Timestamp,
    wire::{self, V},
};
use tokio::sync::mpsc;

use crate::{
    executors::{Chunk, Progress, Update},
    js::Js,
};

/// Chunks of all jobs that may wait: 128 × 16 KiB = 2 MiB.
const QUEUE: usize = 128;

#[derive(Debug)]
struct Line {
    subject: String,
    body: Bytes,
}

/// The way to the stream of logs; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    queue: mpsc::Sender<Line>,
    dropped: Counter,
}

/// The log of one attempt.
#[derive(Debug)]
pub(crate) struct AttemptLog {
    logs: Logs,
    subject: String,
    attempt: u32,
    seq: u64,
    /// Bytes dropped since the last chunk that went through.
    missing: u64,
}

impl Logs {
    /// The queue, and what empties it.
    pub(crate) fn new(js: Js, dropped: Counter) -> (Self, Forwarder) {
        let (queue, lines) = mpsc::channel(QUEUE);
        (Self { queue, dropped }, Forwarder { js, lines })
    }

    /// The log of an attempt.
    pub(crate) fn attempt(&self, pool: &PoolName, id: &JobId, attempt: u32) -> AttemptLog {
        AttemptLog { logs: self.clone(), subject: About::Log.job(pool, id), attempt, seq: 0, missing: 0 }
    }
}

impl AttemptLog {
    /// Passes on what an executor says.
    pub(crate) fn take(&mut self, update: Update) {
        match update {
            Update::Output(Chunk { stream, bytes, skipped }) => {
                self.missing = self.missing.saturating_add(skipped);
                if !bytes.is_empty() {
                    self.write(stream.into(), &bytes);
                }
            }
            Update::Progress(Progress { percent, message }) => {
                self.write(OutputStream::Note, format!("progress {percent} % {message}").trim_end().as_bytes());
            }
        }
    }

    /// Says what is still missing; the attempt has ended.
    pub(crate) fn close(mut self) {
        self.note_missing();
    }

    fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        for piece in bytes.chunks(CHUNK_LIMIT) {
            if !self.note_missing() || !self.send(stream, piece) {
                self.missing = self.missing.saturating_add(piece.len() as u64);
                self.logs.dropped.inc_by(piece.len() as f64);
            }
        }
    }

    /// True when nothing is missing any more.
    fn note_missing(&mut self) -> bool {
        if self.missing > 0 && self.send(OutputStream::Note, format!("{} bytes of output are missing here", self.missing).as_bytes()) {
            self.missing = 0;
        }
        self.missing == 0
    }

    fn send(&mut self, stream: OutputStream, bytes: &[u8]) -> bool {
        let chunk =
            LogChunk { v: V, attempt: self.attempt, seq: self.seq, stream, at: Timestamp::now(), data: Output::from(bytes.to_vec()) };
        let sent = self.logs.queue.try_send(Line { subject: self.subject.clone(), body: wire::encode(&chunk).into() }).is_ok();
        self.seq += u64::from(sent);
        sent
    }
}

/// What empties the queue.
#[derive(Debug)]
pub(crate) struct Forwarder {
    js: Js,
    lines: mpsc::Receiver<Line>,
}

impl Forwarder {
    /// Forwards for ever. While the broker is away the queue is left to fill up, so that what was written last before the connection
    /// came back is kept as far as it goes.
    pub(crate) async fn run(mut self, mut link: tokio::sync::watch::Receiver<crate::link::Link>, shutdown: Shutdown) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = shutdown.requested() => break,
                up = link.wait_for(|link| link.up) => { up?; }
            }
            tokio::select! {
                () = shutdown.requested() => break,
                line = self.lines.recv() => match line {
                    Some(line) => self.js.send(line.subject, line.body).await,
                    None => return Ok(()),
                },
            }
        }
        while let Ok(line) = self.lines.try_recv() {
            self.js.send(line.subject, line.body).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use muster_runtime::metrics::Metrics;

    use super::*;
    use crate::executors::Stream;

    fn logs(room: usize) -> (Logs, mpsc::Receiver<Line>) {
        let (queue, lines) = mpsc::channel(room);
        (Logs { queue, dropped: Metrics::new().counter("muster_test_bytes", "Test.").unwrap() }, lines)
    }

    fn output(bytes: &'static [u8], skipped: u64) -> Update {
        Update::Output(Chunk { stream: Stream::Stdout, bytes: Bytes::from_static(bytes), skipped })
    }

    fn drain(lines: &mut mpsc::Receiver<Line>) -> Vec<LogChunk> {
        std::iter::from_fn(|| lines.try_recv().ok()).map(|line| wire::decode(&line.body).unwrap()).collect()
    }

    #[test]
    fn chunks_are_numbered_and_cut_to_their_limit() {
        let (logs, mut lines) = logs(10);
        let mut log = logs.attempt(&"p".parse().unwrap(), &"j".parse().unwrap(), 3);
        log.take(output(b"one", 0));
        log.take(output(&[b'x'; CHUNK_LIMIT + 1], 0));
        log.close();
        let chunks = drain(&mut lines);
        assert_eq!(chunks.iter().map(|chunk| (chunk.attempt, chunk.seq)).collect::<Vec<_>>(), [(3, 0), (3, 1), (3, 2)]);
        assert_eq!(chunks[2].data.as_bytes(), b"x");
    }

    #[test]
    fn what_is_dropped_is_said_before_the_next_chunk() {
        let (logs, mut lines) = logs(1);
        let mut log = logs.attempt(&"p".parse().unwrap(), &"j".parse().unwrap(), 1);
        log.take(output(b"one", 0));
        log.take(output(b"lost", 0));
        log.take(output(b"too", 5));
        assert_eq!(drain(&mut lines).len(), 1);
        log.close();
        let note = &drain(&mut lines)[0];
        assert_eq!(note.stream, OutputStream::Note);
        assert_eq!(note.data.to_text(), "12 bytes of output are missing here");
        assert_eq!(logs.dropped.get(), 7.0);
    }
}
