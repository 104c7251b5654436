//! Why a job waits: one sentence, and the facts behind it.

use serde::{Deserialize, Serialize};

use crate::{
    heartbeat::Slots,
    lane::Priority,
    names::{AgentId, AgentName, ConnectionName, ExecutorName, JobId, PoolName},
    records::{AgentState, Paused},
    standing::Status,
    time::Timestamp,
};

use super::JobState;

/// The most agents that an explanation lists.
pub const WHY_AGENTS_MAX: usize = 20;

/// What a job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhyReason {
    /// Nothing: it has ended.
    Finished,
    /// Nothing: an agent runs it.
    Running,
    /// Its time has not come.
    NotBefore,
    /// An attempt failed, and the next one waits for its backoff.
    Backoff,
    /// An agent gave it back, and it comes again in a moment.
    Released,
    /// Somebody paused its pool.
    PoolPaused,
    /// No agent of its pool has its executor.
    NoAgent,
    /// No agent with its executor is online.
    NoneOnline,
    /// Agents with its executor are online, and none accepts jobs.
    NoneAccepting,
    /// No agent that could run it has the credentials of its connection.
    Credentials,
    /// As many jobs run as the pool allows.
    RunningLimit,
    /// All slots are busy, or other jobs are ahead of it.
    Busy,
    /// Nothing is in its way: an agent is about to take it.
    Next,
    /// It is a command, and its agent has no record any more.
    AgentGone,
    /// It is a command, and its agent was revoked.
    AgentRevoked,
    /// It is a command, and its agent has never registered.
    AgentPending,
    /// It is a command, and an operator has disabled its agent.
    AgentDisabled,
    /// It is a command, and its agent finishes what it has and takes nothing new.
    AgentDraining,
    /// It is a command, and its agent is not there.
    AgentOffline,
    /// It is a command, and its agent is there and takes nothing.
    AgentRefuses,
    /// Its expiry has passed: it will end as expired.
    Overdue,
}

/// Why a job waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Why {
    /// The job.
    pub id: JobId,
    /// Its pool.
    pub pool: PoolName,
    /// Where it is.
    pub state: JobState,
    /// What it waits for, for a program.
    pub reason: WhyReason,
    /// The same for a person.
    pub sentence: String,
    /// What that was concluded from.
    pub facts: WhyFacts,
}

/// What an explanation was concluded from. What does not matter to the job's state is left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhyFacts {
    /// Its priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The executor that it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<ExecutorName>,
    /// The attempt that runs or ran last; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// Who runs it, ran it last, or spoke of it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<WhyAgent>,
    /// Since when it is in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When it will be given out, if it is put off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// What the last state change said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// Who paused the pool, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// What is in the queue before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<WhyQueue>,
    /// Agents of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<WhyAgents>,
    /// The one agent that it is for, if it is a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<WhyTarget>,
    /// When a command expires unless it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The connection that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<WhyConnection>,
}

/// The connection of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhyConnection {
    /// Its name.
    pub name: ConnectionName,
    /// Whether an agent that may run the job has its newest credentials; absent where there is no such connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<bool>,
}

/// The agent of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhyTarget {
    /// It.
    #[serde(flatten)]
    pub agent: WhyAgent,
    /// When its last heartbeat came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_at: Option<Timestamp>,
    /// Its room for jobs, by that heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<Slots>,
}

/// What is in the queue before a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhyQueue {
    /// Jobs of the same executor that are given out before it: older ones of its lane, and all of a higher priority. Of a command: older
    /// commands to its agent. Its lane, below, is then the queue of its agent.
    pub ahead: u64,
    /// Jobs of its lane that agents have, or put off. One that has ended counts for up to a second more.
    pub running: u64,
    /// How many jobs of its lane they may have.
    pub limit: u64,
    /// Whether the lane may have none at present, because others have all that the pool allows.
    pub no_share: bool,
    /// Agents' requests for jobs of its lane that wait at the broker: 0 when no slot is free.
    pub asking: u64,
    /// Whether the broker has given it out before: then it comes before all others of its lane.
    pub given_out: bool,
}

/// Agents of a job's pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhyAgents {
    /// All that are registered.
    pub registered: u64,
    /// Of these, those with the job's executor.
    pub able: u64,
    /// Of these, those online, degraded ones included.
    pub online: u64,
    /// Of these, those that accept jobs.
    pub accepting: u64,
    /// The able ones, those that accept first, at most 20.
    pub listed: Vec<WhyAgent>,
}

/// An agent in an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WhyAgent {
    /// Its id.
    pub id: AgentId,
    /// Its name, if it is still registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<AgentName>,
    /// What an operator has decided about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AgentState>,
    /// Whether it is there and well; absent before its first heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Whether it accepts jobs.
    pub accepting: bool,
    /// Why not, or why it is degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
