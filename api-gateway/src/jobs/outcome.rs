//! Stored results as values, whatever an agent has stored, each with what is known of its signature.
//!
//! A result that is not signed, or by somebody else, is shown like any other: the first one stored is how the job ended, and the mark says
//! what to think of it. Dispatchers mark results in the same way, when they are stored, and do not count such ones in scores.

use std::ops::Deref;

use async_nats::HeaderMap;
use bytes::Bytes;
use muster_schemas::{
    code::Code,
    headers::{SIGNATURE, STORED_AT},
    names::AgentId,
    records::{SigningKeys, keys},
    result::{ErrorInfo, JobResult, Outcome},
    signature::{self, Mark, Signature},
    time::Timestamp,
    wire,
};

use crate::{app::App, stored::Stored};

/// A stored result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Marked {
    pub(crate) result: JobResult,
    /// What is known of its signature.
    pub(crate) signature: Mark,
}

impl Deref for Marked {
    type Target = JobResult;
    fn deref(&self) -> &JobResult {
        &self.result
    }
}

/// A result as it travels: what is stored, or the broker's republish of it.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    /// The subject that it is stored under, which its signature covers.
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    /// When the broker stored it.
    pub(crate) at: Timestamp,
}

impl From<Stored> for Arrived {
    fn from(Stored { subject, at, headers, payload, .. }: Stored) -> Self {
        Self { subject, headers, payload, at }
    }
}

impl Arrived {
    /// The republish of a result that is stored under `subject`.
    pub(crate) fn republished(subject: String, headers: Option<HeaderMap>, payload: Bytes) -> Self {
        let headers = headers.unwrap_or_default();
        let at = headers.get_last(STORED_AT).and_then(|at| at.as_str().parse().ok());
        Self { subject, at: at.unwrap_or_else(Timestamp::now), headers, payload }
    }
}

/// Reads a stored result. What is no result still ends its job, since the first one stored counts: it is shown as a failure that says so.
pub(crate) fn read(body: &[u8], stored_at: Timestamp) -> JobResult {
    wire::decode(body).unwrap_or_else(|error| {
        let error = ErrorInfo::new(Code::BodyMalformed, format!("what is stored as the result can't be read: {error}"));
        JobResult::never_ran(Outcome::Failed, error, stored_at, stored_at)
    })
}

/// Reads a stored result and marks it.
pub(crate) async fn marked(app: &App, arrived: &Arrived) -> Marked {
    let result = read(&arrived.payload, arrived.at);
    let signature = mark(app, arrived, result.signing_agent()).await;
    Marked { result, signature }
}

/// What is known of a result's signature; `named` has to have made it, or the control plane.
async fn mark(app: &App, arrived: &Arrived, named: Option<&AgentId>) -> Mark {
    let header = arrived.headers.get(SIGNATURE).map(|header| header.as_str());
    let Some(key) = header.and_then(|header| Signature::parse(header).ok()).map(|signature| signature.key) else {
        return if header.is_some() { Mark::Wrong } else { Mark::Missing };
    };
    let ours = app.signing.present().is_some_and(|present| present.list.is_control_plane(&key));
    let mut keys = named.and_then(|agent| app.mirror.agents.get(agent)).map(|record| record.signing_keys()).unwrap_or_default();
    if !ours && !keys.knows(&key) {
        keys = match named {
            Some(agent) => left_of(app, agent).await.unwrap_or_default(),
            None => SigningKeys::default(),
        };
    }
    let trusted = |key: &str, at: Timestamp| ours || keys.signs_with(key, at, arrived.at);
    signature::mark(header, &arrived.subject, &arrived.payload, trusted)
}

/// The keys of an agent straight from its bucket: a copy lags a little, and of one that was removed its keys are left in the marker.
async fn left_of(app: &App, agent: &AgentId) -> Option<SigningKeys> {
    let entry = app.buckets.agents.entry(keys::agent(agent)).await.ok()??;
    wire::decode(&entry.value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_result_is_a_failure_that_says_so() {
        let at = Timestamp::from_secs(7);
        for body in [&b""[..], b"hello", b"{}", b"\xc1", b"{\"v\":2}"] {
            let result = read(body, at);
            assert_eq!((result.outcome, result.finished_at), (Outcome::Failed, at));
            assert_eq!(result.error.map(|error| error.code), Some(Code::BodyMalformed));
        }
    }
}
