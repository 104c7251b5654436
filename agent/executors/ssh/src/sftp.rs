//! Files of the other machine, by SFTP (version 3, draft-ietf-secsh-filexfer-02). What that machine says is not believed: sizes, names, ends.
//!
//! Requests are sent ahead of their answers, so that a transfer takes as long as its bytes and not as its round trips.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{FuturesOrdered, FuturesUnordered},
};
use muster_files::names;
use muster_schemas::code::Code;
use russh_sftp::{
    client::{Config, RawSftpSession, error::Error},
    protocol::{File, FileAttributes, OpenFlags, Packet, StatusCode},
};
use tokio::sync::mpsc;

use crate::{problem::Problem, session::Session};

/// Bytes of one request: what every server takes.
const CHUNK: usize = 32 * 1024;
/// Requests that are on their way: 1 MiB.
const AHEAD: usize = 32;
/// How long a single answer may take, in seconds. A machine that is gone is noticed otherwise.
const ANSWER_S: u64 = 60;
/// OpenSSH's way to rename onto what is there, at once.
const POSIX_RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = "fsync@openssh.com";

/// The part of a file's mode that says what it is, and two of its values.
const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// What something there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    /// A symbolic link, or something that is not read.
    Other,
}

/// What the other machine says of something there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    /// The permissions, 9 bits.
    pub(crate) mode: u32,
}

/// What goes to a file there.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A folder, by its path in an archive.
    Folder(String),
    /// A file begins: its path, and its permissions.
    File(String, u32),
    Data(Bytes),
    /// It is whole.
    End,
}

/// An SFTP session.
pub(crate) struct Sftp {
    raw: RawSftpSession,
    host: String,
    renames: bool,
    syncs: bool,
    /// The file in the making, to be removed when it is not finished.
    temporary: Mutex<Option<String>>,
}

impl Sftp {
    pub(crate) async fn open(session: &Session) -> Result<Self, Problem> {
        let host = session.host();
        let mut channel = session.channel().await?;
        let _lost = channel.request_subsystem(true, "sftp").await;
        if !session.granted(&mut channel).await? {
            return Err(Problem::failed(Code::TransferFailed, format!("{host} has no SFTP for this user")));
        }
        let config = Config { request_timeout_secs: ANSWER_S, ..Config::default() };
        let raw = RawSftpSession::new_with_config(channel.into_stream(), config);
        let version = raw.init().await.map_err(|error| Problem::transfer(format!("{host} speaks no SFTP: {}", words(&error))))?;
        let has = |name: &str| version.extensions.contains_key(name);
        let (renames, syncs) = (has(POSIX_RENAME), has(FSYNC));
        Ok(Self { raw, host, renames, syncs, temporary: Mutex::new(None) })
    }

    fn failed(&self, doing: &str, path: &str, error: &Error) -> Problem {
        Problem::transfer(format!("could not {doing} `{}` on {}: {}", names::shown(path), self.host, words(error)))
    }

    /// What is there; `None` when nothing is. Symbolic links are followed.
    pub(crate) async fn stat(&self, path: &str) -> Result<Option<Found>, Problem> {
        Self::found(self.raw.stat(path).await.map(|answer| answer.attrs)).map_err(|error| self.failed("look at", path, &error))
    }

    /// The same, of a symbolic link itself.
    pub(crate) async fn lstat(&self, path: &str) -> Result<Option<Found>, Problem> {
        Self::found(self.raw.lstat(path).await.map(|answer| answer.attrs)).map_err(|error| self.failed("look at", path, &error))
    }

    fn found(answer: Result<FileAttributes, Error>) -> Result<Option<Found>, Error> {
        match answer {
            Ok(attributes) => Ok(Some(found(&attributes))),
            Err(Error::Status(status)) if status.status_code == StatusCode::NoSuchFile => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a folder, unless it is there. `link` is whether a symbolic link to one will do.
    pub(crate) async fn folder(&self, path: &str, link: bool) -> Result<(), Problem> {
        let made = self.raw.mkdir(path, FileAttributes::empty()).await;
        let Err(error) = made else { return Ok(()) };
        let there = if link { self.stat(path).await? } else { self.lstat(path).await? };
        match there.map(|found| found.kind) {
            Some(Kind::Folder) => Ok(()),
            Some(_) => Err(Problem::transfer(format!("`{}` on {} is no folder", names::shown(path), self.host))),
            None => Err(self.failed("make the folder", path, &error)),
        }
    }

    /// Lists a folder, up to this many entries, without `.` and `..`. Names are as they come.
    pub(crate) async fn list(&self, path: &str, most: u64) -> Result<Vec<(String, Option<Found>)>, Problem> {
        let failed = |error: Error| self.failed("list", path, &error);
        let handle = self.raw.opendir(path).await.map_err(failed)?.handle;
        let mut entries = Vec::new();
        let mut answers = 0;
        loop {
            let batch = match self.raw.readdir(&handle).await {
                Ok(batch) => batch.files,
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return Err(failed(error)),
            };
            answers += 1;
            let known = |file: &File| file.attrs.permissions.map(|_| found(&file.attrs));
            entries.extend(
                batch.iter().filter(|file| !matches!(file.filename.as_str(), "." | "..")).map(|file| (file.filename.clone(), known(file))),
            );
            // Answers count too: some are empty, and there is no end to those either.
            if entries.len() as u64 > most || answers > most + 2 {
                return Err(Problem::transfer(format!(
                    "`{}` on {} lists more entries than the {most} left of what one job takes",
                    names::shown(path),
                    self.host
                )));
            }
        }
        let _closed = self.raw.close(handle).await;
        Ok(entries)
    }

    /// Reads a file to its end, or to its declared size where it has one: a log may grow faster than it is read.
    pub(crate) async fn get(
        &self,
        path: &str,
        declared: u64,
        most: u64,
        to: mpsc::Sender<Bytes>,
        mut on: impl FnMut(u64),
    ) -> Result<u64, Problem> {
        let failed = |error: &Error| self.failed("read", path, error);
        let too_much = || {
            let message = format!("`{}` on {} has more than the {most} bytes that are taken", names::shown(path), self.host);
            Problem::failed(Code::ResultTooLarge, message)
        };
        if declared > most {
            return Err(too_much());
        }
        let handle = self.raw.open(path, OpenFlags::READ, FileAttributes::empty()).await.map_err(|error| failed(&error))?.handle;
        let read = async |offset: u64, length: usize| (offset, length, self.raw.read(&handle, offset, length as u32).await);
        let end = if declared > 0 { declared } else { u64::MAX };
        let (mut asked, mut bytes) = (0, 0);
        let mut pending = FuturesOrdered::new();
        loop {
            while pending.len() < AHEAD && asked < end {
                let length = usize::try_from(end - asked).unwrap_or(CHUNK).min(CHUNK);
                pending.push_back(read(asked, length));
                asked += length as u64;
            }
            let Some((offset, length, answer)) = pending.next().await else { break };
            let data = match answer {
                Ok(answer) => answer.data,
                Err(Error::Status(status)) if status.status_code == StatusCode::Eof => break,
                Err(error) => return Err(failed(&error)),
            };
            if data.is_empty() || data.len() > length {
                return Err(Problem::transfer(format!(
                    "{} answers a read of `{}` with {} bytes, not {length}",
                    self.host,
                    names::shown(path),
                    data.len()
                )));
            }
            bytes += data.len() as u64;
            if bytes > most {
                return Err(too_much());
            }
            if data.len() < length {
                // The others were asked for beyond the gap.
                pending = FuturesOrdered::new();
                asked = offset + data.len() as u64;
            }
            // Whoever takes them says why no more are taken.
            if to.send(data.into()).await.is_err() {
                break;
            }
            on(bytes);
        }
        let _closed = self.raw.close(&handle).await;
        if bytes < declared && !to.is_closed() {
            let message =
                format!("`{}` on {} ended after {bytes} of the {declared} bytes that it was said to have", names::shown(path), self.host);
            return Err(Problem::transfer(message));
        }
        Ok(bytes)
    }

    /// Writes a file from pieces up to its end, under a name beside its own, which it then gets. `None` when the pieces broke off.
    pub(crate) async fn put(
        &self,
        path: &str,
        mode: u32,
        pieces: &mut mpsc::Receiver<Piece>,
        mut on: impl FnMut(u64),
    ) -> Result<Option<u64>, Problem> {
        let failed = |error: &Error| self.failed("write", path, error);
        let temporary = format!("{path}.muster-{:08x}.part", rand::random::<u32>());
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let private = FileAttributes { permissions: Some(0o600), ..FileAttributes::empty() };
        let handle = self.raw.open(&temporary, flags, private).await.map_err(|error| failed(&error))?.handle;
        *self.temporary.lock().unwrap_or_else(PoisonError::into_inner) = Some(temporary.clone());
        let write = async |offset: u64, data: Bytes| self.raw.write(&handle, offset, data.to_vec()).await;
        let mut pending = FuturesUnordered::new();
        let mut bytes = 0;
        loop {
            let mut data = match pieces.recv().await {
                Some(Piece::Data(data)) => data,
                Some(Piece::End) => break,
                _ => return Ok(None),
            };
            while !data.is_empty() {
                let chunk = data.split_to(data.len().min(CHUNK));
                let length = chunk.len() as u64;
                pending.push(write(bytes, chunk));
                bytes += length;
                if pending.len() >= AHEAD
                    && let Some(written) = pending.next().await
                {
                    written.map_err(|error| failed(&error))?;
                }
            }
            on(bytes);
        }
        while let Some(written) = pending.next().await {
            written.map_err(|error| failed(&error))?;
        }
        let attributes = FileAttributes { permissions: Some(mode), ..FileAttributes::empty() };
        self.raw.fsetstat(&handle, attributes).await.map_err(|error| failed(&error))?;
        if self.syncs {
            self.raw.fsync(&handle).await.map_err(|error| failed(&error))?;
        }
        self.raw.close(&handle).await.map_err(|error| failed(&error))?;
        self.rename(&temporary, path).await.map_err(|error| self.failed("finish", path, &error))?;
        *self.temporary.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(Some(bytes))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        if self.renames {
            let text = |text: &str| [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat();
            return match self.raw.extended(POSIX_RENAME, [text(from), text(to)].concat()).await? {
                Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
                Packet::Status(status) => Err(Error::Status(status)),
                _ => Err(Error::UnexpectedPacket),
            };
        }
        // Plain SFTP does not rename onto what is there.
        if self.raw.rename(from, to).await.is_ok() {
            return Ok(());
        }
        self.raw.remove(to).await?;
        self.raw.rename(from, to).await.map(drop)
    }

    /// Removes what was not finished.
    pub(crate) async fn clean_up(&self) {
        let temporary = self.temporary.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(temporary) = temporary {
            let _gone = self.raw.remove(temporary).await;
        }
    }
}

fn found(attributes: &FileAttributes) -> Found {
    let mode = attributes.permissions.unwrap_or(REGULAR);
    let kind = match mode & KIND {
        REGULAR => Kind::File,
        FOLDER => Kind::Folder,
        _ => Kind::Other,
    };
    Found { kind, size: attributes.size.unwrap_or(0), mode: mode & 0o777 }
}

/// The other machine's own words are made fit for a message.
fn words(error: &Error) -> String {
    match error {
        Error::Status(status) if status.error_message.is_empty() => status.status_code.to_string(),
        Error::Status(status) => names::shown(&status.error_message),
        Error::Timeout => format!("no answer within {ANSWER_S} s"),
        other => names::shown(&other.to_string()),
    }
}
