//! Reads archives (tar, tar.gz, zip) without trusting a word in them: nothing is written here, and whoever writes gets checked names only.
//!
//! Links, devices, sparse files, encryption, names that lead out, names that come twice: each is an error that names the entry, not something to
//! skip. An archive within an archive is a file like any other. Sizes are counted as they come, never believed.

mod budget;
mod entries;
mod tar;
mod zip;

use std::{
    fs::File,
    io::{self, Read, Seek},
    ops::ControlFlow,
};

use budget::Budget;
use entries::Entries;

/// How much of an archive is read at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Files and folders.
    pub entries: u64,
    /// Bytes of all files together, unpacked.
    pub bytes: u64,
    /// How many times the size of the archive they may be. Small archives may unfold to [`Limits::ratio_from`] in any case.
    pub ratio: u64,
    /// From how many bytes on the ratio counts.
    pub ratio_from: u64,
    /// How deep folders may lie in each other.
    pub depth: usize,
    /// Bytes of a path.
    pub path_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Zeros deflate 1000 times, text seldom 20 times: 200 lets real archives through and stops bombs early.
        Self { entries: 10_000, bytes: 4 << 30, ratio: 200, ratio_from: 16 << 20, depth: 32, path_bytes: 1024 }
    }
}

/// What comes out of an archive, in its order.
#[derive(Debug)]
pub enum Event<'a> {
    /// A folder. The folders above it may not have come.
    Folder {
        /// Its path: plain names, with slashes between.
        path: &'a str,
    },
    /// A file begins; its data follow.
    File {
        /// Its path, as a folder's.
        path: &'a str,
        /// Its permissions, 9 bits.
        mode: u32,
    },
    /// The next bytes of the file that began last.
    Data(&'a [u8]),
    /// The end of that file: it is whole.
    End,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Folders that have entries of their own.
    pub folders: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is none of the kinds that are read.
    #[error("it is not an archive of a kind that is read: tar, tar.gz or zip")]
    Unknown,
    /// One entry is not taken.
    #[error("entry `{entry}`: {problem}")]
    Entry {
        /// Its name, made fit for a message.
        entry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The archive as a whole is not taken.
    #[error("{problem}, at entry `{entry}`")]
    TooMuch {
        /// Which limit it broke.
        problem: String,
        /// The entry at which it did.
        entry: String,
    },
    /// It is damaged, or lies about itself.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// It could not be read.
    #[error("the archive could not be read: {0}")]
    Io(io::Error),
    /// Whoever got the events wanted no more.
    #[error("stopped")]
    Stopped,
}

/// Reads an archive from its beginning to its end.
///
/// # Errors
/// See [`ArchiveError`]. What came before is then worth nothing: read it once without doing anything first.
pub fn walk(mut file: &File, limits: &Limits, on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<Totals, ArchiveError> {
    let size = file.metadata().map_err(ArchiveError::Io)?.len();
    let mut head = Vec::new();
    file.rewind().and_then(|()| file.take(512).read_to_end(&mut head)).map_err(ArchiveError::Io)?;
    file.rewind().map_err(ArchiveError::Io)?;
    let mut reading = Reading { entries: Entries::new(limits), budget: Budget::new(limits, size), on, totals: Totals::default() };
    match head.as_slice() {
        [0x1f, 0x8b, ..] => tar::read(flate2::read::MultiGzDecoder::new(io::BufReader::new(file)), limits, &mut reading)?,
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => zip::read(file, size, limits, &mut reading)?,
        head if head.get(257..262) == Some(b"ustar") => tar::read(file, limits, &mut reading)?,
        _ => return Err(ArchiveError::Unknown),
    }
    Ok(reading.totals)
}

/// An archive that is being read.
struct Reading<'a> {
    entries: Entries,
    budget: Budget,
    on: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    totals: Totals,
}

impl Reading<'_> {
    fn tell(&mut self, event: Event<'_>) -> Result<(), ArchiveError> {
        match (self.on)(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ArchiveError::Stopped),
        }
    }

    fn folder(&mut self, name: &str) -> Result<(), ArchiveError> {
        let path = self.entries.folder(name)?;
        // The folder of the archive itself.
        if !path.is_empty() {
            self.totals.folders += 1;
            self.tell(Event::Folder { path: &path })?;
        }
        Ok(())
    }

    /// Passes on a file, and gives back how many bytes it had.
    fn file(&mut self, name: &str, mode: u32, mut content: impl Read) -> Result<u64, ArchiveError> {
        let path = self.entries.file(name)?;
        self.tell(Event::File { path: &path, mode: mode & 0o777 })?;
        let mut buffer = vec![0; 64 << 10];
        let mut bytes = 0;
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(name, &error)),
            };
            bytes += count as u64;
            self.budget.spend(count as u64, name)?;
            self.tell(Event::Data(buffer.get(..count).unwrap_or_default()))?;
        }
        self.totals.files += 1;
        self.totals.bytes += bytes;
        Ok(bytes)
    }
}

fn entry(name: &str, problem: impl Into<String>) -> ArchiveError {
    ArchiveError::Entry { entry: crate::names::shown(name), problem: problem.into() }
}

fn broken(name: &str, error: &io::Error) -> ArchiveError {
    entry(name, format!("its data are damaged: {error}"))
}
