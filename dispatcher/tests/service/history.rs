//! The history of jobs on a real broker: rows, filters, pages, restarts, several dispatchers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{path::Path, time::Duration};

use muster_schemas::{
    api::{JobRow, JobState, PoolStats},
    code::Code,
    event::{Event, EventKind},
    headers,
    history::{JobsAnswer, JobsQuestion, PoolAnswer, PoolQuestion},
    names::{AgentId, JobId, PoolName},
    result::{ErrorInfo, JobResult, Outcome},
    subjects::{self, About, History},
    time::Timestamp,
    wire::{self, V},
};

use crate::support::{Agent, Dispatcher, POOL, SOON, Stack, eventually};

pub(crate) fn pool() -> PoolName {
    POOL.parse().unwrap()
}

/// A dispatcher that keeps its history there.
pub(crate) async fn dispatcher_in(stack: &Stack, folder: &Path, settings: &[(&'static str, String)]) -> Dispatcher {
    let mut all = vec![("data_dir", folder.display().to_string())];
    all.extend_from_slice(settings);
    // One that was killed in this process may hold its folder for a moment longer.
    eventually("the dispatcher is ready", SOON, async || {
        let dispatcher = Dispatcher::start_with(stack.deployment.layout.root().display().to_string(), &stack.server.url(), &all);
        loop {
            match dispatcher.get("/readyz").await {
                Some(text) if text.starts_with("HTTP/1.1 200") => return Some(dispatcher),
                Some(_) => tokio::time::sleep(Duration::from_millis(10)).await, // poll
                None => return None,
            }
        }
    })
    .await
}

impl Stack {
    /// Publishes a job as a service would.
    pub(crate) async fn queue(&self, lane: &str, id: &str, body: &str) {
        let (priority, executor) = lane.split_once('.').unwrap();
        let lane = muster_schemas::lane::Lane { priority: priority.parse().unwrap(), executor: executor.parse().unwrap() };
        let subject = subjects::job(&pool(), &lane, &id.parse().unwrap());
        let ack = self.gateway.request(subject, body.to_owned().into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&ack.payload).contains("error"));
    }

    /// Publishes a command to one agent as the gateway would.
    pub(crate) async fn command(&self, agent: &AgentId, id: &str, body: &str) {
        let subject = subjects::command(&pool(), agent, &id.parse().unwrap());
        let ack = self.gateway.request(subject, body.to_owned().into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&ack.payload).contains("error"));
    }

    /// The page that is asked for, once a dispatcher answers.
    pub(crate) async fn page(&self, question: &JobsQuestion) -> JobsAnswer {
        eventually("a dispatcher answers", SOON, async || {
            // One that is just being killed may still be given a question.
            let request = async_nats::Request::new().payload(wire::encode(question).into()).timeout(Some(Duration::from_secs(2)));
            let answer = self.gateway.send_request(History::Jobs.subject(), request).await.ok()?;
            Some(wire::decode::<JobsAnswer>(&answer.payload).unwrap())
        })
        .await
    }

    /// All rows that fit, page by page.
    pub(crate) async fn rows(&self, mut question: JobsQuestion) -> Vec<JobRow> {
        let mut rows = Vec::new();
        loop {
            let page = self.page(&question).await;
            assert_eq!(page.error, None);
            rows.extend(page.rows);
            question.cursor = page.cursor;
            if question.cursor.is_none() {
                return rows;
            }
        }
    }

    /// The row of a job, once it is as wanted.
    pub(crate) async fn row(&self, id: &str, wanted: impl Fn(&JobRow) -> bool) -> JobRow {
        let what = format!("the row of {id}");
        eventually(&what, SOON, async || self.rows(all()).await.into_iter().find(|row| row.id.as_str() == id && wanted(row))).await
    }

    /// All rows, once there are so many.
    pub(crate) async fn when_there_are(&self, count: usize) -> Vec<JobRow> {
        eventually("all rows are there", Duration::from_secs(30), async || Some(self.rows(all()).await).filter(|rows| rows.len() == count))
            .await
    }
}

pub(crate) fn all() -> JobsQuestion {
    JobsQuestion { limit: 500, ..JobsQuestion::default() }
}

fn ids(rows: &[JobRow]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}

/// Stores the result of a job. With a time to live the broker forgets it again.
async fn ends(agent: &Agent, id: &str, outcome: Outcome, ttl: Option<&str>) {
    let now = Timestamp::now();
    let mut result = JobResult::never_ran(outcome, ErrorInfo::new(Code::ExitNonzero, "exit status 3"), now, now);
    (result.agent_id, result.started_at, result.attempt, result.exit_code) = (Some(agent.id.clone()), Some(now), 1, Some(3));
    let subject = About::Result.job(&agent.pool, &id.parse().unwrap());
    let mut headers = async_nats::HeaderMap::new();
    ttl.into_iter().for_each(|ttl| headers.insert(headers::TTL, ttl));
    let body = wire::encode(&result);
    headers.insert(headers::SIGNATURE, agent.signs(&id.parse().unwrap(), &body, now));
    let ack = agent.client.request_with_headers(subject, headers, body.into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&ack.payload).contains("error"));
}

pub(crate) async fn starts(agent: &Agent, id: &str) {
    let event = Event {
        v: V,
        kind: EventKind::Started,
        at: Timestamp::now(),
        agent_id: agent.id.clone(),
        job_type: None,
        attempt: 1,
        releases: 0,
        reason: None,
        next_at: None,
        history: Vec::new(),
    };
    agent.says(About::Event.job(&agent.pool, &id.parse::<JobId>().unwrap()), wire::encode(&event)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_in_the_list_from_its_queueing_to_its_end_whoever_published_it() {
    let stack = Stack::start().await;
    let (_dispatcher, agent) = (stack.dispatcher().await, stack.agent(POOL).await);
    stack.queue("high.shell", "raw", r#"{"type":"shell.run","labels":{"team":"a"},"parent":"old"}"#).await;
    let row = stack.row("raw", |_| true).await;
    assert_eq!((row.state, row.attempt, row.agent_id), (JobState::Pending, 0, None));
    assert_eq!((row.priority.as_str(), row.labels["team"].as_str()), ("high", "a"));
    assert_eq!((row.job_type.unwrap().as_str(), row.parent.unwrap().as_str()), ("shell.run", "old"));
    starts(&agent, "raw").await;
    let row = stack.row("raw", |row| row.state == JobState::Running).await;
    assert_eq!((row.attempt, row.agent_id, row.started_at.is_some()), (1, Some(agent.id.clone()), true));
    ends(&agent, "raw", Outcome::Failed, None).await;
    let row = stack.row("raw", |row| row.state == JobState::Failed).await;
    assert_eq!((row.exit_code, row.error.unwrap().code, row.labels["team"].as_str()), (Some(3), Code::ExitNonzero, "a"));
    assert!(row.finished_at.is_some());
    // A body that is no job has its row too, and neither stops anything that follows.
    stack.queue("low.probe", "odd", "not a job").await;
    agent.says(About::Event.job(&agent.pool, &"odd".parse().unwrap()), b"not an event".to_vec()).await;
    stack.queue("low.probe", "later", r#"{"type":"probe.ok","not_before":"2099-01-01T00:00:00Z"}"#).await;
    assert_eq!(stack.row("later", |_| true).await.state, JobState::Scheduled);
    assert_eq!(stack.row("odd", |_| true).await.job_type, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_finds_its_jobs_newest_first() {
    let stack = Stack::start().await;
    let (_dispatcher, agent) = (stack.dispatcher().await, stack.agent(POOL).await);
    stack.queue("normal.shell", "a", r#"{"type":"shell.run","labels":{"team":"x","tier":"1"}}"#).await;
    stack.queue("normal.probe", "b", r#"{"type":"probe.ok","labels":{"team":"y"}}"#).await;
    stack.queue("normal.shell", "c", r#"{"type":"shell.run","labels":{"team":"x"}}"#).await;
    ends(&agent, "b", Outcome::Succeeded, None).await;
    stack.row("b", |row| row.state == JobState::Succeeded).await;
    let rows = stack.when_there_are(3).await;
    assert_eq!(ids(&rows), ["c", "b", "a"]);
    let team = |value: &str| Some(("team".to_owned(), value.to_owned()));
    let cases = [
        (JobsQuestion { pool: Some(pool()), ..all() }, vec!["c", "b", "a"]),
        (JobsQuestion { pool: Some("other".parse().unwrap()), ..all() }, vec![]),
        (JobsQuestion { agent: Some(agent.id.clone()), ..all() }, vec!["b"]),
        (JobsQuestion { job_type: Some("shell.run".parse().unwrap()), ..all() }, vec!["c", "a"]),
        (JobsQuestion { state: Some(JobState::Pending), ..all() }, vec!["c", "a"]),
        (JobsQuestion { state: Some(JobState::Failed), ..all() }, vec![]),
        (JobsQuestion { label: team("x"), ..all() }, vec!["c", "a"]),
        (JobsQuestion { label: team("x"), until: Some(rows[0].queued_at), ..all() }, vec!["a"]),
        (JobsQuestion { since: Some(rows[1].queued_at), ..all() }, vec!["c", "b"]),
        (JobsQuestion { state: Some(JobState::Succeeded), label: team("y"), pool: Some(pool()), ..all() }, vec!["b"]),
    ];
    for (question, wanted) in cases {
        assert_eq!(ids(&stack.rows(question.clone()).await), wanted, "{question:?}");
    }
    let wrong = stack.page(&JobsQuestion { cursor: Some("no cursor".into()), ..all() }).await;
    assert_eq!(wrong.error.unwrap().code, Code::QueryInvalid);
    let answer = stack.gateway.request(History::Pool.subject(), wire::encode(&PoolQuestion { v: V, pool: pool() }).into()).await.unwrap();
    let stats: PoolStats = wire::decode::<PoolAnswer>(&answer.payload).unwrap().stats.unwrap();
    assert_eq!(stats.counts, [("pending".to_owned(), 2), ("succeeded".to_owned(), 1)].into());
    assert_eq!((stats.finished_last_hour, stats.oldest_pending_at), (1, Some(rows[2].queued_at)));
    assert!(stats.running_s.is_some() && stats.waiting_s.is_some() && stats.oldest_pending_s.unwrap() >= 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_neither_repeat_nor_miss_a_job_while_others_arrive() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    for number in 0..10 {
        stack.queue("normal.probe", &format!("old-{number}"), r#"{"type":"probe.ok"}"#).await;
    }
    stack.when_there_are(10).await;
    let mut question = JobsQuestion { limit: 3, ..all() };
    let (mut seen, mut arrived) = (Vec::new(), 0);
    loop {
        let page = stack.page(&question).await;
        seen.extend(page.rows.into_iter().map(|row| row.id.to_string()));
        question.cursor = page.cursor;
        if question.cursor.is_none() {
            break;
        }
        arrived += 1;
        stack.queue("high.probe", &format!("new-{arrived}"), r#"{"type":"probe.ok"}"#).await;
        stack.when_there_are(10 + arrived).await;
    }
    assert_eq!(seen, (0..10).rev().map(|number| format!("old-{number}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_from_its_position_and_a_deleted_folder_is_built_anew() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let agent = stack.agent(POOL).await;
    let dispatcher = dispatcher_in(&stack, folder.path(), &[]).await;
    stack.queue("normal.probe", "short", r#"{"type":"probe.ok","result_ttl_s":1}"#).await;
    // The broker forgets this result, and the history does not.
    ends(&agent, "short", Outcome::Succeeded, Some("1s")).await;
    stack.queue("normal.probe", "long", r#"{"type":"probe.ok"}"#).await;
    stack.row("short", |row| row.state == JobState::Succeeded).await;
    dispatcher.stop().await;
    ends(&agent, "long", Outcome::Failed, None).await;
    stack.queue("normal.probe", "while-away", r#"{"type":"probe.ok"}"#).await;
    let subject = About::Result.job(&pool(), &"short".parse().unwrap());
    eventually("the result is gone", SOON, async || {
        let got = stack.gateway.request(subjects::js::direct_get("RESULTS", &subject), "".into()).await.unwrap();
        got.status.map(drop)
    })
    .await;

    let dispatcher = dispatcher_in(&stack, folder.path(), &[]).await;
    let rows = stack.when_there_are(3).await;
    assert_eq!(ids(&rows), ["while-away", "long", "short"]);
    let states: Vec<_> = rows.iter().map(|row| row.state).collect();
    assert_eq!(states, [JobState::Pending, JobState::Failed, JobState::Succeeded]);
    dispatcher.stop().await;

    std::fs::remove_dir_all(folder.path().join("history")).unwrap();
    // Its agent has acked it.
    let queue = async_nats::jetstream::new(stack.gateway.clone()).get_stream("JOBS_default").await.unwrap();
    queue.purge().filter(subjects::job_in_any_lane(&pool(), &"short".parse().unwrap())).await.unwrap();
    let _dispatcher = dispatcher_in(&stack, folder.path(), &[("ledger_after", "1s".into())]).await;
    let built = stack.when_there_are(3).await;
    assert_eq!(built[..2], rows[..2]);
    // What the broker no longer has cannot come back.
    assert_eq!((built[2].id.as_str(), built[2].state), ("short", JobState::Pending));
    stack.row("short", |row| row.reason.as_deref().is_some_and(|reason| reason.contains("its result was gone"))).await;
    // It is not taken for one that waits.
    assert_eq!(ids(&stack.rows(JobsQuestion { state: Some(JobState::Pending), ..all() }).await), ["while-away"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dispatcher_answers_alike_also_when_another_one_is_gone() {
    let stack = Stack::start().await;
    let agent = stack.agent(POOL).await;
    let (first, second) = (stack.dispatcher().await, stack.dispatcher().await);
    for number in 0..20 {
        stack.queue("normal.probe", &format!("j{number}"), r#"{"type":"probe.ok"}"#).await;
        if number % 2 == 0 {
            ends(&agent, &format!("j{number}"), Outcome::Succeeded, None).await;
        }
    }
    // Asked often enough, both have answered.
    let wanted = eventually("both have read all", SOON, async || {
        let rows = stack.rows(all()).await;
        (rows.len() == 20 && rows.iter().filter(|row| row.state == JobState::Succeeded).count() == 10).then_some(rows)
    })
    .await;
    for dispatcher in [&first, &second] {
        eventually("it has all", SOON, async || (dispatcher.figure("muster_history_jobs").await == 20.0).then_some(())).await;
    }
    eventually("all answers are the same", SOON, async || {
        for _ in 0..20 {
            if stack.rows(all()).await != wanted {
                return None;
            }
        }
        Some(())
    })
    .await;
    first.kill();
    eventually("the other one answers", SOON, async || (stack.rows(all()).await == wanted).then_some(())).await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_is_killed_while_it_reads_ends_with_the_same_history() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let agent = stack.agent(POOL).await;
    let count = 600;
    for number in 0..count {
        stack.queue("normal.probe", &format!("j{number}"), r#"{"type":"probe.ok","labels":{"team":"a"}}"#).await;
    }
    for number in 0..count / 2 {
        ends(&agent, &format!("j{number}"), Outcome::Succeeded, None).await;
    }
    // Killed the moment that anything has been taken in.
    for _ in 0..3 {
        let dispatcher = dispatcher_in(&stack, folder.path(), &[]).await;
        eventually("it has begun", SOON, async || (dispatcher.figure("muster_history_jobs").await > 0.0).then_some(())).await;
        dispatcher.kill();
    }
    let last = dispatcher_in(&stack, folder.path(), &[]).await;
    let rows = stack.when_there_are(count).await;
    last.stop().await;
    let _fresh = stack.dispatcher().await;
    assert_eq!(stack.when_there_are(count).await, rows);
    assert_eq!(rows.iter().filter(|row| row.state == JobState::Succeeded).count(), count / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_bounded_and_the_oldest_jobs_go_first() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let dispatcher = dispatcher_in(&stack, folder.path(), &[("history_max_jobs", "5".into())]).await;
    for number in 0..12 {
        stack.queue("normal.probe", &format!("j{number}"), r#"{"type":"probe.ok"}"#).await;
    }
    stack.row("j11", |_| true).await;
    assert_eq!(ids(&stack.rows(all()).await), ["j11", "j10", "j9", "j8", "j7"]);
    assert_eq!(dispatcher.figure("muster_history_jobs").await, 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_in_two_pools_is_two_jobs() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let other: PoolName = "other".parse().unwrap();
    let record = muster_broker_config::provision::default_pool(other.clone(), Timestamp::now());
    muster_broker_config::provision::ensure_pool(&stack.gateway, &record).await.unwrap();
    let (id, lane): (JobId, _) = ("mine".parse().unwrap(), muster_schemas::lane::Lane::of(&"probe".parse().unwrap())[0].clone());
    for pool in [pool(), other] {
        let mut headers = async_nats::HeaderMap::new();
        // As the gateway does with an id that the caller chose: else the broker would take the second one's event for the first one's.
        headers.insert(headers::MSG_ID, headers::msg_id(&pool, &id));
        let body = r#"{"type":"probe.ok"}"#;
        let ack = stack.gateway.request_with_headers(subjects::job(&pool, &lane, &id), headers, body.into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&ack.payload).contains("error"));
    }
    let rows = stack.when_there_are(2).await;
    assert_eq!((rows[0].pool.as_str(), rows[1].pool.as_str()), ("other", POOL));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_found_by_the_one_agent_that_they_are_for_newest_first() {
    let stack = Stack::start().await;
    let (_dispatcher, agent, other) = (stack.dispatcher().await, stack.agent(POOL).await, stack.agent(POOL).await);
    for number in 0..3 {
        stack.command(&agent.id, &format!("c{number}"), r#"{"type":"probe.ok"}"#).await;
        stack.command(&other.id, &format!("o{number}"), r#"{"type":"probe.ok"}"#).await;
        stack.queue("normal.probe", &format!("j{number}"), r#"{"type":"probe.ok"}"#).await;
    }
    // Whoever ran it, it was for this one.
    ends(&other, "c1", Outcome::Succeeded, None).await;
    ends(&agent, "j1", Outcome::Succeeded, None).await;
    stack.row("j1", |row| row.state == JobState::Succeeded).await;
    let last = JobsQuestion { target_agent: Some(agent.id.clone()), limit: 100, ..JobsQuestion::default() };
    let rows = eventually("all are there", SOON, async || Some(stack.rows(last.clone()).await).filter(|rows| rows.len() == 3)).await;
    assert_eq!(ids(&rows), ["c2", "c1", "c0"]);
    assert!(rows.iter().all(|row| row.target_agent.as_ref() == Some(&agent.id)) && rows[1].state == JobState::Succeeded);
    let ended = JobsQuestion { state: Some(JobState::Succeeded), ..last };
    assert_eq!(ids(&stack.rows(ended).await), ["c1"]);
    assert_eq!(stack.row("j0", |_| true).await.target_agent, None);
}
