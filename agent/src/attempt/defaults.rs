//! What the pool gives to jobs that say nothing themselves, as the agent's standing told it last. It is applied when an attempt begins, so
//! that it holds for every job, whoever published it. An agent without a standing knows of none.

use std::sync::{Mutex, PoisonError};

use muster_schemas::{
    job::{Job, JobError},
    records::{JobDefaults, PoolDefaults},
};

/// The pool's defaults, shared by all attempts.
#[derive(Debug, Default)]
pub(crate) struct Defaults(Mutex<JobDefaults>);

impl Defaults {
    /// Takes in what the standing says. What breaks the rules of a job is as good as nothing.
    pub(crate) fn told(&self, defaults: Option<PoolDefaults>) {
        let checked = JobDefaults::try_from(defaults.unwrap_or_default());
        if let Err(error) = &checked {
            tracing::error!(%error, "the pool's defaults can't be used; going on without them");
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = checked.unwrap_or_default();
    }

    /// Decodes a job, with what the pool gives it.
    pub(crate) fn decode(&self, body: &[u8]) -> Result<Job, JobError> {
        let mut job = Job::decode(body)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill(&mut job);
        Ok(job)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn the_last_word_counts_and_one_that_cannot_be_used_is_none() {
        let defaults = Defaults::default();
        let timeout = || defaults.decode(br#"{"type":"probe.ping"}"#).unwrap().timeout;
        assert_eq!(timeout(), None);
        for (told, seconds) in [(Some(7), Some(7)), (Some(9), Some(9)), (Some(0), None), (Some(7), Some(7)), (None, None)] {
            defaults.told(told.map(|timeout_s| PoolDefaults { timeout_s: Some(timeout_s), retry: None }));
            assert_eq!(timeout().map(|timeout| timeout.as_secs()), seconds);
        }
    }
}
