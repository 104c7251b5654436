//! Dead letters: listed, shown, replayed once, deleted.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use muster_schemas::{
    code::Code,
    event::DeadLetter,
    job::Job,
    lane::Priority,
    names::JobId,
    result::{AttemptRecord, ErrorInfo, Outcome, Output},
    subjects::{About, broker::StreamApi},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    world::{Rest, World, eventually, pool},
};

fn attempt(agent: &Agent, number: u32, tail: Option<&str>) -> AttemptRecord {
    let at = Timestamp::now();
    let lost = tail.is_none();
    AttemptRecord {
        attempt: number,
        agent_id: Some(agent.id.clone()),
        started_at: Some(at),
        finished_at: (!lost).then_some(at),
        outcome: (!lost).then_some(Outcome::Failed),
        exit_code: (!lost).then_some(3),
        error: (!lost).then(|| ErrorInfo::new(Code::ExitNonzero, "exit status 3")),
        tail: tail.map(|tail| Output::from(tail.as_bytes().to_vec())),
    }
}

/// Stores a dead letter as an agent does.
async fn died(agent: &Agent, id: &str, body: Value, attempts: Vec<AttemptRecord>) {
    let executor = body["type"].as_str().unwrap().split('.').next().unwrap().to_owned();
    let lane = &muster_schemas::lane::Lane::of(&executor.parse().unwrap())[0];
    let subject = muster_schemas::subjects::job(&agent.pool, lane, &id.parse().unwrap());
    died_at(agent, id, subject, body, attempts).await;
}

async fn died_at(agent: &Agent, id: &str, subject: String, body: Value, attempts: Vec<AttemptRecord>) {
    let id: JobId = id.parse().unwrap();
    let letter = DeadLetter {
        v: V,
        subject,
        body: body.to_string().into_bytes(),
        queued_at: Timestamp::now(),
        died_at: Timestamp::now(),
        error: ErrorInfo::new(Code::ExitNonzero, "exit status 3"),
        attempts,
    };
    let answer = agent.client.request(About::Dead.job(&agent.pool, &id), wire::encode(&letter).into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
}

fn shell() -> Value {
    json!({"type": "shell.run", "params": {"command": "date"}, "labels": {"k": "v"}})
}

/// All pages of a list, and how many there were.
async fn pages(rest: &Rest, query: &str) -> (Vec<String>, usize) {
    let (mut ids, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = rest.get(&format!("/dead-letters?{query}{cursor}")).await;
        assert_eq!(page.status, 200, "{}", page.body);
        ids.extend(page.body["data"].as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()));
        pages += 1;
        match page.body["meta"]["page"]["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (ids, pages),
        }
    }
}

async fn replay(rest: &Rest, id: &str, query: &str, body: Option<&Value>) -> crate::world::Answer {
    rest.send(Method::POST, &format!("/dead-letters/{id}/replay{query}"), &[], body).await
}

async fn queued(world: &World, name: &str) -> u64 {
    world.rest().get(&format!("/pools/{name}")).await.data(200)["queue"]["pending"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_newest_first_page_by_page_and_by_filter() {
    let world = World::start().await;
    let (rest, agent, other) = (world.rest(), world.agent("default").await, world.agent("other").await);
    assert_eq!(pages(rest, "").await, (vec![], 1));
    let mut expected = Vec::new();
    for n in 0..75 {
        let id = format!("job-{n}");
        let body = if n % 5 == 0 { json!({"type": "probe.fail"}) } else { shell() };
        died(if n % 3 == 0 { &other } else { &agent }, &id, body, vec![attempt(&agent, 1, Some("x"))]).await;
        expected.insert(0, (n, id));
    }
    // What is gone leaves a gap that is stepped over.
    for n in 10..60 {
        rest.delete(&format!("/dead-letters/job-{n}")).await;
    }
    expected.retain(|(n, _)| !(10..60).contains(n));
    let only = |keep: &dyn Fn(u64) -> bool| expected.iter().filter(|(n, _)| keep(*n)).map(|(_, id)| id.clone()).collect::<Vec<_>>();
    assert_eq!(pages(rest, "").await, (only(&|_| true), 1));
    assert_eq!(pages(rest, "limit=10").await, (only(&|_| true), 3));
    assert_eq!(pages(rest, "limit=7&pool=other").await.0, only(&|n| n % 3 == 0));
    assert_eq!(pages(rest, "limit=2&type=probe.fail").await.0, only(&|n| n % 5 == 0));
    assert_eq!(pages(rest, "limit=2&type=probe.fail&pool=default").await.0, only(&|n| n % 5 == 0 && n % 3 != 0));
    let at = rest.get("/dead-letters/job-65").await.data(200)["stored_at"].as_str().unwrap().to_owned();
    assert_eq!(pages(rest, &format!("limit=4&since={at}")).await.0, only(&|n| n >= 65));
    assert_eq!(pages(rest, &format!("limit=4&until={at}")).await.0, only(&|n| n < 65));
    let first = rest.get("/dead-letters?limit=1").await.body["data"][0].clone();
    assert_eq!((&first["pool"], &first["type"], &first["priority"]), (&json!("default"), &json!("shell.run"), &json!("high")));
    assert_eq!((&first["labels"]["k"], &first["attempt"], &first["error"]["code"]), (&json!("v"), &json!(1), &json!("exit_nonzero")));
    for wrong in ["limit=0", "pool=*&limit=1", "since=yesterday", "cursor=x", "state=x"] {
        assert_eq!(rest.get(&format!("/dead-letters?{wrong}")).await.status, 400, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_shows_its_job_and_its_attempts_with_the_output_also_of_lost_agents() {
    let world = World::start().await;
    let (rest, agent, other) = (world.rest(), world.agent("default").await, world.agent("other").await);
    agent.write(&"a".parse().unwrap(), 0, b"from the ").await;
    agent.write(&"a".parse().unwrap(), 1, b"log").await;
    died(&agent, "a", shell(), vec![attempt(&agent, 1, None), attempt(&agent, 2, Some("told"))]).await;
    let letter = rest.get("/dead-letters/a").await.data(200);
    assert_eq!(letter["job"]["params"], json!({"command": "date"}));
    let attempts = letter["attempts"].as_array().unwrap();
    assert_eq!(
        (&attempts[0]["tail"], &attempts[0]["outcome"], &attempts[0]["agent_id"]),
        (&json!("from the log"), &Value::Null, &json!(agent.id))
    );
    assert_eq!(
        (&attempts[1]["tail"], &attempts[1]["exit_code"], &attempts[1]["error"]["code"]),
        (&json!("told"), &json!(3), &json!("exit_nonzero"))
    );
    assert!(attempts[1]["started_at"].is_string() && attempts[1]["finished_at"].is_string());
    // Under the same id in another pool: which one has to be said.
    died(&other, "a", shell(), vec![]).await;
    assert_eq!(rest.get("/dead-letters/a").await.code(409), "job_ambiguous");
    assert_eq!(rest.get("/dead-letters/a?pool=other").await.data(200)["pool"], "other");
    assert_eq!(rest.get("/dead-letters/nobody").await.code(404), "dead_letter_not_found");
    assert_eq!(rest.get("/dead-letters/a.b").await.code(400), "name_invalid");
    // What is no letter is shown as one that says so, and can be thrown away.
    agent.client.request(About::Dead.job(&agent.pool, &"odd".parse().unwrap()), "hello".into()).await.unwrap();
    assert_eq!(rest.get("/dead-letters/odd").await.data(200)["error"]["code"], "body_malformed");
    assert_eq!(replay(rest, "odd", "", None).await.code(409), "body_not_kept");
    assert_eq!(rest.delete("/dead-letters/odd").await.status, 204);
    assert_eq!(rest.delete("/dead-letters/odd").await.code(404), "dead_letter_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_queues_the_job_again_with_its_first_parent_and_the_letter_goes() {
    let world = World::start().await;
    let (rest, agent, other) = (world.rest(), world.agent("default").await, world.agent("other").await);
    died(&agent, "first", shell(), vec![]).await;
    let new = replay(rest, "first", "", None).await.data(202);
    assert_eq!((&new["state"], &new["pool"], &new["priority"]), (&json!("pending"), &json!("default"), &json!("high")));
    assert_eq!(rest.get("/dead-letters/first").await.code(404), "dead_letter_not_found");
    let taken = agent.take_of(Priority::High).await;
    let job = Job::decode(&taken.message.payload).unwrap();
    assert_eq!((job.parent.unwrap().as_str(), job.params), ("first", json!({"command": "date"})));
    // It dies anew, and goes to another pool.
    let body: Value = serde_json::to_value(Job::decode(&taken.message.payload).unwrap()).unwrap();
    died(&agent, taken.id.as_str(), body, vec![]).await;
    assert_eq!(rest.get(&format!("/dead-letters/{}", taken.id)).await.data(200)["parent"], "first");
    let moved = replay(rest, taken.id.as_str(), "?pool=default", Some(&json!({"pool": "other"}))).await.data(202);
    assert_eq!(moved["pool"], "other");
    assert_ne!(moved["id"], new["id"]);
    rest.put("/pools/other", &json!({"executors": ["shell"]})).await;
    let again = other.take_of(Priority::High).await;
    assert_eq!(Job::decode(&again.message.payload).unwrap().parent.unwrap().as_str(), "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commands_letter_goes_to_its_agent_again_unless_a_pool_is_named() {
    let world = World::start().await;
    let (rest, agent, other) = (world.rest(), world.agent("default").await, world.agent("other").await);
    for (agent, name) in [(&agent, "one"), (&other, "two")] {
        world.enlist(agent, name, |record| record.capabilities = ["shell".parse().unwrap()].into()).await;
    }
    let command = |pool, to, id: &str| muster_schemas::subjects::command(pool, to, &id.parse().unwrap());
    for id in ["first", "second", "third"] {
        died_at(&agent, id, command(&agent.pool, &agent.id, id), shell(), vec![attempt(&agent, 1, Some("x"))]).await;
        let letter = rest.get(&format!("/dead-letters/{id}")).await.data(200);
        assert_eq!((&letter["target_agent"], &letter["priority"]), (&json!(agent.id), &json!("high")));
    }
    assert_eq!(rest.get("/dead-letters").await.data(200)[0]["target_agent"], json!(agent.id));
    let again = replay(rest, "first", "", None).await.data(202);
    assert_eq!((&again["target_agent"], &again["pool"]), (&json!(agent.id), &json!("default")));
    let taken = agent.command(crate::world::SOON).await.unwrap();
    let job = Job::decode(&taken.message.payload).unwrap();
    assert_eq!((taken.id.as_str(), job.parent.unwrap().as_str()), (again["id"].as_str().unwrap(), "first"));
    assert!(job.expires_at.is_some(), "it expires as any command does");
    assert_eq!(rest.get("/dead-letters/first").await.code(404), "dead_letter_not_found");
    let moved = replay(rest, "second", "", Some(&json!({"pool": "other"}))).await.data(202);
    assert_eq!((moved.get("target_agent"), &moved["pool"]), (None, &json!("other")));
    assert_eq!(other.take_of(Priority::High).await.id.as_str(), moved["id"]);
    let shared = replay(rest, "third", "", Some(&json!({"pool": "default"}))).await.data(202);
    assert_eq!((shared.get("target_agent"), &shared["pool"]), (None, &json!("default")));
    assert_eq!(agent.take_of(Priority::High).await.id.as_str(), shared["id"]);
    // An agent of one pool can't have another pool's agent run anything.
    died_at(&agent, "forged", command(&other.pool, &other.id, "forged"), shell(), vec![]).await;
    died_at(&agent, "nobody", command(&agent.pool, &other.id, "nobody"), shell(), vec![]).await;
    let forged = replay(rest, "forged", "", None).await.data(202);
    assert_eq!((forged.get("target_agent"), &forged["pool"]), (None, &json!("default")));
    assert_eq!(replay(rest, "nobody", "", None).await.code(404), "agent_not_found");
    assert_eq!(rest.get("/dead-letters/nobody").await.status, 200, "it stays");
    let done = rest.post("/dead-letters/replay", &json!({"ids": ["nobody"], "to": "default"})).await.data(200);
    assert_eq!((&done["done"], done.get("failed")), (&json!(1), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_stays_while_its_job_is_not_stored() {
    let world = World::start().await;
    let (rest, agent) = (world.rest(), world.agent("default").await);
    died(&agent, "a", shell(), vec![]).await;
    assert_eq!(replay(rest, "a", "", Some(&json!({"pool": "nowhere"}))).await.code(404), "pool_not_found");
    assert_eq!(replay(rest, "a", "", Some(&json!({"pool": "*"}))).await.code(400), "name_invalid");
    assert_eq!(replay(rest, "a", "", Some(&json!({"to": "other"}))).await.code(400), "field_invalid");
    assert_eq!(rest.get("/dead-letters/a").await.status, 200);
    assert_eq!(queued(&world, "default").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_at_once_are_one_job() {
    let world = World::with_gateways(2).await;
    let agent = world.agent("default").await;
    for round in 0..10 {
        let id = format!("round-{round}");
        died(&agent, &id, shell(), vec![]).await;
        let gateways = [0, 1, 0, 1].map(|n: usize| world.gateways[n].rest.clone());
        let answers = join_all(gateways.iter().map(|rest| replay(rest, &id, "", None))).await;
        let mut jobs = BTreeSet::new();
        for answer in answers {
            match answer.status.as_u16() {
                202 => jobs.insert(answer.data(202)["id"].to_string()),
                // It came when the letter was gone.
                _ => answer.code(404) == "dead_letter_not_found",
            };
        }
        assert_eq!(jobs.len(), 1, "round {round}");
        assert_eq!(queued(&world, "default").await, round + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_cannot_remove_its_letter_says_so_and_makes_no_second_job() {
    let world = World::start().await;
    let (rest, agent, core) = (world.rest(), world.agent("default").await, world.core().await);
    let mut body = shell();
    body["result_ttl_s"] = json!(1);
    died(&agent, "a", body, vec![]).await;
    let dead = topology::fixed_streams().into_iter().find(|stream| stream.name == topology::DEAD).unwrap();
    let mut config = serde_json::to_value(dead).unwrap();
    config["deny_delete"] = json!(true);
    let answer = core.request(StreamApi::Update.subject(topology::DEAD), config.to_string().into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer.payload).contains("\"error\""), "{answer:?}");
    assert_eq!(replay(rest, "a", "", None).await.code(503), "broker_unavailable");
    assert_eq!(replay(rest, "a", "", None).await.code(503), "broker_unavailable");
    assert_eq!(queued(&world, "default").await, 1);
    // Not even after the job has ended and its result is forgotten.
    let taken = agent.take_of(Priority::High).await;
    assert!(agent.finish(&taken, "done").await);
    assert_eq!(replay(rest, "a", "", None).await.code(503), "broker_unavailable");
    assert_eq!(queued(&world, "default").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_replayed_or_deleted_by_filter_and_never_all_by_mistake() {
    let world = World::start().await;
    let (rest, agent, other) = (world.rest(), world.agent("default").await, world.agent("other").await);
    for n in 0..6 {
        died(
            if n % 2 == 0 { &agent } else { &other },
            &format!("job-{n}"),
            if n < 2 { json!({"type": "probe.fail"}) } else { shell() },
            vec![],
        )
        .await;
    }
    for verb in ["replay", "delete"] {
        let path = format!("/dead-letters/{verb}");
        assert_eq!(rest.post(&path, &json!({})).await.code(400), "field_invalid");
        assert_eq!(rest.post(&path, &json!({"all": false})).await.code(400), "field_invalid");
        assert_eq!(rest.post(&path, &json!({"poool": "default"})).await.code(400), "field_invalid");
        assert_eq!(rest.post(&path, &json!({"ids": []})).await.data(200), json!({"done": 0, "left": 0}));
    }
    assert_eq!(pages(rest, "").await.0.len(), 6);
    let done = rest.post("/dead-letters/replay", &json!({"pool": "default", "type": "shell.run"})).await.data(200);
    assert_eq!(done, json!({"done": 2, "left": 0}));
    assert_eq!(queued(&world, "default").await, 2);
    let done = rest.post("/dead-letters/delete", &json!({"ids": ["job-0", "job-1", "nobody"]})).await.data(200);
    assert_eq!(
        (&done["done"], &done["failed"][0]["id"], &done["failed"][0]["problem"]["code"]),
        (&json!(2), &json!("nobody"), &json!("dead_letter_not_found"))
    );
    // Of what is left, the older one; and to another pool.
    assert_eq!(pages(rest, "").await.0, ["job-5", "job-3"]);
    let at = rest.get("/dead-letters/job-5").await.data(200)["stored_at"].clone();
    let done = rest.post("/dead-letters/replay", &json!({"until": at, "to": "default"})).await.data(200);
    assert_eq!((&done["done"], queued(&world, "default").await), (&json!(1), 3));
    let failed = rest.post("/dead-letters/replay", &json!({"all": true, "to": "nowhere"})).await.data(200);
    assert_eq!((&failed["done"], &failed["failed"][0]["problem"]["code"]), (&json!(0), &json!("pool_not_found")));
    assert_eq!(pages(rest, "").await.0, ["job-5"]);
    assert_eq!(rest.post("/dead-letters/delete", &json!({"all": true})).await.data(200)["done"], 1);
    assert!(pages(rest, "").await.0.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_does_a_thousand_and_says_how_many_are_left() {
    let world = World::start().await;
    let (rest, agent, other) = (world.rest(), world.agent("default").await, world.agent("other").await);
    died(&other, "spared", shell(), vec![]).await;
    let ids: Vec<String> = (0..1_005).map(|n| format!("job-{n}")).collect();
    join_all(ids.iter().map(|id| died(&agent, id, shell(), vec![]))).await;
    let first = rest.post("/dead-letters/delete", &json!({"pool": "default"})).await.data(200);
    assert_eq!((&first["done"], &first["left"]), (&json!(1_000), &json!(5)));
    let second = rest.post("/dead-letters/delete", &json!({"pool": "default", "cursor": first["cursor"]})).await.data(200);
    assert_eq!(second, json!({"done": 5, "left": 0}));
    assert_eq!(pages(rest, "").await.0, ["spared"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_may_look_at_dead_letters_and_not_touch_them() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    died(&agent, "a", shell(), vec![]).await;
    let key =
        world.rest().post("/api-keys", &json!({"name": "eyes", "role": "viewer"})).await.data(201)["key"].as_str().unwrap().to_owned();
    let rest = Rest { key, ..world.rest().clone() };
    assert_eq!(rest.get("/dead-letters").await.status, 200);
    assert_eq!(rest.get("/dead-letters/a").await.status, 200);
    assert_eq!(replay(&rest, "a", "", None).await.code(403), "forbidden");
    assert_eq!(rest.delete("/dead-letters/a").await.code(403), "forbidden");
    for verb in ["replay", "delete"] {
        assert_eq!(rest.post(&format!("/dead-letters/{verb}"), &json!({"all": true})).await.code(403), "forbidden");
    }
    eventually("the letter is still there", async || (rest.get("/dead-letters/a?pool=default").await.status == 200).then_some(())).await;
    assert_eq!(pool("default"), agent.pool);
}
