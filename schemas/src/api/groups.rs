//! Groups over REST: one job for each of many agents.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    group::{GroupStatus, Share},
    names::{AgentId, AgentName, GroupId, JobId, PoolName},
    time::Timestamp,
};

use super::JobRow;

/// The word for members whose job has not been sent, beside the states of jobs.
pub const NOT_SENT: &str = "not_sent";

/// Whom a job is for, where that is not whichever agent of a pool is next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// Every agent that matches gets a job of its own: a group.
    All(AllAgents),
}

/// Which agents of a pool, and how they are sent their jobs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AllAgents {
    /// Their pool; may be left out where the job names a connection.
    #[serde(default)]
    pub pool: String,
    /// Labels that they all have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Only so many of them, those that are there first; absent is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Share>,
    /// The sizes of waves: the next one is sent when all jobs of the one before have ended. The last size is repeated. `["10%", "100%"]` is
    /// a tenth first, then the rest; `["10%"]` is a tenth at a time; absent is all at once. At most 100 sizes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batch: Vec<Share>,
    /// After so many jobs that ended otherwise than succeeded, no further wave is sent. With waves 1 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<u32>,
}

/// A group of jobs as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GroupView {
    /// Its id.
    pub id: GroupId,
    /// The pool of its agents.
    pub pool: PoolName,
    /// What its jobs run.
    #[serde(rename = "type")]
    pub job_type: String,
    /// The labels that agents had to have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub status: GroupStatus,
    /// Why it was stopped, or who cancelled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many agents matched when it was made.
    pub matched: u32,
    /// How many of them it is for.
    pub members: u32,
    /// How many of those have been sent their job.
    pub sent: u32,
    /// The sizes of its waves.
    pub waves: Vec<u32>,
    /// After so many failures no further wave is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<u32>,
    /// Members by where their jobs are (the states of jobs), and [`NOT_SENT`]; those that no member is in are left out. Empty in a list, and where
    /// no dispatcher counts.
    pub counts: BTreeMap<String, u64>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Who asked for it.
    pub created_by: String,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GroupMember {
    /// The agent.
    pub agent_id: AgentId,
    /// Its name, while it has a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<AgentName>,
    /// The id of its job, also before that is sent.
    pub job_id: JobId,
    /// Its wave, from 1.
    pub wave: u32,
    /// Its job; absent when it has not been sent, or is not in the history yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobRow>,
}
