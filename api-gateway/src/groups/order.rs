//! A submit with a target, checked: what a caller wrote becomes an [`Order`], or an error with the code of the field that is wrong.
//!
//! Pure: the clock is an argument. Whether the pool exists, and who is in it, is asked in [`super::create`].

use muster_schemas::{
    api::{AllAgents, Submit, Target},
    code::Code,
    group::GroupRecord,
    job::{Draft, check_labels},
    names::{GroupId, PoolName},
    time::Timestamp,
};
use sha2::{Digest as _, Sha256};
use ulid::Ulid;

use crate::{jobs, problem::ApiError};

/// The most sizes of waves that a caller may list.
const BATCH_MAX: usize = 100;
/// The bytes of a digest that become an id.
const ID_BYTES: usize = 16;

/// A checked submit of a group.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) pool: PoolName,
    pub(super) target: AllAgents,
    pub(super) stop_after: Option<u32>,
    /// What each job of it is. Without an expiry each gets one that counts from when it is sent, which for a late wave may be days from now.
    pub(super) job: Draft,
}

impl Order {
    /// Checks a submit whose target is `target`.
    pub(super) fn check(submit: Submit, target: Target, now: Timestamp) -> Result<Self, ApiError> {
        let Target::All(target) = target;
        let wrong = |detail: String| Err(ApiError::new(Code::FieldInvalid, detail));
        if !submit.pool.is_empty() && submit.pool != target.pool {
            return wrong("field `pool`: the target names another one; leave it out".into());
        }
        if submit.priority.is_some() {
            return wrong("field `priority`: a job that is for one agent goes before all lanes, so a target takes none".into());
        }
        if submit.id.is_some() {
            let detail = "field `id`: each job of a target gets an id of its own; with an Idempotency-Key the request is safe to repeat";
            return wrong(detail.into());
        }
        if target.batch.len() > BATCH_MAX {
            return wrong(format!("field `batch`: it takes at most {BATCH_MAX} sizes, of which the last one is repeated"));
        }
        if target.stop_after == Some(0) {
            return wrong("field `stop_after`: it takes a number of failures from 1 on; leave `batch` out to send all at once".into());
        }
        check_labels(&target.labels).map_err(|error| ApiError::new(error.code(), format!("of the target, {error}")))?;
        if let Some(at) = submit.expires_at.filter(|at| *at <= now) {
            return Err(ApiError::new(Code::TimeInvalid, format!("field `expires_at`: {at} has passed")));
        }
        let one = Submit { pool: target.pool.clone(), target: None, ..submit };
        let order = jobs::order::Order::check(&one, None, now)?;
        let stop_after = target.stop_after.or((!target.batch.is_empty()).then_some(1));
        Ok(Self { pool: order.pool, job: order.job.into(), stop_after, target })
    }

    /// Whether the group is certainly another one than this asks for. How its waves came about is not kept.
    pub(super) fn differs(&self, group: &GroupRecord) -> bool {
        (&group.pool, &group.labels, &group.job, group.stop_after) != (&self.pool, &self.target.labels, &self.job, self.stop_after)
    }
}

/// The id of the group that was submitted to `pool` with an `Idempotency-Key`: 128 bits of a hash.
pub(super) fn derived(pool: &PoolName, key: &str) -> Result<GroupId, ApiError> {
    let digest = Sha256::new().chain_update(pool.as_str()).chain_update([0]).chain_update(key).finalize();
    let bits = digest.iter().take(ID_BYTES).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    Ok(format!("grp_{}", Ulid::from(bits)).parse()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::time::Duration;

    use muster_schemas::wire::V;
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn check(job: Value, target: Value) -> Result<Order, ApiError> {
        let mut body = json!({"type": "shell.run", "target": {"all": {"pool": "p"}}});
        for (into, fields) in [("", job), ("/target/all", target)] {
            body.pointer_mut(into).unwrap().as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        }
        let mut submit: Submit = serde_json::from_value(body).unwrap();
        let target = submit.target.take().unwrap();
        Order::check(submit, target, now())
    }

    #[test]
    fn each_wrong_field_has_its_own_code() {
        let sizes = vec![1; BATCH_MAX + 1];
        for (job, target, code, says) in [
            (json!({"pool": "q"}), json!({}), Code::FieldInvalid, "`pool`"),
            (json!({"priority": "high"}), json!({}), Code::FieldInvalid, "`priority`"),
            (json!({"id": "x"}), json!({}), Code::FieldInvalid, "Idempotency-Key"),
            (json!({}), json!({"batch": sizes}), Code::FieldInvalid, "`batch`"),
            (json!({}), json!({"stop_after": 0}), Code::FieldInvalid, "`stop_after`"),
            (json!({}), json!({"labels": {"": "x"}}), Code::LabelsInvalid, "of the target"),
            (json!({}), json!({"pool": "P"}), Code::NameInvalid, "a pool name"),
            (json!({"expires_at": now()}), json!({}), Code::TimeInvalid, "`expires_at`"),
            (json!({"type": "shell.walk"}), json!({}), Code::TypeUnknown, "`type`"),
            (json!({"timeout_s": 0}), json!({}), Code::TimeoutInvalid, "`timeout_s`"),
            (json!({"v": 2}), json!({}), Code::VersionUnknown, "version"),
        ] {
            let error = check(job.clone(), target.clone()).unwrap_err();
            assert_eq!(error.code, code, "{job} {target}");
            assert!(error.detail.contains(says), "{}", error.detail);
        }
        assert!(check(json!({"pool": "p"}), json!({})).is_ok());
    }

    #[test]
    fn a_job_expires_at_a_time_only_where_the_caller_gave_one() {
        let expires = |job: Value| check(job, json!({})).unwrap().job.expires_at;
        let later = now() + Duration::from_secs(3600);
        assert_eq!(expires(json!({})), None);
        assert_eq!(expires(json!({"not_before": later})), None);
        assert_eq!(expires(json!({"expires_at": later})), Some(later));
    }

    #[test]
    fn with_waves_the_first_failure_stops_unless_it_says_otherwise() {
        let stop = |target: Value| check(json!({}), target).unwrap().stop_after;
        assert_eq!(stop(json!({})), None);
        assert_eq!(stop(json!({"batch": ["10%"]})), Some(1));
        assert_eq!(stop(json!({"batch": ["10%"], "stop_after": 3})), Some(3));
        assert_eq!(stop(json!({"stop_after": 3})), Some(3));
    }

    #[test]
    fn a_key_names_one_group_in_one_pool_and_another_request_with_it_is_told_apart() {
        let (p, q): (PoolName, PoolName) = ("p".parse().unwrap(), "q".parse().unwrap());
        assert_eq!(derived(&p, "k").unwrap(), derived(&p, "k").unwrap());
        assert_ne!(derived(&p, "k").unwrap(), derived(&q, "k").unwrap());
        assert_ne!(derived(&p, "k").unwrap(), derived(&p, "l").unwrap());
        let first = check(json!({"params": {"a": 1}}), json!({})).unwrap();
        let record = GroupRecord {
            v: V,
            id: derived(&p, "k").unwrap(),
            pool: p,
            labels: first.target.labels.clone(),
            job: first.job.clone(),
            matched: 1,
            members: Vec::new(),
            waves: Vec::new(),
            stop_after: first.stop_after,
            created_at: now(),
            created_by: "ci".into(),
        };
        assert!(!first.differs(&record));
        let expires_at = now() + Duration::from_secs(3600);
        assert!(check(json!({"params": {"a": 1}, "expires_at": expires_at}), json!({})).unwrap().differs(&record));
        assert!(check(json!({"params": {"a": 2}}), json!({})).unwrap().differs(&record));
        assert!(check(json!({"params": {"a": 1}}), json!({"labels": {"a": "b"}})).unwrap().differs(&record));
    }
}
