//! Schedules: firings become jobs, one each, by what the schedule says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt as _;
use muster_schemas::{
    job::Draft,
    lane::Priority,
    names::ScheduleName,
    result::{JobResult, Outcome},
    schedule::{Became, Missed, Overlap, ScheduleRecord, ScheduleState, When, keys},
    subjects::{self, About, broker::StreamApi},
    time::Timestamp,
    topology::{RESULTS, SCHEDULES, SCHEDULES_BUCKET},
    wire::{self, V},
};
use serde_json::{Value, json};

use crate::support::{POOL, Stack, eventually};

/// For what happens within some seconds, on a busy machine. Shorter than a pull for firings waits: one that the broker forgot must show.
pub(crate) const WHILE: Duration = Duration::from_secs(20);

pub(crate) fn cron(text: &str) -> When {
    When { cron: Some(text.into()), ..When::default() }
}

pub(crate) fn every(text: &str) -> When {
    When { every: Some(text.into()), ..When::default() }
}

pub(crate) fn at(time: Timestamp) -> When {
    When { at: Some(time.to_string()), ..When::default() }
}

impl Stack {
    /// Writes a schedule's record, as the gateway does.
    pub(crate) async fn schedule(&self, name: &str, when: When, change: impl FnOnce(&mut ScheduleRecord)) -> ScheduleRecord {
        let now = Timestamp::now();
        let mut record = ScheduleRecord {
            v: V,
            name: name.parse().unwrap(),
            timing: when.try_into().unwrap(),
            overlap: Overlap::Queue,
            missed: Missed::RunOnce,
            grace_s: 60,
            paused: false,
            pool: POOL.parse().unwrap(),
            priority: Priority::Normal,
            job: Draft { job_type: "probe.echo".into(), ..Draft::default() },
            description: None,
            created_at: now,
            changed_at: now,
            since: now,
        };
        change(&mut record);
        let key = keys::definition(&record.name);
        self.bucket(SCHEDULES_BUCKET).await.put(key, wire::encode(&record).into()).await.unwrap();
        record
    }

    pub(crate) async fn state(&self, name: &str) -> Option<ScheduleState> {
        let key = keys::state(&name.parse().unwrap());
        let value = self.bucket(SCHEDULES_BUCKET).await.get(key).await.ok()??;
        Some(wire::decode(&value).unwrap())
    }

    /// How many messages a stream has on each subject. Empty as long as the broker does not answer.
    pub(crate) async fn subjects(&self, stream: &str) -> BTreeMap<String, u64> {
        let body = json!({"subjects_filter": ">"}).to_string();
        let Ok(answer) = self.gateway.request(StreamApi::Info.subject(stream), body.into()).await else { return BTreeMap::new() };
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        serde_json::from_value(info["state"]["subjects"].clone()).unwrap_or_default()
    }

    /// The jobs that a schedule has in the queue, by the times in their ids.
    pub(crate) async fn jobs(&self, name: &str) -> Vec<String> {
        let queued = self.subjects("JOBS_default").await;
        let prefix = format!("{name}-");
        let ids = queued.keys().filter_map(|subject| subjects::parse_job(subject)?.id.strip_prefix(&prefix));
        ids.map(str::to_owned).collect()
    }

    pub(crate) async fn has_jobs(&self, name: &str, count: usize) -> Vec<String> {
        let time = WHILE + Duration::from_secs(u64::try_from(count).unwrap());
        eventually(&format!("{count} jobs of {name}"), time, async || {
            let jobs = self.jobs(name).await;
            (jobs.len() >= count).then_some(jobs)
        })
        .await
    }

    /// Whether the broker has a timer for it.
    pub(crate) async fn is_armed(&self, name: &str) -> bool {
        let name: ScheduleName = name.parse().unwrap();
        self.subjects(SCHEDULES).await.contains_key(&subjects::schedule(&name))
    }

    pub(crate) async fn armed(&self, name: &str, wanted: bool) {
        eventually(&format!("{name} armed: {wanted}"), WHILE, async || (self.is_armed(name).await == wanted).then_some(())).await;
    }

    pub(crate) async fn result(&self, id: &str) -> Option<JobResult> {
        let stream = async_nats::jetstream::new(self.gateway.clone()).get_stream_no_info(RESULTS).await.unwrap();
        let subject = About::Result.job(&POOL.parse().unwrap(), &id.parse().unwrap());
        Some(wire::decode(&stream.direct_get_last_for_subject(subject).await.ok()?.payload).unwrap())
    }
}

/// The time in an id.
pub(crate) fn time(id: &str) -> Timestamp {
    let (day, clock) = id.split_once('T').unwrap();
    let text = format!("{}-{}-{}T{}:{}:{}Z", &day[..4], &day[4..6], &day[6..], &clock[..2], &clock[2..4], &clock[4..6]);
    text.parse().unwrap()
}

/// Checks that there is one job for every second.
pub(crate) fn no_second_is_missing(jobs: &[String]) {
    let times: Vec<i64> = jobs.iter().map(|id| time(id).secs()).collect();
    assert!(times.windows(2).all(|pair| pair[1] == pair[0] + 1), "a firing is missing: {jobs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_after_a_quiet_time_makes_its_job_at_once() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let fires = Timestamp::now() + Duration::from_secs(12);
    stack.schedule("quiet", at(fires), |_| {}).await;
    stack.has_jobs("quiet", 1).await;
    let late = Timestamp::now().since(fires);
    assert!(late < Duration::from_secs(3), "{late:?} late");
}

#[tokio::test(flavor = "multi_thread")]
async fn cron_every_and_at_fire_and_each_firing_makes_one_job() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let once = Timestamp::from_secs(Timestamp::now().secs() + 3);
    stack.schedule("c", When { time_zone: Some("Europe/Berlin".into()), ..cron("* * * * * *") }, |_| {}).await;
    stack.schedule("e", every("2s"), |_| {}).await;
    stack.schedule("a", at(once), |_| {}).await;
    let (c, e, a) = tokio::join!(stack.has_jobs("c", 4), stack.has_jobs("e", 3), stack.has_jobs("a", 1));
    no_second_is_missing(&c);
    assert!(e.windows(2).all(|pair| time(&pair[1]).secs() == time(&pair[0]).secs() + 2), "{e:?}");
    assert_eq!(a.iter().map(|id| time(id)).collect::<Vec<_>>(), [once]);
    stack.armed("a", false).await;
    let state = stack.state("a").await.unwrap();
    assert_eq!((state.became, state.fired_at, state.job.unwrap().fired_at), (Became::Job, once, once));
    // What is queued is the schedule's job.
    let stream = async_nats::jetstream::new(stack.gateway.clone()).get_stream_no_info("JOBS_default").await.unwrap();
    let held = stream.direct_get_last_for_subject(format!("jobs.default.normal.probe.a-{}", a[0])).await.unwrap();
    assert_eq!(muster_schemas::job::Job::decode(&held.payload).unwrap().job_type.to_string(), "probe.echo");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_firing_makes_one_job_with_two_dispatchers_and_one_killed() {
    let stack = Stack::start().await;
    let first = stack.dispatcher().await;
    first.becomes_active().await;
    let second = stack.dispatcher().await;
    stack.schedule("c", cron("* * * * * *"), |_| {}).await;
    stack.has_jobs("c", 3).await;
    first.kill();
    second.becomes_active().await;
    let seen = stack.jobs("c").await.len();
    // Beyond the time for which a firing is left to a dispatcher that died with it.
    no_second_is_missing(&stack.has_jobs("c", seen + 6).await);
    stack.armed("c", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_firings_are_skipped_until_the_job_has_ended() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    let agent = stack.agent(POOL).await;
    stack.schedule("s", cron("* * * * * *"), |record| record.overlap = Overlap::Skip).await;
    let overlapped = async |since: Timestamp| {
        eventually("firings are skipped", WHILE, async || {
            stack.state("s").await.filter(|state| state.became == Became::Overlapped && state.fired_at > since)
        })
        .await
    };
    let state = overlapped(Timestamp::from_secs(0)).await;
    assert!(dispatcher.figure("muster_schedule_firings_total{became=\"skipped\"}").await >= 1.0);
    let (jobs, job) = (stack.jobs("s").await, state.job.unwrap());
    assert_eq!((jobs.len(), format!("s-{}", jobs[0])), (1, job.id.to_string()));
    assert!(state.detail.unwrap().contains("queued or running"));
    // An agent runs it to its end, and its ack waits.
    let now = Timestamp::now();
    let error = muster_schemas::result::ErrorInfo::new(muster_schemas::code::Code::ExitNonzero, "1");
    let result = JobResult::never_ran(Outcome::Failed, error, now, now);
    agent.says(About::Result.job(&job.pool, &job.id), wire::encode(&result)).await;
    let state = overlapped(now).await;
    assert_ne!(state.job.unwrap().id, job.id, "a later firing has made the next job");
    assert_eq!(stack.jobs("s").await.len(), 2, "the one that has ended, and the next");
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firing_that_replaces_cancels_the_job_before_and_tells_its_agents() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let mut agent = stack.agent(POOL).await;
    agent.beats(|_| {}).await;
    stack.standing(&agent, "it is ranked", |standing| standing.accepting).await;
    let mut orders = agent.client.subscribe(subjects::control(&agent.id)).await.unwrap();
    agent.client.flush().await.unwrap();
    stack.schedule("r", cron("* * * * * *"), |record| record.overlap = Overlap::Replace).await;
    let order = tokio::time::timeout(WHILE, orders.next()).await.expect("an order").unwrap();
    let order: muster_schemas::control::Order = wire::decode(&order.payload).unwrap();
    let muster_schemas::control::What::Cancel { job_id } = order.what else { panic!("another order") };
    let result = stack.result(job_id.as_str()).await.expect("its result is stored first");
    assert_eq!(result.outcome, Outcome::Cancelled);
    let jobs = stack.has_jobs("r", 1).await;
    assert!(jobs.len() == 1 && format!("r-{}", jobs[0]) > job_id.to_string(), "{jobs:?} after {job_id}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_deleted_or_changed_fires_as_it_is_now() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let record = stack.schedule("p", cron("* * * * * *"), |_| {}).await;
    stack.schedule("d", cron("* * * * * *"), |_| {}).await;
    stack.has_jobs("p", 1).await;
    let key = keys::definition(&record.name);
    let bucket = stack.bucket(SCHEDULES_BUCKET).await;
    let paused = ScheduleRecord { paused: true, ..record.clone() };
    bucket.put(&key, wire::encode(&paused).into()).await.unwrap();
    stack.armed("p", false).await;
    bucket.delete(keys::definition(&"d".parse().unwrap())).await.unwrap();
    stack.armed("d", false).await;
    let (before, d) = (stack.jobs("p").await, stack.jobs("d").await);
    // While another one fires twice.
    stack.schedule("other", cron("* * * * * *"), |_| {}).await;
    stack.has_jobs("other", 3).await;
    assert_eq!((stack.jobs("p").await, stack.jobs("d").await), (before.clone(), d));
    let far = ScheduleRecord { since: Timestamp::now(), timing: every("1h").try_into().unwrap(), ..record.clone() };
    bucket.put(&key, wire::encode(&far).into()).await.unwrap();
    stack.armed("p", true).await;
    let again = ScheduleRecord { since: Timestamp::now(), ..record };
    bucket.put(&key, wire::encode(&again).into()).await.unwrap();
    let after = stack.has_jobs("p", before.len() + 2).await;
    assert!(time(&after[before.len()]).micros() >= again.since.micros() - 1_000_000, "nothing of the pause is made up for: {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_pool_does_not_take_is_told() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    stack.schedule("n", cron("* * * * * *"), |record| record.pool = "nowhere".parse().unwrap()).await;
    // An executor that the pool has no lane for gets one.
    stack.schedule("l", cron("* * * * * *"), |record| record.job.job_type = "fresh.run".into()).await;
    let state = eventually("it is told", WHILE, async || stack.state("n").await.filter(|state| state.became == Became::Refused)).await;
    assert_eq!((state.job, state.detail.as_deref()), (None, Some("there is no pool nowhere")));
    stack.has_jobs("l", 2).await;
    for became in ["refused", "made"] {
        let figure = format!("muster_schedule_firings_total{{became=\"{became}\"}}");
        eventually(&figure, WHILE, async || (dispatcher.figure(&figure).await >= 1.0).then_some(())).await;
    }
}
