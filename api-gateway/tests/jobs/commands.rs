//! Commands: jobs for one agent alone. Why they wait is in its own part.

mod why;

use std::time::Duration;

use futures_util::StreamExt as _;
use muster_broker_config::provision;
use muster_schemas::{
    api::{JobRow, JobState},
    code::Code,
    control::{Order, QueryAnswer, What},
    event::EventKind,
    history::{JobsAnswer, JobsQuestion},
    job::Job,
    lane::{Lane, Priority},
    names::AgentId,
    records::{AgentRecord, AgentState},
    result::{ErrorInfo, JobResult, Outcome},
    subjects::{
        self, About, History, Query,
        broker::{ConsumerApi, StreamApi},
    },
    time::Timestamp,
    topology::{self, COMMAND_EXPIRES, COMMANDS},
    wire::{self, V},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    world::{Answer, Rest, SOON, World, eventually, pool},
};

/// How long a command that must not be there is waited for.
const NOT: Duration = Duration::from_millis(200);

/// An agent with the shell that has registered.
async fn enlisted(world: &World, name: &str) -> Agent {
    let agent = world.agent("default").await;
    enlist(world, &agent, name, AgentState::Active).await;
    agent
}

async fn enlist(world: &World, agent: &Agent, name: &str, state: AgentState) {
    let change = |record: &mut AgentRecord| {
        record.capabilities = ["probe".parse().unwrap(), "shell".parse().unwrap()].into();
        (record.state, record.registered_at) = (state, Some(record.created_at));
    };
    world.enlist(agent, name, change).await;
}

async fn send(rest: &Rest, agent: &AgentId, body: &Value) -> Answer {
    rest.post(&format!("/agents/{agent}/commands"), body).await
}

fn date() -> Value {
    json!({"type": "shell", "params": {"command": "date"}})
}

fn with(key: &str, value: Value) -> Value {
    let mut body = date();
    body[key] = value;
    body
}

async fn sent(world: &World, agent: &Agent, body: &Value) -> String {
    send(world.rest(), &agent.id, body).await.data(202)["command_id"].as_str().unwrap().to_owned()
}

/// How many commands wait or run.
async fn waiting(world: &World) -> u64 {
    let info = world.core().await.request(StreamApi::Info.subject(COMMANDS), "".into()).await.unwrap();
    serde_json::from_slice::<Value>(&info.payload).unwrap()["state"]["messages"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_for_its_agent_alone_and_is_a_job_like_any_other() {
    let world = World::start().await;
    let (one, other) = (enlisted(&world, "one").await, enlisted(&world, "other").await);
    sent(&world, &other, &json!({"type": "probe.ping"})).await;
    let before = Timestamp::now();
    let accepted = send(world.rest(), &one.id, &json!({"type": "shell", "params": {"command": "date", "timeout": 7}})).await;
    let location = accepted.headers["location"].to_str().unwrap().to_owned();
    let accepted = accepted.data(202);
    let id = accepted["command_id"].as_str().unwrap();
    assert_eq!((&accepted["status"], location.as_str()), (&json!("queued"), format!("/api/v1/jobs/{id}").as_str()));
    let expires_at: Timestamp = accepted["expires_at"].as_str().unwrap().parse().unwrap();
    assert!(expires_at >= before + COMMAND_EXPIRES && expires_at <= Timestamp::now() + COMMAND_EXPIRES);
    let view = world.rest().get(&format!("/jobs/{id}")).await.data(200);
    assert_eq!((&view["state"], &view["target_agent"], &view["priority"]), (&json!("pending"), &json!(one.id), &json!("high")));
    assert_eq!((&view["pool"], &view["type"]), (&json!("default"), &json!("shell.run")));
    // Not in any lane, and not at the other agent.
    for lane in Lane::of(&"shell".parse().unwrap()) {
        assert!(one.pull(&lane, NOT).await.is_none());
    }
    let theirs = other.command(SOON).await.unwrap();
    assert!(other.command(NOT).await.is_none());
    let taken = one.command(SOON).await.unwrap();
    assert_eq!((taken.id.as_str(), theirs.id.as_str() == id), (id, false));
    let job = Job::decode(&taken.message.payload).unwrap();
    assert_eq!((job.timeout, job.params, job.expires_at), (Some(Duration::from_secs(7)), json!({"command": "date"}), Some(expires_at)));
    one.tell(&taken.id, EventKind::Started, 1).await;
    assert_eq!(world.rest().state(id).await, "running");
    assert!(one.finish(&taken, "today\n").await);
    assert_eq!(world.rest().get(&format!("/jobs/{id}")).await.data(200)["result"]["stdout"], "today\n");
    eventually("it has left the queue", async || (waiting(&world).await == 1).then_some(())).await;
}

/// The consumer with which an agent gets its commands, as the broker tells it.
async fn queue_of(world: &World, agent: &Agent) -> Value {
    let info = world.core().await.request(ConsumerApi::Info.subject(COMMANDS, agent.id.as_str()), "".into()).await.unwrap();
    serde_json::from_slice(&info.payload).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_command_is_stored_its_agent_has_a_consumer_and_is_told_to_ask_and_nobody_else_is() {
    let world = World::start().await;
    let (one, other) = (enlisted(&world, "one").await, enlisted(&world, "other").await);
    let mut told = one.client.subscribe(subjects::control(&one.id)).await.unwrap();
    one.client.flush().await.unwrap();
    assert!(one.command(NOT).await.is_none());
    assert_eq!(queue_of(&world, &one).await["error"]["err_code"], 10014);
    for _ in 0..2 {
        let id = sent(&world, &one, &date()).await;
        let order: Order = wire::decode(&tokio::time::timeout(SOON, told.next()).await.unwrap().unwrap().payload).unwrap();
        assert_eq!(order.what, What::AskQueue);
        // As an agent does that was told: the consumer is there by then.
        assert_eq!(one.command(SOON).await.unwrap().id.as_str(), id);
    }
    assert_eq!(queue_of(&world, &one).await["config"]["filter_subject"], subjects::commands_to(&pool("default"), &one.id));
    assert_eq!(queue_of(&world, &other).await["error"]["err_code"], 10014);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_consumer_can_not_be_made_is_stored_and_accepted_all_the_same() {
    let world = World::start().await;
    let agent = enlisted(&world, "one").await;
    // Somebody else takes its commands, and the broker gives each to one consumer only.
    let own = topology::command_consumer(&agent.pool, &agent.id);
    let thief = topology::Consumer { durable_name: "thief".into(), ..own };
    provision::ensure_consumer(&world.core().await, COMMANDS, &thief).await.unwrap();
    let id = sent(&world, &agent, &date()).await;
    assert_eq!((world.rest().state(&id).await.as_str(), waiting(&world).await), ("pending", 1));
    assert!(queue_of(&world, &agent).await.get("error").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_to_an_agent_that_may_take_none_is_accepted_and_kept_over_a_restart_of_its_gateway() {
    let mut world = World::start().await;
    for (name, state) in [("off", AgentState::Disabled), ("draining", AgentState::Draining)] {
        let agent = world.agent("default").await;
        enlist(&world, &agent, name, state).await;
        let accepted = send(world.rest(), &agent.id, &date()).await.data(202);
        assert_eq!(accepted["status"], "queued", "{name}");
    }
    // One that was made and has never registered: nobody knows what it will have.
    let agent = world.agent("default").await;
    world.enlist(&agent, "new", |record| record.state = AgentState::Pending).await;
    let id = sent(&world, &agent, &json!({"type": "plugin.do"})).await;
    world.gateways.pop().unwrap().stop().await;
    world.add_gateway().await;
    assert_eq!(world.rest().state(&id).await, "pending");
    assert_eq!(agent.command(SOON).await.unwrap().id.as_str(), id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_is_refused_with_its_code_and_nothing_is_stored() {
    let world = World::start().await;
    let (agent, revoked) = (enlisted(&world, "one").await, world.agent("default").await);
    enlist(&world, &revoked, "gone", AgentState::Revoked).await;
    let rest = world.rest();
    let past = Timestamp::now() - Duration::from_secs(1);
    let long = "a".repeat(65);
    let cases = [
        (json!({}), "field_invalid"),
        (json!({"type": 1}), "field_invalid"),
        (with("pool", json!("default")), "field_invalid"),
        (with("target", json!({})), "field_invalid"),
        (with("priority", json!("low")), "field_invalid"),
        (with("type", json!("")), "type_unknown"),
        (with("type", json!("shell.walk")), "type_unknown"),
        (with("type", json!("shell.*")), "type_unknown"),
        (with("type", json!(">")), "type_unknown"),
        (with("type", json!("http.request")), "type_unknown"),
        (with("type", json!("ssh")), "type_unknown"),
        (with("params", json!("date")), "params_invalid"),
        (with("params", json!({"command": "date", "timeout": 0})), "timeout_invalid"),
        (with("params", json!({"command": "date", "timeout": 0.5})), "timeout_invalid"),
        (with("timeout_s", json!(-1)), "timeout_invalid"),
        (with("retry", json!({"max_attempts": 0})), "retry_invalid"),
        (with("labels", json!({"": "x"})), "labels_invalid"),
        (with("expires_at", json!(past)), "time_invalid"),
        (with("expires_at", json!("1970-01-01T00:00:00Z")), "time_invalid"),
        (with("expires_at", json!("tomorrow")), "field_invalid"),
        (with("not_before", json!("9999-01-01T00:00:00Z")), "time_invalid"),
        (with("result_ttl_s", json!(0)), "field_invalid"),
        (with("id", json!("*")), "name_invalid"),
        (with("id", json!("a.b")), "name_invalid"),
        (with("id", json!(">")), "name_invalid"),
        (with("id", json!("")), "name_invalid"),
        (with("id", json!(long)), "name_invalid"),
    ];
    for (body, code) in cases {
        let refused = send(rest, &agent.id, &body).await;
        assert_eq!(refused.code(400), code, "{body}");
        assert!(!refused.body["detail"].as_str().unwrap().contains(char::is_control), "{body}");
    }
    let lacking = send(rest, &agent.id, &with("type", json!("ssh"))).await;
    let detail = lacking.body["detail"].as_str().unwrap();
    assert!(detail.contains("agent `one`") && detail.ends_with("does not run `ssh` jobs; its executors: probe, shell"), "{detail}");
    assert_eq!(send(rest, &revoked.id, &date()).await.code(403), "agent_revoked");
    assert_eq!(send(rest, &AgentId::generate(), &date()).await.code(404), "agent_not_found");
    for id in ["*", "%3E", "agt_*", "agt_.", "one", "agt_01ARZ3NDEKTSV4RRFFQ69G5FA*", "agt_01arz3ndektsv4rrffq69g5fav", "%00"] {
        assert_eq!(rest.post(&format!("/agents/{id}/commands"), &date()).await.code(400), "name_invalid", "{id}");
        assert_eq!(rest.get(&format!("/agents/{id}/commands")).await.code(400), "name_invalid", "{id}");
    }
    assert_eq!(rest.post(&format!("/agents/{}/commands?wait=2m", agent.id), &date()).await.code(400), "wait_invalid");
    assert_eq!(waiting(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_command_again_is_the_first_one_and_never_another_agents() {
    let world = World::start().await;
    let (one, other) = (enlisted(&world, "one").await, enlisted(&world, "other").await);
    let path = |agent: &Agent| format!("/agents/{}/commands", agent.id);
    let keyed =
        async |agent: &Agent, body: &Value| world.rest().send(Method::POST, &path(agent), &[("idempotency-key", "k")], Some(body)).await;
    let first = keyed(&one, &date()).await.data(202)["command_id"].clone();
    let again = keyed(&one, &date()).await.data(202);
    assert_eq!((&again["command_id"], &again["status"]), (&first, &json!("pending")));
    assert_ne!(keyed(&other, &date()).await.data(202)["command_id"], first);
    assert_eq!(keyed(&one, &with("timeout_s", json!(9))).await.code(409), "job_conflict");
    let own = with("id", json!("mine"));
    sent(&world, &one, &own).await;
    assert_eq!(send(world.rest(), &one.id, &own).await.data(202)["command_id"], "mine");
    assert_eq!(send(world.rest(), &other.id, &own).await.code(409), "job_conflict");
    assert_eq!(waiting(&world).await, 3);
    while let Some(taken) = one.command(NOT).await {
        assert!(one.finish(&taken, "ok").await);
    }
    let ended = send(world.rest(), &one.id, &own).await.data(200);
    assert_eq!((&ended["command_id"], &ended["status"]), (&json!("mine"), &json!("succeeded")));
    assert_eq!(send(world.rest(), &other.id, &own).await.code(409), "job_conflict", "it ran elsewhere");
    // What was taken once is answered, whatever would be said to it today.
    enlist(&world, &one, "one", AgentState::Revoked).await;
    assert_eq!(send(world.rest(), &one.id, &own).await.data(200)["command_id"], "mine");
    assert_eq!(keyed(&one, &date()).await.data(200)["command_id"], first);
    assert_eq!(send(world.rest(), &one.id, &date()).await.code(403), "agent_revoked");
    // A job of the pool with that id.
    world.rest().submit(json!({"id": "lanes"})).await.data(202);
    assert_eq!(send(world.rest(), &other.id, &with("id", json!("lanes"))).await.code(409), "job_conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_answers_the_command_with_its_result() {
    let world = World::start().await;
    let agent = enlisted(&world, "one").await;
    let path = format!("/agents/{}/commands", agent.id);
    // The first command makes its consumer, and this agent can't be told to ask.
    sent(&world, &agent, &date()).await;
    let work = async {
        for _ in 0..2 {
            let taken = agent.command(SOON).await.unwrap();
            assert!(agent.finish(&taken, "done").await);
        }
    };
    let body = date();
    let waited = format!("{path}?wait=20s");
    let (answer, ()) = tokio::join!(world.rest().post(&waited, &body), work);
    let data = answer.data(200);
    assert_eq!((&data["status"], &data["job"]["result"]["stdout"]), (&json!("succeeded"), &json!("done")));
    let elapsed = world.rest().post(&format!("{path}?wait=50ms"), &date()).await.data(202);
    assert_eq!((&elapsed["status"], &elapsed["job"]["state"]), (&json!("queued"), &json!("pending")));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_more_commands_may_wait_the_next_one_is_put_off_without_a_word_of_the_pool() {
    let world = World::start().await;
    let agent = enlisted(&world, "one").await;
    let stream = topology::fixed_streams().into_iter().find(|stream| stream.name == COMMANDS).unwrap();
    let small = topology::Stream { max_msgs: 1, ..stream };
    let body = serde_json::to_vec(&small).unwrap();
    world.core().await.request(StreamApi::Update.subject(COMMANDS), body.into()).await.unwrap();
    let id = sent(&world, &agent, &date()).await;
    let full = send(world.rest(), &agent.id, &date()).await;
    assert_eq!((full.code(429), full.headers["retry-after"].to_str().unwrap()), ("queue_full", "1"));
    assert!(!full.body.to_string().contains("pool"), "{}", full.body);
    world.rest().cancel(&id).await.data(200);
    sent(&world, &agent, &date()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_watched_logged_and_asked_for_by_services_like_any_job() {
    let world = World::start().await;
    let (agent, service) = (enlisted(&world, "one").await, world.service(&["default"]).await);
    let ask = async |verb: Query, id: &str| {
        let answer = service.request(verb.subject(&pool("default"), &id.parse().unwrap()), "".into()).await.unwrap();
        wire::decode::<QueryAnswer>(&answer.payload).unwrap()
    };
    let id = sent(&world, &agent, &date()).await;
    assert!(ask(Query::Result, &id).await.queued);
    let taken = agent.command(SOON).await.unwrap();
    let path = format!("/jobs/{id}/events");
    let run = async {
        agent.tell(&taken.id, EventKind::Started, 1).await;
        agent.write(&taken.id, 1, b"today\n").await;
        assert!(agent.finish(&taken, "today\n").await);
    };
    let (watched, ()) = tokio::join!(world.rest().get(&path), run);
    let watched = watched.body.as_str().unwrap();
    let places =
        ["queued", "started", "today", "event: end"].map(|word| watched.find(word).unwrap_or_else(|| panic!("no {word}: {watched}")));
    assert!(places.is_sorted(), "{watched}");
    let log = world.rest().get(&format!("/jobs/{id}/logs")).await.data(200);
    assert_eq!(log[0]["data"], "today\n");
    assert_eq!(ask(Query::Result, &id).await.result.unwrap().outcome, Outcome::Succeeded);
    let id = sent(&world, &agent, &date()).await;
    assert_eq!(ask(Query::Cancel, &id).await.result.unwrap().outcome, Outcome::Cancelled);
    assert!(agent.command(NOT).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_command_never_runs_and_a_running_one_is_stopped_at_its_agent_alone() {
    let world = World::start().await;
    let (one, other) = (enlisted(&world, "one").await, enlisted(&world, "other").await);
    let id = sent(&world, &one, &with("id", json!("mine"))).await;
    assert_eq!(world.rest().cancel(&id).await.data(200)["state"], "cancelled");
    assert_eq!(waiting(&world).await, 0);
    assert!(one.command(NOT).await.is_none());
    let mut told = one.client.subscribe(subjects::control(&one.id)).await.unwrap();
    let mut others = other.client.subscribe(subjects::control(&other.id)).await.unwrap();
    one.client.flush().await.unwrap();
    other.client.flush().await.unwrap();
    let id = sent(&world, &one, &date()).await;
    let taken = one.command(SOON).await.unwrap();
    one.tell(&taken.id, EventKind::Started, 1).await;
    assert_eq!(world.rest().cancel(&id).await.data(200)["state"], "cancelled");
    for what in [What::AskQueue, What::Cancel { job_id: taken.id.clone() }] {
        let order = tokio::time::timeout(SOON, told.next()).await.unwrap().unwrap();
        assert_eq!(wire::decode::<Order>(&order.payload).unwrap().what, what);
    }
    assert!(tokio::time::timeout(NOT, others.next()).await.is_err());
    assert!(!one.finish(&taken, "too late").await, "the first result counts");
    let finished = sent(&world, &one, &date()).await;
    assert!(one.finish(&one.command(SOON).await.unwrap(), "ok").await);
    assert_eq!(world.rest().cancel(&finished).await.code(409), "job_finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_of_a_command_that_stopped_half_way_is_finished_by_the_next_one() {
    let world = World::start().await;
    let agent = enlisted(&world, "one").await;
    let id = sent(&world, &agent, &with("id", json!("half"))).await;
    // The fence of a gateway that died before it took the command out of its queue.
    let (at, error) = (Timestamp::now(), ErrorInfo::new(Code::Cancelled, "fence"));
    let fence = JobResult::never_ran(Outcome::Cancelled, error, at, at);
    let subject = About::Result.job(&agent.pool, &id.parse().unwrap());
    world.core().await.request(subject, wire::encode(&fence).into()).await.unwrap();
    assert_eq!((world.rest().state("half").await.as_str(), waiting(&world).await), ("cancelled", 1));
    assert_eq!(world.rest().cancel("half").await.data(200)["state"], "cancelled");
    assert_eq!(waiting(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_retry_of_a_command_goes_to_the_same_agent_with_a_fresh_expiry() {
    let world = World::start().await;
    let (one, other) = (enlisted(&world, "one").await, enlisted(&world, "other").await);
    let soon = Timestamp::now() + Duration::from_secs(2);
    let id = sent(&world, &one, &with("expires_at", json!(soon))).await;
    assert!(one.finish(&one.command(SOON).await.unwrap(), "ok").await);
    eventually("the first expiry has passed", async || (Timestamp::now() > soon).then_some(())).await;
    let retry = async || world.rest().send(Method::POST, &format!("/jobs/{id}/retry"), &[], None).await;
    let again = retry().await.data(202);
    assert_eq!((&again["target_agent"], &again["priority"]), (&json!(one.id), &json!("high")));
    assert!(other.command(NOT).await.is_none());
    let taken = one.command(SOON).await.unwrap();
    let job = Job::decode(&taken.message.payload).unwrap();
    assert_eq!((taken.id.as_str(), job.parent.unwrap().as_str()), (again["id"].as_str().unwrap(), id.as_str()));
    assert!(job.expires_at.unwrap() > soon + COMMAND_EXPIRES - Duration::from_secs(60));
    enlist(&world, &one, "one", AgentState::Revoked).await;
    assert_eq!(retry().await.code(403), "agent_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_has_the_newest_hundred_with_status_and_the_end_of_the_output() {
    let world = World::start().await;
    let agent = enlisted(&world, "one").await;
    let path = format!("/agents/{}/commands", agent.id);
    assert_eq!(world.rest().get(&path).await.code(503), "history_unavailable");
    let done = sent(&world, &agent, &date()).await;
    let long = format!("{}the end\n", "x".repeat(9000));
    assert!(agent.finish(&agent.command(SOON).await.unwrap(), &long).await);
    let waits = sent(&world, &agent, &date()).await;
    let dispatcher = world.dispatcher().await;
    let mut asked = dispatcher.subscribe(History::Jobs.subject()).await.unwrap();
    dispatcher.flush().await.unwrap();
    let row = |id: &str, state: JobState| JobRow {
        id: id.parse().unwrap(),
        pool: pool("default"),
        job_type: Some("shell.run".parse().unwrap()),
        priority: Priority::High,
        state,
        labels: [].into(),
        attempt: 0,
        agent_id: None,
        target_agent: Some(agent.id.clone()),
        queued_at: Timestamp::now(),
        started_at: None,
        finished_at: None,
        exit_code: None,
        error: None,
        reason: None,
        next_at: None,
        parent: None,
        signature: None,
    };
    let rows = vec![row(&waits, JobState::Pending), row(&done, JobState::Succeeded), row("forgotten", JobState::Failed)];
    let answers = async {
        let mut questions = Vec::new();
        for cursor in [Some("7".to_owned()), None] {
            let question = asked.next().await.unwrap();
            let answer = JobsAnswer { v: V, rows: rows.clone(), cursor, error: None };
            dispatcher.publish(question.reply.unwrap(), wire::encode(&answer).into()).await.unwrap();
            questions.push(wire::decode::<JobsQuestion>(&question.payload).unwrap());
        }
        questions
    };
    let pages = async {
        let first = world.rest().get(&path).await;
        let cursor = first.body["meta"]["page"]["cursor"].as_str().unwrap().to_owned();
        (first, world.rest().get(&format!("{path}?limit=2&cursor={cursor}")).await)
    };
    let (questions, (first, second)) = tokio::join!(answers, pages);
    let wanted = JobsQuestion { target_agent: Some(agent.id.clone()), limit: 100, ..JobsQuestion::default() };
    assert_eq!(questions[0], wanted);
    assert_eq!(questions[1], JobsQuestion { limit: 2, cursor: Some("7".into()), ..wanted });
    let first = first.data(200);
    let shown = |at: usize| (first[at]["id"].as_str().unwrap(), first[at]["state"].as_str().unwrap());
    assert_eq!([shown(0), shown(1), shown(2)], [(&*waits, "pending"), (&*done, "succeeded"), ("forgotten", "failed")]);
    assert_eq!((first[0].get("output"), first[2].get("output")), (None, None));
    let output = first[1]["output"].as_str().unwrap();
    assert_eq!((output.len(), output), (4096, &long[long.len() - 4096..]));
    assert!(second.body["meta"]["page"].get("cursor").is_none());
    for wrong in ["limit=0", "limit=101", "cursor=*", "status=failed"] {
        assert_eq!(world.rest().get(&format!("{path}?{wrong}")).await.code(400), "query_invalid", "{wrong}");
    }
    assert_eq!(world.rest().get(&format!("/agents/{}/commands", AgentId::generate())).await.code(404), "agent_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_not_removed_from_under_the_commands_to_its_agents_without_force() {
    let world = World::start().await;
    let agent = world.agent("other").await;
    enlist(&world, &agent, "one", AgentState::Active).await;
    let id = sent(&world, &agent, &date()).await;
    let there = enlisted(&world, "elsewhere").await;
    let kept = sent(&world, &there, &date()).await;
    let refused = world.rest().delete("/pools/other").await;
    assert_eq!(refused.code(409), "pool_not_empty");
    assert!(refused.body["detail"].as_str().unwrap().contains("1 commands for its agents"), "{}", refused.body);
    world.rest().delete("/pools/other?force=true").await.data(204);
    assert_eq!((world.rest().state(&id).await.as_str(), world.rest().state(&kept).await.as_str()), ("cancelled", "pending"));
    assert_eq!(waiting(&world).await, 1);
    assert_eq!(send(world.rest(), &agent.id, &date()).await.code(404), "pool_not_found");
}
