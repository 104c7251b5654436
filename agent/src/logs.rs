//! Output and progress of running jobs on their way to the stream of logs: bounded, in order, and never a reason for a job to wait.
//!
//! What finds no room in the queue is dropped and counted; the next chunk that goes through is preceded by a note that says how much is
//! missing. What a job writes beyond its log's limit ([`account`]) is not stored; one note says so, and no more output follows. Progress
//! is not output: it is told to the end, ever more seldom ([`crate::executors::context`]).

mod account;

use std::sync::Arc;

use bytes::Bytes;
use muster_runtime::{metrics::Counter, shutdown::Shutdown};
use muster_schemas::{
    log::{self, CHUNK_LIMIT, LogChunk, OutputStream},
    names::{JobId, PoolName},
    result::Output,
    subjects::About,
    time::Timestamp,
    topology::LOG_OUTPUT_CHUNKS,
    wire::{self, V},
};
use tokio::sync::mpsc;

use crate::{
    executors::{Chunk, Progress, Update},
    js::Js,
};
use account::{Account, Spent};

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
    account: Arc<Account>,
    /// Bytes of output per job.
    limit: u64,
}

/// The log of one attempt.
#[derive(Debug)]
pub(crate) struct AttemptLog {
    logs: Logs,
    id: JobId,
    subject: String,
    attempt: u32,
    seq: u64,
    /// Bytes dropped since the last chunk that went through.
    missing: u64,
    /// Of the job, this attempt included.
    spent: Spent,
}

impl Logs {
    /// The queue, and what empties it. `limit` is how many bytes of output each job's log takes.
    pub(crate) fn new(js: Js, dropped: Counter, limit: u64) -> (Self, Forwarder) {
        let (queue, lines) = mpsc::channel(QUEUE);
        (Self { queue, dropped, account: Arc::default(), limit }, Forwarder { js, lines })
    }

    /// The log of an attempt.
    pub(crate) fn attempt(&self, pool: &PoolName, id: &JobId, attempt: u32) -> AttemptLog {
        let (subject, spent) = (About::Log.job(pool, id), self.account.of(id));
        AttemptLog { logs: self.clone(), id: id.clone(), subject, attempt, seq: 0, missing: 0, spent }
    }
}

impl AttemptLog {
    /// Passes on what an executor says.
    pub(crate) fn take(&mut self, update: Update) {
        match update {
            Update::Output(Chunk { stream, bytes, skipped }) => {
                self.missing = self.missing.saturating_add(skipped);
                self.write(stream.into(), &bytes);
            }
            // Of a progress that finds no room, the next one says more.
            Update::Progress(Progress { percent, message }) => {
                let _ = self.send(OutputStream::Progress, log::Progress { percent, message }.to_data());
            }
        }
    }

    /// Says what is still to be said; the attempt has ended. Answers how many chunks it wrote.
    pub(crate) fn close(mut self) -> u64 {
        self.note_missing();
        self.note_full();
        self.logs.account.keep(&self.id, self.spent);
        self.seq
    }

    fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        for piece in bytes.chunks(CHUNK_LIMIT) {
            let (fits, beyond) = piece.split_at(piece.len().min(self.spent.room(self.logs.limit)));
            let kept = fits.is_empty() || (self.note_missing() && self.output(stream, fits));
            if !kept {
                self.missing = self.missing.saturating_add(piece.len() as u64);
                self.logs.dropped.inc_by(piece.len() as f64);
            } else if !beyond.is_empty() {
                self.spent.full = true;
            }
            self.note_full();
        }
    }

    /// Sends a piece of output that the log has room for.
    fn output(&mut self, stream: OutputStream, piece: &[u8]) -> bool {
        let sent = self.send(stream, Output::from(piece.to_vec()));
        if sent {
            self.spent.bytes = self.spent.bytes.saturating_add(piece.len() as u64);
            self.spent.chunks += 1;
        }
        sent
    }

    /// True when nothing is missing any more. In a log that is full nothing is.
    fn note_missing(&mut self) -> bool {
        if self.spent.full {
            self.missing = 0;
        }
        if self.missing > 0 && self.note(format!("{} bytes of output are missing here", self.missing)) {
            self.missing = 0;
        }
        self.missing == 0
    }

    /// Says once that the log is full.
    fn note_full(&mut self) {
        if self.spent.full && !self.spent.said {
            let limit = self.logs.limit;
            let note =
                format!("the job's log is full: it takes {limit} bytes in at most {LOG_OUTPUT_CHUNKS} pieces; what follows is not stored");
            self.spent.said = self.note(note);
        }
    }

    fn note(&mut self, text: String) -> bool {
        let sent = self.send(OutputStream::Note, Output::from(text.into_bytes()));
        self.spent.chunks += u64::from(sent);
        sent
    }

    fn send(&mut self, stream: OutputStream, data: Output) -> bool {
        let chunk = LogChunk { v: V, attempt: self.attempt, seq: self.seq, stream, at: Timestamp::now(), data };
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
mod tests;
