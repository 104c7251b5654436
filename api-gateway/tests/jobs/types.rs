//! What agents say that they take: learnt, shown, and used to refuse wrong params before they are queued.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use muster_runtime::tasks::{Group, Running};
use muster_schemas::{
    connection::ConnectionKind,
    control::DESCRIBE,
    describe::{self, Description, ExecutorInfo, TypeInfo},
    records::keys,
    standing::{Standing, Status},
    subjects::{self, js},
    time::Timestamp,
    topology,
    wire::{self, Body as _, V},
};
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    world::{Answer, World, eventually, job},
};

/// A description of executors with these schemas of types.
fn description(types: &[(&str, Value)]) -> Description {
    let mut executors: Vec<ExecutorInfo> = Vec::new();
    for (name, params) in types {
        let executor = name.split('.').next().unwrap().parse().unwrap();
        if executors.iter().all(|there| there.name != executor) {
            executors.push(ExecutorInfo { name: executor.clone(), about: "as told by a test".into(), types: Vec::new() });
        }
        let info = TypeInfo {
            name: (*name).to_owned(),
            about: "Does it.".into(),
            params: params.clone(),
            example: json!({"command": "true"}),
            connections: vec![ConnectionKind::ALL[0]],
            needs_connection: false,
        };
        executors.iter_mut().find(|there| there.name == executor).unwrap().types.push(info);
    }
    Description { v: V, executors }
}

/// What a shell takes here: one text.
fn takes(field: &str) -> Description {
    let params = json!({"type": "object", "properties": {field: {"type": "string"}}, "required": [field], "additionalProperties": false});
    description(&[("shell.run", params)])
}

/// What the dispatcher says of an agent, with the digest of its heartbeats.
async fn said(world: &World, agent: &Agent, status: Status, digest: Option<String>) {
    let standing = Standing { status, description: digest, ..Standing::first(Timestamp::now()) };
    let key = js::key(topology::STANDINGS, &keys::standing(&agent.pool, &agent.id));
    world.dispatcher().await.request(key, wire::encode(&standing).into()).await.unwrap();
}

/// An agent that is there, and answers this body to who asks what it can do. Counts the questions.
async fn told(world: &World, name: &str, digest: String, body: Vec<u8>) -> (Agent, Running<()>, Arc<AtomicUsize>) {
    let agent = world.agent("default").await;
    let has = |record: &mut muster_schemas::records::AgentRecord| record.capabilities = ["shell".parse().unwrap()].into();
    world.enlist(&agent, name, has).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let mut questions = agent.client.subscribe(subjects::rpc(&agent.id, DESCRIBE)).await.unwrap();
    agent.client.flush().await.unwrap();
    let (client, count) = (agent.client.clone(), Arc::clone(&asked));
    let answering = Group::new("describe").spawn(async move {
        while let Some(question) = questions.next().await {
            count.fetch_add(1, Ordering::Relaxed);
            client.publish(question.reply.unwrap(), body.clone().into()).await.unwrap();
        }
    });
    said(world, &agent, Status::Online, Some(digest)).await;
    (agent, answering, asked)
}

/// The same, of this description.
async fn describing(world: &World, name: &str, description: &Description) -> (Agent, Running<()>, Arc<AtomicUsize>) {
    told(world, name, description.digest(), wire::encode(description)).await
}

/// The type `shell.run` of the pool `default`, as it is listed.
async fn listed(world: &World) -> Option<Value> {
    let executors = world.rest().get("/executors?pool=default").await.data(200);
    let shell = executors.as_array().unwrap().iter().find(|executor| executor["name"] == "shell")?.clone();
    Some(shell["types"][0].clone())
}

async fn agents_listed(world: &World, count: u64) {
    let has = async || (listed(world).await.map_or(0, |kind| kind["agents"].as_u64().unwrap()) == count).then_some(());
    eventually(&format!("{count} agents are known"), has).await;
}

#[track_caller]
fn refused(answer: Answer) {
    assert_eq!(answer.code(400), "params_invalid");
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.starts_with("params.comand: unknown") && detail.contains("shell.run") && !detail.contains("hunter2"), "{detail}");
}

#[tokio::test]
async fn wrong_params_are_refused_wherever_a_job_is_made_once_the_agents_have_said_what_they_take() {
    let world = World::start().await;
    let rest = world.rest();
    let wrong = json!({"command": "true", "comand": "hunter2"});
    // Nobody has said anything yet: it is taken, and the agent would refuse it.
    let first = rest.submit(json!({"params": wrong, "id": "first"})).await.data(202);
    rest.cancel(first["id"].as_str().unwrap()).await;

    let (agent, _answering, asked) = describing(&world, "one", &takes("command")).await;
    agents_listed(&world, 1).await;

    refused(rest.submit(json!({"params": wrong})).await);
    refused(rest.post("/jobs", &json!({"type": "shell.run", "params": wrong, "target": {"all": {"pool": "default"}}})).await);
    refused(rest.put("/schedules/s", &json!({"every": "1h", "job": job(json!({"params": wrong}))})).await);
    refused(rest.post(&format!("/agents/{}/commands", agent.id), &json!({"type": "shell.run", "params": wrong})).await);
    refused(rest.post("/jobs/first/retry", &json!({})).await);
    let batch = json!({"jobs": [job(json!({"params": wrong})), job(json!({"params": {"command": "true"}}))]});
    let entries = rest.post("/jobs/batch", &batch).await.data(200);
    assert_eq!(entries[0]["problem"]["code"], "params_invalid", "{entries}");
    assert_eq!(entries[1]["job"]["state"], "pending", "{entries}");
    for (params, says) in [(json!({}), "params.command: missing"), (json!({"command": 5}), "params.command: expected text")] {
        let answer = rest.submit(json!({"params": params})).await;
        assert_eq!(answer.code(400), "params_invalid");
        assert!(answer.body["detail"].as_str().unwrap().starts_with(says), "{}", answer.body);
    }
    // What was taken once is answered as it is.
    assert_eq!(rest.submit(json!({"params": wrong, "id": "first"})).await.data(200)["state"], "cancelled");
    // Other pools have other agents, and other types are none of this one's.
    rest.submit(json!({"pool": "other", "params": wrong})).await.data(202);
    rest.submit(json!({"type": "probe.echo", "params": wrong})).await.data(202);
    rest.submit(json!({"params": {"command": "true"}})).await.data(202);

    // An agent that is there and takes it, or that nobody knows anything of: it may be for that one.
    let (other, _answering_too, _) = describing(&world, "two", &takes("comand")).await;
    agents_listed(&world, 2).await;
    assert_eq!(listed(&world).await.unwrap()["differing"], 1);
    rest.submit(json!({"params": {"comand": "true"}})).await.data(202);
    refused(rest.post(&format!("/agents/{}/commands", agent.id), &json!({"type": "shell.run", "params": wrong})).await);
    said(&world, &other, Status::Online, None).await;
    agents_listed(&world, 1).await;
    rest.submit(json!({"params": wrong})).await.data(202);
    said(&world, &other, Status::Offline, Some(takes("comand").digest())).await;
    eventually("only the one counts again", async || (rest.submit(json!({"params": wrong})).await.status == 400).then_some(())).await;
    said(&world, &agent, Status::Offline, Some(takes("command").digest())).await;
    eventually("nobody is there", async || (rest.submit(json!({"params": wrong})).await.status == 202).then_some(())).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one question is enough for all of it");
}

#[tokio::test]
async fn an_agent_is_believed_for_what_its_digest_names_alone_and_not_asked_over_and_over() {
    let world = World::start().await;
    let (good, other) = (takes("command"), takes("comand"));
    let mut huge = wire::encode(&good);
    huge.resize(Description::LIMIT + 1, 0);
    let odd: Vec<(&str, String, Vec<u8>)> = vec![
        ("liar", good.digest(), wire::encode(&other)),
        ("silent", other.digest(), Vec::new()),
        ("huge", describe::digest(&huge), huge),
        ("garbage", describe::digest(b"hello"), b"hello".to_vec()),
        ("wrong", "f".repeat(32), b"{}".to_vec()),
    ];
    let mut agents = Vec::new();
    for (name, digest, body) in odd {
        agents.push((name, told(&world, name, digest, body).await));
    }
    for (name, (_, _, asked)) in &agents {
        eventually(&format!("{name} is asked"), async || (asked.load(Ordering::Relaxed) > 0).then_some(())).await;
    }
    let (_one, _answering, asked) = describing(&world, "honest", &takes("third")).await;
    agents_listed(&world, 1).await;
    world.rest().submit(json!({"params": {"anything": "goes"}})).await.data(202);
    assert!(listed(&world).await.unwrap()["params"]["properties"]["third"].is_object());
    let questions: usize = agents.iter().map(|(_, (_, _, asked))| asked.load(Ordering::Relaxed)).sum();
    assert!(questions <= agents.len() && asked.load(Ordering::Relaxed) == 1, "{questions}");
}

#[tokio::test]
async fn hostile_schemas_cost_the_gateway_nothing_and_check_nothing() {
    let world = World::start().await;
    let mut deep = json!({"type": "string"});
    for _ in 0..18 {
        deep = json!({"items": deep});
    }
    let hostile = [
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"$ref": "http://127.0.0.1:1/schema.json"}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"properties": {"command": {"pattern": "^((a+)+)+$"}}}),
        json!({"properties": {"command": {"pattern": "^(a{1,255}){1,255}$"}}}),
        json!({"properties": {"command": {"enum": vec!["x".repeat(50); 9_000]}}}),
        deep,
        json!("no schema at all"),
    ];
    let mut agents = Vec::new();
    for (n, params) in hostile.iter().enumerate() {
        agents.push(describing(&world, &format!("hostile-{n}"), &description(&[("shell.run", params.clone())])).await);
    }
    agents_listed(&world, hostile.len() as u64).await;
    let began = std::time::Instant::now();
    for command in ["a".repeat(30_000) + "!", "true".into()] {
        world.rest().submit(json!({"params": {"command": command}})).await.data(202);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn executors_are_listed_by_pool_and_those_of_this_build_before_anybody_was_heard() {
    let world = World::start().await;
    let rest = world.rest();
    let all = rest.get("/executors").await.data(200);
    let names: Vec<&str> = all.as_array().unwrap().iter().map(|executor| executor["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"shell") && names.contains(&"probe") && names.is_sorted(), "{names:?}");
    assert!(all.as_array().unwrap().iter().all(|executor| executor["agents"] == 0));
    assert_eq!(rest.get("/executors?pool=default").await.data(200), json!([]));
    assert_eq!(rest.get("/executors?pool=nowhere").await.code(404), "pool_not_found");
    assert_eq!(rest.get("/executors?pool=*").await.code(400), "name_invalid");

    let mut of_plugin = takes("command");
    of_plugin.executors.extend(description(&[("deploy.app", json!({"type": "object"}))]).executors);
    let (_one, _answering, _) = describing(&world, "one", &of_plugin).await;
    agents_listed(&world, 1).await;
    let first = rest.get("/executors?pool=default&limit=1").await;
    assert_eq!(first.body["data"][0]["name"], "deploy");
    let cursor = first.body["meta"]["page"]["cursor"].as_str().unwrap();
    let next = rest.get(&format!("/executors?pool=default&limit=1&cursor={cursor}")).await.data(200);
    let shell = &next[0]["types"][0];
    assert_eq!((&next[0]["name"], &shell["name"], &shell["agents"]), (&json!("shell"), &json!("shell.run"), &json!(1)));
    assert_eq!((&shell["example"], &shell["connections"][0]), (&json!({"command": "true"}), &json!(ConnectionKind::ALL[0].as_str())));
    // The document is for everybody, and so has nothing of a pool's own.
    let document = reqwest::get(format!("{}/openapi.json", rest.url)).await.unwrap().text().await.unwrap();
    assert!(document.contains("shell.run") && !document.contains("deploy.app"));
}
