//! Groups: waves in order, one command for each member, whatever happens to dispatchers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use muster_schemas::{
    api::JobState,
    code::Code,
    control::{Order, What},
    group::{self, GroupRecord, GroupState, GroupStatus, keys},
    headers,
    history::{GroupAnswer, GroupQuestion},
    job::Draft,
    names::{AgentId, GroupId},
    queue::Queue,
    result::{ErrorInfo, JobResult, Outcome},
    subjects::{self, About, History, broker::StreamApi, js},
    time::Timestamp,
    topology::{COMMANDS, EVENTS, GROUPS, bucket_stream},
    wire::{self, V},
};
use serde_json::{Value, json};

use crate::{
    history::{dispatcher_in, pool, starts},
    support::{POOL, SOON, Stack, eventually},
};

/// For large groups, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

impl Stack {
    /// Writes a group's record, as the gateway does.
    async fn group(&self, waves: &[u32], change: impl FnOnce(&mut GroupRecord)) -> GroupRecord {
        let members = waves.iter().sum::<u32>();
        let mut record = GroupRecord {
            v: V,
            id: GroupId::generate(),
            pool: pool(),
            labels: [].into(),
            job: Draft { job_type: "probe.echo".into(), ..Draft::default() },
            matched: members,
            members: (0..members).map(|_| AgentId::generate()).collect(),
            waves: waves.to_vec(),
            stop_after: None,
            created_at: Timestamp::now(),
            created_by: "test".into(),
        };
        change(&mut record);
        self.bucket(GROUPS).await.put(keys::definition(&record.id), wire::encode(&record).into()).await.unwrap();
        record
    }

    async fn group_state(&self, group: &GroupRecord) -> GroupState {
        let held = self.bucket(GROUPS).await.get(keys::state(&group.id)).await.unwrap();
        held.map(|value| wire::decode(&value).unwrap()).unwrap_or_default()
    }

    async fn becomes(&self, group: &GroupRecord, status: GroupStatus) -> GroupState {
        eventually(&format!("the group is {status:?}"), LONG, async || {
            Some(self.group_state(group).await).filter(|state| state.status == status)
        })
        .await
    }

    async fn has_sent(&self, group: &GroupRecord, count: u32) {
        eventually(&format!("{count} are sent"), LONG, async || (self.group_state(group).await.sent == count).then_some(())).await;
    }

    /// Somebody cancels it, as the gateway does.
    async fn cancels(&self, group: &GroupRecord) {
        let state = self.group_state(group).await;
        let state = GroupState { status: GroupStatus::Cancelling, reason: Some("cancelled by test".into()), ..state };
        self.bucket(GROUPS).await.put(keys::state(&group.id), wire::encode(&state).into()).await.unwrap();
    }

    /// How many commands there are, and how many there ever were.
    async fn commands(&self) -> (u64, u64) {
        let answer = self.gateway.request(StreamApi::Info.subject(COMMANDS), "".into()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        (info["state"]["messages"].as_u64().unwrap(), info["state"]["last_seq"].as_u64().unwrap())
    }

    /// Which members have a command waiting.
    async fn waiting(&self, group: &GroupRecord) -> Vec<usize> {
        let subjects = self.subjects(COMMANDS).await;
        let mut places: Vec<usize> = subjects
            .keys()
            .filter_map(|subject| {
                let address = subjects::parse_job(subject)?;
                let (_, place) = GroupId::of(&address.id.parse().ok()?).filter(|(of, _)| *of == group.id)?;
                assert_eq!(address.queue, Queue::Agent(group.members[place].clone()), "each has its own");
                Some(place)
            })
            .collect();
        places.sort_unstable();
        places
    }

    /// A member's agent runs its job to the end.
    async fn ends(&self, group: &GroupRecord, place: usize, outcome: Outcome) {
        let (now, id) = (Timestamp::now(), group.id.job(place));
        let mut result = JobResult::never_ran(outcome, ErrorInfo::new(Code::ExitNonzero, "1"), now, now);
        (result.agent_id, result.started_at, result.attempt) = (Some(group.members[place].clone()), Some(now), 1);
        self.gateway.request(About::Result.job(&group.pool, &id), wire::encode(&result).into()).await.unwrap();
        let subject = Queue::Agent(group.members[place].clone()).subject(&group.pool, &id);
        let purge = json!({"filter": subject}).to_string();
        self.gateway.request(StreamApi::Purge.subject(COMMANDS), purge.into()).await.unwrap();
    }

    /// Waits until the dispatcher has looked at all groups, as another one shows that comes and goes.
    async fn all_are_looked_at(&self) {
        let other = self.group(&[1], |_| {}).await;
        self.has_sent(&other, 1).await;
        // All that the look did which sent it is done before the next one begins.
        self.ends(&other, 0, Outcome::Succeeded).await;
        self.becomes(&other, GroupStatus::Finished).await;
    }

    async fn asks(&self, group: &GroupRecord, from: u32, limit: u32) -> GroupAnswer {
        let members = u32::try_from(group.members.len()).unwrap();
        let question = GroupQuestion { v: V, pool: group.pool.clone(), group: group.id.clone(), members, from, limit };
        eventually("a dispatcher answers", SOON, async || {
            let answer = self.gateway.request(History::Group.subject(), wire::encode(&question).into()).await.ok()?;
            Some(wire::decode(&answer.payload).unwrap())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waves_follow_each_other_in_order_until_all_have_ended_and_are_counted() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    let waves = group::waves(&["10%".parse().unwrap(), "100%".parse().unwrap()], 25);
    let group = stack.group(&waves, |_| {}).await;
    stack.has_sent(&group, 3).await;
    assert_eq!(stack.waiting(&group).await, [0, 1, 2]);
    // A failure is no hindrance unless the group says so.
    stack.ends(&group, 2, Outcome::Failed).await;
    stack.ends(&group, 0, Outcome::Succeeded).await;
    eventually("they are counted", SOON, async || {
        let answer = stack.asks(&group, 0, 10).await;
        let wanted = [("failed", 1), ("pending", 1), ("succeeded", 1)].map(|(state, count)| (state.to_owned(), count));
        (answer.counts == wanted.into()).then_some(answer)
    })
    .await;
    stack.all_are_looked_at().await;
    assert_eq!((stack.waiting(&group).await, stack.group_state(&group).await.sent), (vec![1], 3), "one has not ended");
    stack.ends(&group, 1, Outcome::Succeeded).await;
    stack.has_sent(&group, 25).await;
    assert_eq!(stack.waiting(&group).await, (3..25).collect::<Vec<_>>());
    let page = eventually("they are known", SOON, async || Some(stack.asks(&group, 10, 5).await).filter(|page| page.rows.len() == 5)).await;
    assert_eq!((page.next, page.rows[0].0, &page.rows[0].1.id), (15, 10, &group.id.job(10)));
    assert_eq!((page.rows[0].1.target_agent.as_ref(), page.rows[0].1.state), (Some(&group.members[10]), JobState::Pending));
    assert_eq!(dispatcher.figure("muster_groups_open").await, 1.0);
    for place in 3..25 {
        stack.ends(&group, place, Outcome::Succeeded).await;
    }
    let state = stack.becomes(&group, GroupStatus::Finished).await;
    assert_eq!((state.sent, state.reason, stack.commands().await), (25, None, (0, 26)));
    eventually("it is closed", SOON, async || (dispatcher.figure("muster_groups_open").await == 0.0).then_some(())).await;
    assert_eq!(dispatcher.figure("muster_group_waves_sent_total").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_so_many_failures_no_further_wave_is_sent() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let group = stack.group(&[3, 3], |record| record.stop_after = Some(2)).await;
    stack.has_sent(&group, 3).await;
    stack.ends(&group, 0, Outcome::Failed).await;
    stack.ends(&group, 1, Outcome::TimedOut).await;
    let state = stack.becomes(&group, GroupStatus::Stopped).await;
    assert_eq!(state.reason.as_deref(), Some("2 of the 2 jobs that have ended did not succeed"));
    // What runs on may end as it likes.
    stack.ends(&group, 2, Outcome::Succeeded).await;
    stack.all_are_looked_at().await;
    assert_eq!((stack.group_state(&group).await, stack.waiting(&group).await), (state, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_of_a_stopped_group_is_seen_although_the_hint_is_lost() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    let group = stack.group(&[2, 1], |record| record.stop_after = Some(1)).await;
    stack.has_sent(&group, 2).await;
    stack.ends(&group, 0, Outcome::Failed).await;
    stack.becomes(&group, GroupStatus::Stopped).await;
    // It has dealt with its own hint, too.
    eventually("it is closed", SOON, async || (dispatcher.figure("muster_groups_open").await == 0.0).then_some(())).await;
    stack.all_are_looked_at().await;
    // What is published elsewhere and stored as the state: nobody who listens to the bucket hears of it.
    let (stream, aside) = (bucket_stream(GROUPS), subjects::control(&AgentId::generate()));
    let answer = stack.gateway.request(StreamApi::Info.subject(&stream), "".into()).await.unwrap();
    let mut config = serde_json::from_slice::<Value>(&answer.payload).unwrap()["config"].take();
    config["subjects"].as_array_mut().unwrap().push(aside.as_str().into());
    config["subject_transform"] = json!({"src": aside, "dest": js::key(GROUPS, &keys::state(&group.id))});
    let changed = stack.gateway.request(StreamApi::Update.subject(&stream), config.to_string().into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&changed.payload).contains("error"), "{changed:?}");
    let state = GroupState { status: GroupStatus::Cancelling, ..stack.group_state(&group).await };
    stack.gateway.request(aside, wire::encode(&state).into()).await.unwrap();
    assert_eq!(stack.group_state(&group).await, state);
    stack.becomes(&group, GroupStatus::Cancelled).await;
    assert_eq!(stack.result(group.id.job(1).as_str()).await.unwrap().outcome, Outcome::Cancelled);
    assert!(stack.waiting(&group).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_left_alone_and_keeps_no_other_group_waiting() {
    let stack = Stack::start().await;
    let (odd, older) = (GroupId::generate(), stack.group(&[1, 1], |_| {}).await);
    let bucket = stack.bucket(GROUPS).await;
    bucket.put(keys::definition(&odd), "no record".into()).await.unwrap();
    bucket.put(keys::state(&older.id), "of another version".into()).await.unwrap();
    let _dispatcher = stack.dispatcher().await;
    stack.all_are_looked_at().await;
    let running = stack.group(&[1, 1], |_| {}).await;
    stack.has_sent(&running, 1).await;
    bucket.put(keys::state(&running.id), "damaged".into()).await.unwrap();
    stack.ends(&running, 0, Outcome::Succeeded).await;
    stack.all_are_looked_at().await;
    for (group, text) in [(&older, "of another version"), (&running, "damaged")] {
        assert_eq!(bucket.get(keys::state(&group.id)).await.unwrap().unwrap(), text);
        assert!(stack.waiting(group).await.is_empty());
    }
    // Once it can be read again, it goes on.
    bucket.put(keys::state(&running.id), wire::encode(&GroupState { sent: 1, ..GroupState::default() }).into()).await.unwrap();
    stack.has_sent(&running, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_pool_was_deleted_is_stopped() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let group = stack.group(&[1], |record| record.pool = "gone".parse().unwrap()).await;
    let state = stack.becomes(&group, GroupStatus::Stopped).await;
    assert_eq!((state.sent, state.reason.as_deref()), (0, Some("pool gone was deleted")));
    assert_eq!(stack.commands().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_members_that_wait_and_run_and_sends_no_further_wave() {
    let stack = Stack::start().await;
    let _dispatcher = stack.dispatcher().await;
    let agent = stack.agent(POOL).await;
    let mut orders = agent.client.subscribe(subjects::control(&agent.id)).await.unwrap();
    agent.client.flush().await.unwrap();
    let group = stack.group(&[3, 2], |record| record.members[1] = agent.id.clone()).await;
    stack.has_sent(&group, 3).await;
    stack.ends(&group, 0, Outcome::Succeeded).await;
    starts(&agent, group.id.job(1).as_str()).await;
    stack.cancels(&group).await;
    let cancelled = async {
        loop {
            match wire::decode::<Order>(&orders.next().await.unwrap().payload).unwrap().what {
                What::AskQueue => {}
                What::Cancel { job_id } => return job_id,
                other => panic!("another order: {other:?}"),
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, cancelled).await.expect("an order"), group.id.job(1));
    let state = stack.becomes(&group, GroupStatus::Cancelled).await;
    assert_eq!((state.sent, state.reason.as_deref()), (3, Some("cancelled by test")));
    for place in [1, 2] {
        let result = stack.result(group.id.job(place).as_str()).await.unwrap();
        assert_eq!(result.outcome, Outcome::Cancelled);
        assert!(result.error.unwrap().message.contains(group.id.as_str()));
    }
    assert_eq!(stack.result(group.id.job(0).as_str()).await.unwrap().outcome, Outcome::Succeeded);
    stack.all_are_looked_at().await;
    assert_eq!(stack.commands().await, (0, 4), "and of the next wave nothing was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_what_a_dispatcher_that_died_had_sent_of_a_wave() {
    let stack = Stack::start().await;
    let group = stack.group(&[2], |_| {}).await;
    stack.command(&group.members[1], group.id.job(1).as_str(), r#"{"type":"probe.echo"}"#).await;
    stack.cancels(&group).await;
    let _dispatcher = stack.dispatcher().await;
    stack.becomes(&group, GroupStatus::Cancelled).await;
    assert_eq!(stack.result(group.id.job(1).as_str()).await.unwrap().outcome, Outcome::Cancelled);
    assert!(stack.result(group.id.job(0).as_str()).await.is_none(), "one that was never sent has no result");
    assert_eq!(stack.commands().await, (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_dispatcher_killed_in_the_middle_of_a_wave_each_member_gets_one_command() {
    let stack = Stack::start().await;
    let first = stack.dispatcher().await;
    first.becomes_active().await;
    let second = stack.dispatcher().await;
    let group = stack.group(&[10_000], |_| {}).await;
    eventually("it has begun", LONG, async || (stack.commands().await.1 > 0).then_some(())).await;
    first.kill();
    let (begun, state) = (stack.commands().await.1, stack.group_state(&group).await);
    assert!(begun < 10_000 && state.sent == 0, "in the middle of it: {begun}, {state:?}");
    // Some have run to their end before anybody goes on.
    for place in 0..20 {
        stack.ends(&group, place, Outcome::Succeeded).await;
    }
    second.becomes_active().await;
    stack.has_sent(&group, 10_000).await;
    assert_eq!(stack.commands().await, (9_980, 10_000), "none twice");
    assert_eq!(stack.waiting(&group).await, (20..10_000).collect::<Vec<_>>(), "none left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_dispatcher_goes_on_with_the_next_wave() {
    let stack = Stack::start().await;
    let first = stack.dispatcher().await;
    let group = stack.group(&[2, 1, 1], |_| {}).await;
    stack.has_sent(&group, 2).await;
    stack.ends(&group, 0, Outcome::Succeeded).await;
    first.kill();
    stack.ends(&group, 1, Outcome::Succeeded).await;
    let _second = stack.dispatcher().await;
    stack.has_sent(&group, 3).await;
    assert_eq!((stack.waiting(&group).await, stack.commands().await), (vec![2], (1, 3)));
    stack.ends(&group, 2, Outcome::Succeeded).await;
    stack.has_sent(&group, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_was_deleted_in_the_middle_changes_nothing() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let first = dispatcher_in(&stack, folder.path(), &[]).await;
    let group = stack.group(&[2, 1], |_| {}).await;
    stack.has_sent(&group, 2).await;
    stack.ends(&group, 0, Outcome::Succeeded).await;
    first.stop().await;
    std::fs::remove_dir_all(folder.path().join("history")).unwrap();
    let _second = dispatcher_in(&stack, folder.path(), &[]).await;
    stack.all_are_looked_at().await;
    assert_eq!((stack.group_state(&group).await.sent, stack.waiting(&group).await), (2, vec![1]));
    stack.ends(&group, 1, Outcome::Succeeded).await;
    stack.has_sent(&group, 3).await;
    assert_eq!(stack.commands().await.1, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_result_is_stored_is_not_sent_and_one_that_is_nowhere_did_not_succeed() {
    let stack = Stack::start().await;
    let group = stack.group(&[2], |_| {}).await;
    stack.ends(&group, 0, Outcome::Succeeded).await;
    // Of this one it is said that both were sent, and the broker knows nothing.
    let lost = stack.group(&[2, 1], |record| record.stop_after = Some(2)).await;
    let state = GroupState { sent: 2, ..GroupState::default() };
    stack.bucket(GROUPS).await.put(keys::state(&lost.id), wire::encode(&state).into()).await.unwrap();
    let _dispatcher = stack.dispatcher().await;
    stack.has_sent(&group, 2).await;
    assert_eq!((stack.waiting(&group).await, stack.commands().await.1), (vec![1], 1));
    stack.ends(&group, 1, Outcome::Succeeded).await;
    stack.becomes(&group, GroupStatus::Finished).await;
    stack.becomes(&lost, GroupStatus::Stopped).await;
    assert_eq!(stack.commands().await.1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_that_the_queue_does_not_take_says_why_and_is_sent_later() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    // A queue of commands that takes no more than two.
    let answer = stack.gateway.request(StreamApi::Info.subject(COMMANDS), "".into()).await.unwrap();
    let mut config = serde_json::from_slice::<Value>(&answer.payload).unwrap()["config"].take();
    config["max_msgs"] = 2.into();
    let changed = stack.gateway.request(StreamApi::Update.subject(COMMANDS), config.to_string().into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&changed.payload).contains("error"), "{changed:?}");
    let group = stack.group(&[3], |_| {}).await;
    let state =
        eventually("it says why", SOON, async || Some(stack.group_state(&group).await).filter(|state| state.reason.is_some())).await;
    assert_eq!((state.status, state.sent), (GroupStatus::Running, 0));
    assert!(state.reason.unwrap().contains("full"));
    stack.ends(&group, 0, Outcome::Succeeded).await;
    stack.has_sent(&group, 3).await;
    assert_eq!((stack.group_state(&group).await.reason, stack.commands().await), (None, (2, 3)));
}

/// Sends a member's job as a dispatcher does that dies before it has told the history.
async fn sends_silently(stack: &Stack, group: &GroupRecord, place: usize, body: &str) {
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [(headers::BATCH_ID, "b"), (headers::BATCH_SEQUENCE, "1"), (headers::BATCH_COMMIT, "1")] {
        headers.insert(name, value);
    }
    let subject = Queue::Agent(group.members[place].clone()).subject(&group.pool, &group.id.job(place));
    let ack = stack.gateway.request_with_headers(subject, headers, body.to_owned().into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&ack.payload).contains("error"), "{ack:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_the_history_never_heard_of_are_not_sent_again_and_end_when_they_expire() {
    let (stack, folder) = (Stack::start().await, tempfile::tempdir().unwrap());
    let (begun, sent) = (stack.group(&[2], |_| {}).await, stack.group(&[1, 1], |_| {}).await);
    sends_silently(&stack, &begun, 1, r#"{"type":"probe.echo"}"#).await;
    let past = Timestamp::now() - Duration::from_secs(5);
    sends_silently(&stack, &sent, 0, &format!(r#"{{"type":"probe.echo","expires_at":"{past}"}}"#)).await;
    let state = GroupState { sent: 1, ..GroupState::default() };
    stack.bucket(GROUPS).await.put(keys::state(&sent.id), wire::encode(&state).into()).await.unwrap();
    assert_eq!(stack.subjects(EVENTS).await.len(), 0, "nothing tells of them");
    let _dispatcher = dispatcher_in(&stack, folder.path(), &[("expire_after", "1s".into())]).await;
    stack.has_sent(&begun, 2).await;
    stack.has_sent(&sent, 2).await;
    assert_eq!(stack.result(sent.id.job(0).as_str()).await.unwrap().outcome, Outcome::Expired);
    // Two, of which one has expired, and one more for each group.
    assert_eq!((stack.waiting(&begun).await, stack.waiting(&sent).await, stack.commands().await), (vec![0, 1], vec![1], (3, 4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_told_of_their_commands_at_once_and_can_get_them() {
    let stack = Stack::start().await;
    let dispatcher = stack.dispatcher().await;
    dispatcher.becomes_active().await;
    let mut agents = Vec::new();
    for _ in 0..12 {
        let agent = stack.agent(POOL).await;
        let told = agent.client.subscribe(subjects::control(&agent.id)).await.unwrap();
        agent.client.flush().await.unwrap();
        agents.push((agent, told));
    }
    // Three in a row, so that it is not by a look that is due anyway.
    for round in 0..3 {
        let began = Instant::now();
        let members: Vec<_> = agents.iter().map(|(agent, _)| agent.id.clone()).collect();
        let group = stack.group(&[4, 8], |record| record.members = members).await;
        for (place, (agent, told)) in agents.iter_mut().enumerate() {
            let order = tokio::time::timeout(SOON, told.next()).await.expect("an order in time").unwrap();
            assert_eq!(wire::decode::<Order>(&order.payload).unwrap().what, What::AskQueue);
            let inbox = agent.client.new_inbox();
            let mut given = agent.client.subscribe(inbox.clone()).await.unwrap();
            let pull = json!({"batch": 1, "expires": 5_000_000_000_u64}).to_string();
            agent.client.publish_with_reply(js::next(COMMANDS, agent.id.as_str()), inbox, pull.into()).await.unwrap();
            let command = given.next().await.unwrap();
            assert_eq!(command.subject.rsplit('.').next(), Some(group.id.job(place).as_str()), "round {round}");
            stack.ends(&group, place, Outcome::Succeeded).await;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "round {round} took {:?}", began.elapsed());
        stack.becomes(&group, GroupStatus::Finished).await;
    }
}
