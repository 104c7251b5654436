//! A job to be: what a service fills in. It is checked, by the rules that agents apply, before anything is sent.

use std::time::Duration;

use bytes::Bytes;
use muster_schemas::{
    job::{self, Draft, DraftRetry, Job},
    lane::{Lane, Priority},
    names::{JobId, PoolName},
    subjects,
    time::Timestamp,
    wire,
};
use serde_json::Value;

use crate::Error;

/// A job to submit. Only type and params are needed.
///
/// ```
/// # use std::time::Duration;
/// # use muster_client::NewJob;
/// let job = NewJob::new("http.request", serde_json::json!({"url": "https://example.com/"}))
///     .timeout(Duration::from_secs(20))
///     .label("invoice", "2026-07");
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct NewJob {
    draft: Draft,
    priority: Priority,
    id: Option<JobId>,
    traceparent: Option<String>,
}

impl NewJob {
    /// A job of this type (`<executor>.<verb>`) with these params, an object.
    pub fn new(job_type: impl Into<String>, params: Value) -> Self {
        Self { draft: Draft { job_type: job_type.into(), params, ..Draft::default() }, ..Self::default() }
    }

    /// How urgent it is. Default normal.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// An id of the caller's own, which makes submitting safe to repeat: a second submit answers the first job. Without one an id is made.
    pub fn id(mut self, id: JobId) -> Self {
        self.id = Some(id);
        self
    }

    /// How long an attempt may run: 1 s to 7 days, in whole seconds, rounded up. Default 300 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.draft.timeout_s = Some(whole_seconds(timeout));
        self
    }

    /// What happens after a failed attempt. Without it a failure is final.
    pub fn retry(mut self, retry: DraftRetry) -> Self {
        self.draft.retry = Some(retry);
        self
    }

    /// The connection whose secrets the job needs.
    pub fn connection(mut self, name: impl Into<String>) -> Self {
        self.draft.connection = Some(name.into());
        self
    }

    /// A label to find the job by; at most 32.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.draft.labels.insert(key.into(), value.into());
        self
    }

    /// The job does not start before this.
    pub fn not_before(mut self, at: Timestamp) -> Self {
        self.draft.not_before = Some(at);
        self
    }

    /// The job does not start after this; it ends as expired instead.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.draft.expires_at = Some(at);
        self
    }

    /// How long the result is kept: 1 s to 30 days, in whole seconds, rounded up. Default 24 h.
    pub fn result_ttl(mut self, ttl: Duration) -> Self {
        self.draft.result_ttl_s = Some(whole_seconds(ttl));
        self
    }

    /// The job that this one runs again.
    pub fn parent(mut self, id: JobId) -> Self {
        self.draft.parent = Some(id);
        self
    }

    /// The W3C trace context that the agent's span continues.
    pub fn traceparent(mut self, header: impl Into<String>) -> Self {
        self.traceparent = Some(header.into());
        self
    }

    /// Checks everything and makes the message.
    pub(crate) fn prepare(self, pool: &PoolName) -> Result<Prepared, Error> {
        let job = Job::try_from(self.draft)?;
        let lane = Lane { priority: self.priority, executor: job.job_type.executor() };
        let body = wire::encode(&job);
        if body.len() > job::LIMIT {
            return Err(Error::TooLarge { size: body.len(), limit: job::LIMIT });
        }
        let traceparent = self.traceparent.map(|text| text.parse().map_err(|_| Error::Traceparent)).transpose()?;
        let own_id = self.id.is_some();
        let id = self.id.unwrap_or_else(|| JobId::generate(pool));
        let subject = subjects::job(pool, &lane, &id);
        Ok(Prepared { pool: pool.clone(), lane, id, own_id, subject, body: body.into(), traceparent })
    }
}

/// A job that is ready to be published.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) pool: PoolName,
    pub(crate) lane: Lane,
    pub(crate) id: JobId,
    pub(crate) own_id: bool,
    pub(crate) subject: String,
    pub(crate) body: Bytes,
    pub(crate) traceparent: Option<async_nats::HeaderValue>,
}

fn whole_seconds(duration: Duration) -> i64 {
    let up = u64::from(duration.subsec_nanos() > 0);
    i64::try_from(duration.as_secs().saturating_add(up)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;
    use muster_schemas::code::Code;
    use serde_json::json;

    fn pool() -> PoolName {
        "p".parse().unwrap()
    }

    #[test]
    fn a_prepared_job_is_addressed_by_its_lane_and_id_and_reads_back() {
        let job = NewJob::new("shell.run", json!({"command": "date"}))
            .priority(Priority::High)
            .id("own".parse().unwrap())
            .timeout(Duration::from_millis(1500))
            .label("a", "b");
        let prepared = job.prepare(&pool()).unwrap();
        assert!(prepared.own_id);
        let address = subjects::parse_job(&prepared.subject).unwrap();
        assert_eq!((address.pool, address.queue, address.id), (pool(), muster_schemas::queue::Queue::Lane(prepared.lane), "own"));
        let read = Job::decode(&prepared.body).unwrap();
        assert_eq!(read.timeout(), Duration::from_secs(2));
        assert_eq!(read.labels, [("a".to_owned(), "b".to_owned())].into());
    }

    #[test]
    fn a_made_id_belongs_to_the_pool() {
        let prepared = NewJob::new("probe.ping", json!({})).prepare(&pool()).unwrap();
        assert!(!prepared.own_id);
        assert_eq!(prepared.id.belongs_to(&pool()), Some(true));
    }

    #[test]
    fn what_an_agent_would_reject_is_refused_before_it_is_sent() {
        let code = |job: NewJob| match job.prepare(&pool()) {
            Err(Error::Invalid(error)) => error.code(),
            other => unreachable!("{other:?}"),
        };
        assert_eq!(code(NewJob::new("shell", json!({}))), Code::TypeUnknown);
        assert_eq!(code(NewJob::new("shell.run", json!([]))), Code::ParamsInvalid);
        assert_eq!(code(NewJob::new("shell.run", json!({})).timeout(Duration::MAX)), Code::TimeoutInvalid);
        let never = DraftRetry { max_attempts: 0, ..DraftRetry::default() };
        assert_eq!(code(NewJob::new("shell.run", json!({})).retry(never)), Code::RetryInvalid);
    }

    #[test]
    fn a_job_that_is_too_large_or_smuggles_a_header_is_refused() {
        let large = NewJob::new("shell.run", json!({"stdin": "x".repeat(job::LIMIT)}));
        assert!(matches!(large.prepare(&pool()), Err(Error::TooLarge { limit: job::LIMIT, .. })));
        let smuggled = NewJob::new("shell.run", json!({})).traceparent("00-a\r\nNats-Rollup: all");
        assert!(matches!(smuggled.prepare(&pool()), Err(Error::Traceparent)));
    }
}
