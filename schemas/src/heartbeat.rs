//! What an agent says of itself, every interval.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    names::{AgentName, ConnectionName, ExecutorName},
    sealed::SealingKey,
    time::Timestamp,
    wire::{Body, V},
};

/// Seconds between heartbeats unless the agent's settings say otherwise.
const INTERVAL_DEFAULT_S: u32 = 30;
/// The interval of heartbeats unless the agent's settings say otherwise.
pub const INTERVAL_DEFAULT: Duration = Duration::from_secs(INTERVAL_DEFAULT_S as u64);

/// Room for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Slots {
    /// How many jobs may run at once.
    pub total: u32,
    /// How many run.
    pub running: u32,
    /// How many wait for a slot on the agent itself.
    pub held: u32,
}

/// The machine's load.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Load {
    /// Share of all cores in use, 0 to 100.
    pub cpu_pct: f32,
    /// Memory in use, in bytes.
    pub memory_used: u64,
    /// Memory in all, in bytes.
    pub memory_total: u64,
    /// Disk in use where the agent keeps its state, in bytes.
    pub disk_used: u64,
    /// That disk in all, in bytes.
    pub disk_total: u64,
}

/// The state of an agent's vault: which one, and how often it was written. The dispatcher keeps the highest, so that one that was rolled back shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct VaultMark {
    /// Random, made with the vault.
    pub id: String,
    /// Grows with every write.
    pub counter: u64,
}

/// A heartbeat. Pool and agent are in the subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Heartbeat {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// When it was sent, by the agent's clock.
    pub at: Timestamp,
    /// Which run of the agent this is: random at each start, so that two processes with one identity show.
    pub instance: String,
    /// Counts up within one run of the agent.
    pub seq: u64,
    /// When this run started.
    pub started_at: Timestamp,
    /// Seconds between heartbeats.
    pub interval_s: u32,
    /// The agent's name.
    pub name: AgentName,
    /// The agent's version.
    pub version: String,
    /// Executors that are on.
    pub executors: Vec<ExecutorName>,
    /// Room for jobs.
    pub slots: Slots,
    /// The machine's load.
    #[serde(default)]
    pub load: Load,
    /// Results in the spool that wait for the broker.
    #[serde(default)]
    pub spooled: u64,
    /// A fault that the agent found in itself; it makes the agent degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The last error worth telling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Labels of the agent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The digest of what its executors take ([`crate::describe`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where credentials for it are sealed to; absent while its vault can't be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<SealingKey>,
    /// The connections whose credentials are in its vault, at most [`crate::connection::CONNECTIONS_MAX`], with their revision; 0 is one that somebody put there
    /// by hand.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<ConnectionName, u64>,
    /// The state of its vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultMark>,
    /// Whether the agent takes no new jobs because it finishes what it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// The last one of this run: the agent shuts down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goodbye: bool,
}

impl Heartbeat {
    /// The first one of an agent that has just started, `instance` being this run of it: it is well, and has neither executors nor room for jobs.
    pub fn first(name: AgentName, instance: impl Into<String>, at: Timestamp) -> Self {
        Self {
            v: V,
            at,
            instance: instance.into(),
            seq: 0,
            started_at: at,
            interval_s: INTERVAL_DEFAULT_S,
            name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            executors: Vec::new(),
            slots: Slots::default(),
            load: Load::default(),
            spooled: 0,
            fault: None,
            last_error: None,
            labels: BTreeMap::new(),
            description: None,
            sealing: None,
            credentials: BTreeMap::new(),
            vault: None,
            draining: false,
            goodbye: false,
        }
    }
}

impl Body for Heartbeat {
    const LIMIT: usize = 16 * 1024;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::wire;

    #[test]
    fn a_heartbeat_round_trips_and_is_pinned_by_a_golden_file() {
        let at = Timestamp::from_secs(1_800_000_000);
        let beat = Heartbeat {
            seq: 7,
            version: "0.1.0".into(),
            executors: vec!["shell".parse().unwrap()],
            slots: Slots { total: 5, running: 1, held: 0 },
            labels: [("zone".into(), "a".into())].into(),
            goodbye: true,
            ..Heartbeat::first("web-1".parse().unwrap(), "i1", at)
        };
        assert_eq!(wire::decode::<Heartbeat>(&wire::encode(&beat)).unwrap(), beat);
        crate::json::golden("heartbeat.json", &(serde_json::to_string_pretty(&beat).unwrap() + "\n"));
        crate::json::golden("heartbeat.msgpack.hex", &crate::json::hex(&wire::encode(&beat)));
    }
}
