//! Writes what comes to a file of the agent's machine, on a thread of its own, where writing may block.

use std::io::Write;

use bytes::Bytes;
use muster_files::{FileError, NewFile};
use muster_schemas::code::Code;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::WAITING;
use crate::{problem::Problem, sftp::Sftp};

/// A file in the making. Dropped before it is whole, it leaves nothing.
pub(super) struct Save {
    pieces: mpsc::Sender<Bytes>,
    whole: oneshot::Sender<()>,
    writer: JoinHandle<Result<(), Problem>>,
}

impl Save {
    pub(super) async fn start(create: impl FnOnce() -> Result<NewFile, FileError> + Send + 'static) -> Result<Self, Problem> {
        let mut file = blocking(create).await?;
        let (pieces, mut next) = mpsc::channel::<Bytes>(WAITING);
        let (whole, is_whole) = oneshot::channel();
        let writer = tokio::task::spawn_blocking(move || {
            while let Some(piece) = next.blocking_recv() {
                file.write_all(&piece).map_err(|error| Problem::transfer(format!("could not write on the agent's machine: {error}")))?;
            }
            match is_whole.blocking_recv() {
                Ok(()) => Ok(file.finish()?),
                // It broke off; dropping the file removes it.
                Err(_) => Ok(()),
            }
        });
        Ok(Self { pieces, whole, writer })
    }

    /// Reads it from the other machine; see [`Sftp::get`].
    pub(super) async fn from(self, sftp: &Sftp, path: &str, declared: u64, most: u64, on: impl FnMut(u64)) -> Result<u64, Problem> {
        let read = sftp.get(path, declared, most, self.pieces, on).await;
        if read.is_ok() {
            // A writer that has ended says why below.
            let _ended = self.whole.send(());
        } else {
            drop(self.whole);
        }
        let written = self.writer.await.unwrap_or_else(|_| Err(broken()));
        read.and_then(|bytes| written.map(|()| bytes))
    }
}

/// Does something that blocks.
pub(super) async fn blocking<T: Send + 'static>(what: impl FnOnce() -> Result<T, FileError> + Send + 'static) -> Result<T, Problem> {
    Ok(tokio::task::spawn_blocking(what).await.map_err(|_| broken())??)
}

fn broken() -> Problem {
    Problem::failed(Code::Internal, "writing broke off")
}
