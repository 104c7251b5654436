//! What a caller wants of a schedule, checked, and merged with what is there.

use muster_schemas::{
    api::{PutSchedule, Submit},
    code::Code,
    job::Draft,
    names::ScheduleName,
    schedule::{GRACE_DEFAULT_S, GRACE_MAX_S, ScheduleRecord, Timing, TimingError, keys},
    time::Timestamp,
    wire::V,
};

use crate::{
    app::{App, Held, create, read, update},
    connections::named,
    jobs::order::Order,
    pools::lanes,
    problem::ApiError,
    types,
};

/// How often to try again when others change the same schedule at the same moment.
const ROUNDS: usize = 8;
/// The longest description, in characters.
const DESCRIPTION_MAX: usize = 1000;

/// A schedule, checked.
#[derive(Debug)]
pub(super) struct Wanted {
    put: PutSchedule,
    timing: Timing,
    grace_s: u32,
    order: Order,
    job: Draft,
}

impl From<TimingError> for ApiError {
    fn from(error: TimingError) -> Self {
        Self::new(Code::ScheduleInvalid, error.to_string())
    }
}

impl Wanted {
    /// Checks what a caller wrote.
    pub(super) fn check(put: PutSchedule, now: Timestamp) -> Result<Self, ApiError> {
        let timing = Timing::try_from(put.when())?;
        if put.description.as_ref().is_some_and(|text| text.chars().count() > DESCRIPTION_MAX) {
            return Err(ApiError::new(Code::FieldInvalid, format!("field `description`: it takes at most {DESCRIPTION_MAX} characters")));
        }
        let most = i64::from(GRACE_MAX_S);
        let grace = put.grace_s.unwrap_or(GRACE_DEFAULT_S.into());
        let grace_s = u32::try_from(grace).ok().filter(|_| (1..=most).contains(&grace));
        let grace_s =
            grace_s.ok_or_else(|| ApiError::new(Code::FieldInvalid, format!("field `grace_s`: it takes 1 to {most}, and got {grace}")))?;
        let Submit { id, not_before, expires_at, .. } = &put.job;
        if id.is_some() || not_before.is_some() || expires_at.is_some() {
            let detail = "field `job`: it takes no `id`, `not_before` or `expires_at`: each firing gives its job an id, and its time";
            return Err(ApiError::new(Code::ScheduleInvalid, detail));
        }
        let order = Order::check(&put.job, None, now)?;
        Ok(Self { timing, grace_s, job: order.job.clone().into(), order, put })
    }

    /// The record, in place of the one that is there.
    fn record(&self, name: &ScheduleName, there: Option<&ScheduleRecord>, now: Timestamp) -> ScheduleRecord {
        let same_times = there.filter(|there| there.timing == self.timing && (self.put.paused || !there.paused));
        ScheduleRecord {
            v: V,
            name: name.clone(),
            timing: self.timing.clone(),
            overlap: self.put.overlap,
            missed: self.put.missed,
            grace_s: self.grace_s,
            paused: self.put.paused,
            pool: self.order.pool.clone(),
            priority: self.order.queue.priority(),
            job: self.job.clone(),
            description: self.put.description.clone(),
            created_at: there.map_or(now, |there| there.created_at),
            changed_at: now,
            // Firings go on as they did unless their times are others.
            since: same_times.map_or(now, |there| there.since),
        }
    }
}

/// A schedule's record, straight from the bucket, or `schedule_not_found`.
pub(super) async fn find(app: &App, name: &ScheduleName) -> Result<Held<ScheduleRecord>, ApiError> {
    let found = read(&app.buckets.schedules, &keys::definition(name)).await?;
    found.ok_or_else(|| ApiError::new(Code::ScheduleNotFound, format!("there is no schedule `{name}`")))
}

/// Makes the schedule, or puts another one in its place; answers it and whether it is new.
pub(super) async fn put(app: &App, name: &ScheduleName, wanted: &Wanted) -> Result<(ScheduleRecord, bool), ApiError> {
    let Order { pool, job, .. } = &wanted.order;
    lanes::ready(app, pool, &job.job_type.executor()).await?;
    named::ready(app, pool, None, &job.job_type, job.connection.as_ref()).await?;
    types::check(app, pool, None, &job.job_type, &job.params)?;
    let key = keys::definition(name);
    for _ in 0..ROUNDS {
        let there = read::<ScheduleRecord>(&app.buckets.schedules, &key).await?;
        let now = Timestamp::now();
        let record = wanted.record(name, there.as_ref().map(|there| &there.record), now);
        // One that has fired already may be put again as it is.
        let moved = there.as_ref().is_none_or(|there| there.record.timing != wanted.timing);
        if let Timing::At(at) = wanted.timing
            && moved
            && at <= now
        {
            return Err(ApiError::new(Code::ScheduleInvalid, format!("field `at`: {at} has passed")));
        }
        let (written, new) = match there {
            None => (create(&app.buckets.schedules, &key, &record).await?, true),
            Some(there) => (update(&app.buckets.schedules, &key, &record, there.revision).await?, false),
        };
        if written.is_some() {
            return Ok((record, new));
        }
    }
    Err(ApiError::broker("store the schedule", "others changed it each time"))
}

/// Pauses or resumes. Firings of the pause are not made up for.
pub(super) async fn pause(app: &App, name: &ScheduleName, paused: bool) -> Result<ScheduleRecord, ApiError> {
    for _ in 0..ROUNDS {
        let Held { mut record, revision } = find(app, name).await?;
        if record.paused == paused {
            return Ok(record);
        }
        record.paused = paused;
        record.changed_at = Timestamp::now();
        if !paused {
            record.since = record.changed_at;
        }
        if update(&app.buckets.schedules, &keys::definition(name), &record, revision).await?.is_some() {
            return Ok(record);
        }
    }
    Err(ApiError::broker("store the schedule", "others changed it each time"))
}

/// Deletes the schedule, with what is remembered of it.
pub(super) async fn delete(app: &App, name: &ScheduleName) -> Result<(), ApiError> {
    find(app, name).await?;
    for key in [keys::definition(name), keys::state(name)] {
        app.buckets.schedules.delete(&key).await.map_err(|error| ApiError::broker("delete the schedule", error))?;
    }
    Ok(())
}

/// The submit that a trigger makes: the schedule's job, now, with an id of its own.
pub(super) fn triggered(record: &ScheduleRecord) -> Submit {
    let job = record.job.clone();
    Submit {
        pool: record.pool.to_string(),
        priority: Some(record.priority.to_string()),
        job_type: job.job_type,
        params: job.params,
        timeout_s: job.timeout_s,
        retry: job.retry,
        connection: job.connection,
        labels: job.labels,
        result_ttl_s: job.result_ttl_s,
        ..Submit::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use serde_json::json;

    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    fn check(put: serde_json::Value) -> Result<Wanted, ApiError> {
        Wanted::check(serde_json::from_value(put).unwrap(), at(0))
    }

    fn job() -> serde_json::Value {
        json!({"pool": "p", "type": "shell.run"})
    }

    #[test]
    fn each_wrong_field_has_its_own_code() {
        for (put, code) in [
            (json!({"job": job()}), Code::ScheduleInvalid),
            (json!({"job": job(), "cron": "* * * * *", "every": "1s"}), Code::ScheduleInvalid),
            (json!({"job": job(), "cron": "x"}), Code::ScheduleInvalid),
            (json!({"job": job(), "cron": "0 0 30 2 *"}), Code::ScheduleInvalid),
            (json!({"job": job(), "cron": "* * * * *", "time_zone": "Mars/X"}), Code::ScheduleInvalid),
            (json!({"job": job(), "every": "1s", "time_zone": "UTC"}), Code::ScheduleInvalid),
            (json!({"job": job(), "every": "10ms"}), Code::ScheduleInvalid),
            (json!({"job": job(), "at": "tomorrow"}), Code::ScheduleInvalid),
            (json!({"job": {"pool": "p", "type": "shell.run", "id": "x"}, "every": "1s"}), Code::ScheduleInvalid),
            (json!({"job": {"pool": "p", "type": "shell.run", "not_before": at(5)}, "every": "1s"}), Code::ScheduleInvalid),
            (json!({"job": job(), "every": "1s", "grace_s": 0}), Code::FieldInvalid),
            (json!({"job": job(), "every": "1s", "description": "x".repeat(1001)}), Code::FieldInvalid),
            (json!({"job": {"pool": "P", "type": "shell.run"}, "every": "1s"}), Code::NameInvalid),
            (json!({"job": {"pool": "p", "type": "shell.walk"}, "every": "1s"}), Code::TypeUnknown),
            (json!({"job": {"pool": "p", "type": "shell.run", "timeout_s": 0}, "every": "1s"}), Code::TimeoutInvalid),
            (json!({"job": {"pool": "p", "type": "shell.run", "retry": {"max_attempts": 0}}, "every": "1s"}), Code::RetryInvalid),
        ] {
            assert_eq!(check(put.clone()).unwrap_err().code, code, "{put}");
        }
    }

    #[test]
    fn times_start_anew_only_when_they_change_or_are_resumed() {
        let name: ScheduleName = "s".parse().unwrap();
        let put = |change: serde_json::Value| {
            let mut put = json!({"job": job(), "every": "60s"});
            put.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            check(put).unwrap()
        };
        let first = put(json!({})).record(&name, None, at(0));
        let since = |wanted: Wanted, there: &ScheduleRecord| wanted.record(&name, Some(there), at(9)).since;
        assert_eq!((first.created_at, first.since), (at(0), at(0)));
        assert_eq!(since(put(json!({"overlap": "queue", "every": "1m"})), &first), at(0));
        assert_eq!(since(put(json!({"every": "61s"})), &first), at(9));
        let paused = put(json!({"paused": true})).record(&name, Some(&first), at(5));
        assert_eq!((paused.since, paused.created_at), (at(0), at(0)));
        assert_eq!(since(put(json!({})), &paused), at(9));
    }

    #[test]
    fn a_trigger_submits_the_schedules_job() {
        let wanted =
            check(json!({"every": "60s", "job": {"pool": "p", "type": "shell.run", "priority": "low", "labels": {"a": "b"}}})).unwrap();
        let record = wanted.record(&"s".parse().unwrap(), None, at(0));
        let order = Order::check(&triggered(&record), None, at(0)).unwrap();
        assert_eq!((order.job, order.queue), (wanted.order.job, wanted.order.queue));
    }
}
