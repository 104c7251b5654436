//! Orders to one agent, and small requests between processes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    api::Certificate,
    connection::SealedEntry,
    names::{AgentId, ConnectionName, ExecutorName, JobId},
    result::{ErrorInfo, JobResult},
    sealed::SealingKey,
    time::Timestamp,
    wire::{Body, V},
};

/// The longest that an agent is called up for at once, in seconds. While more waits, it is called again.
pub const CALL_UP_MAX_S: u32 = 60;

/// An order to an agent, on its control subject. No answer is expected: what it asks for is also stored, so a lost one only costs time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Order {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// What to do.
    #[serde(flatten)]
    pub what: What,
}

/// What an [`Order`] asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum What {
    /// Stop this job if it runs here, and drop it if it arrives within the next minute: its result is already stored.
    Cancel {
        /// The job.
        job_id: JobId,
    },
    /// Pull the lanes of these executors although the standing says standby: more waits there than those who pull take.
    CallUp {
        /// The executors.
        executors: BTreeSet<ExecutorName>,
        /// For how many seconds from now, at most [`CALL_UP_MAX_S`].
        for_s: u32,
    },
    /// Ask the own queue: a command waits there. An agent to which none was sent for a while has no consumer, and has stopped asking.
    AskQueue,
    /// This agent's identity has ended: stop pulling and stop what runs, at once. The broker cuts the connection right after, so nothing that
    /// is sent from here on arrives.
    IdentityEnded {
        /// What ended it.
        why: IdentityEnd,
        /// Why, in an operator's words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

/// What ended an agent's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityEnd {
    /// It was revoked.
    Revoked,
    /// It was removed.
    Deleted,
    /// Its API key was replaced: it may come back with the new one.
    KeyRotated,
    /// It was given to another pool: it may come back at once, with the same API key and a new public key.
    Moved,
}

impl Body for Order {
    const LIMIT: usize = 16 * 1024;
}

/// An agent's request for a fresh JWT. Who asks is in the subject, which the broker has checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RenewRequest {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The public key that the JWT is for (an nkey that starts with `U`).
    pub public_key: String,
    /// A request for a client certificate, as in [`crate::api::Register::csr`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr: Option<String>,
}

impl Body for RenewRequest {
    const LIMIT: usize = 16 * 1024;
}

/// The answer to a [`RenewRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RenewAnswer {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The fresh JWT, or
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<String>,
    /// why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// The client certificate that was asked for, where the deployment has TLS on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// What time it is by the gateway's clock; an older gateway does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
}

impl Body for RenewAnswer {
    const LIMIT: usize = 64 * 1024;
}

/// An ephemeral agent's word that it leaves for good. Who leaves is in the subject, which the broker has checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LeaveRequest {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
}

impl Body for LeaveRequest {
    const LIMIT: usize = 4096;
}

/// The answer to a [`LeaveRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LeaveAnswer {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Why it is not being removed, unless it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
}

impl Body for LeaveAnswer {
    const LIMIT: usize = 16 * 1024;
}

/// A gateway's request to the active dispatcher to carry out at once what the records of an agent say: its public keys that are to be refused,
/// and its removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SettleRequest {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The agent.
    pub agent_id: AgentId,
}

impl Body for SettleRequest {
    const LIMIT: usize = 4096;
}

/// The answer to a [`SettleRequest`], once all of it is done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SettleAnswer {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Why it is not done yet. The dispatcher goes on trying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
}

impl Body for SettleAnswer {
    const LIMIT: usize = 16 * 1024;
}

/// A gateway's answer to a service's query about a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct QueryAnswer {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The stored result, if the job has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// Why the query could not be answered, or the cancel not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
    /// Whether the job is in the queue, waiting or running.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queued: bool,
}

impl Body for QueryAnswer {
    const LIMIT: usize = crate::result::LIMIT + 4096;
}

/// The verb of [`crate::subjects::rpc`] that asks an agent whether it is there.
pub const PING: &str = "ping";

/// What an agent answers to [`PING`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Pong {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Who answers.
    pub agent_id: AgentId,
    /// The run of the agent, as in its heartbeats.
    pub instance: String,
}

impl Body for Pong {
    const LIMIT: usize = 16 * 1024;
}

/// The verb of [`crate::subjects::rpc`] that asks an agent what its executors take. The request is empty, the answer a
/// [`crate::describe::Description`].
pub const DESCRIBE: &str = "describe";

/// The verb of [`crate::subjects::rpc`] that asks an agent to seal credentials that it holds to another agent of its pool.
pub const RESEAL: &str = "reseal";

/// The request of [`RESEAL`], by the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ResealRequest {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// Whose credentials.
    pub connection: ConnectionName,
    /// Which ones: an agent that has others refuses.
    pub revision: u64,
    /// Who is to have them.
    pub agent_id: AgentId,
    /// The public key (nkey) of that agent's identity.
    pub public_key: String,
    /// What to seal to, signed with that identity.
    pub sealing: SealingKey,
}

impl Body for ResealRequest {
    const LIMIT: usize = 16 * 1024;
}

/// The answer to a [`ResealRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ResealAnswer {
    /// Version of the body.
    #[serde(default)]
    pub v: V,
    /// The credentials, sealed, or
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<SealedEntry>,
    /// why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorInfo>,
}

impl Body for ResealAnswer {
    const LIMIT: usize = 64 * 1024;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use crate::wire;

    #[test]
    fn orders_and_answers_round_trip() {
        let order = Order { v: V, what: What::Cancel { job_id: "j".parse().unwrap() } };
        assert_eq!(wire::decode::<Order>(&wire::encode(&order)).unwrap(), order);
        assert_eq!(serde_json::to_string(&order).unwrap(), r#"{"v":1,"order":"cancel","job_id":"j"}"#);
        let order = Order { v: V, what: What::AskQueue };
        assert_eq!(serde_json::to_string(&order).unwrap(), r#"{"v":1,"order":"ask_queue"}"#);
        assert_eq!(wire::decode::<Order>(&wire::encode(&order)).unwrap(), order);
        let answer = QueryAnswer { v: V, result: None, error: None, queued: true };
        assert_eq!(wire::decode::<QueryAnswer>(&wire::encode(&answer)).unwrap(), answer);
    }
}
