//! What each pool gives to jobs that say nothing themselves. Agents cannot read the bucket of pools, so it goes into their standings.

use std::collections::{BTreeMap, BTreeSet};

use muster_schemas::{names::PoolName, records::PoolDefaults};

use super::Feed;

/// The defaults of all pools that have any.
#[derive(Debug, Default)]
pub struct Defaults {
    known: BTreeMap<PoolName, PoolDefaults>,
    /// What has come of a reading of the whole bucket that is going on.
    reading: Option<BTreeMap<PoolName, PoolDefaults>>,
}

impl Defaults {
    /// What a pool gives; `None` is nothing.
    pub fn of(&self, pool: &PoolName) -> Option<PoolDefaults> {
        self.known.get(pool).cloned()
    }

    /// Takes in what the bucket says. Gives back the pools whose defaults have changed.
    pub fn follow(&mut self, feed: Feed<PoolName, PoolDefaults>) -> BTreeSet<PoolName> {
        let (name, defaults) = match feed {
            Feed::Begin => {
                self.reading = Some(BTreeMap::new());
                return BTreeSet::new();
            }
            Feed::End => {
                let before = std::mem::replace(&mut self.known, self.reading.take().unwrap_or_default());
                let names = before.keys().chain(self.known.keys());
                return names.filter(|name| before.get(*name) != self.known.get(*name)).cloned().collect();
            }
            Feed::Put(name, defaults, _) => (name, Some(defaults).filter(|defaults| !defaults.is_empty())),
            Feed::Gone(name, _) => (name, None),
        };
        let map = self.reading.as_mut().unwrap_or(&mut self.known);
        let before = match defaults.clone() {
            Some(defaults) => map.insert(name.clone(), defaults),
            None => map.remove(&name),
        };
        (self.reading.is_none() && before != defaults).then_some(name).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn a_reading_replaces_all_and_a_change_touches_its_pool() {
        let mut defaults = Defaults::default();
        let name = |name: &str| name.parse::<PoolName>().unwrap();
        let put = |pool: &str, timeout_s| Feed::Put(name(pool), PoolDefaults { timeout_s, retry: None }, 1);
        let mut follow = |feed| defaults.follow(feed).into_iter().map(|pool| pool.to_string()).collect::<Vec<_>>();
        assert!([Feed::Begin, put("p", Some(1)), put("q", None)].into_iter().all(|feed| follow(feed).is_empty()));
        assert_eq!(follow(Feed::End), ["p"]);
        assert_eq!(follow(put("q", Some(2))), ["q"]);
        assert_eq!(follow(put("q", Some(2))), [""; 0]);
        assert_eq!(follow(Feed::Gone(name("q"), 3)), ["q"]);
        follow(Feed::Begin);
        follow(put("r", Some(3)));
        assert_eq!(follow(Feed::End), ["p", "r"]);
        assert_eq!(defaults.of(&name("r")).and_then(|defaults| defaults.timeout_s), Some(3));
        assert_eq!(defaults.of(&name("p")), None);
    }
}
