//! Looks at who may have signed a result, so few that whoever signs with unknown keys, in as many names as he likes, holds up nobody.
//!
//! What was looked at within [`EVERY`] is not looked at again: a key that is still unknown then is nobody's.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use muster_schemas::names::AgentId;

/// At most one look at the same thing in this time. What is followed arrives sooner.
const EVERY: Duration = Duration::from_secs(1);
/// Looks at all things together in that time; each takes about a millisecond.
const MOST: usize = 64;

/// The last looks: at agents, and at the list of signers, which is `None`.
#[derive(Debug, Default)]
pub(super) struct Looks(HashMap<Option<AgentId>, Instant>);

impl Looks {
    /// Whether it is to be looked at now. It counts as done then.
    pub(super) fn due(&mut self, what: Option<&AgentId>, now: Instant) -> bool {
        self.0.retain(|_, at| now.duration_since(*at) < EVERY);
        if self.0.len() >= MOST || self.0.contains_key(&what.cloned()) {
            return false;
        }
        self.0.insert(what.cloned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_looked_at_once_in_a_while_and_there_are_only_so_many_looks() {
        let (mut looks, now, agent) = (Looks::default(), Instant::now(), AgentId::generate());
        let seen = [Some(&agent), None].map(|what| (looks.due(what, now), looks.due(what, now + EVERY / 2), looks.due(what, now + EVERY)));
        assert_eq!(seen, [(true, false, true); 2]);
        let later = now + EVERY * 3;
        let looked = (0..MOST * 3).filter(|_| looks.due(Some(&AgentId::generate()), later)).count();
        assert_eq!((looked, looks.due(None, later), looks.due(None, later + EVERY)), (MOST, false, true));
    }
}
