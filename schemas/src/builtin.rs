//! The executors that are part of the agent, and the verbs of each: what a caller can be told at once, without asking an agent.
//!
//! Agents may have more executors than these; what those take, only they know.

use crate::names::JobType;

/// Executor, and its verbs.
pub const EXECUTORS: &[(&str, &[&str])] =
    &[("probe", &["ping", "echo", "sleep", "fail", "connection"]), ("shell", &["run"]), ("http", &["request"])];

/// The verbs that the executor of this type has instead, when it is one of [`EXECUTORS`] and lacks this type's verb.
pub fn verbs_instead(job_type: &JobType) -> Option<&'static [&'static str]> {
    let (executor, verb) = job_type.as_str().split_once('.')?;
    let (_, verbs) = EXECUTORS.iter().find(|(name, _)| *name == executor)?;
    (!verbs.contains(&verb)).then_some(*verbs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    #[test]
    fn only_a_wrong_verb_of_an_own_executor_is_one() {
        let instead = |text: &str| verbs_instead(&text.parse().unwrap());
        assert_eq!(instead("shell.walk"), Some(&["run"][..]));
        assert_eq!(instead("shell.run"), None);
        assert_eq!(instead("plugin.walk"), None);
    }
}
