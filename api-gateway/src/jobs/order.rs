//! A submit, checked: what a caller wrote becomes an [`Order`], or an error with the code of the field that is wrong.
//!
//! Pure: the clock is an argument, and whether the pool exists is asked in [`super::place`].

use axum::http::HeaderMap;
use bytes::Bytes;
use muster_schemas::{
    api::{IDEMPOTENCY_HEADER, Submit},
    builtin,
    code::Code,
    job::{self, Job, PUT_OFF_MAX},
    lane::{Lane, Priority},
    names::{AgentId, JobId, PoolName},
    queue::Queue,
    time::Timestamp,
    wire::{self, WireError},
};
use sha2::{Digest as _, Sha256};

use crate::problem::ApiError;

/// The longest `Idempotency-Key`.
const KEY_MAX: usize = 255;

/// Where a job's id comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdFrom {
    /// Made here, so no job has it yet.
    Us,
    /// The caller chose it.
    Caller,
    /// Derived from the caller's `Idempotency-Key`.
    Key,
    /// Derived from a finished job and the caller's key for running it again.
    Retry,
    /// Derived from a dead letter.
    Letter,
}

/// A checked submit.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) pool: PoolName,
    /// Where it is to wait.
    pub(crate) queue: Queue,
    pub(crate) id: JobId,
    pub(crate) id_from: IdFrom,
    pub(crate) job: Job,
    /// The job as MessagePack.
    pub(crate) body: Bytes,
}

impl Order {
    /// Checks a submit to the lanes of a pool.
    pub(crate) fn check(submit: &Submit, key: Option<&str>, now: Timestamp) -> Result<Self, ApiError> {
        Self::checked(submit, None, key, now)
    }

    /// Checks a command to this agent, which is of the submit's pool. One that does not say when it expires is given a time.
    pub(crate) fn command(submit: &Submit, agent: &AgentId, key: Option<&str>, now: Timestamp) -> Result<Self, ApiError> {
        Self::checked(submit, Some(agent), key, now)
    }

    fn checked(submit: &Submit, agent: Option<&AgentId>, key: Option<&str>, now: Timestamp) -> Result<Self, ApiError> {
        if let Some(other) = submit.v.filter(|v| *v != wire::VERSION) {
            return Err(WireError::Version(other).into());
        }
        if submit.target.is_some() {
            let detail = "field `target`: only POST /jobs takes one, for one job at a time, and makes a group of it";
            return Err(ApiError::new(Code::FieldInvalid, detail));
        }
        let pool: PoolName = submit.pool.parse()?;
        let priority = submit.priority.as_deref().map_or(Ok(Priority::default()), str::parse)?;
        let mut job = Job::try_from(submit.draft())?;
        if let Some(verbs) = builtin::verbs_instead(&job.job_type) {
            let executor = job.job_type.executor();
            let have = verbs.iter().map(|verb| format!("`{executor}.{verb}`")).collect::<Vec<_>>().join(", ");
            return Err(ApiError::new(Code::TypeUnknown, format!("field `type`: there is no `{}`; {executor} has {have}", job.job_type)));
        }
        if let Some(at) = job.not_before.filter(|at| at.since(now) > PUT_OFF_MAX) {
            let days = PUT_OFF_MAX.as_secs() / 86_400;
            return Err(ApiError::new(Code::TimeInvalid, format!("field `not_before`: {at} is more than {days} days away")));
        }
        let queue = match agent {
            Some(agent) => Queue::Agent(agent.clone()),
            None => Queue::Lane(Lane { priority, executor: job.job_type.executor() }),
        };
        job.expires_at = queue.expires_at(job.expires_at, job.not_before, now);
        let (id, id_from) = match (submit.id.as_deref(), key) {
            (Some(_), Some(_)) => {
                let detail =
                    "the body has an `id` and the request an Idempotency-Key: both say which submits are the same, so send one of them";
                return Err(ApiError::new(Code::HeaderInvalid, detail));
            }
            (Some(id), None) => (id.parse()?, IdFrom::Caller),
            (None, Some(key)) => (derived(&pool, agent, key)?, IdFrom::Key),
            (None, None) => (JobId::generate(&pool), IdFrom::Us),
        };
        let body = wire::encode(&job);
        if body.len() > job::LIMIT {
            let detail = format!("the job has {} bytes as MessagePack; the limit is {}", body.len(), job::LIMIT);
            return Err(ApiError::new(Code::BodyTooLarge, detail));
        }
        Ok(Self { pool, queue, id, id_from, job, body: body.into() })
    }
}

/// The id of the job that was submitted to `pool`, or to an agent of it, with `key`: 160 bits of a hash, so two keys never meet.
fn derived(pool: &PoolName, agent: Option<&AgentId>, key: &str) -> Result<JobId, ApiError> {
    let mut digest = Sha256::new().chain_update(pool.as_str()).chain_update([0]);
    if let Some(agent) = agent {
        digest = digest.chain_update(agent.as_str()).chain_update([0]);
    }
    let digest = digest.chain_update(key).finalize();
    let hex: String = digest.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("idem-{hex}").parse()?)
}

/// The request's `Idempotency-Key`, if it has one.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let wrong = |what: &str| {
        let detail = format!("{what}; Idempotency-Key takes 1 to {KEY_MAX} visible ASCII characters");
        Err(ApiError::new(Code::HeaderInvalid, detail))
    };
    let mut given = headers.get_all(IDEMPOTENCY_HEADER).iter();
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => wrong("the header is there twice"),
        (Some(value), None) => match value.as_bytes() {
            bytes if bytes.is_empty() || bytes.len() > KEY_MAX => wrong(&format!("it has {} characters", bytes.len())),
            bytes if !bytes.iter().all(u8::is_ascii_graphic) => wrong("it has other characters"),
            _ => Ok(value.to_str().ok()),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_secs(0)
    }

    fn check(patch: serde_json::Value) -> Result<Order, ApiError> {
        let mut body = json!({"pool": "p", "type": "shell.run"});
        for (key, value) in patch.as_object().unwrap() {
            body[key] = value.clone();
        }
        Order::check(&serde_json::from_value(body).unwrap(), None, now())
    }

    #[test]
    fn each_wrong_field_has_its_own_code() {
        let long = "a".repeat(300);
        let cases = [
            (json!({"pool": ""}), Code::NameInvalid),
            (json!({"pool": "a.b"}), Code::NameInvalid),
            (json!({"pool": "*"}), Code::NameInvalid),
            (json!({"pool": ">"}), Code::NameInvalid),
            (json!({"pool": "a b"}), Code::NameInvalid),
            (json!({"pool": "a\r\nb"}), Code::NameInvalid),
            (json!({"pool": long}), Code::NameInvalid),
            (json!({"priority": "urgent"}), Code::NameInvalid),
            (json!({"priority": "*"}), Code::NameInvalid),
            (json!({"id": "a.b"}), Code::NameInvalid),
            (json!({"id": ""}), Code::NameInvalid),
            (json!({"id": long}), Code::NameInvalid),
            (json!({"v": 2}), Code::VersionUnknown),
            (json!({"type": "shell"}), Code::TypeUnknown),
            (json!({"type": "shell.walk"}), Code::TypeUnknown),
            (json!({"type": "shell.*"}), Code::TypeUnknown),
            (json!({"type": ">.run"}), Code::TypeUnknown),
            (json!({"type": format!("{long}.run")}), Code::TypeUnknown),
            (json!({"params": [1]}), Code::ParamsInvalid),
            (json!({"params": "x"}), Code::ParamsInvalid),
            (json!({"timeout_s": 0}), Code::TimeoutInvalid),
            (json!({"timeout_s": -1}), Code::TimeoutInvalid),
            (json!({"timeout_s": i64::MAX}), Code::TimeoutInvalid),
            (json!({"retry": {"max_attempts": 0}}), Code::RetryInvalid),
            (json!({"retry": {"max_attempts": 1_000_000_000}}), Code::RetryInvalid),
            (json!({"retry": {"max_attempts": 2, "multiplier": 0.5}}), Code::RetryInvalid),
            (json!({"labels": {"": "x"}}), Code::LabelsInvalid),
            (json!({"not_before": "9999-01-01T00:00:00Z"}), Code::TimeInvalid),
            (json!({"not_before": "1970-01-02T00:00:00Z", "expires_at": "1970-01-01T00:00:00Z"}), Code::TimeInvalid),
            (json!({"result_ttl_s": 0}), Code::FieldInvalid),
            (json!({"params": {"a": "x".repeat(job::LIMIT)}}), Code::BodyTooLarge),
        ];
        for (patch, code) in cases {
            let error = check(patch.clone()).unwrap_err();
            assert_eq!(error.code, code, "{}", patch.to_string().chars().take(100).collect::<String>());
            assert!(!error.detail.contains(char::is_control) && error.detail.len() < 500, "{}", error.detail);
        }
    }

    #[test]
    fn a_plain_job_gets_a_made_id_and_the_normal_lane_of_its_executor() {
        let order = check(json!({"v": 1})).unwrap();
        assert_eq!((order.id_from, order.id.belongs_to(&order.pool)), (IdFrom::Us, Some(true)));
        assert_eq!(order.queue.lane().unwrap().consumer(), "normal_shell");
        assert_eq!(Job::decode(&order.body).unwrap(), order.job);
    }

    #[test]
    fn a_key_names_the_same_job_in_one_pool_and_another_one_elsewhere() {
        let submit = |pool: &str| Submit { pool: pool.into(), job_type: "shell.run".into(), ..Submit::default() };
        let id = |pool, key| Order::check(&submit(pool), Some(key), now()).unwrap().id;
        assert_eq!(id("p", "k"), id("p", "k"));
        assert_ne!(id("p", "k"), id("q", "k"));
        assert_ne!(id("p", "k"), id("p", "k2"));
        let both = Submit { id: Some("x".into()), ..submit("p") };
        assert_eq!(Order::check(&both, Some("k"), now()).unwrap_err().code, Code::HeaderInvalid);
    }

    #[test]
    fn an_idempotency_key_is_visible_ascii() {
        let of = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_HEADER, axum::http::HeaderValue::from_bytes(value).unwrap());
            }
            idempotency_key(&headers).map(|key| key.map(str::to_owned))
        };
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[b"order-7"]).unwrap().as_deref(), Some("order-7"));
        assert!(of(&[&[b'k'; 255]]).is_ok());
        for wrong in [&[&b""[..]][..], &[b"a b"], &["é".as_bytes()], &[b"a\tb"], &[&[b'k'; 256]], &[b"a", b"b"]] {
            assert_eq!(of(wrong).unwrap_err().code, Code::HeaderInvalid);
        }
    }
}
