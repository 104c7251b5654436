//! The entries that came so far: how many, and under which names.

use std::collections::HashMap;

use super::{ArchiveError, Limits, entry};
use crate::names;

/// Keeps their names, as they are where case does not count: two entries are never one file.
#[derive(Debug)]
pub(super) struct Entries {
    /// By folded path, whether it is a folder.
    seen: HashMap<String, bool>,
    count: u64,
    limits: Limits,
}

impl Entries {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { seen: HashMap::new(), count: 0, limits: limits.clone() }
    }

    /// Takes a file's name; gives back its path.
    pub(super) fn file(&mut self, name: &str) -> Result<String, ArchiveError> {
        let path = self.path(name)?;
        if path.is_empty() || name.ends_with('/') {
            return Err(entry(name, "a file without a name"));
        }
        self.parents(&path, name)?;
        match self.seen.insert(names::folded(&path), false) {
            None => Ok(path),
            Some(_) => Err(entry(name, "the same name comes twice (upper and lower case count as one)")),
        }
    }

    /// Takes a folder's name; gives back its path, empty for the archive's own. A folder may come again.
    pub(super) fn folder(&mut self, name: &str) -> Result<String, ArchiveError> {
        let path = self.path(name)?;
        self.parents(&format!("{path}/"), name)?;
        Ok(path)
    }

    fn parents(&mut self, path: &str, name: &str) -> Result<(), ArchiveError> {
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            let parent = names::folded(path.get(..at).unwrap_or_default());
            if !*self.seen.entry(parent).or_insert(true) {
                return Err(entry(name, "lies in what is a file"));
            }
        }
        Ok(())
    }

    fn path(&mut self, name: &str) -> Result<String, ArchiveError> {
        self.count += 1;
        if self.count > self.limits.entries {
            let problem = format!("the archive has more than {} entries", self.limits.entries);
            return Err(ArchiveError::TooMuch { problem, entry: names::shown(name) });
        }
        if name.len() > self.limits.path_bytes {
            return Err(entry(name, format!("its path has more than {} bytes", self.limits.path_bytes)));
        }
        if name.starts_with('/') {
            return Err(entry(name, "its path is absolute"));
        }
        // `./a` is how tar writes what lies in the current folder.
        let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        parts.iter().try_for_each(|part| names::check(part)).map_err(|problem| entry(name, problem))?;
        if parts.len() > self.limits.depth {
            return Err(entry(name, format!("lies more than {} folders deep", self.limits.depth)));
        }
        Ok(parts.join("/"))
    }
}
