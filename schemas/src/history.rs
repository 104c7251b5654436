//! What a gateway asks a dispatcher about the history of jobs, on the subjects of [`crate::subjects::History`].

use serde::{Deserialize, Serialize};

use crate::{
    api::{JobRow, JobState, PoolStats},
    names::{AgentId, GroupId, JobType, PoolName},
    result::ErrorInfo,
    signature::Mark,
    time::Timestamp,
    wire::{Body, V},
};

/// The most rows of an answer.
pub const ROWS_MAX: u32 = 500;
/// The most bytes of all rows of an answer; behind them it is cut, with a cursor. The broker takes messages of at most 1 MiB.
pub const ROWS_BYTES_MAX: usize = 512 * 1024;

/// Asks for a page of jobs, newest first. All that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JobsQuestion {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Jobs of this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// Jobs that this agent runs or ran last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Commands to this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_agent: Option<AgentId>,
    /// Jobs of this type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_type: Option<JobType>,
    /// Jobs that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Jobs that have this label with this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<(String, String)>,
    /// Jobs that have ended, and whose result's signature is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Mark>,
    /// Jobs queued then or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Jobs queued before then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The most rows, 1 to [`ROWS_MAX`].
    pub limit: u32,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Body for JobsQuestion {
    const LIMIT: usize = 16 * 1024;
}

/// A page of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JobsAnswer {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The rows: as many as were asked for, or fewer, even where more follow.
    #[serde(default)]
    pub rows: Vec<JobRow>,
    /// Where the next page begins; absent when nothing follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Why there is no page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
}

impl Body for JobsAnswer {
    const LIMIT: usize = 1024 * 1024;
}

/// Asks for the jobs of a group's members, by their places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GroupQuestion {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The pool of its jobs.
    pub pool: PoolName,
    /// The group.
    pub group: GroupId,
    /// How many members' jobs are counted, from the first.
    pub members: u32,
    /// The place of the first row.
    pub from: u32,
    /// The most rows, 0 to [`ROWS_MAX`].
    pub limit: u32,
}

impl Body for GroupQuestion {
    const LIMIT: usize = 4096;
}

/// The jobs of a group's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GroupAnswer {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// How many of the members' jobs that are known are where, by [`JobState::as_str`].
    #[serde(default)]
    pub counts: std::collections::BTreeMap<String, u64>,
    /// The jobs that are known, in the order of their places, each with its place; cut where they get too many bytes.
    #[serde(default)]
    pub rows: Vec<(u32, JobRow)>,
    /// The place behind the last one that was looked at for the rows.
    pub next: u32,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
}

impl Body for GroupAnswer {
    const LIMIT: usize = 1024 * 1024;
}

/// Asks how a pool has been doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PoolQuestion {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The pool.
    pub pool: PoolName,
}

impl Body for PoolQuestion {
    const LIMIT: usize = 4096;
}

/// How a pool has been doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PoolAnswer {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// It, unless there is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<PoolStats>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
}

impl Body for PoolAnswer {
    const LIMIT: usize = 64 * 1024;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::{code::Code, wire};

    #[test]
    fn questions_and_answers_round_trip_and_are_pinned_by_golden_files() {
        let at = Timestamp::from_secs(1_800_000_000);
        let question = JobsQuestion {
            pool: Some("p".parse().unwrap()),
            label: Some(("team".into(), "a".into())),
            since: Some(at),
            limit: 50,
            ..JobsQuestion::default()
        };
        assert_eq!(wire::decode::<JobsQuestion>(&wire::encode(&question)).unwrap(), question);
        crate::json::golden("jobs_question.msgpack.hex", &crate::json::hex(&wire::encode(&question)));
        let row = JobRow {
            id: "j".parse().unwrap(),
            pool: "p".parse().unwrap(),
            job_type: Some("shell.run".parse().unwrap()),
            priority: crate::lane::Priority::High,
            state: JobState::Failed,
            labels: [("team".into(), "a".into())].into(),
            attempt: 2,
            agent_id: Some("agt_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap()),
            target_agent: None,
            queued_at: at,
            started_at: Some(at),
            finished_at: Some(at),
            exit_code: Some(3),
            error: Some(ErrorInfo::new(Code::ExitNonzero, "exit status 3")),
            reason: None,
            next_at: None,
            parent: None,
            signature: Some(Mark::Valid),
        };
        let answer = JobsAnswer { v: V, rows: vec![row], cursor: Some("c".into()), error: None };
        assert_eq!(wire::decode::<JobsAnswer>(&wire::encode(&answer)).unwrap(), answer);
        crate::json::golden("jobs_answer.msgpack.hex", &crate::json::hex(&wire::encode(&answer)));
        let answer = PoolAnswer { v: V, stats: None, error: Some(ErrorInfo::new(Code::HistoryUnavailable, "x")) };
        assert_eq!(wire::decode::<PoolAnswer>(&wire::encode(&answer)).unwrap(), answer);
    }
}
