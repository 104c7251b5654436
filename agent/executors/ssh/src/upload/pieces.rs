//! What is uploaded, piece by piece: read on a thread of its own, where reading may block.

use std::{fs::File, io::Read, ops::ControlFlow};

use bytes::Bytes;
use muster_files::archive::{self, Event};
use muster_schemas::code::Code;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::MODE;
use crate::{Options, problem::Problem, sftp::Piece};

/// Pieces that may wait.
const WAITING: usize = 16;
/// Bytes of one.
const PIECE: usize = 64 * 1024;

/// The pieces, in order.
pub(super) struct Pieces {
    pub(super) next: mpsc::Receiver<Piece>,
    /// Bytes of all of them.
    pub(super) bytes: u64,
    reader: Option<JoinHandle<Result<(), Problem>>>,
}

impl Pieces {
    pub(super) fn of_content(content: Vec<u8>, mode: Option<u32>) -> Self {
        let (sender, next) = mpsc::channel(WAITING);
        let bytes = content.len() as u64;
        let reader = tokio::task::spawn_blocking(move || {
            // Whoever reads no more knows why.
            let _unread = pour(content.as_slice(), mode.unwrap_or(MODE), &sender);
            Ok(())
        });
        Self { next, bytes, reader: Some(reader) }
    }

    pub(super) async fn of_file(options: &Options, path: String, mode: Option<u32>) -> Result<Self, Problem> {
        let file = open(options, path.clone()).await?;
        let metadata = file.metadata().map_err(|error| unreadable(&path, &error))?;
        let mode = mode.unwrap_or_else(|| std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777);
        let (sender, next) = mpsc::channel(WAITING);
        let reader = tokio::task::spawn_blocking(move || pour(file, mode, &sender).map_err(|error| unreadable(&path, &error)));
        Ok(Self { next, bytes: metadata.len(), reader: Some(reader) })
    }

    /// Reads the archive through, and then once more for its pieces: nothing is written of one that is not good.
    pub(super) async fn of_archive(options: &Options, path: String) -> Result<Self, Problem> {
        let file = open(options, path).await?;
        let limits = options.limits.archives.clone();
        let dropped = CancellationToken::new();
        let _stops_reading = dropped.clone().drop_guard();
        let checking = tokio::task::spawn_blocking(move || {
            let mut on = |_: Event<'_>| if dropped.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            archive::walk(&file, &limits, &mut on).map(|totals| (file, limits, totals))
        });
        let (file, limits, totals) = checking.await.map_err(|_| panicked())??;
        let (sender, next) = mpsc::channel(WAITING);
        let reader = tokio::task::spawn_blocking(move || {
            let mut on = |event: Event<'_>| {
                let piece = match event {
                    Event::Folder { path } => Piece::Folder(path.to_owned()),
                    Event::File { path, mode } => Piece::File(path.to_owned(), mode),
                    Event::Data(data) => Piece::Data(Bytes::copy_from_slice(data)),
                    Event::End => Piece::End,
                };
                if sender.blocking_send(piece).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            // It may have been changed since.
            archive::walk(&file, &limits, &mut on).map(drop).map_err(Problem::from)
        });
        Ok(Self { next, bytes: totals.bytes, reader: Some(reader) })
    }

    /// What went wrong with the reading, if anything did.
    pub(super) async fn outcome(&mut self) -> Option<Problem> {
        self.next.close();
        match self.reader.take()?.await {
            Ok(read) => read.err(),
            Err(_) => Some(panicked()),
        }
    }

    /// Why the pieces broke off.
    pub(super) async fn why(&mut self) -> Problem {
        self.outcome().await.unwrap_or_else(|| Problem::transfer("what was to be uploaded broke off"))
    }
}

async fn open(options: &Options, path: String) -> Result<File, Problem> {
    let roots = options.files.clone();
    Ok(tokio::task::spawn_blocking(move || roots.open(&path)).await.map_err(|_| panicked())??)
}

/// Sends all that can be read as one file. Ends early when nobody takes it any more.
fn pour(mut source: impl Read, mode: u32, sender: &mpsc::Sender<Piece>) -> std::io::Result<()> {
    let mut go_on = sender.blocking_send(Piece::File(String::new(), mode)).is_ok();
    while go_on {
        let mut buffer = vec![0; PIECE];
        let count = source.read(&mut buffer)?;
        buffer.truncate(count);
        let piece = if count == 0 { Piece::End } else { Piece::Data(buffer.into()) };
        go_on = sender.blocking_send(piece).is_ok() && count > 0;
    }
    Ok(())
}

fn unreadable(path: &str, error: &std::io::Error) -> Problem {
    Problem::transfer(format!("could not read `{}`: {error}", muster_files::names::shown(path)))
}

fn panicked() -> Problem {
    Problem::failed(Code::Internal, "reading broke off")
}
