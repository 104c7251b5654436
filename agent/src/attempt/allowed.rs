//! Which executors an operator lets this agent run jobs of, as its standing told it last. Lanes of others are not pulled
//! ([`crate::pull::gates`]); what comes to this agent alone is rejected here.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use muster_schemas::{
    code::Code,
    names::ExecutorName,
    queue::Queue,
    result::{ErrorInfo, Outcome},
};

use super::check::Verdict;

/// The allowed executors; `None` is all that the agent has.
#[derive(Debug, Default)]
pub(crate) struct Allowed(Mutex<Option<BTreeSet<ExecutorName>>>);

impl Allowed {
    /// Takes in what the standing says.
    pub(crate) fn told(&self, executors: Option<BTreeSet<ExecutorName>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = executors;
    }

    /// Whether jobs of this executor may run here.
    pub(crate) fn allows(&self, executor: &ExecutorName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(|allowed| allowed.contains(executor))
    }

    /// Rejects a command that would run, but must not. A job that came through a lane just before that was closed is let through.
    pub(super) fn check(&self, verdict: Verdict, queue: &Queue) -> Verdict {
        let (Verdict::Run(job, _) | Verdict::Later(job, _) | Verdict::Unsure(job)) = &verdict else { return verdict };
        let executor = job.job_type.executor();
        if queue.lane().is_some() || self.allows(&executor) {
            return verdict;
        }
        let message = format!("an operator has forbidden this agent jobs of the executor `{executor}`");
        Verdict::End(Outcome::Rejected, ErrorInfo::new(Code::TypeUnknown, message), Some(job.clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
    use muster_schemas::{lane::Lane, names::AgentId, time::Timestamp};

    use super::*;
    use crate::{
        attempt::{
            check::{Place, check},
            defaults::Defaults,
        },
        clock::Clock,
        executors::{Options, Registry},
    };

    fn verdict(allowed: &Allowed, queue: &Queue) -> Verdict {
        let registry = Registry::new(&["shell"], &Options::default()).unwrap();
        let now = Timestamp::from_secs(1_800_000_000);
        let body = br#"{"type":"shell.run","params":{"command":"true"}}"#;
        allowed.check(check(body, Place { queue, stored_at: now }, &registry, &Defaults::default(), Clock::default().now(now)), queue)
    }

    #[test]
    fn a_command_of_a_forbidden_executor_is_rejected_in_words() {
        let own = Queue::Agent(AgentId::generate());
        let allowed = Allowed::default();
        assert!(matches!(verdict(&allowed, &own), Verdict::Run(..)), "nobody has said anything");
        allowed.told(Some(["probe".parse().unwrap()].into()));
        let Verdict::End(Outcome::Rejected, error, Some(_)) = verdict(&allowed, &own) else { panic!("it must not run") };
        assert_eq!(error.code, Code::TypeUnknown);
        assert!(error.message.contains("forbidden") && error.message.contains("`shell`"), "{}", error.message);
        // One that came through a lane that was open a moment ago.
        let lane: Lane = Lane::of(&"shell".parse().unwrap()).into_iter().next().unwrap();
        assert!(matches!(verdict(&allowed, &Queue::Lane(lane)), Verdict::Run(..)));
        allowed.told(Some(BTreeSet::new()));
        assert!(matches!(verdict(&allowed, &own), Verdict::End(..)), "an empty list allows none");
        allowed.told(None);
        assert!(matches!(verdict(&allowed, &own), Verdict::Run(..)));
    }
}
