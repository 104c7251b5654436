//! What an executor is, and what holds alike for all of them: params read field by field, time-out and cancel, capped and masked output,
//! progress, connections, descriptions.
//!
//! An executor is an [`Executor`]; what it makes of a job's params is a [`Work`], which [`runner::run`] runs in a [`Scope`] to its
//! [`Execution`]. Nothing here knows what any executor does, talks to the broker or opens a vault.
//!
//! | to find | look in |
//! |---|---|
//! | reading params so that each complaint names its field | [`fields`] |
//! | describing params as JSON Schema | [`schema`] |
//! | how work says that it is done | [`finish`] |
//! | time-out, cancel, limits of what comes back | [`runner`] |
//! | output: tail for the result, chunks for the log | [`recorder`] |
//! | keeping secrets out of all that leaves | [`mask`] |
//! | what a job is given of its connection | [`connection`] |

pub mod connection;
pub mod context;
pub mod fields;
pub mod finish;
pub mod mask;
pub mod recorder;
pub mod runner;
pub mod schema;
mod tail;

use std::{fmt, sync::Arc, time::Duration};

pub use connection::Connection;
pub use context::{Chunk, Context, Feed, Progress, Stream, Update};
pub use finish::{Afterwards, Execution, Finish, Rejection, Verdict};
pub use futures_util::future::BoxFuture;
pub use mask::{Mask, Masks};
use muster_schemas::{
    connection::ConnectionKind,
    describe::TypeInfo,
    names::{AgentId, JobId},
};
pub use recorder::Recorder;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// One of the things that an agent can do, such as `shell`. It is made once at the agent's start and shared by all attempts, so what it
/// needs for the first job only (a client, a connection to a local daemon) is made with the first job.
pub trait Executor: fmt::Debug + Send + Sync {
    /// Its name: the first part of its jobs' types.
    fn name(&self) -> &str;

    /// In one line, what it does.
    fn about(&self) -> &str;

    /// The types of jobs that it runs, with what each takes.
    fn types(&self) -> Vec<TypeInfo>;

    /// Whether it can work on this host. Asked at the agent's start: what can't is no capability of this agent.
    ///
    /// # Errors
    /// Why it can't, for the agent's log.
    fn works_here(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// Reads a job's params before anything starts; `verb` is the second part of its type. `None` when it has no such type.
    ///
    /// # Errors
    /// [`Rejection`], which is final: the job is rejected.
    fn check(&self, verb: &str, params: &Value) -> Result<Option<Box<dyn Work>>, Rejection>;

    /// The work that tries whether a connection of this kind can be used, for one of the kinds that are this executor's to try.
    fn probe(&self, kind: ConnectionKind) -> Option<Box<dyn Work>> {
        let _ = kind;
        None
    }
}

/// What is to be done for one job: its params, read and found good.
pub trait Work: fmt::Debug + Send {
    /// Does it. Never fails: whatever happens is a [`Finish`].
    ///
    /// It is dropped when the attempt has to end, unless it [cleans up](Work::cleans_up).
    fn run<'a>(self: Box<Self>, scope: &'a Scope) -> BoxFuture<'a, Finish>;

    /// Whether it has something to clean up when it is stopped. It is then told by [`Scope::stop`] and has [`Settings::kill_grace`], and
    /// is dropped only when it outlives that.
    fn cleans_up(&self) -> bool {
        false
    }
}

/// What holds for every attempt of an agent, whatever its executor.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long stopped work may take to clean up; of a process, the time between TERM and KILL.
    pub kill_grace: Duration,
    /// How long output may stay open after the work has ended (a background child holds it).
    pub drain: Duration,
    /// Bytes kept of the end of each output stream (64 KiB).
    pub tail_bytes: usize,
    /// Bytes of output of one job that go into its log (5 MiB); the tail does not count against it.
    pub log_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kill_grace: Duration::from_secs(5),
            drain: Duration::from_secs(2),
            tail_bytes: muster_schemas::result::TAIL_LIMIT,
            // A command that prints for ever must not fill the LOGS stream of the whole pool.
            log_bytes: muster_schemas::topology::LOG_BYTES_PER_JOB,
        }
    }
}

/// Which attempt of which job is run, and for how long at most.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The agent that runs it.
    pub agent_id: AgentId,
    /// The job's id.
    pub job_id: JobId,
    /// 1 for the first attempt.
    pub number: u32,
    /// After this the attempt is stopped and its outcome is `timed_out`.
    pub timeout: Duration,
}

/// What work runs in.
#[derive(Debug)]
pub struct Scope {
    /// Which attempt this is.
    pub attempt: Attempt,
    /// What holds for all attempts.
    pub settings: Arc<Settings>,
    /// Where output and progress go.
    pub recorder: Recorder,
    /// What the job's connection gives, if it names one.
    pub connection: Option<Connection>,
    /// Set when the attempt has to end. Only work that [cleans up](Work::cleans_up) needs to look at it.
    pub stop: CancellationToken,
}
