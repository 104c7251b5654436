//! What follows from what the dispatcher knows: things to do, and things to tell.

use std::collections::BTreeSet;

use muster_schemas::{
    names::{AgentId, ExecutorName, PoolName},
    standing::{Standing, Status},
};

use super::Key;

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Write a standing if its key is still at this revision.
    Put(Key, Box<Standing>, u64),
    /// Delete the standing of an agent that is no more, if its key is still at this revision.
    Delete(Key, u64),
    /// Remove an agent whose record says that it is being removed. Told at each tick as long as it holds.
    Remove(AgentId),
    /// Have an ephemeral agent removed that has been away for too long. Told at each tick as long as it holds.
    Expel(AgentId),
    /// Have these agents pull the lanes of an executor for so many seconds, although they stand by.
    CallUp(Vec<AgentId>, ExecutorName, u32),
    /// Make sure that a pool has the lanes of these executors.
    Lanes(PoolName, BTreeSet<ExecutorName>),
    /// Tell people.
    Note(Note),
}

/// Something worth a line in the log or a count. Nothing follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A heartbeat that was seen before, or is older than one that was.
    Replay(Key),
    /// Two processes use one identity.
    TwoProcesses(Key),
    /// A heartbeat of an agent that has no record in that pool.
    Stranger(Key),
    /// A result that names an agent which has no record in that pool, so it counts for nobody.
    Unattributed(PoolName, AgentId),
    /// An agent's status changed.
    Status(Key, Status, Option<String>),
}
