//! The public keys of gateways and dispatchers, present and past, as `muster init` writes them down: lines of `<name> <key>`, and of
//! `retired <key> <until>` for those that a roll-over dropped.
//!
//! What a dropped key had signed by then stays signed for as long as a result is kept. The list that is in use when keys are dropped is still
//! signed by one of them, so those of the last roll-over count for lists as well; once the next one begins, they are `past`.

use std::{collections::BTreeMap, path::Path};

use muster_schemas::{time::Timestamp, topology::RESULT_AGE_MAX};

use super::SigningError;
use crate::files;

const RETIRED: &str = "retired";
const PAST: &str = "past";

/// The keys of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControlPlane {
    /// Those in use, and whose they are.
    pub present: BTreeMap<String, String>,
    /// Those that were dropped.
    pub retired: BTreeMap<String, Retired>,
}

/// A key that was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retired {
    /// What the broker had stored by then counts.
    pub until: Timestamp,
    /// Whether a list of signers that it has signed is read.
    pub lists: bool,
}

impl ControlPlane {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`SigningError`].
    pub fn read(path: &Path) -> Result<Self, SigningError> {
        let damaged = |problem| SigningError::Damaged { path: path.display().to_string(), problem };
        Self::parse(&files::read(path)?.ok_or_else(|| damaged("there is no such file"))?).map_err(damaged)
    }

    /// The same, of a text. The error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut keys = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            keys.take(line).ok_or("a line of it is not `<name> <public key>`, or `retired <public key> <until>`")?;
        }
        Ok(keys)
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let (name, key) = (words.next()?, words.next()?);
        crate::jwt::check_user_key(key).ok()?;
        if name == RETIRED || name == PAST {
            let until = words.next()?.parse().ok()?;
            self.retired.insert(key.to_owned(), Retired { until, lists: name == RETIRED });
        } else {
            self.present.insert(key.to_owned(), name.to_owned());
        }
        words.next().is_none().then_some(())
    }

    /// The text of the file. Those are left out of which no result is kept any more.
    pub(crate) fn text(&self, now: Timestamp) -> String {
        let present = self.present.iter().map(|(key, name)| format!("{name} {key}\n"));
        let kept = self.retired.iter().filter(|(key, old)| now.since(old.until) < RESULT_AGE_MAX && !self.present.contains_key(*key));
        let retired = kept.map(|(key, old)| format!("{} {key} {}\n", if old.lists { RETIRED } else { PAST }, old.until));
        present.chain(retired).collect()
    }

    /// Drops all that are in use. Whichever stay are put in again.
    pub(crate) fn retire(&mut self, now: Timestamp) {
        let dropped = std::mem::take(&mut self.present).into_keys();
        self.retired.extend(dropped.map(|key| (key, Retired { until: now, lists: true })));
    }

    /// Has those that were dropped before count for results only: a new roll-over begins.
    pub(crate) fn age(&mut self) {
        self.retired.values_mut().for_each(|old| old.lists = false);
    }
}

impl From<BTreeMap<String, String>> for ControlPlane {
    fn from(present: BTreeMap<String, String>) -> Self {
        Self { present, retired: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use muster_schemas::signature::Signer;

    use super::*;

    #[test]
    fn what_is_written_down_is_read_and_a_dropped_key_is_kept_for_as_long_as_a_result() {
        let now = Timestamp::from_secs(1_800_000_000);
        let key = || Signer::generate().public_key().to_owned();
        let (old, new) = (key(), key());
        let mut keys = ControlPlane::from(BTreeMap::from([(old.clone(), "gateway".to_owned())]));
        keys.retire(now);
        keys.present.insert(new.clone(), "gateway".to_owned());
        assert_eq!(ControlPlane::parse(&keys.text(now)).unwrap(), keys);
        assert_eq!(keys.retired.get(&old), Some(&Retired { until: now, lists: true }));
        keys.age();
        assert_eq!(ControlPlane::parse(&keys.text(now)).unwrap(), keys);
        assert_eq!(keys.retired.get(&old), Some(&Retired { until: now, lists: false }));
        let almost = ControlPlane::parse(&keys.text(now + RESULT_AGE_MAX - Duration::from_secs(1))).unwrap();
        assert_eq!((almost.retired.len(), ControlPlane::parse(&keys.text(now + RESULT_AGE_MAX)).unwrap().retired.len()), (1, 0));
        for line in ["gateway", "gateway UNOKEY", &format!("retired {old}"), &format!("retired {old} soon"), &format!("gateway {new} x")] {
            assert!(ControlPlane::parse(line).is_err(), "{line}");
        }
    }
}
