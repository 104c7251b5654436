//! Rows and positions on the disk (sled), and the catalogue over them in memory.
//!
//! A position and the rows that it stands for are written as one batch, so after a crash the streams are read on from a place that fits the
//! rows, whatever was lost behind it. All of it blocks. What rows mean is said in [`super::row`].

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use muster_schemas::{
    names::{JobId, PoolName},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{
    catalogue::{Catalogue, Entry, Hashes, Spot, seconds},
    key::RowKey,
    row::{Change, Row},
};

/// sled's page cache: the newest rows, which change.
const CACHE: u64 = 16 << 20;
/// How often what was written goes to the disk. What a crash forgets is read from the streams again.
const FLUSH_EVERY: Duration = Duration::from_secs(2);
/// The form of rows. One of another form is not read: the history is built anew.
const FORM: &[u8] = b"3";
const FORM_KEY: &[u8] = b"form";
const WATCH_KEY: &[u8] = b"watch";
const POSITION: u8 = b'p';
const ROW: u8 = b'r';

/// Why the history cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// The database.
    #[error("the history's database: {0}")]
    Database(#[from] sled::Error),
    /// A file.
    #[error("the history's folder: {0}")]
    Folder(#[from] std::io::Error),
    /// Another process has it.
    #[error("another process uses the history in {0}; each dispatcher needs a data_dir of its own")]
    Taken(String),
    /// A bug of ours.
    #[error("{0}")]
    Failed(String),
}

/// How far a stream has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    /// When the stream was made, in microseconds: tells it from a later one of the same name.
    pub(crate) created: i64,
    pub(crate) sequence: u64,
    /// When the message of that sequence was stored, in microseconds.
    pub(crate) stored: i64,
}

/// When results were followed. One that was stored and gone in between was never seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Watch {
    /// Until when, in microseconds; absent before the first time.
    pub(crate) alive: Option<i64>,
    /// Gaps, oldest first: from and until when.
    pub(crate) gaps: Vec<(i64, i64)>,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) jobs: usize,
    /// How long a job is kept that has ended.
    pub(crate) age: Duration,
}

/// What is written as one.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) changes: Vec<(PoolName, JobId, Change)>,
    pub(crate) reached: BTreeMap<&'static str, Reached>,
    pub(crate) watch: Option<Watch>,
}

/// The history.
#[derive(Debug)]
pub(crate) struct Store {
    rows: sled::Db,
    catalogue: RwLock<Catalogue>,
    hashes: Hashes,
    limits: Limits,
}

impl Store {
    /// Opens the history in a folder, or begins one. One that is damaged is set aside: the streams have it all.
    pub(crate) fn open(folder: &Path, limits: Limits) -> Result<Self, HistoryError> {
        std::fs::create_dir_all(folder)?;
        let rows = match open(folder) {
            Err(HistoryError::Database(error @ (sled::Error::Corruption { .. } | sled::Error::ReportableBug(_)))) => {
                let aside = folder.with_extension(format!("damaged-{}", Timestamp::now().micros()));
                std::fs::rename(folder, &aside)?;
                tracing::error!(%error, moved_to = %aside.display(), "the history is damaged; it is built anew from the streams");
                open(folder)?
            }
            other => other?,
        };
        if rows.get(FORM_KEY)?.as_deref() != Some(FORM) {
            rows.clear()?;
            rows.insert(FORM_KEY, FORM)?;
        }
        let store = Self { rows, catalogue: RwLock::default(), hashes: Hashes::default(), limits };
        let mut entries = Vec::new();
        for held in store.rows.scan_prefix([ROW]) {
            let (key, value) = held?;
            if let (Some(key), Some(row)) = (row_key(&key), decode(&value)) {
                entries.push(store.hashes.entry(key, &row));
            }
        }
        *store.write() = Catalogue::build(entries);
        Ok(store)
    }

    /// How far a stream has been read.
    pub(crate) fn reached(&self, stream: &str) -> Result<Option<Reached>, HistoryError> {
        let held = self.rows.get(position_key(stream))?;
        Ok(held.and_then(|bytes| rmp_serde::from_slice(&bytes).ok()))
    }

    /// When results were followed.
    pub(crate) fn watch(&self) -> Result<Watch, HistoryError> {
        let held = self.rows.get(WATCH_KEY)?;
        Ok(held.and_then(|bytes| rmp_serde::from_slice(&bytes).ok()).unwrap_or_default())
    }

    pub(crate) fn row(&self, key: RowKey) -> Result<Option<Row>, HistoryError> {
        Ok(self.rows.get(row_path(key))?.and_then(|bytes| decode(&bytes)))
    }

    pub(crate) fn hashes(&self) -> &Hashes {
        &self.hashes
    }

    pub(crate) fn catalogue(&self) -> RwLockReadGuard<'_, Catalogue> {
        self.catalogue.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Catalogue> {
        self.catalogue.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what is new, with the positions it was read up to. Then removes the oldest jobs above the limit.
    pub(crate) fn commit(&self, step: &Step) -> Result<(), HistoryError> {
        let mut touched = HashMap::<RowKey, Touched>::with_capacity(step.changes.len());
        for (pool, id, change) in &step.changes {
            let Some(key) = RowKey::of(pool, id) else { continue };
            let held = match touched.entry(key) {
                std::collections::hash_map::Entry::Occupied(held) => held.into_mut(),
                std::collections::hash_map::Entry::Vacant(room) => {
                    let row = self.row(key)?;
                    let entry = row.as_ref().map(|row| self.hashes.entry(key, row));
                    room.insert(Touched { row: row.unwrap_or_else(|| Row::new(pool.clone(), id.clone())), before: entry, changed: false })
                }
            };
            // Of two ids with one key the first has it; made ids differ, and for others it takes a hash broken.
            if held.row.pool == *pool && held.row.id == *id {
                held.changed |= held.row.apply(change.clone());
            }
        }
        let mut batch = sled::Batch::default();
        for (stream, reached) in &step.reached {
            batch.insert(position_key(stream), encode(reached)?);
        }
        if let Some(watch) = &step.watch {
            batch.insert(WATCH_KEY, encode(watch)?);
        }
        touched.retain(|_, held| held.changed);
        for (key, held) in &touched {
            batch.insert(&row_path(*key), encode(&held.row)?);
        }
        // Readers see rows and entries that fit each other.
        let mut catalogue = self.write();
        self.rows.apply_batch(batch)?;
        for (key, held) in touched {
            if let Some(before) = held.before {
                catalogue.remove(before.spot());
            }
            catalogue.insert(self.hashes.entry(key, &held.row));
        }
        let surplus = catalogue.len().saturating_sub(self.limits.jobs);
        let surplus: Vec<Spot> = catalogue.oldest_first().take(surplus).map(Entry::spot).collect();
        self.remove(&mut catalogue, surplus)
    }

    /// Removes jobs that ended longer ago than is kept. Answers how many.
    pub(crate) fn expire(&self, now: Timestamp) -> Result<usize, HistoryError> {
        let limit = seconds((now - self.limits.age).micros());
        let mut catalogue = self.write();
        // Jobs still under way stay, however long ago they were queued: a job may be put off for a year.
        let ended = |entry: &Entry| entry.phase.is_final() && entry.at_s < limit;
        let nowhere = |entry: &Entry| entry.missing && seconds(entry.queued_at) < limit;
        let old = |entry: &&Entry| ended(entry) || nowhere(entry);
        let old: Vec<Spot> = catalogue.oldest_first().filter(old).map(Entry::spot).collect();
        let count = old.len();
        self.remove(&mut catalogue, old)?;
        Ok(count)
    }

    fn remove(&self, catalogue: &mut Catalogue, spots: Vec<Spot>) -> Result<(), HistoryError> {
        let mut batch = sled::Batch::default();
        spots.iter().for_each(|(_, key)| batch.remove(&row_path(*key)));
        self.rows.apply_batch(batch)?;
        spots.into_iter().for_each(|spot| catalogue.remove(spot));
        Ok(())
    }

    /// Bytes on the disk.
    pub(crate) fn size(&self) -> u64 {
        self.rows.size_on_disk().unwrap_or(0)
    }

    /// Waits until everything is on the disk.
    pub(crate) fn flush(&self) -> Result<(), HistoryError> {
        self.rows.flush()?;
        Ok(())
    }
}

/// A row that a step changes.
struct Touched {
    row: Row,
    before: Option<Entry>,
    changed: bool,
}

fn open(folder: &Path) -> Result<sled::Db, HistoryError> {
    let flush = u64::try_from(FLUSH_EVERY.as_millis()).unwrap_or(u64::MAX);
    let opened = sled::Config::new().path(folder).cache_capacity(CACHE).flush_every_ms(Some(flush)).open();
    opened.map_err(|error| match error {
        sled::Error::Io(io) if io.to_string().contains("lock") => HistoryError::Taken(folder.display().to_string()),
        other => other.into(),
    })
}

fn position_key(stream: &str) -> Vec<u8> {
    [&[POSITION], stream.as_bytes()].concat()
}

fn row_path(RowKey(key): RowKey) -> [u8; 17] {
    let mut path = [ROW; 17];
    for (to, from) in path.iter_mut().skip(1).zip(key) {
        *to = from;
    }
    path
}

fn row_key(path: &[u8]) -> Option<RowKey> {
    Some(RowKey(path.get(1..)?.try_into().ok()?))
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, HistoryError> {
    rmp_serde::to_vec(value).map_err(|error| HistoryError::Failed(error.to_string()))
}

fn decode(bytes: &[u8]) -> Option<Row> {
    rmp_serde::from_slice(bytes).inspect_err(|error| tracing::error!(%error, "a row of the history can't be read")).ok()
}

#[cfg(test)]
mod tests;
