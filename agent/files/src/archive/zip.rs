//! zip: the central directory, entry by entry, each against its local header. What the two say differently is refused.
//!
//! Read by hand (APPNOTE.TXT 6.3, 4.3.7, 4.3.12, 4.3.16), because readers that give random access hold all entries in memory, and of two with
//! the same name show one.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
};

use flate2::{Crc, read::DeflateDecoder};

use super::{ArchiveError, Event, Limits, Reading, entry};
use crate::names;

/// Bytes of the record at the end, without its comment.
const END_BYTES: usize = 22;
/// The longest comment that it may have.
const COMMENT_BYTES: u64 = 0xffff;
/// A size or place that stands in a zip64 record instead.
const ELSEWHERE: u32 = u32::MAX;

/// The directory: how many entries it has, and where it is.
struct Directory {
    entries: u64,
    at: u64,
    end: u64,
}

/// What the directory says of an entry.
struct Listed {
    name: String,
    is_folder: bool,
    mode: u32,
    deflated: bool,
    crc: u32,
    packed: u64,
    size: u64,
    local: u64,
}

pub(super) fn read(file: &File, size: u64, limits: &Limits, reading: &mut Reading<'_>) -> Result<(), ArchiveError> {
    let directory = find(file, size)?;
    if directory.entries > limits.entries {
        let problem = format!("the archive has {} entries, more than {}", directory.entries, limits.entries);
        return Err(ArchiveError::TooMuch { problem, entry: "(directory)".to_owned() });
    }
    let mut at = directory.at;
    for _ in 0..directory.entries {
        let (listed, next) = listed(file, at, directory.end)?;
        at = next;
        if listed.is_folder {
            reading.folder(&listed.name)?;
        } else {
            content(file, &listed, directory.at, reading)?;
        }
    }
    if at == directory.end { Ok(()) } else { Err(ArchiveError::Damaged("its directory has more entries than it says".to_owned())) }
}

fn find(mut file: &File, size: u64) -> Result<Directory, ArchiveError> {
    let damaged = |problem: &str| ArchiveError::Damaged(problem.to_owned());
    let from = size.saturating_sub(END_BYTES as u64 + COMMENT_BYTES);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))
        .and_then(|_| file.take(COMMENT_BYTES + END_BYTES as u64).read_to_end(&mut tail))
        .map_err(ArchiveError::Io)?;
    let is_end = |at: &usize| {
        let record = Record(tail.get(*at..).unwrap_or_default());
        record.0.starts_with(b"PK\x05\x06") && record.short(20).is_some_and(|comment| *at + END_BYTES + usize::from(comment) == tail.len())
    };
    let found = (0..=tail.len().saturating_sub(END_BYTES)).rev().find(is_end);
    let place = found.ok_or_else(|| damaged("it has no directory at its end"))?;
    let record = Record(tail.get(place..).unwrap_or_default());
    let fields = (record.long(4), record.short(8), record.short(10), record.long(12), record.long(16));
    let (Some(0), Some(here), Some(entries), Some(bytes), Some(at)) = fields else {
        return Err(damaged("it is one of several parts"));
    };
    if entries == u16::MAX || bytes == ELSEWHERE || at == ELSEWHERE {
        return Err(damaged("zip64, which is for more than 65534 entries or 4 GiB, is not taken"));
    }
    let end = from + place as u64;
    if here != entries || u64::from(at) + u64::from(bytes) != end {
        return Err(damaged("its directory is not where it says"));
    }
    Ok(Directory { entries: entries.into(), at: at.into(), end })
}

/// The entry at this place of the directory, and the place of the next.
fn listed(mut file: &File, at: u64, end: u64) -> Result<(Listed, u64), ArchiveError> {
    let damaged = |problem: &str| ArchiveError::Damaged(problem.to_owned());
    let mut record = [0; 46];
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut record)).map_err(|_| damaged("its directory is cut off"))?;
    let record = Record(&record);
    let lengths = [28, 30, 32].map(|place| record.short(place).unwrap_or_default());
    let next = at + 46 + lengths.iter().map(|length| u64::from(*length)).sum::<u64>();
    if !record.0.starts_with(b"PK\x01\x02") || next > end {
        return Err(damaged("its directory has fewer entries than it says"));
    }
    let name = text(file, lengths[0])?;
    let [made_by, flags, method] = [4, 8, 10].map(|place| record.short(place).unwrap_or_default());
    let [crc, packed, size, attributes, local] = [16, 20, 24, 38, 42].map(|place| record.long(place).unwrap_or_default());
    if flags & 1 != 0 {
        return Err(entry(&name, "is encrypted"));
    }
    if [packed, size, local].contains(&ELSEWHERE) {
        return Err(entry(&name, "has a zip64 record, which is not taken"));
    }
    if !matches!(method, 0 | 8) {
        return Err(entry(&name, format!("is packed by a method that is not taken ({method}; stored and deflate are)")));
    }
    // The upper half is a Unix mode where a Unix made it (3), or macOS (19).
    let mode = if matches!(made_by >> 8, 3 | 19) { attributes >> 16 } else { 0 };
    let is_folder = name.ends_with('/');
    match mode & 0o170_000 {
        0 => {}
        0o100_000 if !is_folder => {}
        0o040_000 if is_folder => {}
        0o120_000 => return Err(entry(&name, "is a symbolic link; links are not taken")),
        _ => return Err(entry(&name, "is neither a file nor a folder, or both")),
    }
    let mode = if mode & 0o777 == 0 { 0o644 } else { mode & 0o777 };
    let (packed, size, local) = (packed.into(), size.into(), local.into());
    Ok((Listed { name, is_folder, mode, deflated: method == 8, crc, packed, size, local }, next))
}

fn content(mut file: &File, listed: &Listed, directory: u64, reading: &mut Reading<'_>) -> Result<(), ArchiveError> {
    let name = &listed.name;
    let bad = |problem: &str| entry(name, problem);
    let mut record = [0; 30];
    let read = file.seek(SeekFrom::Start(listed.local)).and_then(|_| file.read_exact(&mut record));
    read.map_err(|_| bad("is not where the directory says"))?;
    let record = Record(&record);
    let [flags, method, name_bytes, extra_bytes] = [6, 8, 26, 28].map(|place| record.short(place).unwrap_or_default());
    if !record.0.starts_with(b"PK\x03\x04") {
        return Err(bad("is not where the directory says"));
    }
    if text(file, name_bytes)? != *name || flags & 1 != 0 || (method == 8) != listed.deflated {
        return Err(bad("its own header says something else than the directory"));
    }
    let start = listed.local + 30 + u64::from(name_bytes) + u64::from(extra_bytes);
    if start + listed.packed > directory {
        return Err(bad("its data reach into the directory"));
    }
    file.seek(SeekFrom::Start(start)).map_err(ArchiveError::Io)?;
    let packed = BufReader::new(file).take(listed.packed);
    let mut crc = Crc::new();
    // One byte beyond what it says is enough to know that it lies.
    let bytes = if listed.deflated {
        reading.file(name, listed.mode, Summed { source: DeflateDecoder::new(packed).take(listed.size + 1), crc: &mut crc })?
    } else {
        reading.file(name, listed.mode, Summed { source: packed.take(listed.size + 1), crc: &mut crc })?
    };
    if bytes != listed.size {
        return Err(bad(&format!(
            "has {} bytes than the {} that it says",
            if bytes < listed.size { "fewer" } else { "more" },
            listed.size
        )));
    }
    if crc.sum() != listed.crc {
        return Err(bad("its data are damaged: wrong checksum"));
    }
    reading.tell(Event::End)
}

fn text(mut file: &File, bytes: u16) -> Result<String, ArchiveError> {
    let mut text = vec![0; usize::from(bytes)];
    file.read_exact(&mut text).map_err(|_| ArchiveError::Damaged("it is cut off within a name".to_owned()))?;
    String::from_utf8(text).map_err(|error| entry(&names::shown(&String::from_utf8_lossy(error.as_bytes())), "its name is not UTF-8"))
}

/// A record of little-endian numbers.
struct Record<'a>(&'a [u8]);

impl Record<'_> {
    fn short(&self, at: usize) -> Option<u16> {
        self.0.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn long(&self, at: usize) -> Option<u32> {
        self.0.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
    }
}

/// Reads, and sums up what came.
struct Summed<'a, R> {
    source: R,
    crc: &'a mut Crc,
}

impl<R: Read> Read for Summed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.crc.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
