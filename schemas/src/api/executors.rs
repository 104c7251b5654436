//! Executors over REST: what can be asked of a pool's agents, and how many can do it.

use serde::{Deserialize, Serialize};

use crate::{describe::TypeInfo, names::ExecutorName};

/// An executor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ExecutorView {
    /// Its name.
    pub name: ExecutorName,
    /// In one line, what it does.
    pub about: String,
    /// How many agents have it that are there and said what it takes.
    pub agents: u32,
    /// What it runs.
    pub types: Vec<TypeView>,
}

/// A type of jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TypeView {
    /// What it takes, as most of these agents describe it.
    #[serde(flatten)]
    pub info: TypeInfo,
    /// How many agents have it that are there and said what it takes.
    pub agents: u32,
    /// How many of them describe it otherwise: agents of another version, or with another plugin of this name.
    #[serde(default, skip_serializing_if = "is_none")]
    pub differing: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_none(count: &u32) -> bool {
    *count == 0
}
