//! What an agent's executors take: the description that gateways ask agents for, so that wrong params are refused before they are queued.
//!
//! An agent's heartbeats name its description by a digest; a gateway that does not know it yet asks the agent ([`crate::control::DESCRIBE`]).
//! What is in it comes from outside: whoever checks params against it bounds the work.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    connection::ConnectionKind,
    names::ExecutorName,
    wire::{self, Body, V},
};

/// The most types of one agent.
pub const TYPES_MAX: usize = 512;
/// Characters of a digest: 128 bits, so nobody finds another description for one that is there.
const DIGEST_CHARS: usize = 32;

/// What heartbeats call the description with this encoding by: the first 32 hexadecimal digits of its SHA-256.
pub fn digest(encoding: &[u8]) -> String {
    let mut text = data_encoding::HEXLOWER.encode(&Sha256::digest(encoding));
    text.truncate(DIGEST_CHARS);
    text
}

/// Whether a text can be a digest. Nothing else that an agent says in its place is passed on.
pub fn is_digest(text: &str) -> bool {
    text.len() == DIGEST_CHARS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Everything that an agent's executors take.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Description {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The executors that are on, by name.
    pub executors: Vec<ExecutorInfo>,
}

/// One executor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ExecutorInfo {
    /// Its name.
    pub name: ExecutorName,
    /// In one line, what it does.
    pub about: String,
    /// What it runs.
    pub types: Vec<TypeInfo>,
}

/// One type of jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TypeInfo {
    /// The type, such as `shell.run`.
    pub name: String,
    /// In one line, what it does.
    pub about: String,
    /// The JSON Schema of its params (draft 2020-12), without references to elsewhere.
    pub params: Value,
    /// Params that are right, to show and to start from.
    pub example: Value,
    /// The kinds of connections that such a job may name; empty is that it may name none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<ConnectionKind>,
    /// Whether it must name one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_connection: bool,
}

impl Description {
    /// What heartbeats call this description by, as [`digest`] has it.
    pub fn digest(&self) -> String {
        digest(&wire::encode(self))
    }

    /// All types in it.
    pub fn types(&self) -> impl Iterator<Item = &TypeInfo> {
        self.executors.iter().flat_map(|executor| &executor.types)
    }
}

impl Body for Description {
    const LIMIT: usize = 512 * 1024;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_bytes_and_nothing_else_looks_like_one() {
        let empty = Description::default();
        assert_eq!(empty.digest(), digest(&wire::encode(&empty)));
        assert!(is_digest(&empty.digest()));
        for wrong in ["", "0", &"g".repeat(32), &"A".repeat(32), &"0".repeat(33)] {
            assert!(!is_digest(wrong), "{wrong}");
        }
    }
}
