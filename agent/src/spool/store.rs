//! The spool's database: entries in the order of their arrival, each encrypted, flushed before it counts. All of it blocks.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use muster_runtime::lock;
use muster_schemas::{names::JobId, time::Timestamp};

use super::{
    Limits, SpoolError,
    cipher::{Cipher, SALT},
};
use crate::{finish::Ending, identity::file};

const FOLDER: &str = "spool";
const SALT_FILE: &str = "spool.salt";
/// Entries that can't be read, for a person to look at. Never read by the agent.
const ASIDE: &str = "aside";
/// What is known of the spool itself.
const ABOUT: &str = "about";
/// In it: whose results these are, the agent's id and the part of its API key that is not secret.
const OWNER: &[u8] = b"owner";

/// sled's page cache. The spool is empty nearly always, and an idle agent is to stay small.
const CACHE: u64 = 256 * 1024;

/// Time between two looks at a database that somebody still has.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Store {
    entries: sled::Tree,
    aside: sled::Tree,
    about: sled::Tree,
    cipher: Cipher,
    limits: Limits,
    next_place: AtomicU64,
    count: AtomicUsize,
    bytes: AtomicU64,
}

impl Store {
    pub(super) fn open(state_dir: &Path, api_key: &str, limits: Limits) -> Result<Self, SpoolError> {
        let cipher = Cipher::derive(api_key, &salt(&state_dir.join(SALT_FILE))?);
        let folder = state_dir.join(FOLDER);
        let database = match open(&folder) {
            Err(error @ (sled::Error::Corruption { .. } | sled::Error::ReportableBug(_))) => {
                let aside = move_aside(&folder).map_err(|io| SpoolError::Open { path: folder.clone(), source: sled::Error::Io(io) })?;
                tracing::error!(%error, moved_to = %aside.display(), "the spool is damaged; its results are lost to Muster, and it begins anew");
                open(&folder)
            }
            other => other,
        };
        let database = database.map_err(|source| SpoolError::Open { path: folder.clone(), source })?;
        let entries = database.open_tree("entries")?;
        let last = entries.last()?.and_then(|(key, _)| place_of(&key));
        Ok(Self {
            aside: database.open_tree(ASIDE)?,
            about: database.open_tree(ABOUT)?,
            cipher,
            limits,
            next_place: AtomicU64::new(last.map_or(0, |place| place.saturating_add(1))),
            count: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            entries,
        })
    }

    /// Takes the spool over for this owner. What another one left can't be read or would not be taken any more; it is removed, and counted.
    pub(super) fn claim(&self, owner: &str) -> Result<usize, SpoolError> {
        let before = self.about.get(OWNER)?;
        if before.as_deref() == Some(owner.as_bytes()) {
            return Ok(0);
        }
        // A spool of an older build has no owner: it is this agent's.
        let void = if before.is_some() { self.entries.len() } else { 0 };
        if before.is_some() {
            self.entries.clear()?;
            self.entries.flush()?;
        }
        self.about.insert(OWNER, owner)?;
        self.about.flush()?;
        Ok(void)
    }

    /// Reads every entry once, moves those aside that can't be read, and answers whose results are here.
    pub(super) fn check(&self) -> Result<HashSet<JobId>, SpoolError> {
        let (mut jobs, mut from) = (HashSet::new(), 0);
        self.count.store(self.entries.len(), Ordering::Relaxed);
        self.bytes.store(self.entries.iter().values().flatten().map(|entry| entry.len() as u64).sum(), Ordering::Relaxed);
        while let Some((place, ending)) = self.next(from)? {
            jobs.insert(ending.job_id);
            from = place.saturating_add(1);
        }
        Ok(jobs)
    }

    pub(super) fn put(&self, ending: &Ending) -> Result<(), SpoolError> {
        if self.is_full() {
            return Err(SpoolError::Full { entries: self.count(), bytes: self.bytes.load(Ordering::Relaxed) });
        }
        let plain = rmp_serde::to_vec_named(ending).map_err(|error| SpoolError::Failed(error.to_string()))?;
        let place = self.next_place.fetch_add(1, Ordering::Relaxed);
        let sealed = self.cipher.seal(place, &plain).map_err(|error| SpoolError::Failed(error.to_string()))?;
        let size = sealed.len() as u64;
        self.entries.insert(place.to_be_bytes(), sealed)?;
        self.entries.flush()?;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    /// The oldest readable entry from a place on. What can't be read is moved aside.
    pub(super) fn next(&self, from: u64) -> Result<Option<(u64, Ending)>, SpoolError> {
        for entry in self.entries.range(from.to_be_bytes()..) {
            let (key, sealed) = entry?;
            let place = place_of(&key);
            let plain = place.map(|place| self.cipher.open(place, &sealed).map_err(|error| error.to_string()));
            let ending = plain.unwrap_or_else(|| Err("its place makes no sense".to_owned()));
            let ending = ending.and_then(|plain| rmp_serde::from_slice(&plain).map_err(|error| error.to_string()));
            match (place, ending) {
                (Some(place), Ok(ending)) => return Ok(Some((place, ending))),
                (_, problem) => {
                    let problem = problem.err().unwrap_or_default();
                    tracing::error!(place, problem, "a result in the spool can't be read; moved aside, its job will run again elsewhere");
                    self.aside.insert(&key, sealed.clone())?;
                    self.forget(&key, &sealed)?;
                }
            }
        }
        Ok(None)
    }

    pub(super) fn remove(&self, place: u64) -> Result<(), SpoolError> {
        if let Some(sealed) = self.entries.get(place.to_be_bytes())? {
            self.forget(&place.to_be_bytes(), &sealed)?;
        }
        Ok(())
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.count() >= self.limits.entries || self.bytes.load(Ordering::Relaxed) >= self.limits.bytes
    }

    fn forget(&self, key: &[u8], sealed: &[u8]) -> Result<(), SpoolError> {
        if self.entries.remove(key)?.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.bytes.fetch_sub(sealed.len() as u64, Ordering::Relaxed);
        }
        // Not flushed: after a crash the result is sent once more, which the broker answers with "already there".
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn raw(&self) -> (&sled::Tree, &sled::Tree) {
        (&self.entries, &self.aside)
    }
}

/// Opens the database; waits a moment for whoever still has its lock, as [`lock`] does. Of that sled tells only an error of input or output.
fn open(folder: &Path) -> sled::Result<sled::Db> {
    let deadline = Instant::now() + lock::PATIENCE;
    loop {
        match open_now(folder) {
            Err(sled::Error::Io(_)) if Instant::now() < deadline => std::thread::sleep(LOOK),
            opened => return opened,
        }
    }
}

fn open_now(folder: &Path) -> sled::Result<sled::Db> {
    let config = sled::Config::new().path(folder).cache_capacity(CACHE).mode(sled::Mode::LowSpace).flush_every_ms(None);
    // sled panics on some kinds of damage; a spool must never stop the agent.
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
    opened.unwrap_or_else(|_| Err(sled::Error::ReportableBug("sled panicked on its files".to_owned())))
}

fn place_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

fn move_aside(folder: &Path) -> std::io::Result<PathBuf> {
    let aside = folder.with_file_name(format!("{FOLDER}-damaged-{}", Timestamp::now().secs()));
    fs::rename(folder, &aside)?;
    Ok(aside)
}

/// The salt, made at first use.
fn salt(path: &Path) -> Result<[u8; SALT], SpoolError> {
    if let Some(bytes) = file::read_private(path)? {
        if let Ok(salt) = bytes.try_into() {
            return Ok(salt);
        }
        tracing::error!(path = %path.display(), "the spool's salt is damaged; a new one is made, and what is in the spool can't be read any more");
    }
    let salt: [u8; SALT] = rand::random();
    file::write_private(path, &salt)?;
    Ok(salt)
}
