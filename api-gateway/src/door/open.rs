//! Requests that stay open, waits and streams: so many of one key, and so many in all. Each has a connection for as long as it lasts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use muster_schemas::code::Code;

use crate::problem::ApiError;

/// After how long there may be a place again. Waits last up to a minute, so this is a guess.
const RETRY: Duration = Duration::from_secs(5);

/// Who has what open; clones share it.
#[derive(Clone)]
pub(super) struct Open(Arc<Inner>);

struct Inner {
    per_key: usize,
    most: usize,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    by_key: HashMap<String, usize>,
    count: usize,
}

/// The place of one open request. Dropping it gives it up.
pub(crate) struct Place {
    open: Open,
    key_id: String,
}

impl Open {
    pub(super) fn new(per_key: usize, most: usize) -> Self {
        Self(Arc::new(Inner { per_key, most, places: Mutex::default() }))
    }

    pub(super) fn take(&self, key_id: &str) -> Result<Place, ApiError> {
        let full = |who: &str, most: usize| {
            let detail = format!("{who} has {most} waits and streams open, as many as it may; close some, or look again later");
            Err(ApiError::new(Code::RateLimited, detail).retry_after(RETRY))
        };
        let mut places = self.lock();
        if places.count >= self.0.most {
            return full("this gateway", self.0.most);
        }
        let count = places.by_key.get(key_id).copied().unwrap_or(0);
        if count >= self.0.per_key {
            return full("this key", self.0.per_key);
        }
        places.by_key.insert(key_id.to_owned(), count + 1);
        places.count += 1;
        Ok(Place { open: self.clone(), key_id: key_id.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.open.lock();
        places.count = places.count.saturating_sub(1);
        let left = places.by_key.get(&self.key_id).copied().unwrap_or(0).saturating_sub(1);
        if left == 0 {
            places.by_key.remove(&self.key_id);
        } else {
            places.by_key.insert(self.key_id.clone(), left);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn one_key_cannot_take_the_places_of_the_others_and_leaves_nothing_behind() {
        let open = Open::new(2, 3);
        let held = [open.take("a").unwrap(), open.take("a").unwrap()];
        assert_eq!(open.take("a").err().unwrap().code, Code::RateLimited);
        let other = open.take("b").unwrap();
        let full = open.take("c").err().unwrap();
        assert!(full.detail.contains("this gateway") && full.retry_after.is_some(), "{full}");
        drop(held);
        assert!(open.take("a").is_ok());
        drop(other);
        let left = open.lock();
        assert_eq!((left.count, left.by_key.len()), (0, 0));
    }
}
