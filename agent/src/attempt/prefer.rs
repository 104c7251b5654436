//! Whether an agent leaves a retry to others: one that has failed a job gives it back a few times, so that an agent that has not may take it.
//!
//! The broker gives a job to whoever asks first; it does not know who has failed it. So the agent decides, from what it is told anyway: who
//! has failed the job (the history in its last event) and how many agents of the pool accept (its own standing). It never waits for long:
//! where the others are busy, or do not run such jobs, it takes the job itself after [`TIMES`] releases.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use muster_schemas::{
    names::{AgentId, JobId},
    result::{AttemptRecord, Outcome},
};

use super::Past;

/// How often an agent gives one attempt back. While an agent that was served before others steps back, what it had asked for before that is
/// still served first: each release uses up one of those requests, and an idle lane of an agent has two or three **[measured]**.
const TIMES: u32 = 6;
/// The delay of the first release; each later one is twice as long. Together 1.6 s, which is what a retry waits at most beside an agent that
/// failed it, when all others are busy.
const DELAY: Duration = Duration::from_millis(25);
/// A job that was released so often, for whatever reason, is not given back any more: only so many of its events are kept.
const RELEASES_MAX: u64 = 24;
/// What was given back is remembered for so long; behind that it may be given back anew.
const REMEMBERED: Duration = Duration::from_secs(60);
/// At most so many: what is forgotten costs a few more releases.
const REMEMBERED_MAX: usize = 10_000;

/// Why a job is given back, for a person.
pub(crate) const REASON: &str = "this agent has failed it, and another one that has not may take it";

/// What this agent has given back lately, and how many agents accept.
#[derive(Debug, Default)]
pub(crate) struct Preference {
    /// Accepting agents of the pool, this one included; 0 when that is not known.
    pub(crate) accepting: AtomicU32,
    given: Mutex<VecDeque<Given>>,
}

#[derive(Debug)]
struct Given {
    at: Instant,
    id: JobId,
    attempt: u32,
    times: u32,
}

impl Preference {
    /// For how long to give a job back before its next attempt; `None` to run it. What is answered counts as given back.
    pub(crate) fn yields(&self, me: &AgentId, id: &JobId, past: &Past, now: Instant) -> Option<Duration> {
        let accepting = self.accepting.load(Ordering::Relaxed);
        if past.releases >= RELEASES_MAX || !others_may(me, &past.history, accepting) {
            return None;
        }
        let (mut given, attempt) = (self.recent(now), past.next());
        let before = given.iter().position(|given| given.id == *id && given.attempt == attempt).and_then(|at| given.remove(at));
        let times = before.map_or(0, |given| given.times);
        if given.len() >= REMEMBERED_MAX {
            given.pop_front();
        }
        // Kept also when it is run now: if this agent is given the same attempt again, it has waited enough.
        given.push_back(Given { at: now, id: id.clone(), attempt, times: times.saturating_add(1) });
        (times < TIMES).then(|| DELAY * 2_u32.pow(times))
    }

    fn recent(&self, now: Instant) -> MutexGuard<'_, VecDeque<Given>> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        while given.pop_front_if(|given| now.saturating_duration_since(given.at) > REMEMBERED).is_some() {}
        given
    }
}

/// Whether this agent has failed the job, and more agents accept than have. One that was lost with the job has failed it too.
fn others_may(me: &AgentId, history: &[AttemptRecord], accepting: u32) -> bool {
    let failed = |record: &&AttemptRecord| record.outcome.is_none_or(Outcome::is_retryable);
    let mut agents: Vec<&AgentId> = history.iter().filter(failed).filter_map(|record| record.agent_id.as_ref()).collect();
    agents.sort();
    agents.dedup();
    agents.contains(&me) && usize::try_from(accepting).unwrap_or(usize::MAX) > agents.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn failed_by(agents: &[&AgentId]) -> Past {
        let record = |(attempt, agent): (u32, &&AgentId)| AttemptRecord {
            attempt,
            agent_id: Some((*agent).clone()),
            started_at: None,
            finished_at: None,
            outcome: (attempt % 2 == 0).then_some(Outcome::Failed),
            exit_code: None,
            error: None,
            tail: None,
        };
        Past { attempts: u32::try_from(agents.len()).unwrap(), releases: 0, history: (1..).zip(agents).map(record).collect() }
    }

    fn among(accepting: u32) -> Preference {
        let preference = Preference::default();
        preference.accepting.store(accepting, Ordering::Relaxed);
        preference
    }

    #[test]
    fn an_agent_gives_back_what_it_has_failed_a_few_times_with_growing_delays_and_then_runs_it() {
        let (me, id, now) = (AgentId::generate(), "j".parse().unwrap(), Instant::now());
        let (preference, past) = (among(2), failed_by(&[&me]));
        let delays: Vec<_> = (0..8).map(|_| preference.yields(&me, &id, &past, now).map(|delay| delay.as_millis())).collect();
        assert_eq!(delays, [Some(25), Some(50), Some(100), Some(200), Some(400), Some(800), None, None]);
        // The attempt after that is another matter.
        let again = failed_by(&[&me, &me]);
        assert!(preference.yields(&me, &id, &again, now).is_some());
    }

    #[test]
    fn it_gives_nothing_back_that_it_has_not_failed_or_that_nobody_better_is_there_for() {
        let (me, other, id, now) = (AgentId::generate(), AgentId::generate(), "j".parse().unwrap(), Instant::now());
        for (accepting, by) in
            [(2, vec![]), (2, vec![&other]), (1, vec![&me]), (0, vec![&me]), (2, vec![&me, &other]), (2, vec![&other, &me, &me])]
        {
            assert_eq!(among(accepting).yields(&me, &id, &failed_by(&by), now), None, "{accepting} {by:?}");
        }
        assert!(among(3).yields(&me, &id, &failed_by(&[&me, &other]), now).is_some());
    }

    #[test]
    fn a_job_that_was_released_often_is_not_given_back_any_more() {
        let (me, id) = (AgentId::generate(), "j".parse().unwrap());
        let past = Past { releases: RELEASES_MAX, ..failed_by(&[&me]) };
        assert_eq!(among(5).yields(&me, &id, &past, Instant::now()), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_time_and_number() {
        let (me, now, preference) = (AgentId::generate(), Instant::now(), among(2));
        let past = failed_by(&[&me]);
        for n in 0..REMEMBERED_MAX + 10 {
            preference.yields(&me, &format!("j{n}").parse().unwrap(), &past, now);
        }
        assert_eq!(preference.recent(now).len(), REMEMBERED_MAX);
        assert!(preference.recent(now + REMEMBERED + Duration::from_secs(1)).is_empty());
    }
}
