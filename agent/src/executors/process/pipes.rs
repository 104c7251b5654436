//! The three pipes of a process, served at the same time so that none can block another: stdin is fed while both
//! outputs are read. They are served beside whatever the caller waits for; never on their own.

use std::{
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use muster_executor::{Recorder, Stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{ChildStderr, ChildStdin, ChildStdout},
};
use zeroize::Zeroizing;

/// A Linux pipe holds 64 KiB: one read empties it.
const READ_BYTES: usize = 64 * 1024;

/// Takes what a process writes.
pub(crate) trait Take: Send {
    /// The next bytes.
    fn take(&mut self, bytes: &[u8]) -> impl Future<Output = ()> + Send;

    /// There are no more.
    fn end(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Output that goes to the log and the result as it is.
pub(crate) struct Recorded<'a> {
    pub(crate) recorder: &'a Recorder,
    pub(crate) stream: Stream,
}

impl Take for Recorded<'_> {
    async fn take(&mut self, bytes: &[u8]) {
        self.recorder.write(self.stream, bytes).await;
    }
}

/// What the launcher says on standard error, before there is a command that could, when it can't become one.
#[derive(Debug, Default)]
pub(super) struct Refusal(Mutex<Option<String>>);

impl Refusal {
    /// Standard error of a process: the launcher's words, which begin with `mark`, are kept here; all else is recorded.
    pub(super) fn watching<'a>(&'a self, mark: Option<String>, recorder: &'a Recorder) -> Watched<'a> {
        Watched { refusal: self, mark: mark.unwrap_or_default(), head: Some(Vec::new()), recorder }
    }

    /// What it said, if it did.
    pub(super) fn taken(self) -> Option<String> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Refusal::watching`].
pub(super) struct Watched<'a> {
    refusal: &'a Refusal,
    mark: String,
    /// All that was written as long as it may still be the launcher's.
    head: Option<Vec<u8>>,
    recorder: &'a Recorder,
}

impl Take for Watched<'_> {
    async fn take(&mut self, bytes: &[u8]) {
        let Some(head) = &mut self.head else { return self.recorder.write(Stream::Stderr, bytes).await };
        head.extend_from_slice(bytes);
        let compared = head.len().min(self.mark.len());
        if self.mark.is_empty() || head.get(..compared) != self.mark.as_bytes().get(..compared) {
            let head = self.head.take().unwrap_or_default();
            self.recorder.write(Stream::Stderr, &head).await;
        }
    }

    async fn end(&mut self) {
        let Some(head) = self.head.take() else { return };
        match String::from_utf8_lossy(&head).strip_prefix(&self.mark).filter(|_| !self.mark.is_empty()) {
            Some(problem) => *self.refusal.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem.to_owned()),
            None => self.recorder.write(Stream::Stderr, &head).await,
        }
    }
}

pub(super) struct Pipes<'a> {
    work: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
    closed: bool,
}

impl<'a> Pipes<'a> {
    pub(super) fn new(
        (stdin, stdout, stderr): (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>),
        input: Zeroizing<Vec<u8>>,
        out: &'a mut impl Take,
        mut errors: Watched<'a>,
    ) -> Self {
        let work = async move {
            let outputs = async {
                tokio::join!(read(stdout, out), read(stderr, &mut errors));
            };
            // A command that never reads its stdin must not keep the pipes open once it has closed its outputs.
            let mut feed = std::pin::pin!(feed(stdin, input));
            let mut outputs = std::pin::pin!(outputs);
            tokio::select! {
                () = &mut outputs => {}
                () = &mut feed => outputs.await,
            }
        };
        Self { work: Box::pin(work), closed: false }
    }

    /// Serves the pipes while `other` runs.
    pub(super) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                biased;
                value = &mut other => return value,
                () = &mut self.work, if !self.closed => self.closed = true,
            }
        }
    }

    /// Serves the pipes until the last writer has closed them, or for `at_most`.
    pub(super) async fn until_closed(&mut self, at_most: Duration) {
        if !self.closed {
            self.closed = tokio::time::timeout(at_most, &mut self.work).await.is_ok();
        }
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, taker: &mut impl Take) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        taker.take(buffer.get(..read).unwrap_or_default()).await;
    }
    taker.end().await;
}

async fn feed(stdin: Option<ChildStdin>, input: Zeroizing<Vec<u8>>) {
    if let Some(mut stdin) = stdin {
        // A command may close its stdin early (`head -1`); that is its own business.
        let _closed_early = stdin.write_all(&input).await;
    }
}
