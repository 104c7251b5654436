//! What is known of the stream of commands from look to look, and since when consumers have had nothing to give.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use muster_schemas::{names::AgentId, time::Timestamp};

use crate::broker::StreamInfo;

/// The stream as a whole. As long as this stays as it is, so do who has commands and who has a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Glance {
    created: Timestamp,
    last: u64,
    messages: u64,
    consumers: u64,
}

impl Glance {
    pub(super) fn of(info: &StreamInfo) -> Self {
        let state = &info.state;
        Self { created: info.created, last: state.last_seq, messages: state.messages, consumers: state.consumer_count }
    }

    /// Whether nobody has a command or a consumer.
    pub(super) fn is_empty(self) -> bool {
        self.messages == 0 && self.consumers == 0
    }
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The stream when all was listed last.
    seen: Option<Glance>,
    /// Who had a consumer and no command at all looks since then.
    spare: BTreeMap<AgentId, Instant>,
}

impl Known {
    /// Whether nothing has happened since all was listed.
    pub(super) fn is_as(&self, glance: Glance) -> bool {
        self.seen == Some(glance)
    }

    /// Takes in who has commands and who has a consumer. `glance` is of before the two were listed.
    pub(super) fn listed(&mut self, glance: Glance, commands: &BTreeSet<AgentId>, consumers: BTreeSet<AgentId>, now: Instant) {
        self.seen = Some(glance);
        let spare = consumers.into_iter().filter(|agent| !commands.contains(agent));
        self.spare =
            spare.map(|agent| (self.spare.get(&agent).copied().unwrap_or(now), agent)).map(|(since, agent)| (agent, since)).collect();
    }

    /// Who has had a consumer and no command for so long, the longest first.
    pub(super) fn ripe(&self, after: Duration, now: Instant) -> Vec<AgentId> {
        let mut ripe: Vec<_> = self.spare.iter().filter(|(_, since)| **since + after <= now).collect();
        ripe.sort_by_key(|(_, since)| **since);
        ripe.into_iter().map(|(agent, _)| agent.clone()).collect()
    }

    /// A consumer is used: its time begins again.
    pub(super) fn used(&mut self, agent: &AgentId, now: Instant) {
        self.spare.entry(agent.clone()).and_modify(|since| *since = now);
    }

    /// A consumer is gone.
    pub(super) fn gone(&mut self, agent: &AgentId) {
        self.spare.remove(agent);
    }

    /// All is listed at the next look.
    pub(super) fn unsure(&mut self) {
        self.seen = None;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    const AFTER: Duration = Duration::from_secs(60);

    fn glance(last: u64, messages: u64, consumers: u64) -> Glance {
        Glance { created: Timestamp::from_secs(1), last, messages, consumers }
    }

    #[test]
    fn a_consumer_without_commands_is_ripe_after_a_minute_and_one_with_a_command_begins_again() {
        let (idle, busy, start) = (AgentId::generate(), AgentId::generate(), Instant::now());
        let both: BTreeSet<_> = [idle.clone(), busy.clone()].into();
        let mut known = Known::default();
        known.listed(glance(1, 0, 2), &BTreeSet::new(), both.clone(), start);
        known.listed(glance(2, 1, 2), &[busy.clone()].into(), both.clone(), start + AFTER / 2);
        known.listed(glance(2, 0, 2), &BTreeSet::new(), both, start + AFTER / 2);
        assert!(known.ripe(AFTER, start + AFTER - Duration::from_millis(1)).is_empty());
        assert_eq!(known.ripe(AFTER, start + AFTER), std::slice::from_ref(&idle));
        assert_eq!(known.ripe(AFTER, start + 2 * AFTER), [idle.clone(), busy.clone()]);
        known.used(&idle, start + AFTER);
        assert_eq!(known.ripe(AFTER, start + 2 * AFTER - Duration::from_millis(1)), std::slice::from_ref(&busy));
        known.gone(&busy);
        assert_eq!(known.ripe(AFTER, start + 2 * AFTER), [idle]);
    }

    #[test]
    fn all_is_listed_again_only_when_something_has_happened() {
        let mut known = Known::default();
        let seen = glance(7, 1, 1);
        assert!(!known.is_as(seen));
        known.listed(seen, &BTreeSet::new(), BTreeSet::new(), Instant::now());
        assert!(known.is_as(seen));
        for other in [glance(8, 1, 1), glance(7, 0, 1), glance(7, 1, 0), Glance { created: Timestamp::from_secs(2), ..seen }] {
            assert!(!known.is_as(other), "{other:?}");
        }
        known.unsure();
        assert!(!known.is_as(seen));
        assert!(glance(7, 0, 0).is_empty() && !glance(7, 1, 0).is_empty() && !glance(7, 0, 1).is_empty());
    }
}
