//! Where a job's row is: 16 bytes made of its pool and id.
//!
//! A generated id is its ULID, which begins with the time, so that rows of jobs that came together lie together on the disk and one page
//! takes several changes. An id that a caller chose is hashed.

use muster_schemas::names::{JobId, PoolName};
use sha2::{Digest as _, Sha256};

/// Above every ULID of the next 8 000 years.
const CHOSEN: [u8; 2] = [0xff, 0xff];

/// The key of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RowKey(pub(crate) [u8; 16]);

impl RowKey {
    /// Whether it is the key of an id that somebody chose. A generated one may look so in 8 000 years.
    pub(crate) fn is_of_chosen_id(&self) -> bool {
        self.0.starts_with(&CHOSEN)
    }

    /// The key of a job. `None` when an id says of itself that it belongs to another pool: then it is a forgery.
    pub(crate) fn of(pool: &PoolName, id: &JobId) -> Option<Self> {
        match id.belongs_to(pool) {
            Some(false) => None,
            Some(true) => {
                let ulid = id.as_str().strip_prefix("job_").and_then(|text| ulid::Ulid::from_string(text).ok())?;
                Some(Self(ulid.0.to_be_bytes()))
            }
            None => {
                let digest = Sha256::new_with_prefix(pool.as_str()).chain_update(".").chain_update(id.as_str()).finalize();
                let mut key = [0; 16];
                for (to, from) in key.iter_mut().zip(CHOSEN.iter().chain(digest.iter())) {
                    *to = *from;
                }
                Some(Self(key))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn pool(name: &str) -> PoolName {
        name.parse().unwrap()
    }

    #[test]
    fn every_job_has_a_key_of_its_own_and_a_forgery_has_none() {
        let made = JobId::generate(&pool("p"));
        assert!(RowKey::of(&pool("p"), &made).is_some());
        assert_eq!(RowKey::of(&pool("q"), &made), None);
        let chosen: JobId = "nightly-1".parse().unwrap();
        assert_ne!(RowKey::of(&pool("p"), &chosen), RowKey::of(&pool("q"), &chosen));
        assert!(RowKey::of(&pool("p"), &chosen) > RowKey::of(&pool("p"), &made));
    }
}
