//! Makes a pool or changes it: what the caller wrote, checked, and merged into what is there.

use std::collections::BTreeSet;

use muster_broker_config::provision;
use muster_schemas::{
    api::{PutLimits, PutPool},
    code::Code,
    names::{ExecutorName, PoolName},
    records::{JobDefaults, PoolDefaults, PoolLimits, PoolRecord},
    time::Timestamp,
};

use super::{EXECUTORS_MAX, lanes};
use crate::{
    app::{App, create, read, update},
    problem::ApiError,
};

/// How often to try again when others change the same pool at the same moment.
const ROUNDS: usize = 8;
/// The longest description, in characters.
const DESCRIPTION_MAX: usize = 1000;
/// The most jobs that a pool may be allowed to queue.
const QUEUED_MAX: i64 = 1_000_000_000;
/// The most jobs that a pool may be allowed to run at once.
const RUNNING_MAX: i64 = 1_000_000;

/// What a caller wants of a pool, checked.
#[derive(Debug)]
pub(crate) struct Wanted {
    description: Option<String>,
    executors: Option<BTreeSet<ExecutorName>>,
    max_queued: Option<u64>,
    max_running: Option<u64>,
    defaults: Option<PoolDefaults>,
}

impl Wanted {
    /// Checks what a caller wrote.
    pub(crate) fn check(put: PutPool) -> Result<Self, ApiError> {
        let field = |field: &str, rule: &str| ApiError::new(Code::FieldInvalid, format!("field `{field}`: {rule}"));
        if put.description.as_ref().is_some_and(|text| text.chars().count() > DESCRIPTION_MAX) {
            return Err(field("description", &format!("it takes at most {DESCRIPTION_MAX} characters")));
        }
        let executors: Option<BTreeSet<ExecutorName>> =
            put.executors.map(|names| names.iter().map(|name| name.parse()).collect::<Result<_, _>>()).transpose()?;
        if executors.as_ref().is_some_and(|executors| executors.len() > EXECUTORS_MAX) {
            return Err(field("executors", &format!("it takes at most {EXECUTORS_MAX}")));
        }
        let limits: PutLimits = put.limits.unwrap_or_default();
        let within = |name: &str, given: Option<i64>, most: i64| match given {
            None => Ok(None),
            Some(given) if (1..=most).contains(&given) => Ok(Some(given.unsigned_abs())),
            Some(given) => Err(field(name, &format!("it takes 1 to {most}, and got {given}"))),
        };
        let max_queued = within("limits.max_queued", limits.max_queued, QUEUED_MAX)?;
        let max_running = within("limits.max_running", limits.max_running, RUNNING_MAX)?;
        if let Some(defaults) = put.defaults.clone() {
            JobDefaults::try_from(defaults).map_err(|error| ApiError::new(error.code(), format!("in `defaults`: {error}")))?;
        }
        Ok(Self { description: put.description, executors, max_queued, max_running, defaults: put.defaults })
    }

    /// The record of a new pool. An empty set of executors means none besides `probe`, which every agent has.
    fn new_record(&self, name: PoolName, now: Timestamp) -> PoolRecord {
        let mut record = provision::default_pool(name, now);
        if let Some(executors) = &self.executors {
            record.executors.retain(|executor| executor.as_str() == ALWAYS_ON);
            record.executors.extend(executors.iter().cloned());
        }
        record.limits = self.limits(PoolLimits::default());
        record.defaults = self.defaults.clone().unwrap_or_default();
        record.description.clone_from(&self.description);
        record
    }

    /// The record that is there, changed. Lanes are only ever added: a lane that is taken away would take its jobs along.
    fn merged(&self, there: &PoolRecord) -> PoolRecord {
        let mut record = there.clone();
        record.executors.extend(self.executors.iter().flatten().cloned());
        record.limits = self.limits(there.limits);
        if let Some(defaults) = &self.defaults {
            record.defaults.clone_from(defaults);
        }
        if self.description.is_some() {
            record.description.clone_from(&self.description);
        }
        record
    }

    fn limits(&self, there: PoolLimits) -> PoolLimits {
        PoolLimits { max_queued: self.max_queued.unwrap_or(there.max_queued), max_running: self.max_running.unwrap_or(there.max_running) }
    }
}

/// The executor that every agent has.
const ALWAYS_ON: &str = "probe";

/// Makes the pool or changes it; answers its record and whether it is new.
pub(crate) async fn put(app: &App, name: &PoolName, wanted: &Wanted) -> Result<(PoolRecord, bool), ApiError> {
    for _ in 0..ROUNDS {
        let there = read::<PoolRecord>(&app.buckets.pools, name.as_str()).await?;
        let (revision, new) = match there {
            None => (create(&app.buckets.pools, name.as_str(), &wanted.new_record(name.clone(), Timestamp::now())).await?, true),
            Some(there) => {
                let record = wanted.merged(&there.record);
                if record.executors.len() > EXECUTORS_MAX {
                    let detail =
                        format!("field `executors`: the pool would have {}; it takes at most {EXECUTORS_MAX}", record.executors.len());
                    return Err(ApiError::new(Code::FieldInvalid, detail));
                }
                let same = record == there.record;
                let revision =
                    if same { Some(there.revision) } else { update(&app.buckets.pools, name.as_str(), &record, there.revision).await? };
                (revision, false)
            }
        };
        if let Some(revision) = revision {
            // Brings stream and lanes to the record; also when nothing was new, so that repeating a put repairs.
            let made = provision::ensure_lanes(&app.nats, name, &BTreeSet::new()).await;
            let record = made.map_err(|error| lanes::failed("bring the pool's lanes to its record", error))?;
            app.mirror.pools.caught_up(revision).await;
            return Ok((record, new));
        }
    }
    Err(ApiError::broker("store the pool", "others changed it each time"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;

    fn wanted(body: serde_json::Value) -> Result<Wanted, ApiError> {
        Wanted::check(serde_json::from_value(body).unwrap())
    }

    fn names(record: &PoolRecord) -> Vec<&str> {
        record.executors.iter().map(ExecutorName::as_str).collect()
    }

    #[test]
    fn a_limit_out_of_its_range_is_refused() {
        for (field, most) in [("max_queued", QUEUED_MAX), ("max_running", RUNNING_MAX)] {
            for value in [0, -1, most + 1, i64::MIN] {
                assert_eq!(wanted(json!({"limits": {field: value}})).unwrap_err().code, Code::FieldInvalid, "{field} {value}");
            }
            assert!(wanted(json!({"limits": {field: most}})).is_ok() && wanted(json!({"limits": {field: 1}})).is_ok());
        }
        assert_eq!(wanted(json!({"defaults": {"timeout_s": 0}})).unwrap_err().code, Code::TimeoutInvalid);
        assert_eq!(wanted(json!({"defaults": {"retry": {"max_attempts": 101}}})).unwrap_err().code, Code::RetryInvalid);
        assert_eq!(wanted(json!({"executors": ["a.b"]})).unwrap_err().code, Code::NameInvalid);
        assert_eq!(wanted(json!({"description": "x".repeat(1001)})).unwrap_err().code, Code::FieldInvalid);
        let many: Vec<String> = (0..=EXECUTORS_MAX).map(|n| format!("e{n}")).collect();
        assert_eq!(wanted(json!({"executors": many})).unwrap_err().code, Code::FieldInvalid);
    }

    #[test]
    fn no_executors_means_none_besides_the_one_that_is_always_on() {
        let now = Timestamp::from_secs(0);
        let make = |body| wanted(body).unwrap().new_record("p".parse().unwrap(), now);
        assert_eq!(names(&make(json!({}))), ["http", "probe", "shell"]);
        assert_eq!(names(&make(json!({"executors": []}))), ["probe"]);
        assert_eq!(names(&make(json!({"executors": ["ssh"]}))), ["probe", "ssh"]);
    }

    #[test]
    fn what_is_left_out_keeps_its_value() {
        let now = Timestamp::from_secs(0);
        let first = wanted(json!({"description": "d", "limits": {"max_queued": 5}})).unwrap().new_record("p".parse().unwrap(), now);
        let second = wanted(json!({"executors": ["ssh"], "limits": {"max_running": 7}})).unwrap().merged(&first);
        assert_eq!((second.limits.max_queued, second.limits.max_running), (5, 7));
        assert_eq!((second.description.as_deref(), names(&second)), (Some("d"), vec!["http", "probe", "shell", "ssh"]));
        assert_eq!(wanted(json!({"executors": []})).unwrap().merged(&second), second);
        let third = wanted(json!({"defaults": {"timeout_s": 9}})).unwrap().merged(&second);
        assert_eq!(wanted(json!({})).unwrap().merged(&third).defaults.timeout_s, Some(9));
        let fourth = wanted(json!({"defaults": {"retry": {"max_attempts": 2}}})).unwrap().merged(&third);
        assert_eq!(fourth.defaults.timeout_s, None, "they are replaced as a whole");
    }
}
