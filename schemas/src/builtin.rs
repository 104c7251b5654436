//! The executors that are part of the agent, and the verbs of each: what a caller can be told at once, without asking an agent.
//!
//! Agents may have more executors than these; what those take, only they know.

use std::sync::LazyLock;

use crate::{
    describe::{Description, TypeInfo},
    names::JobType,
};

/// What they take. A test of the agent compares it with what its executors say.
const DESCRIPTION: &str = include_str!("../golden/executors.json");

/// Executor, and its verbs.
pub const EXECUTORS: &[(&str, &[&str])] = &[
    ("probe", &["ping", "echo", "sleep", "fail", "connection"]),
    ("shell", &["run"]),
    ("http", &["request"]),
    ("docker", &["pull", "run", "stop", "rm", "logs", "exec", "ps"]),
    ("compose", &["up", "down", "pull", "ps"]),
    ("kubernetes", &["apply", "delete", "get", "scale", "restart", "logs"]),
    ("ssh", &["run", "upload", "download"]),
    ("service", &["start", "stop", "restart", "reload", "status"]),
    ("os", &["restart"]),
];

/// The verbs that the executor of this type has instead, when it is one of [`EXECUTORS`] and lacks this type's verb.
pub fn verbs_instead(job_type: &JobType) -> Option<&'static [&'static str]> {
    let (executor, verb) = job_type.as_str().split_once('.')?;
    let (_, verbs) = EXECUTORS.iter().find(|(name, _)| *name == executor)?;
    (!verbs.contains(&verb)).then_some(*verbs)
}

/// What the executors of this build take. An agent may have fewer, and plugins beside.
pub fn description() -> Description {
    // It is part of this build, and a test reads it.
    serde_json::from_str(DESCRIPTION).unwrap_or_default()
}

/// What a type takes, when it is one of an executor of this build.
pub fn type_info(job_type: &JobType) -> Option<&'static TypeInfo> {
    static OWN: LazyLock<Description> = LazyLock::new(description);
    OWN.types().find(|info| info.name == job_type.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::collections::BTreeSet;

    use super::*;
    use crate::connection::ConnectionKind;

    #[test]
    fn what_is_described_are_the_executors_that_are_listed() {
        let listed = EXECUTORS.iter().flat_map(|(name, verbs)| verbs.iter().map(move |verb| format!("{name}.{verb}")));
        let described: BTreeSet<String> = description().types().map(|info| info.name.clone()).collect();
        assert_eq!(described, listed.collect());
    }

    #[test]
    fn only_a_wrong_verb_of_an_own_executor_is_one() {
        let instead = |text: &str| verbs_instead(&text.parse().unwrap());
        assert_eq!(instead("shell.walk"), Some(&["run"][..]));
        assert_eq!(instead("shell.run"), None);
        assert_eq!(instead("plugin.walk"), None);
    }

    #[test]
    fn the_type_of_an_own_executor_says_which_connections_it_takes() {
        let info = |text: &str| type_info(&text.parse().unwrap());
        assert!(info("probe.ping").is_some_and(|info| info.connections.is_empty()));
        assert!(info("probe.connection").is_some_and(|info| info.needs_connection && info.connections == ConnectionKind::ALL));
        assert!(info("http.request").is_some_and(|info| info.connections == [ConnectionKind::Http]));
        assert!(info("backup.run").is_none());
    }
}
