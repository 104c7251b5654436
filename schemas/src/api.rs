//! Bodies of the REST interface, shared by the gateway, the command line and agents. Requests refuse unknown fields: a typing error in
//! an optional field must not pass in silence.

use serde::{Deserialize, Serialize};

mod agents;
mod audit;
mod commands;
mod connections;
mod dead;
mod executors;
mod groups;
mod history;
mod jobs;
mod keys;
mod pools;
mod schedules;
mod watch;
mod why;

pub use agents::*;
pub use audit::*;
pub use commands::*;
pub use connections::*;
pub use dead::*;
pub use executors::*;
pub use groups::*;
pub use history::*;
pub use jobs::*;
pub use keys::*;
pub use pools::*;
pub use schedules::*;
pub use watch::*;
pub use why::*;

use crate::code::Code;

/// Where the REST interface begins.
pub const BASE: &str = "/api/v1";
/// The header with which an agent shows its join token.
pub const JOIN_TOKEN_HEADER: &str = "x-agent-token";
/// The header that makes a submit safe to repeat.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// The longest `?wait=`.
pub const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// One thing: `{"data": …}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "{T}Answer")]
pub struct One<T> {
    /// The thing.
    pub data: T,
}

/// A page of things: `{"data": […], "meta": {"page": …}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Many<T> {
    /// The things.
    pub data: Vec<T>,
    /// What the page says of itself.
    pub meta: Meta,
}

/// What a list says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Meta {
    /// The page.
    pub page: Page,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Page {
    /// The most things on it.
    pub limit: u32,
    /// What to send as `?cursor=` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// An RFC 9457 problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Problem {
    /// The page that explains the code, relative to the repository: `docs/errors/<code>.md`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: Code,
    /// What was wrong here, where, and what to do.
    pub detail: String,
    /// The request, to find it in the logs.
    pub request_id: String,
}
