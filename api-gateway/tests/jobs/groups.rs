//! Groups: who is chosen and what is written down, how it is shown, and cancelling. The dispatcher's part is played here: what it would write
//! and answer is written and answered by hand.

use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use muster_runtime::tasks::{Group, Running};
use muster_schemas::{
    api::{JobRow, JobState},
    group::{GroupRecord, GroupState, GroupStatus, keys},
    history::{GroupAnswer, GroupQuestion},
    names::GroupId,
    standing::Status,
    subjects::{History, js},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    why::standing,
    world::{World, eventually, pool},
};

/// Agents of the pool `default` with the executor `shell` and the label `n` = their place; those at `there` are online.
async fn fleet(world: &World, count: usize, there: &[usize]) -> Vec<Agent> {
    let mut agents = Vec::new();
    for n in 0..count {
        let agent = world.agent("default").await;
        let change = |record: &mut muster_schemas::records::AgentRecord| {
            record.capabilities = ["shell".parse().unwrap()].into();
            record.labels = [("site".to_owned(), "a".to_owned()), ("n".to_owned(), n.to_string())].into();
        };
        world.enlist(&agent, &format!("agent-{n}"), change).await;
        if there.contains(&n) {
            standing(world, &agent, Status::Online, None).await;
        }
        agents.push(agent);
    }
    eventually("the gateway sees all agents", async || {
        let page = world.rest().get("/agents?limit=500").await.data(200);
        let online = page.as_array().unwrap().iter().filter(|agent| agent["status"] == "online").count();
        (page.as_array().unwrap().len() == count && online == there.len()).then_some(())
    })
    .await;
    agents
}

fn body(target: Value) -> Value {
    let mut all = json!({"pool": "default"});
    all.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
    json!({"type": "shell.run", "params": {"command": "true"}, "target": {"all": all}})
}

async fn make(world: &World, target: Value) -> Value {
    world.rest().post("/jobs", &body(target)).await.data(202)
}

/// The group's record, as it is stored.
async fn record(world: &World, id: &str) -> GroupRecord {
    let (stream, key) = (topology::bucket_stream(topology::GROUPS), js::key(topology::GROUPS, &keys::definition(&id.parse().unwrap())));
    let message = world.core().await.request(js::direct_get(&stream, &key), "".into()).await.unwrap();
    wire::decode(&message.payload).unwrap()
}

/// How far the group is, as it is stored.
async fn state(world: &World, id: &str) -> GroupState {
    let (stream, key) = (topology::bucket_stream(topology::GROUPS), js::key(topology::GROUPS, &keys::state(&id.parse().unwrap())));
    let message = world.core().await.request(js::direct_get(&stream, &key), "".into()).await.unwrap();
    wire::decode(&message.payload).unwrap()
}

/// Says how far the group is, as the dispatcher does.
async fn say(world: &World, id: &str, status: GroupStatus, sent: u32, reason: Option<&str>) {
    let state = GroupState { v: V, status, sent, reason: reason.map(str::to_owned), changed_at: Some(Timestamp::now()) };
    let key = js::key(topology::GROUPS, &keys::state(&id.parse().unwrap()));
    world.dispatcher().await.request(key, wire::encode(&state).into()).await.unwrap();
}

/// Jobs that a played history knows: states by place, the same for every group.
type Known = Arc<Mutex<Vec<(u32, JobState)>>>;

/// Plays the dispatcher that is asked for the jobs of groups. It looks at 3 places per question at most.
async fn history(world: &World, known: &Known) -> Running<()> {
    let (dispatcher, known) = (world.dispatcher().await, Arc::clone(known));
    let mut asked = dispatcher.subscribe(History::Group.subject()).await.unwrap();
    dispatcher.flush().await.unwrap();
    Group::new("history").spawn(async move {
        while let Some(message) = asked.next().await {
            let question: GroupQuestion = wire::decode(&message.payload).unwrap();
            let known = known.lock().unwrap().clone();
            let mut answer = GroupAnswer { v: V, counts: Default::default(), rows: Vec::new(), next: 0, error: None };
            for (place, state) in known.iter().filter(|(place, _)| *place < question.members) {
                *answer.counts.entry(state.as_str().to_owned()).or_default() += 1;
                if (question.from..question.from + question.limit.min(3)).contains(place) {
                    answer.rows.push((*place, row(&question.group, *place, *state)));
                }
            }
            answer.next = (question.from + question.limit.min(3)).min(question.members);
            dispatcher.publish(message.reply.unwrap(), wire::encode(&answer).into()).await.unwrap();
        }
    })
}

fn row(group: &GroupId, place: u32, state: JobState) -> JobRow {
    JobRow {
        id: group.job(place as usize),
        pool: pool("default"),
        job_type: Some("shell.run".parse().unwrap()),
        priority: muster_schemas::lane::Priority::High,
        state,
        labels: Default::default(),
        attempt: 1,
        agent_id: None,
        target_agent: None,
        queued_at: Timestamp::now(),
        started_at: None,
        finished_at: None,
        exit_code: None,
        error: None,
        reason: None,
        next_at: None,
        parent: None,
        signature: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_written_down_with_its_members_those_that_are_there_first() {
    let world = World::start().await;
    let agents = fleet(&world, 5, &[1, 3]).await;
    let answer = world.rest().post("/jobs", &body(json!({"limit": 4, "batch": ["25%", 2]}))).await;
    let location = answer.headers["location"].to_str().unwrap().to_owned();
    let group = answer.data(202);
    let id = group["id"].as_str().unwrap();
    assert_eq!(location, format!("/api/v1/groups/{id}"));
    assert_eq!(
        (&group["status"], &group["matched"], &group["members"], &group["sent"]),
        (&json!("running"), &json!(5), &json!(4), &json!(0))
    );
    assert_eq!((&group["waves"], &group["stop_after"], &group["counts"]), (&json!([1, 2, 1]), &json!(1), &json!({"not_sent": 4})));
    let stored = record(&world, id).await;
    let mut first: Vec<_> = stored.members[..2].to_vec();
    first.sort();
    assert_eq!(first, [agents[1].id.clone(), agents[3].id.clone()]);
    assert_eq!((stored.members.len(), stored.waves, stored.matched), (4, vec![1, 2, 1], 5));
    assert_eq!(stored.job.expires_at, None, "a job of a late wave has its day from when it is sent");
    assert_eq!(stored.created_by, group["created_by"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_agents_with_all_labels_get_a_job_and_none_at_all_is_an_error_that_says_why() {
    let world = World::start().await;
    let agents = fleet(&world, 3, &[]).await;
    let group = make(&world, json!({"labels": {"site": "a", "n": "2"}})).await;
    assert_eq!(record(&world, group["id"].as_str().unwrap()).await.members, [agents[2].id.clone()]);
    assert_eq!(group["labels"], json!({"site": "a", "n": "2"}));
    let refused = world.rest().post("/jobs", &body(json!({"labels": {"site": "b"}}))).await;
    assert_eq!(refused.code(409), "no_agent_matches");
    assert!(refused.body["detail"].as_str().unwrap().contains("3 with other labels"), "{}", refused.body);
    let mut http = body(json!({}));
    http["type"] = "http.request".into();
    let refused = world.rest().post("/jobs", &http).await;
    assert_eq!(refused.code(409), "no_agent_matches");
    assert!(refused.body["detail"].as_str().unwrap().contains("3 without the executor `http`"), "{}", refused.body);
    assert_eq!(world.rest().post("/jobs", &body(json!({"pool": "none"}))).await.code(404), "pool_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_with_a_target_is_refused_by_name() {
    let world = World::start().await;
    let refused = async |path: &str, change: Value, status: u16| {
        let mut body = body(json!({}));
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = world.rest().post(path, &body).await;
        let code = answer.code(status).to_owned();
        (code, answer.body["detail"].as_str().unwrap().to_owned())
    };
    for (path, change, code, says) in [
        ("/jobs", json!({"pool": "other"}), "field_invalid", "`pool`"),
        ("/jobs", json!({"priority": "low"}), "field_invalid", "`priority`"),
        ("/jobs", json!({"id": "x"}), "field_invalid", "`id`"),
        ("/jobs?wait=5s", json!({}), "query_invalid", "/groups/"),
        ("/jobs", json!({"expires_at": "2020-01-01T00:00:00Z"}), "time_invalid", "`expires_at`"),
        ("/jobs", json!({"target": {"all": {"pool": "default", "limit": "0%"}}}), "field_invalid", "1% to 100%"),
        ("/jobs", json!({"target": {"some": {"pool": "default"}}}), "field_invalid", "`all`"),
    ] {
        let (is, detail) = refused(path, change.clone(), 400).await;
        assert_eq!(is, code, "{path} {change}: {detail}");
        assert!(detail.contains(says), "{detail}");
    }
    let batch = world
        .rest()
        .post("/jobs/batch", &json!({"jobs": [{"type": "shell.run", "pool": "default", "target": body(json!({}))["target"]}]}))
        .await;
    assert!(batch.body["data"][0]["problem"]["detail"].as_str().unwrap().contains("`target`"), "{}", batch.body);
    let put = world.rest().put("/schedules/s", &json!({"every": "1h", "job": body(json!({}))})).await;
    assert_eq!(put.code(400), "field_invalid");
    assert!(put.body["detail"].as_str().unwrap().contains("`target`"), "{}", put.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_answers_the_first_group_whoever_is_there_by_then() {
    let world = World::with_gateways(2).await;
    fleet(&world, 2, &[0, 1]).await;
    let keyed = async |gateway: usize, body: &Value| {
        world.gateways[gateway].rest.send(reqwest::Method::POST, "/jobs", &[("idempotency-key", "deploy-7")], Some(body)).await
    };
    let first = keyed(0, &body(json!({"batch": [1]}))).await.data(202);
    let third = world.agent("default").await;
    world.enlist(&third, "later", |record| record.capabilities = ["shell".parse().unwrap()].into()).await;
    let second = keyed(1, &body(json!({"batch": [1]}))).await.data(202);
    assert_eq!((&second["id"], &second["members"]), (&first["id"], &json!(2)));
    let mut other = body(json!({"batch": [1]}));
    other["params"]["command"] = "false".into();
    assert_eq!(keyed(0, &other).await.code(409), "job_conflict");
    assert_ne!(make(&world, json!({"batch": [1]})).await["id"], first["id"], "without a key it is another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_shown_with_its_members_by_where_their_jobs_are() {
    let world = World::start().await;
    fleet(&world, 8, &[]).await;
    let id = make(&world, json!({"batch": [6, 2]})).await["id"].as_str().unwrap().to_owned();
    let group = async || world.rest().get(&format!("/groups/{id}")).await;
    assert_eq!(group().await.code(503), "history_unavailable");
    assert_eq!(world.rest().get(&format!("/groups/{id}/agents")).await.code(503), "history_unavailable");
    assert_eq!(world.rest().get(&format!("/groups/{}", GroupId::generate())).await.code(404), "group_not_found");
    let known = Known::default();
    let _history = history(&world, &known).await;
    assert_eq!(group().await.data(200)["counts"], json!({"not_sent": 8}));
    say(&world, &id, GroupStatus::Running, 6, None).await;
    known.lock().unwrap().extend([(0, JobState::Succeeded), (1, JobState::Failed), (2, JobState::Running), (4, JobState::Failed)]);
    let shown = group().await.data(200);
    assert_eq!(shown["counts"], json!({"succeeded": 1, "failed": 2, "running": 1, "pending": 2, "not_sent": 2}));
    assert_eq!((&shown["sent"], &shown["type"]), (&json!(6), &json!("shell.run")));

    let page = async |query: &str| world.rest().get(&format!("/groups/{id}/agents{query}")).await;
    let all = page("").await.data(200);
    let stored = record(&world, &id).await;
    assert_eq!(all.as_array().unwrap().len(), 8);
    for (place, member) in all.as_array().unwrap().iter().enumerate() {
        assert_eq!(member["agent_id"], stored.members[place].as_str());
        assert!(member["agent_name"].as_str().unwrap().starts_with("agent-"));
        assert_eq!((&member["job_id"], &member["wave"]), (&json!(format!("{id}-{place}")), &json!(if place < 6 { 1 } else { 2 })));
        assert_eq!(member.get("job").is_some(), [0, 1, 2, 4].contains(&place));
    }
    let places = async |query: &str| -> Vec<String> {
        let rows = page(query).await.data(200);
        rows.as_array().unwrap().iter().map(|row| row["job_id"].as_str().unwrap().rsplit_once('-').unwrap().1.to_owned()).collect()
    };
    assert_eq!(places("?state=failed").await, ["1", "4"]);
    assert_eq!(places("?state=pending").await, ["3", "5"]);
    assert_eq!(places("?state=not_sent").await, ["6", "7"]);
    assert_eq!(page("?state=done").await.code(400), "query_invalid");
    // Pages together are the list.
    for filter in ["", "&state=failed"] {
        let (mut seen, mut cursor) = (0, String::new());
        loop {
            let answer = page(&format!("?limit=1{filter}{cursor}")).await;
            let next = answer.body["meta"]["page"]["cursor"].as_str().map(str::to_owned);
            seen += answer.data(200).as_array().unwrap().len();
            let Some(next) = next else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, if filter.is_empty() { 8 } else { 2 }, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_listed_newest_first_by_pool_and_status() {
    let world = World::start().await;
    fleet(&world, 1, &[]).await;
    let elsewhere = world.agent("other").await;
    world.enlist(&elsewhere, "elsewhere", |record| record.capabilities = ["shell".parse().unwrap()].into()).await;
    eventually("the gateway sees it", async || {
        (world.rest().get("/agents?pool=other").await.data(200).as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let mut ids = Vec::new();
    for name in ["default", "other", "default"] {
        ids.insert(0, make(&world, json!({"pool": name})).await["id"].as_str().unwrap().to_owned());
    }
    say(&world, &ids[2], GroupStatus::Finished, 1, None).await;
    let list = async |query: &str| -> Vec<String> {
        let groups = world.rest().get(&format!("/groups{query}")).await.data(200);
        groups.as_array().unwrap().iter().map(|group| group["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list("").await, ids);
    assert_eq!(list("?pool=other").await, [ids[1].clone()]);
    assert_eq!(list("?status=finished").await, [ids[2].clone()]);
    assert_eq!(list("?status=running&pool=default").await, [ids[0].clone()]);
    let first = world.rest().get("/groups?limit=2").await;
    let cursor = first.body["meta"]["page"]["cursor"].as_str().unwrap().to_owned();
    assert_eq!(list(&format!("?limit=2&cursor={cursor}")).await, [ids[2].clone()]);
    assert_eq!(world.rest().get("/groups?status=done").await.code(400), "query_invalid");
    assert_eq!(world.rest().get("/groups?cursor=eA").await.code(400), "query_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_state_can_not_be_read_is_left_out_of_the_list() {
    let world = World::start().await;
    fleet(&world, 1, &[]).await;
    let [damaged, sound] = [make(&world, json!({})).await["id"].clone(), make(&world, json!({})).await["id"].clone()];
    let key = js::key(topology::GROUPS, &keys::state(&damaged.as_str().unwrap().parse().unwrap()));
    world.dispatcher().await.request(key, "{".into()).await.unwrap();
    let list = world.rest().get("/groups").await.data(200);
    assert_eq!(list.as_array().unwrap().iter().map(|group| &group["id"]).collect::<Vec<_>>(), [&sound]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_groups_of_a_pool_keep_it_or_are_cancelled_with_it_and_no_others() {
    let world = World::start().await;
    fleet(&world, 2, &[]).await;
    let [open, ended] = [make(&world, json!({"batch": [1]})).await, make(&world, json!({})).await];
    let [open, ended] = [&open, &ended].map(|group| group["id"].as_str().unwrap());
    say(&world, open, GroupStatus::Running, 1, None).await;
    say(&world, ended, GroupStatus::Finished, 2, None).await;
    let kept = world.rest().delete("/pools/default").await;
    assert_eq!(kept.code(409), "pool_not_empty");
    let detail = kept.body["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("1 groups that are not over (`{open}`")), "{detail}");
    assert_eq!(world.rest().delete("/pools/default?force=true").await.status, 204);
    let stored = state(&world, open).await;
    assert_eq!((stored.status, stored.sent, stored.reason.unwrap().as_str()), (GroupStatus::Cancelling, 1, "its pool was removed"));
    assert_eq!(state(&world, ended).await.status, GroupStatus::Finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_written_down_with_who_asked_unless_all_has_ended() {
    let world = World::start().await;
    fleet(&world, 2, &[]).await;
    let cancel = async |id: &str| world.rest().post(&format!("/groups/{id}/cancel"), &json!({})).await;
    let begun = make(&world, json!({})).await;
    let (id, by) = (begun["id"].as_str().unwrap(), begun["created_by"].as_str().unwrap());
    // No dispatcher has touched it, and none is there.
    let shown = cancel(id).await.data(200);
    assert_eq!((&shown["status"], &shown["reason"]), (&json!("cancelling"), &json!(format!("cancelled by {by}"))));
    let stored = state(&world, id).await;
    assert_eq!((stored.status, stored.sent), (GroupStatus::Cancelling, 0));
    assert_eq!(cancel(id).await.data(200)["status"], "cancelling", "again is the same");
    assert_eq!(state(&world, id).await, stored);

    let stopped = make(&world, json!({"batch": [1]})).await["id"].as_str().unwrap().to_owned();
    say(&world, &stopped, GroupStatus::Stopped, 1, Some("1 failure")).await;
    assert_eq!(cancel(&stopped).await.data(200)["status"], "cancelling", "what it has sent may still run");
    let stored = state(&world, &stopped).await;
    assert_eq!((stored.status, stored.sent), (GroupStatus::Cancelling, 1));

    let finished = make(&world, json!({})).await["id"].as_str().unwrap().to_owned();
    say(&world, &finished, GroupStatus::Finished, 2, None).await;
    assert_eq!(cancel(&finished).await.code(409), "group_finished");
    assert_eq!(cancel(GroupId::generate().as_str()).await.code(404), "group_not_found");
}
