//! Finished jobs leave the fronts of their queues together, and no other ones do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::{collections::BTreeSet, time::Duration};

use async_nats::{HeaderMap, Subscriber, jetstream};
use futures_util::{StreamExt as _, future::join_all};
use muster_broker_config::provision;
use muster_schemas::{
    headers::{QUEUE_PLACE, SIGNATURE},
    names::{JobId, PoolName},
    queue::Place,
    result::Outcome,
    subjects::{self, About, js},
    time::Timestamp,
    topology::{MAX_BATCH, PRIORITY_GROUP, jobs_stream},
    wire,
};

use crate::support::{Agent, Dispatcher, POOL, Proxy, SOON, Stack, eventually, ran_by};

const SWEPT: &str = "muster_jobs_swept_total";
const SWEEPS: &str = "muster_sweep_seconds_count";

/// A job that an agent has been given and has not acked.
struct Taken {
    id: JobId,
    place: Place,
    message: jetstream::Message,
}

impl Taken {
    async fn ack(&self) {
        self.message.double_ack().await.unwrap();
    }
}

/// Puts jobs into the queue of a pool.
async fn submit(stack: &Stack, pool: &PoolName, count: usize) {
    let lane = "normal.probe".split_once('.').map(|(priority, executor)| (priority.parse().unwrap(), executor.parse().unwrap())).unwrap();
    let lane = muster_schemas::lane::Lane { priority: lane.0, executor: lane.1 };
    let published = (0..count).map(|_| {
        let subject = subjects::job(pool, &lane, &JobId::generate(pool));
        stack.gateway.request(subject, r#"{"type":"probe.ok"}"#.into())
    });
    for ack in join_all(published).await {
        assert!(!String::from_utf8_lossy(&ack.unwrap().payload).contains("error"));
    }
}

/// What an agent pulls with.
struct Puller {
    inbox: String,
    given: Subscriber,
}

impl Puller {
    async fn new(agent: &Agent) -> Self {
        let inbox = agent.client.new_inbox();
        let given = agent.client.subscribe(inbox.clone()).await.unwrap();
        Self { inbox, given }
    }

    /// Takes jobs of its pool, in the order of the queue.
    async fn take(&mut self, agent: &Agent, count: usize) -> Vec<Taken> {
        let most = usize::try_from(MAX_BATCH).unwrap();
        let subject = js::next(&jobs_stream(&agent.pool), "normal_probe");
        for begin in (0..count).step_by(most) {
            let batch = most.min(count - begin);
            let pull = serde_json::json!({"batch": batch, "expires": 30_000_000_000_u64, "group": PRIORITY_GROUP}).to_string();
            agent.client.publish_with_reply(subject.clone(), self.inbox.clone(), pull.into()).await.unwrap();
        }
        let context = jetstream::new(agent.client.clone());
        let mut taken = Vec::new();
        while taken.len() < count {
            let message = tokio::time::timeout(SOON, self.given.next()).await.expect("a job").unwrap();
            if message.status.is_some() {
                continue;
            }
            let message = jetstream::Message { message, context: context.clone() };
            let info = message.info().unwrap();
            let stored_at = Timestamp::from_nanos(i64::try_from(info.published.unix_timestamp_nanos()).unwrap());
            let place = Place { sequence: info.stream_sequence, stored_at };
            let id = message.subject.rsplit('.').next().unwrap().parse().unwrap();
            taken.push(Taken { id, place, message });
        }
        taken
    }
}

/// Takes so many jobs that have just been put into the agent's queue.
async fn given(stack: &Stack, agent: &Agent, count: usize) -> Vec<Taken> {
    submit(stack, &agent.pool, count).await;
    Puller::new(agent).await.take(agent, count).await
}

/// Stores the results of jobs, each with the place of its job, signed by `signer`.
async fn finish_as(signer: &Agent, agent: &Agent, jobs: &[Taken]) {
    let stored = jobs.iter().map(|job| async {
        let body = wire::encode(&ran_by(&agent.id, Outcome::Succeeded));
        let mut headers = HeaderMap::new();
        headers.insert(SIGNATURE, signer.signs(&job.id, &body, Timestamp::now()));
        headers.insert(QUEUE_PLACE, job.place.to_string());
        let ack = agent.client.request_with_headers(About::Result.job(&agent.pool, &job.id), headers, body.into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&ack.payload).contains("error"));
    });
    join_all(stored).await;
}

/// How many jobs of a pool the dispatcher has heard of that they succeeded.
async fn heard(dispatcher: &Dispatcher, pool: &PoolName) -> f64 {
    dispatcher.figure(&format!(r#"muster_jobs_finished_total{{outcome="succeeded",pool="{pool}"}}"#)).await
}

/// Stores the results of jobs, that of the first one last, when all others have been heard of: so they can leave only together.
async fn finish(dispatcher: &Dispatcher, agent: &Agent, jobs: &[Taken]) {
    let before = heard(dispatcher, &agent.pool).await;
    finish_as(agent, agent, &jobs[1..]).await;
    let others = before + f64::from(u32::try_from(jobs.len() - 1).unwrap());
    eventually("they are heard of", SOON, async || (heard(dispatcher, &agent.pool).await == others).then_some(())).await;
    finish_as(agent, agent, &jobs[..1]).await;
}

impl Stack {
    /// What is in the queue of a pool: the sequence of the first job, and how many there are.
    async fn front(&self, pool: &PoolName) -> (u64, u64) {
        let mut stream = jetstream::new(self.gateway.clone()).get_stream(jobs_stream(pool)).await.unwrap();
        let state = &stream.info().await.unwrap().state;
        (state.first_sequence, state.messages)
    }

    async fn until_front(&self, pool: &PoolName, what: &str, wanted: (u64, u64)) {
        eventually(what, SOON, async || (self.front(pool).await == wanted).then_some(())).await;
    }

    /// An agent in a pool that is made for it.
    async fn agent_elsewhere(&self, pool: &str) -> Agent {
        let record = provision::default_pool(pool.parse().unwrap(), Timestamp::now());
        provision::ensure_pool(&self.gateway, &record).await.unwrap();
        self.agent(pool).await
    }
}

async fn active(stack: &Stack) -> Dispatcher {
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    dispatcher
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_jobs_leave_the_front_by_one_purge_and_one_that_runs_stops_it() {
    let stack = Stack::start().await;
    let dispatcher = active(&stack).await;
    let agent = stack.agent(POOL).await;
    let jobs = given(&stack, &agent, 100).await;
    finish_as(&agent, &agent, &jobs[61..]).await;
    eventually("they are heard of", SOON, async || (heard(&dispatcher, &agent.pool).await == 39.0).then_some(())).await;
    finish(&dispatcher, &agent, &jobs[..60]).await;
    stack.until_front(&agent.pool, "the one that runs is first", (61, 40)).await;
    eventually("it is counted", SOON, async || (dispatcher.figure(SWEPT).await == 60.0).then_some(())).await;
    assert_eq!(dispatcher.figure(SWEEPS).await, 1.0);
    // The agent's acks come all the same: those of jobs that are gone, and of others, which leaves a gap.
    for job in jobs[..5].iter().chain(&jobs[61..]) {
        job.ack().await;
    }
    assert_eq!(stack.front(&agent.pool).await, (61, 1));
    let more = given(&stack, &agent, 50).await;
    let mut rest = jobs.into_iter().skip(60).take(1).chain(more).collect::<Vec<_>>();
    rest.pop();
    finish(&dispatcher, &agent, &rest).await;
    stack.until_front(&agent.pool, "only the last one is there", (150, 1)).await;
    eventually("they are counted", SOON, async || (dispatcher.figure(SWEPT).await == 110.0).then_some(())).await;
    assert_eq!(dispatcher.figure(SWEEPS).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_are_put_off_come_again_although_others_are_swept_meanwhile() {
    let stack = Stack::start().await;
    let dispatcher = active(&stack).await;
    let agent = stack.agent(POOL).await;
    let jobs = given(&stack, &agent, 200).await;
    let (done, failed) = jobs.split_at(80);
    let mut puller = Puller::new(&agent).await;
    for job in failed {
        job.message.ack_with(jetstream::AckKind::Nak(Some(Duration::from_millis(500)))).await.unwrap();
    }
    finish(&dispatcher, &agent, done).await;
    stack.until_front(&agent.pool, "the finished ones are gone", (81, 120)).await;
    let again: BTreeSet<_> = puller.take(&agent, 120).await.iter().map(|job| job.place.sequence).collect();
    assert_eq!(again, (81..=200).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_swept_of_what_was_heard_before_a_reconnect() {
    let stack = Stack::start().await;
    let proxy = Proxy::to(stack.server.port()).await;
    let dispatcher = stack.dispatcher_at(&proxy.url).await;
    dispatcher.becomes_active().await;
    let (agent, other) = (stack.agent(POOL).await, stack.agent_elsewhere("other").await);
    let jobs = given(&stack, &agent, 100).await;
    // Too few for a look, which would be lost with the connection.
    finish_as(&agent, &agent, &jobs[1..32]).await;
    eventually("all of it is heard", SOON, async || (heard(&dispatcher, &agent.pool).await == 31.0).then_some(())).await;
    proxy.sever();
    let marks = given(&stack, &other, 40).await;
    eventually("it reads again", SOON, async || {
        let id = JobId::generate(&other.pool);
        other.stores(&id, &ran_by(&other.id, Outcome::Failed)).await;
        let failed = r#"muster_jobs_finished_total{outcome="failed",pool="other"}"#;
        (dispatcher.figure(failed).await >= 1.0 && dispatcher.is_active().await).then_some(())
    })
    .await;
    finish_as(&agent, &agent, &jobs[..1]).await;
    finish_as(&agent, &agent, &jobs[32..]).await;
    // What is heard after that is swept.
    finish(&dispatcher, &other, &marks).await;
    stack.until_front(&other.pool, "they are swept", (41, 0)).await;
    assert_eq!(stack.front(&agent.pool).await, (1, 100));
    eventually("no others are counted", SOON, async || (dispatcher.figure(SWEPT).await == 40.0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_counts_only_in_a_result_that_an_agent_of_the_pool_has_signed() {
    let stack = Stack::start().await;
    let dispatcher = active(&stack).await;
    let (agent, other) = (stack.agent(POOL).await, stack.agent_elsewhere("other").await);
    let (jobs, marks) = (given(&stack, &agent, 40).await, given(&stack, &other, 40).await);
    finish_as(&other, &agent, &jobs).await;
    finish(&dispatcher, &other, &marks).await;
    stack.until_front(&other.pool, "the others are swept", (41, 0)).await;
    assert_eq!(stack.front(&agent.pool).await, (1, 40));
    eventually("no others are counted", SOON, async || (dispatcher.figure(SWEPT).await == 40.0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_dispatchers_the_active_one_sweeps_and_the_next_one_goes_on() {
    let stack = Stack::start().await;
    let first = active(&stack).await;
    let second = stack.dispatcher().await;
    let agent = stack.agent(POOL).await;
    finish(&first, &agent, &given(&stack, &agent, 40).await).await;
    stack.until_front(&agent.pool, "they are swept", (41, 0)).await;
    eventually("it is counted", SOON, async || (first.figure(SWEPT).await == 40.0).then_some(())).await;
    assert_eq!(second.figure(SWEPT).await, 0.0);
    first.kill();
    second.becomes_active().await;
    finish(&second, &agent, &given(&stack, &agent, 50).await).await;
    stack.until_front(&agent.pool, "they are swept", (91, 0)).await;
    eventually("it is counted", SOON, async || (second.figure(SWEPT).await == 50.0).then_some(())).await;
}
