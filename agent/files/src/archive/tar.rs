//! tar: the headers, one by one as they stand, so that none of the many ways to say something about the next one is followed unseen.

use std::io::{self, Read};

use tar::{Archive, EntryType};

use super::{ArchiveError, Event, Limits, Reading, entry};

/// The most bytes of a long name or of extended headers: they are held in memory.
const HEADER_BYTES: u64 = 64 << 10;

/// What a header with a longer name, or an extended one, said of the entry that follows.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

pub(super) fn read(source: impl Read, limits: &Limits, reading: &mut Reading<'_>) -> Result<(), ArchiveError> {
    let damaged = |error: io::Error| ArchiveError::Damaged(error.to_string());
    let mut archive = Archive::new(Skipped { source, left: skip_limit(limits) });
    let mut said = Said::default();
    let mut headers = 0_u64;
    for found in archive.entries().map_err(damaged)?.raw(true) {
        let mut found = found.map_err(damaged)?;
        // Of each entry come its header, and at most a long name and extended headers before it.
        headers += 1;
        if headers > limits.entries.saturating_mul(4) {
            return Err(ArchiveError::Damaged(format!("more than {headers} headers for {} entries", limits.entries)));
        }
        let kind = found.header().entry_type();
        let size = found.header().entry_size().map_err(damaged)?;
        let own = found.header().path_bytes().into_owned();
        if let EntryType::GNULongName | EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongLink = kind {
            let text = header_text(&mut found, size, &own)?;
            match kind {
                EntryType::GNULongName => said.path = Some(text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
                EntryType::XHeader => extended(&text, &own, &mut said)?,
                EntryType::XGlobalHeader => extended(&text, &own, &mut Said::default())?,
                _ => {}
            }
            continue;
        }
        let Said { path, size: said_size } = std::mem::take(&mut said);
        let name = path.unwrap_or(own);
        let name = std::str::from_utf8(&name).map_err(|_| entry(&String::from_utf8_lossy(&name), "its name is not UTF-8"))?;
        if said_size.is_some_and(|said| said != size) {
            return Err(entry(name, "its two headers name different sizes"));
        }
        match kind {
            EntryType::Directory => reading.folder(name)?,
            EntryType::Regular | EntryType::Continuous if name.ends_with('/') => reading.folder(name)?,
            EntryType::Regular | EntryType::Continuous => {
                let mode = found.header().mode().map_err(damaged)?;
                let bytes = reading.file(name, mode, &mut found)?;
                if bytes != size {
                    return Err(entry(name, format!("has {bytes} bytes, and its header says {size}")));
                }
                reading.tell(Event::End)?;
            }
            EntryType::Symlink => return Err(entry(name, "is a symbolic link; links are not taken")),
            EntryType::Link => return Err(entry(name, "is a hard link; links are not taken")),
            EntryType::GNUSparse => return Err(entry(name, "is a sparse file; these are not taken")),
            EntryType::Char | EntryType::Block => return Err(entry(name, "is a device")),
            EntryType::Fifo => return Err(entry(name, "is a FIFO")),
            _ => return Err(entry(name, "is of an unknown kind")),
        }
    }
    Ok(())
}

fn header_text(found: &mut impl Read, size: u64, own: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    let name = String::from_utf8_lossy(own);
    if size > HEADER_BYTES {
        return Err(entry(&name, format!("its header has more than {HEADER_BYTES} bytes")));
    }
    let mut text = Vec::new();
    found.read_to_end(&mut text).map_err(|error| super::broken(&name, &error))?;
    Ok(text)
}

/// Extended headers (POSIX pax): lines of `<length> <key>=<value>`, the length being the line's own.
fn extended(mut text: &[u8], own: &[u8], said: &mut Said) -> Result<(), ArchiveError> {
    let bad = || entry(&String::from_utf8_lossy(own), "its extended header is malformed");
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length = text.get(..space).and_then(number).and_then(|length| usize::try_from(length).ok()).ok_or_else(bad)?;
        let line = text.get(space + 1..length).and_then(|line| line.strip_suffix(b"\n")).ok_or_else(bad)?;
        let equals = line.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        let (key, value) = (line.get(..equals).unwrap_or_default(), line.get(equals + 1..).unwrap_or_default());
        match key {
            b"path" => said.path = Some(value.to_vec()),
            b"size" => said.size = Some(number(value).ok_or_else(bad)?),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(entry(&String::from_utf8_lossy(own), "is a sparse file; these are not taken"));
            }
            _ => {}
        }
        text = text.get(length..).unwrap_or_default();
    }
    Ok(())
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Everything that is read of an archive, also what is only skipped.
fn skip_limit(limits: &Limits) -> u64 {
    // Each entry has at most four headers, with padding, beside its data.
    limits.bytes.saturating_add(limits.entries.saturating_mul(4 * (HEADER_BYTES + 1024)))
}

/// A source that ends with an error before it becomes endless.
struct Skipped<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Skipped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other("it unfolds to too much"))?;
        Ok(count)
    }
}
