//! Where executors write their output: keeps the tail of each stream for the result, and passes all of it on to the
//! live log in chunks of up to 16 KiB or 100 ms, whichever is first.
//!
//! All of it is masked first: nothing behind [`Recorder::write`] ever sees a secret. It never decodes bytes. The queue behind it is in `context`,
//! the ring in `tail`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{
    context::{Chunk, Sender, Stream},
    mask::{Mask, Masker},
    tail::Tail,
};

/// Largest chunk (16 KiB): small against the broker's 1 MiB message limit, large enough that a flood is few messages.
const CHUNK_BYTES: usize = muster_schemas::log::CHUNK_LIMIT;

/// How long a few bytes wait for more. People who watch do not notice a tenth of a second.
const COALESCE: Duration = Duration::from_millis(100);

/// How long an attempt waits in all for a core that does not keep up with its output, before chunks are skipped. Long
/// enough for a hiccup of the broker, short enough that a command which prints a lot is not slowed down by its log.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a single chunk waits. When one waited in vain, no other does.
const PATIENCE_PER_CHUNK: Duration = Duration::from_millis(250);

/// Takes what an attempt writes, and how far it says it is.
#[derive(Debug)]
pub struct Recorder {
    sender: Sender,
    mask: Mask,
    state: Mutex<State>,
    pending: Notify,
}

#[derive(Debug)]
struct State {
    stdout: Lane,
    stderr: Lane,
    /// Bytes that may still be passed on to the log.
    log_left: u64,
    /// What is left of [`PATIENCE`].
    patience: Duration,
}

#[derive(Debug)]
struct Lane {
    masker: Masker,
    tail: Tail,
    pending: Vec<u8>,
    skipped: u64,
}

impl Lane {
    fn take(&mut self, bytes: &[u8]) {
        self.tail.push(bytes);
        self.pending.extend_from_slice(bytes);
    }
}

impl State {
    fn lane(&mut self, stream: Stream) -> &mut Lane {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl Recorder {
    pub(crate) fn new(sender: Sender, tail_bytes: usize, log_bytes: u64, mask: Mask) -> Self {
        let lane = || Lane { masker: mask.stream(), tail: Tail::new(tail_bytes), pending: Vec::new(), skipped: 0 };
        let state = State { stdout: lane(), stderr: lane(), log_left: log_bytes, patience: PATIENCE };
        Self { sender, mask, state: Mutex::new(state), pending: Notify::new() }
    }

    /// Records bytes of one stream. Waits only briefly, when the log does not keep up.
    pub async fn write(&self, stream: Stream, bytes: &[u8]) {
        {
            let mut state = self.lock();
            let lane = state.lane(stream);
            let bytes = lane.masker.push(bytes);
            lane.take(&bytes);
        }
        while self.pass_on(stream, CHUNK_BYTES).await {}
        self.pending.notify_one();
    }

    /// Reports how far the attempt is.
    pub fn progress(&self, percent: u8, message: &str) {
        self.sender.progress(percent, &self.mask.text(message));
    }

    /// Passes on what waited for [`COALESCE`]. Never ends: run it beside the executor.
    pub(crate) async fn flush_for_ever(&self) {
        loop {
            self.pending.notified().await;
            tokio::time::sleep(COALESCE).await;
            self.flush().await;
        }
    }

    /// Passes on all that is left, and says what was skipped at the end.
    pub(crate) async fn close(&self) -> [(Vec<u8>, bool); 2] {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut state = self.lock();
            let lane = state.lane(stream);
            let rest = lane.masker.end();
            lane.take(&rest);
        }
        self.flush().await;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let skipped = self.lock().lane(stream).skipped;
            if skipped > 0
                && let Some(room) = self.sender.room(PATIENCE_PER_CHUNK).await
            {
                room.send(Chunk { stream, bytes: Bytes::new(), skipped });
            }
        }
        let mut state = self.lock();
        [state.stdout.tail.take(), state.stderr.tail.take()]
    }

    async fn flush(&self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.pass_on(stream, 1).await {}
        }
    }

    /// Passes on one chunk if at least `least` bytes wait; says whether it did. Bytes leave the queue only once there is
    /// room for them, so that neither a write and a flush side by side nor an attempt that ends meanwhile can mix them up.
    async fn pass_on(&self, stream: Stream, least: usize) -> bool {
        let patience = {
            let mut state = self.lock();
            if state.lane(stream).pending.len() < least {
                return false;
            }
            if state.log_left == 0 { Duration::ZERO } else { state.patience.min(PATIENCE_PER_CHUNK) }
        };
        let before = tokio::time::Instant::now();
        let room = self.sender.room(patience).await;
        let mut state = self.lock();
        state.patience = if room.is_some() { state.patience.saturating_sub(before.elapsed()) } else { Duration::ZERO };
        let left = state.log_left;
        let lane = state.lane(stream);
        let rest = lane.pending.split_off(lane.pending.len().min(CHUNK_BYTES));
        let bytes = std::mem::replace(&mut lane.pending, rest);
        let size = bytes.len() as u64;
        match room {
            Some(room) if size > 0 && size <= left => {
                room.send(Chunk { stream, bytes: bytes.into(), skipped: std::mem::take(&mut lane.skipped) });
                state.log_left = left - size;
            }
            _ => lane.skipped += size,
        }
        if size > left {
            state.log_left = 0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, the bytes in it are still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
    use super::*;
    use crate::context::{Context, Feed, Update};

    fn recorder(log_bytes: u64) -> (Recorder, Feed) {
        let (context, feed) = Context::new(tokio_util::sync::CancellationToken::new());
        (Recorder::new(context.sender, 8, log_bytes, Mask::default()), feed)
    }

    async fn chunk(feed: &mut Feed) -> Chunk {
        match feed.next().await {
            Some(Update::Output(chunk)) => chunk,
            other => panic!("not a chunk: {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn small_writes_become_one_chunk_after_a_tenth_of_a_second() {
        let (recorder, mut feed) = recorder(1000);
        let started = tokio::time::Instant::now();
        let writes = async {
            for word in ["a", "b", "c"] {
                recorder.write(Stream::Stdout, word.as_bytes()).await;
            }
            chunk(&mut feed).await
        };
        let chunk = tokio::select! { chunk = writes => chunk, () = recorder.flush_for_ever() => panic!("flush ended") };
        assert_eq!(chunk.bytes, "abc");
        assert_eq!(started.elapsed(), COALESCE);
    }

    #[tokio::test]
    async fn a_large_write_is_passed_on_at_once_in_chunks_in_order() {
        let (recorder, mut feed) = recorder(1 << 20);
        let data: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
        recorder.write(Stream::Stderr, &data).await;
        let [_, (tail, truncated)] = recorder.close().await;
        drop(recorder);
        let mut seen = Vec::new();
        while let Some(Update::Output(chunk)) = feed.next().await {
            assert!(chunk.bytes.len() <= CHUNK_BYTES && chunk.skipped == 0 && chunk.stream == Stream::Stderr);
            seen.extend_from_slice(&chunk.bytes);
        }
        assert!(seen == data);
        assert_eq!((tail.as_slice(), truncated), (data.get(39_992..).unwrap(), true));
    }

    #[tokio::test]
    async fn beyond_its_limit_the_log_says_how_much_was_skipped_and_the_tail_is_complete() {
        let (recorder, mut feed) = recorder(10);
        recorder.write(Stream::Stdout, b"12345678").await;
        recorder.flush().await;
        recorder.write(Stream::Stdout, b"abcdefgh").await;
        let [(tail, truncated), _] = recorder.close().await;
        assert_eq!((tail.as_slice(), truncated), (b"abcdefgh".as_slice(), true));
        assert_eq!(chunk(&mut feed).await.bytes, "12345678");
        let last = chunk(&mut feed).await;
        assert_eq!((last.bytes.len(), last.skipped), (0, 8));
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_is_read_slowly_does_not_slow_the_attempt_down_for_long() {
        let (recorder, mut feed) = recorder(u64::MAX);
        let started = tokio::time::Instant::now();
        let writing = async {
            for _ in 0..1000 {
                recorder.write(Stream::Stdout, &[b'x'; CHUNK_BYTES]).await;
            }
        };
        let reading = async {
            loop {
                chunk(&mut feed).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::select! { () = writing => {} () = reading => {} }
        assert!(started.elapsed() <= PATIENCE + PATIENCE_PER_CHUNK, "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_nobody_reads_delays_the_attempt_only_once() {
        let (recorder, mut feed) = recorder(u64::MAX);
        let started = tokio::time::Instant::now();
        for _ in 0..1000 {
            recorder.write(Stream::Stdout, &[b'x'; CHUNK_BYTES]).await;
        }
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        while recorder.lock().stdout.skipped > 0 {
            chunk(&mut feed).await;
            recorder.write(Stream::Stdout, &[b'y'; CHUNK_BYTES]).await;
        }
        recorder.close().await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        drop(recorder);
        let mut skipped = 0;
        while let Some(Update::Output(chunk)) = feed.next().await {
            skipped += chunk.skipped;
        }
        assert_eq!(skipped, (1000 - 64) * CHUNK_BYTES as u64);
    }
}
