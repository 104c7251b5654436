//! The two ends of a running attempt: [`Context`] goes in with it, [`Feed`] stays with the agent's core.
//!
//! Output is bounded in both directions: a core that does not read makes an attempt lose log chunks (counted in
//! [`Chunk::skipped`]), never block for ever; the tail in the result is not affected. It never formats or redacts.

use std::time::Duration;

use bytes::Bytes;
use muster_schemas::log::OutputStream;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Chunks that may wait for the core: 64 × 16 KiB = 1 MiB per attempt.
const QUEUE: usize = 64;

/// The shortest time between two progresses of an attempt.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// That time is at least this part of the time that the attempt has run: some 3 600 progresses a day, so that the log of a long job has
/// room for them.
const PROGRESS_PART: u32 = 600;

/// Longest progress message, in bytes.
const MESSAGE_BYTES: usize = 512;

/// One of the two output streams of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output; for `http.request`, the body of the answer.
    Stdout,
    /// Standard error.
    Stderr,
}

impl From<Stream> for OutputStream {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Stdout => Self::Stdout,
            Stream::Stderr => Self::Stderr,
        }
    }
}

/// A piece of output, as it was written: at most 16 KiB, not cut at characters or lines.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Where it was written.
    pub stream: Stream,
    /// The bytes; empty in a last chunk that only reports skipped bytes.
    pub bytes: Bytes,
    /// Bytes of this stream that were left out just before this chunk.
    pub skipped: u64,
}

/// How far an attempt says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// 0–100.
    pub percent: u8,
    /// At most 512 bytes.
    pub message: String,
}

/// What a running attempt tells the core.
#[derive(Debug, Clone)]
pub enum Update {
    /// A piece of output.
    Output(Chunk),
    /// The newest progress; older ones that nobody read are gone.
    Progress(Progress),
}

/// What an attempt is run with.
#[derive(Debug)]
pub struct Context {
    pub(crate) cancelled: CancellationToken,
    pub(crate) sender: Sender,
}

impl Context {
    /// A context that stops when `cancelled` is, and the feed of its updates.
    pub fn new(cancelled: CancellationToken) -> (Self, Feed) {
        let (chunks, queue) = mpsc::channel(QUEUE);
        let (progress, latest) = watch::channel((0, Progress { percent: 0, message: String::new() }));
        let sender = Sender { chunks, progress };
        let now = Instant::now();
        (Self { cancelled, sender }, Feed { queue, latest, taken: 0, silent: false, began: now, quiet_until: now })
    }
}

/// The updates of one attempt, in order. Dropping it is fine: the attempt runs on, and skips its log.
#[derive(Debug)]
pub struct Feed {
    queue: mpsc::Receiver<Chunk>,
    /// Numbered from 1; 0 is none yet.
    latest: watch::Receiver<(u64, Progress)>,
    taken: u64,
    silent: bool,
    began: Instant,
    /// No progress before this.
    quiet_until: Instant,
}

impl Feed {
    /// The next update, or `None` when the attempt has ended and all was read. Progress comes at most once a second, and the last one at
    /// the end. Safe to cancel.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            tokio::select! {
                chunk = self.queue.recv() => match chunk {
                    Some(chunk) => return Some(Update::Output(chunk)),
                    None => return self.take_progress(),
                },
                changed = news(&mut self.latest, self.quiet_until), if !self.silent => match changed {
                    Ok(()) => if let Some(progress) = self.take_progress() { return Some(progress) },
                    Err(_) => self.silent = true,
                },
            }
        }
    }

    /// The newest progress, unless it was taken before. Works after the sender is gone, too.
    fn take_progress(&mut self) -> Option<Update> {
        let (number, progress) = self.latest.borrow_and_update().clone();
        let is_new = number > self.taken;
        self.taken = number;
        if is_new {
            let now = Instant::now();
            self.quiet_until = now + PROGRESS_EVERY.max((now - self.began) / PROGRESS_PART);
        }
        is_new.then_some(Update::Progress(progress))
    }
}

/// Waits for a progress, and for its time.
async fn news(latest: &mut watch::Receiver<(u64, Progress)>, after: Instant) -> Result<(), watch::error::RecvError> {
    tokio::time::sleep_until(after).await;
    latest.changed().await
}

/// The attempt's end of the feed.
#[derive(Debug)]
pub(crate) struct Sender {
    chunks: mpsc::Sender<Chunk>,
    progress: watch::Sender<(u64, Progress)>,
}

impl Sender {
    /// Room for one chunk; waits for it at most `patience`. `None` when there is none, or nobody reads.
    pub(crate) async fn room(&self, patience: Duration) -> Option<mpsc::Permit<'_, Chunk>> {
        match self.chunks.try_reserve() {
            Ok(room) => Some(room),
            Err(mpsc::error::TrySendError::Closed(())) => None,
            Err(mpsc::error::TrySendError::Full(())) if patience.is_zero() => None,
            Err(mpsc::error::TrySendError::Full(())) => tokio::time::timeout(patience, self.chunks.reserve()).await.ok()?.ok(),
        }
    }

    /// Replaces the newest progress.
    pub(crate) fn progress(&self, percent: u8, message: &str) {
        let end = message.floor_char_boundary(MESSAGE_BYTES);
        let message = message.get(..end).unwrap_or_default().to_owned();
        let newest = Progress { percent: percent.min(100), message };
        self.progress.send_modify(|(number, progress)| (*number, *progress) = (*number + 1, newest));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(250);

    fn chunk(bytes: &'static [u8]) -> Chunk {
        Chunk { stream: Stream::Stdout, bytes: Bytes::from_static(bytes), skipped: 0 }
    }

    #[tokio::test]
    async fn the_feed_ends_after_the_last_chunk_and_the_last_progress() {
        let (context, mut feed) = Context::new(CancellationToken::new());
        context.sender.room(PATIENCE).await.unwrap().send(chunk(b"a"));
        context.sender.progress(250, "done");
        drop(context);
        let mut seen = Vec::new();
        while let Some(update) = feed.next().await {
            seen.push(update);
        }
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().any(|u| matches!(u, Update::Progress(p) if p.percent == 100 && p.message == "done")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_nobody_reads_skips_instead_of_blocking() {
        let (context, _feed) = Context::new(CancellationToken::new());
        for _ in 0..QUEUE {
            context.sender.room(PATIENCE).await.unwrap().send(chunk(b"x"));
        }
        let before = tokio::time::Instant::now();
        assert!(context.sender.room(PATIENCE).await.is_none());
        assert_eq!(before.elapsed(), PATIENCE);
        assert!(context.sender.room(Duration::ZERO).await.is_none());
    }

    #[tokio::test]
    async fn a_dropped_feed_skips_at_once() {
        let (context, feed) = Context::new(CancellationToken::new());
        drop(feed);
        assert!(context.sender.room(PATIENCE).await.is_none());
        context.sender.progress(1, "");
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_told_once_a_second_then_more_seldom_and_the_newest_at_the_end() {
        let (context, mut feed) = Context::new(CancellationToken::new());
        let began = Instant::now();
        let reporting = async {
            for number in 0..36_000_u32 {
                context.sender.progress(0, &number.to_string());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            context.sender.progress(100, "done");
            drop(context);
        };
        let reading = async {
            let mut told = Vec::new();
            while let Some(Update::Progress(progress)) = feed.next().await {
                told.push((began.elapsed(), progress));
            }
            told
        };
        let ((), told) = tokio::join!(reporting, reading);
        assert!(told.windows(2).rev().skip(1).all(|pair| pair[1].0 - pair[0].0 >= PROGRESS_EVERY));
        assert!((1_000..2_000).contains(&told.len()), "{} in an hour", told.len());
        assert_eq!(told.last().unwrap().1, Progress { percent: 100, message: "done".to_owned() });
    }

    #[tokio::test]
    async fn a_long_message_is_cut_at_a_character() {
        let (context, mut feed) = Context::new(CancellationToken::new());
        context.sender.progress(1, &"é".repeat(600));
        let Some(Update::Progress(progress)) = feed.next().await else { panic!("no progress") };
        assert_eq!(progress.message, "é".repeat(256));
    }
}
