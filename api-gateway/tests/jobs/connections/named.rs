//! Jobs that name a connection: where they go, what they are refused with, why they wait; and trying a connection.

use std::time::Duration;

use muster_schemas::{
    job::Job,
    lane::{Lane, Priority},
    standing::Standing,
};

use super::*;
use crate::world::SOON;

/// What every kind of submit answers that names this connection, by its way in.
async fn ways_in(rest: &Rest, agent: &Agent, connection: &str, job_type: &str) -> Vec<(&'static str, u16, Value)> {
    let job = json!({"type": job_type, "connection": connection, "params": {}});
    let one = |way, answer: crate::world::Answer| (way, answer.status.as_u16(), answer.body);
    let mut scheduled = json!({"every": "1h"});
    scheduled["job"] = job.clone();
    let mut group = job.clone();
    group["target"] = json!({"all": {}});
    let batch = rest.post("/jobs/batch", &json!({"jobs": [job]})).await.data(200)[0].clone();
    let (status, body) = match batch["problem"].clone() {
        Value::Null => (202, json!({"data": batch["job"]})),
        problem => (u16::try_from(problem["status"].as_u64().unwrap()).unwrap(), problem),
    };
    vec![
        one("job", rest.post("/jobs", &job).await),
        ("batch", status, body),
        one("group", rest.post("/jobs", &group).await),
        one("schedule", rest.put("/schedules/s", &scheduled).await),
        one("command", rest.post(&format!("/agents/{}/commands", agent.id), &job).await),
    ]
}

#[tokio::test]
async fn a_job_that_names_a_connection_goes_to_its_pool_by_every_way_in_or_is_told_why_not() {
    let world = World::start().await;
    let rest = world.rest();
    let mut one = Holder::new(&world, "other", "one").await;
    let web = json!({"kind": "http", "pool": "other", "settings": {"base_url": "https://a", "auth": "bearer"}});
    let agent = one.agent.clone();
    let expect = async |connection: &str, job_type: &str, status: u16, code: &str| {
        for (way, got, body) in ways_in(rest, &agent, connection, job_type).await {
            assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{way}: {body}");
        }
    };
    expect("web", "http.request", 404, "connection_not_found").await;
    rest.put("/connections/web", &web).await.data(201);
    look(rest, "web", 1).await;
    expect("web", "http.request", 409, "connection_undelivered").await;
    expect("web", "shell.run", 400, "connection_mismatch").await;
    expect("web", "probe.ping", 400, "connection_mismatch").await;
    expect("no.name", "http.request", 400, "field_invalid").await;
    rest.put("/connections/box", &json!({"kind": "ssh", "pool": "other", "settings": {"host": "h", "user": "u"}})).await.data(201);
    expect("box", "http.request", 400, "connection_mismatch").await;

    let view = rest.get("/connections/web").await.data(200);
    deliver(rest, "web", &sealed(&view, 1, SECRET)).await.data(200);
    let there = async || {
        for (way, got, body) in ways_in(rest, &agent, "web", "http.request").await {
            let data = &body["data"];
            assert!([200, 201, 202].contains(&got), "{way}: {body}");
            assert!(way == "command" || data["pool"] == "other" || data["job"]["pool"] == "other", "{way}: {body}");
        }
    };
    // In the mailbox is enough: it is there when the agent is.
    there().await;
    one.collect().await;
    there().await;
    let elsewhere = json!({"pool": "default", "type": "http.request", "connection": "web"});
    assert_eq!(rest.post("/jobs", &elsewhere).await.code(400), "connection_mismatch");
    let unnamed = rest.post("/jobs", &json!({"pool": "other", "type": "probe.connection"})).await;
    assert_eq!(unnamed.code(400), "connection_mismatch");
    assert!(unnamed.body["detail"].as_str().unwrap().contains("needs a connection"), "{}", unnamed.body);
    // Of another executor nobody here knows what it takes.
    let plugin = rest.post("/jobs", &json!({"type": "backup.run", "connection": "web"})).await.data(202);
    assert_eq!(plugin["pool"], "other");
    // What was taken once is answered as it is, also when it would not be taken any more.
    let own = json!({"pool": "other", "id": "own", "type": "http.request", "connection": "web"});
    rest.post("/jobs", &own).await.data(202);
    assert_eq!(rest.delete("/connections/web").await.status, 204);
    assert_eq!(rest.post("/jobs", &own).await.data(202)["id"], "own");
    expect("web", "http.request", 404, "connection_not_found").await;
}

#[tokio::test]
async fn a_retry_of_a_job_whose_connection_is_gone_is_refused_and_a_waiting_one_says_what_for() {
    let world = World::start().await;
    let rest = world.rest();
    let mut one = Holder::new(&world, "default", "one").await;
    // As a dispatcher says it: an agent that is there and takes jobs.
    let standing = Standing::first(Timestamp::now());
    let key = js::key(topology::STANDINGS, &muster_schemas::records::keys::standing(&one.agent.pool, &one.agent.id));
    world.dispatcher().await.request(key, wire::encode(&standing).into()).await.unwrap();
    rest.put("/connections/app", &secret()).await.data(201);
    let view = look(rest, "app", 1).await;
    deliver(rest, "app", &sealed(&view, 1, SECRET)).await.data(200);
    one.collect().await;
    let submitted = rest.post("/jobs", &json!({"type": "backup.run", "connection": "app", "id": "first"})).await.data(202);
    assert_eq!(submitted["pool"], "default");
    let lane = Lane { priority: Priority::Normal, executor: "backup".parse().unwrap() };
    let taken = one.agent.pull(&lane, SOON).await.unwrap();
    assert_eq!(Job::decode(&taken.message.payload).unwrap().connection, Some(name("app")));
    assert!(one.agent.finish(&taken, "done").await);
    world.enlist(&one.agent, "one", |record| record.capabilities = ["http", "probe"].map(|name| name.parse().unwrap()).into()).await;

    let web = json!({"kind": "http", "pool": "default", "settings": {"base_url": "https://a", "auth": "bearer"}});
    rest.put("/connections/web", &web).await.data(201);
    let view = look(rest, "web", 1).await;
    deliver(rest, "web", &sealed(&view, 1, SECRET)).await.data(200);
    let waiting = rest.post("/jobs", &json!({"type": "http.request", "connection": "web"})).await.data(202);
    // Its vault is made anew, and nobody has sealed to it since.
    bucket(&world, topology::MAILBOXES).await.purge(keys::mailbox(&one.agent.id)).await.unwrap();
    one.has.clear();
    one.beat().await;
    let path = format!("/jobs/{}/why", waiting["id"].as_str().unwrap());
    let why = eventually("it says that it waits for credentials", async || {
        let why = rest.get(&path).await.data(200);
        (why["reason"] == "credentials").then_some(why)
    })
    .await;
    assert!(why["sentence"].as_str().unwrap().contains("the credentials of connection `web`"), "{why}");
    assert_eq!(why["facts"]["connection"], json!({"name": "web", "held": false}));

    rest.delete("/connections/app").await;
    let retried = rest.send(reqwest::Method::POST, "/jobs/first/retry?pool=default", &[], None).await;
    assert_eq!(retried.code(404), "connection_not_found");
}

#[tokio::test]
async fn a_try_is_a_job_of_the_pool_or_of_one_agent_that_is_waited_for() {
    let world = World::start().await;
    let rest = world.rest();
    let mut one = Holder::new(&world, "default", "one").await;
    rest.put("/connections/app", &secret()).await.data(201);
    let view = look(rest, "app", 1).await;
    let try_it = async |body: Option<&Value>| rest.send(reqwest::Method::POST, "/connections/app/test", &[], body).await;
    assert_eq!(try_it(None).await.code(409), "connection_undelivered");
    deliver(rest, "app", &sealed(&view, 1, SECRET)).await.data(200);
    one.collect().await;
    let lane = Lane { priority: Priority::High, executor: "probe".parse().unwrap() };
    let serve = async |command: bool| {
        // Its queue may only just be made.
        let wait = Duration::from_millis(500);
        let taken =
            eventually("the try comes", async || if command { one.agent.command(wait).await } else { one.agent.pull(&lane, wait).await })
                .await;
        let job = Job::decode(&taken.message.payload).unwrap();
        assert_eq!((job.job_type.as_str(), job.connection), ("probe.connection", Some(name("app"))));
        assert!(one.agent.finish(&taken, "").await);
    };
    let (tried, ()) = tokio::join!(try_it(None), serve(false));
    let tried = tried.data(200);
    assert_eq!((tried["state"].as_str(), tried["agent_id"].as_str()), (Some("succeeded"), Some(one.agent.id.as_str())));
    let only = json!({"agent_id": one.agent.id});
    let (tried, ()) = tokio::join!(try_it(Some(&only)), serve(true));
    assert_eq!(tried.data(200)["state"], "succeeded");
    assert_eq!(try_it(Some(&json!({"agent_id": AgentId::generate()}))).await.code(404), "agent_not_found");
    assert_eq!(rest.send(reqwest::Method::POST, "/connections/none/test", &[], None).await.code(404), "connection_not_found");
}
