//! The labels of what is made here: who made it, and whether it ends with its job. Callers' own labels are read here, too.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use muster_executor::Attempt;
use muster_schemas::{names::AgentId, time::Timestamp};

/// The job that a container was made for.
pub(crate) const JOB: &str = "muster.job";
/// The agent that made it.
pub(crate) const AGENT: &str = "muster.agent";
/// It must not outlive its attempt.
pub(crate) const TRANSIENT: &str = "muster.ends-with-job";
/// The process that made it: what another one of the same agent made, and must not outlive its attempt, is a leftover.
pub(crate) const PROCESS: &str = "muster.process";

/// Beginnings of labels that callers may not write.
const OWN: [&str; 2] = ["muster.", "com.docker.compose."];

/// What no other process of this agent has: process ids alone come again, in a container always.
static THIS_PROCESS: LazyLock<String> = LazyLock::new(|| format!("{}-{}", std::process::id(), Timestamp::now().micros()));

/// The labels of what an attempt makes.
pub(crate) fn of(attempt: &Attempt, is_transient: bool) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(JOB.to_owned(), attempt.job_id.to_string()), (AGENT.to_owned(), attempt.agent_id.to_string())]);
    if is_transient {
        labels.insert(TRANSIENT.to_owned(), "true".to_owned());
        labels.insert(PROCESS.to_owned(), THIS_PROCESS.clone());
    }
    labels
}

/// The filter that finds what this agent made for one attempt only, in whichever process.
pub(crate) fn transient_of(agent: &AgentId) -> HashMap<String, Vec<String>> {
    filter([format!("{AGENT}={agent}"), format!("{TRANSIENT}=true")])
}

/// A filter for all of these labels.
pub(crate) fn filter<const N: usize>(labels: [String; N]) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), labels.into())])
}

/// Whether another process than this one made it.
pub(crate) fn is_leftover(labels: &HashMap<String, String>) -> bool {
    labels.get(PROCESS) != Some(&*THIS_PROCESS)
}

/// A caller's own label.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(key: &str) -> Result<(), String> {
    if key.is_empty() || key.len() > 255 || key.chars().any(char::is_control) {
        return Err("a label's key has 1 to 255 bytes, none a control character".to_owned());
    }
    match OWN.iter().find(|own| key.starts_with(**own)) {
        Some(own) => Err(format!("labels that begin with `{own}` are not for callers to write")),
        None => Ok(()),
    }
}
