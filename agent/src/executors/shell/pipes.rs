//! The three pipes of a command, served at the same time so that none can block another: stdin is fed while both
//! outputs are read. They are served beside whatever the caller waits for; never on their own.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use muster_executor::{Recorder, Stream};

/// A Linux pipe holds 64 KiB: one read empties it.
const READ_BYTES: usize = 64 * 1024;

pub(super) struct Pipes<'a> {
    work: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
    closed: bool,
}

impl<'a> Pipes<'a> {
    pub(super) fn new(
        (stdin, stdout, stderr): (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>),
        input: Vec<u8>,
        recorder: &'a Recorder,
    ) -> Self {
        let work = async move {
            let outputs = async {
                tokio::join!(read(stdout, Stream::Stdout, recorder), read(stderr, Stream::Stderr, recorder));
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

async fn read(pipe: Option<impl AsyncRead + Unpin>, stream: Stream, recorder: &Recorder) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        recorder.write(stream, buffer.get(..read).unwrap_or_default()).await;
    }
}

async fn feed(stdin: Option<ChildStdin>, input: Vec<u8>) {
    if let Some(mut stdin) = stdin {
        // A command may close its stdin early (`head -1`); that is its own business.
        let _closed_early = stdin.write_all(&input).await;
    }
}
