//! Stored results as values, whatever an agent has stored, each with what is known of its signature.
//!
//! A result that is not signed, or by somebody else, is shown like any other: the first one stored is how the job ended, and the mark says
//! what to think of it. Dispatchers mark results in the same way, when they are stored, and do not count such ones in scores.

use std::ops::Deref;

use async_nats::HeaderMap;
use bytes::Bytes;
use muster_broker_config::signing::{Judgement, StoredResult};
use muster_schemas::{
    code::Code,
    headers::{SIGNATURE, STORED_AT},
    names::AgentId,
    records::{SigningKeys, keys},
    result::{ErrorInfo, JobResult, Outcome},
    signature::{Mark, SIGNERS_KEY},
    time::Timestamp,
    wire,
};

use crate::{app::App, stored::Stored};

/// A stored result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Marked {
    pub(crate) result: JobResult,
    /// What is known of its signature; `None` while that cannot be told.
    pub(crate) signature: Option<Mark>,
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

/// What is known of a result's signature; `named` has to have made it, or the control plane. `None` when its key is unknown here and the broker
/// does not say whose it is.
async fn mark(app: &App, arrived: &Arrived, named: Option<&AgentId>) -> Option<Mark> {
    let header = arrived.headers.get(SIGNATURE).map(|header| header.as_str());
    let result = StoredResult { header, subject: &arrived.subject, body: &arrived.payload, stored_at: arrived.at, named };
    let keys = named.and_then(|agent| app.mirror.agents.get(agent)).map(|record| record.signing_keys());
    if let Judgement::Final(mark) = app.signing.judge(&result, keys.as_ref()) {
        return Some(mark);
    }
    match look(app, &result).await {
        Ok(mark) => Some(mark),
        Err(error) => {
            tracing::warn!(error, subject = arrived.subject, "it cannot be looked up who has signed a result");
            None
        }
    }
}

/// Judges a result by what is in the buckets now: copies lag a little, and of an agent that was removed the keys are left in the marker.
async fn look(app: &App, result: &StoredResult<'_>) -> Result<Mark, String> {
    let list = app.buckets.trust.entry(SIGNERS_KEY).await.map_err(|error| error.to_string())?;
    if let Some(list) = list {
        // One that does not hold is told of where the list is followed.
        let _ = app.signing.take(&list.value);
    }
    let record = match result.named {
        Some(agent) => app.buckets.agents.entry(keys::agent(agent)).await.map_err(|error| error.to_string())?,
        None => None,
    };
    let keys = record.and_then(|record| wire::decode::<SigningKeys>(&record.value).ok());
    Ok(match app.signing.judge(result, keys.as_ref()) {
        Judgement::Final(mark) => mark,
        Judgement::Stranger => Mark::Wrong,
    })
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
