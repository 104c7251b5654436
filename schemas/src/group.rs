//! Groups: one job for each of many agents of a pool, sent in waves.
//!
//! The gateway writes a [`GroupRecord`] with all that was decided when it was asked for: the agents, in which order, in which waves. From
//! then on the active dispatcher sends the jobs as commands to the agents and keeps the [`GroupState`]. The job of the member at a place has
//! the id [`GroupId::job`], so sending it again makes no second one.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    job::{self, Draft},
    names::{AgentId, GroupId, PoolName},
    time::Timestamp,
    topology::GROUP_MEMBERS_MAX,
    wire::{Body, V},
};

/// Some of many: so many, or so many in a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many, at least 1.
    Count(u32),
    /// So many in a hundred, 1 to 100.
    Percent(u8),
}

/// Why a text is not a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it takes a number of agents from 1 on, or 1% to 100%")]
pub struct ShareError;

impl Share {
    /// How many of `all` it is: rounded up, and never more than all.
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX).min(all),
            Self::Percent(percent) => all.saturating_mul(usize::from(percent)).div_ceil(100).min(all),
        }
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| (1..=100).contains(percent)).map(Self::Percent),
            None => text.parse().ok().filter(|count| *count > 0).map(Self::Count),
        }
        .ok_or(ShareError)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => to.serialize_u32(*count),
            Self::Percent(_) => to.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Number(u32),
            Text(String),
        }
        let text = match Given::deserialize(from).map_err(|_| serde::de::Error::custom(ShareError))? {
            Given::Number(number) => number.to_string(),
            Given::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Share {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "So many agents (a number from 1 on), or so many in a hundred (`10%`), rounded up.",
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^([1-9][0-9]*|([1-9][0-9]?|100)%)$"}]
        })
    }
}

/// The sizes of the waves in which `members` are sent: as `sizes` say, of which the last one is repeated until all are sent. Without any
/// there is one wave.
pub fn waves(sizes: &[Share], members: usize) -> Vec<u32> {
    let mut left = members;
    let mut sizes = sizes.iter().copied();
    let mut size = sizes.next().unwrap_or(Share::Percent(100));
    let mut waves = Vec::new();
    while left > 0 {
        let wave = size.of(members).clamp(1, left);
        waves.push(u32::try_from(wave).unwrap_or(u32::MAX));
        left -= wave;
        size = sizes.next().unwrap_or(size);
    }
    waves
}

/// A group, under [`keys::definition`] in the bucket [`crate::topology::GROUPS`]. Written once, by a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Its id.
    pub id: GroupId,
    /// The pool of its agents.
    pub pool: PoolName,
    /// The labels that agents had to have.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The body of its jobs, checked when it was written.
    pub job: Draft,
    /// How many agents matched, of which the members are some or all.
    pub matched: u32,
    /// The agents that get a job, in the order in which they are sent.
    pub members: Vec<AgentId>,
    /// The sizes of the waves; together as many as members.
    pub waves: Vec<u32>,
    /// After so many jobs that ended otherwise than succeeded no further wave is sent; absent is never.
    #[serde(default)]
    pub stop_after: Option<u32>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// The name of the API key that asked for it.
    pub created_by: String,
}

impl Body for GroupRecord {
    // An agent's id takes 32 bytes.
    const LIMIT: usize = job::LIMIT + GROUP_MEMBERS_MAX * 32 + GROUP_MEMBERS_MAX * 5 + 64 * 1024;
}

/// Where a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupStatus {
    /// Its jobs are sent, or run.
    #[default]
    Running,
    /// Too many of its jobs failed: no further wave is sent. Those sent run on.
    Stopped,
    /// Somebody cancelled it: no further wave is sent, and those sent are being cancelled.
    Cancelling,
    /// It was cancelled, and no job of it is left.
    Cancelled,
    /// All of its jobs have ended.
    Finished,
}

impl GroupStatus {
    /// Whether nothing more will be sent or cancelled.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Stopped | Self::Cancelled | Self::Finished)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Finished => "finished",
        }
    }
}

/// How far a group is, under [`keys::state`] in the bucket [`crate::topology::GROUPS`]; written with compare-and-set by the active
/// dispatcher, and by a gateway that cancels it. A group without one has just begun.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GroupState {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Where it is.
    pub status: GroupStatus,
    /// How many members' jobs are stored: the first so many. Some of those behind may be as well, where a dispatcher died while it sent a wave.
    pub sent: u32,
    /// Why it was stopped, or who cancelled it.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it was last changed.
    #[serde(default)]
    pub changed_at: Option<Timestamp>,
}

impl Body for GroupState {
    const LIMIT: usize = 4096;
}

/// Keys in the bucket of groups.
pub mod keys {
    use crate::names::GroupId;

    /// Where a group's record is.
    pub fn definition(id: &GroupId) -> String {
        format!("group.{id}")
    }

    /// Where it is kept how far a group is.
    pub fn state(id: &GroupId) -> String {
        format!("state.{id}")
    }

    /// All records of groups, as a key filter.
    pub const DEFINITIONS: &str = "group.*";
    /// All states of groups, as a key filter.
    pub const STATES: &str = "state.*";

    /// The group whose record a key is.
    pub fn parse_definition(key: &str) -> Option<GroupId> {
        key.strip_prefix("group.")?.parse().ok()
    }

    /// The group whose state a key is.
    pub fn parse_state(key: &str) -> Option<GroupId> {
        key.strip_prefix("state.")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_is_a_number_or_so_many_in_a_hundred() {
        for (text, all, count) in [("1", 10, 1), ("10%", 10, 1), ("10%", 11, 2), ("1%", 1, 1), ("100%", 7, 7), ("20", 7, 7), ("50%", 0, 0)]
        {
            assert_eq!(text.parse::<Share>().unwrap().of(all), count, "{text} of {all}");
        }
        for wrong in ["", "0", "0%", "101%", "-1", "1.5", "ten", "%", "5 %", "4294967296"] {
            assert_eq!(wrong.parse::<Share>(), Err(ShareError), "{wrong}");
        }
        assert_eq!(serde_json::from_str::<Vec<Share>>(r#"[5, "5", "5%"]"#).unwrap(), [Share::Count(5), Share::Count(5), Share::Percent(5)]);
        assert!(serde_json::from_str::<Share>("0").is_err() && serde_json::from_str::<Share>("[1]").is_err());
    }

    #[test]
    fn the_last_size_of_a_wave_is_repeated() {
        let sizes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Share>>();
        assert_eq!(waves(&[], 7), [7]);
        assert_eq!(waves(&sizes(&["10%", "100%"]), 25), [3, 22]);
        assert_eq!(waves(&sizes(&["40%"]), 10), [4, 4, 2]);
        assert_eq!(waves(&sizes(&["1", "2"]), 6), [1, 2, 2, 1]);
        assert_eq!(waves(&[], 0), [] as [u32; 0]);
    }

    #[test]
    fn the_largest_group_fits_its_record() {
        let record = GroupRecord {
            v: V,
            id: GroupId::generate(),
            pool: "p".parse().unwrap(),
            labels: BTreeMap::new(),
            job: Draft { job_type: "probe.ping".into(), params: serde_json::json!({"x": "y".repeat(job::LIMIT - 64)}), ..Draft::default() },
            matched: 1,
            members: vec![AgentId::generate(); GROUP_MEMBERS_MAX],
            waves: vec![1; GROUP_MEMBERS_MAX],
            stop_after: None,
            created_at: Timestamp::from_secs(0),
            created_by: "ci".into(),
        };
        let body = crate::wire::encode(&record);
        assert!(body.len() <= GroupRecord::LIMIT && body.len() < 1 << 20);
        assert_eq!(crate::wire::decode::<GroupRecord>(&body).unwrap(), record);
    }

    proptest! {
        #[test]
        fn waves_are_never_empty_and_send_everybody(percent in 1_u8..=100, count in 1_u32..50, members in 0_usize..500) {
            let waves = waves(&[Share::Count(count), Share::Percent(percent)], members);
            prop_assert!(waves.iter().all(|wave| *wave > 0));
            prop_assert_eq!(waves.iter().map(|wave| *wave as usize).sum::<usize>(), members);
        }
    }
}
