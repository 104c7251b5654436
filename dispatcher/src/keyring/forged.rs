//! Results with a wrong signature, told to people: each agent in whose name they come, and each that signed them, at most once a minute, with their
//! number.
//!
//! Only the active dispatcher tells, of what is stored while it is. All that was stored is in the history, by its mark.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use muster_runtime::tasks::Tasks;
use muster_schemas::names::{AgentId, JobId, PoolName};
use tokio::sync::mpsc;

use crate::trail::Trail;

/// The time between two lines about one agent.
const EVERY: Duration = Duration::from_secs(60);
/// Agents that are told apart; whoever forges may name as many as he likes. All others are told of together.
const APART: usize = 1000;

/// Forgeries that may wait to be taken in. More are only counted, as a metric.
const QUEUE: usize = 256;
/// How often it is looked whether something is to be told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A result with a wrong signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forged {
    /// The pool that it is stored under.
    pub(crate) pool: PoolName,
    /// The job that it ends.
    pub(crate) job: JobId,
    /// Who it says has ended the job.
    pub(crate) named: Option<AgentId>,
    /// The agent whose key has signed it; absent when the signature does not hold, or the key is none of an agent's.
    pub(crate) signer: Option<AgentId>,
    /// The key that its signature names; absent when that can't be read.
    pub(crate) key: Option<String>,
}

/// What is to be told: the newest one, and how many it stands for.
pub(crate) type Told = (Forged, u64);

/// Who has been told of, when: by the agent that is named, and the one that signed.
#[derive(Debug, Default)]
pub(crate) struct Forgeries(HashMap<(Option<AgentId>, Option<AgentId>), Since>);

#[derive(Debug)]
struct Since {
    told: Instant,
    untold: Option<Told>,
}

impl Forgeries {
    /// Takes one in. Answers what is to be told now, if it is time.
    pub(crate) fn forged(&mut self, forged: Forged, now: Instant) -> Option<Told> {
        let mut whose = (forged.named.clone(), forged.signer.clone());
        if self.0.len() >= APART && !self.0.contains_key(&whose) {
            whose.0 = None;
        }
        match self.0.get_mut(&whose) {
            None => {
                self.0.insert(whose, Since { told: now, untold: None });
                Some((forged, 1))
            }
            Some(since) => {
                let count = since.untold.take().map_or(0, |(_, count)| count) + 1;
                if now.duration_since(since.told) >= EVERY {
                    since.told = now;
                    return Some((forged, count));
                }
                since.untold = Some((forged, count));
                None
            }
        }
    }

    /// What has waited long enough. Whoever has been quiet for so long is forgotten.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Told> {
        let mut due = Vec::new();
        self.0.retain(|_, since| {
            if now.duration_since(since.told) < EVERY {
                return true;
            }
            since.told = now;
            let untold = since.untold.take();
            let keep = untold.is_some();
            due.extend(untold);
            keep
        });
        due
    }
}

/// Starts the task that tells of what is sent to it.
pub(crate) fn start(tasks: &Tasks, trail: Trail) -> mpsc::Sender<Forged> {
    let (sender, mut sent) = mpsc::channel(QUEUE);
    let shutdown = tasks.shutdown().clone();
    tasks.essential("forgeries", async move {
        let (mut forgeries, mut look) = (Forgeries::default(), tokio::time::interval(LOOK_EVERY));
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                Some(forged) = sent.recv() => forgeries.forged(forged, Instant::now()).iter().for_each(|told| tell(&trail, told)),
                _ = look.tick() => forgeries.due(Instant::now()).iter().for_each(|told| tell(&trail, told)),
            }
        }
    });
    sender
}

/// Tells people.
fn tell(trail: &Trail, (forged, count): &Told) {
    trail.forged(forged, *count);
    let Forged { pool, job, named, signer, key } = forged;
    let [named, signer] = [named, signer].map(|agent| agent.as_ref().map(AgentId::as_str));
    tracing::warn!(%pool, job_id = %job, named, signer, key, count, "a result is not signed by the agent that it names; it counts in no score");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn forged(named: &AgentId, job: &str) -> Forged {
        Forged { pool: "p".parse().unwrap(), job: job.parse().unwrap(), named: Some(named.clone()), signer: None, key: None }
    }

    #[test]
    fn the_first_one_is_told_at_once_and_the_rest_of_a_minute_together() {
        let (mut forgeries, now, agent) = (Forgeries::default(), Instant::now(), AgentId::generate());
        assert_eq!(forgeries.forged(forged(&agent, "a"), now), Some((forged(&agent, "a"), 1)));
        for job in ["b", "c"] {
            assert_eq!(forgeries.forged(forged(&agent, job), now), None);
        }
        let other = AgentId::generate();
        assert_eq!(forgeries.forged(forged(&other, "x"), now), Some((forged(&other, "x"), 1)));
        assert_eq!(forgeries.due(now + EVERY / 2), []);
        assert_eq!(forgeries.due(now + EVERY), [(forged(&agent, "c"), 2)]);
        assert_eq!(forgeries.forged(forged(&agent, "d"), now + EVERY), None);
        assert_eq!(forgeries.forged(forged(&agent, "e"), now + EVERY * 2), Some((forged(&agent, "e"), 2)));
        assert_eq!(forgeries.due(now + EVERY * 3), []);
        assert!(forgeries.0.is_empty(), "whoever has been quiet is forgotten");
    }

    #[test]
    fn two_who_sign_in_the_name_of_a_third_are_told_apart() {
        let (mut forgeries, now, named) = (Forgeries::default(), Instant::now(), AgentId::generate());
        for _ in 0..2 {
            let forged = Forged { signer: Some(AgentId::generate()), ..forged(&named, "a") };
            assert_eq!(forgeries.forged(forged.clone(), now), Some((forged, 1)));
        }
    }

    #[test]
    fn a_forger_who_names_many_agents_is_told_of_once() {
        let (mut forgeries, now) = (Forgeries::default(), Instant::now());
        let told: usize = (0..APART * 3).filter_map(|_| forgeries.forged(forged(&AgentId::generate(), "a"), now)).count();
        assert_eq!(told, APART + 1);
        assert_eq!(forgeries.due(now + EVERY).len(), 1);
    }
}
