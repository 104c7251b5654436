//! Why a job waits: every reason, on a real broker.

use std::time::Duration;

use muster_schemas::{
    event::{Event, EventKind},
    lane::{Lane, Priority},
    records::keys,
    standing::{Standing, Status},
    subjects::{self, About, broker, js},
    time::Timestamp,
    topology,
    wire::{self, V},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    world::{World, eventually},
};

/// Waits until the job waits for this reason, and answers all that is said.
pub(crate) async fn why(world: &World, id: &str, reason: &str) -> Value {
    eventually(reason, async || {
        let why = world.rest().get(&format!("/jobs/{id}/why")).await.data(200);
        (why["reason"] == reason).then_some(why)
    })
    .await
}

pub(crate) fn sentence(why: &Value) -> &str {
    why["sentence"].as_str().unwrap()
}

/// Says that the agent is registered, with these executors.
async fn registered(world: &World, agent: &Agent, name: &str, executors: &[&str]) {
    world.enlist(agent, name, |record| record.capabilities = executors.iter().map(|name| name.parse().unwrap()).collect()).await;
}

pub(crate) async fn standing(world: &World, agent: &Agent, status: Status, refusal: Option<&str>) {
    let standing =
        Standing { status, accepting: refusal.is_none(), reason: refusal.map(str::to_owned), ..Standing::first(Timestamp::now()) };
    let subject = js::key(topology::STANDINGS, &keys::standing(&agent.pool, &agent.id));
    world.dispatcher().await.request(subject, wire::encode(&standing).into()).await.unwrap();
}

pub(crate) async fn told(agent: &Agent, id: &str, kind: EventKind, next_at: Option<Timestamp>) {
    let event = Event {
        v: V,
        kind,
        at: Timestamp::now(),
        agent_id: agent.id.clone(),
        job_type: None,
        attempt: 2,
        releases: 0,
        reason: Some("exit status 3".into()),
        next_at,
        history: Vec::new(),
    };
    agent.client.request(About::Event.job(&agent.pool, &id.parse().unwrap()), wire::encode(&event).into()).await.unwrap();
}

async fn submit(world: &World, fields: Value) -> String {
    world.rest().submit(fields).await.data(202)["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_an_agent_to_run_it_says_what_keeps_each_one() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let id = submit(&world, json!({})).await;
    let none = why(&world, &id, "no_agent").await;
    assert_eq!(sentence(&none), "No agent of pool `default` runs `shell` jobs: it has no agents at all.");
    assert_eq!(
        (&none["state"], &none["facts"]["executor"], &none["facts"]["priority"]),
        (&json!("pending"), &json!("shell"), &json!("normal"))
    );
    let other = world.agent("default").await;
    registered(&world, &other, "prober", &["probe"]).await;
    eventually("the other agent is seen", async || {
        sentence(&why(&world, &id, "no_agent").await).contains("1 agent for other jobs").then_some(())
    })
    .await;
    registered(&world, &agent, "web-1", &["shell", "probe"]).await;
    let offline = why(&world, &id, "none_online").await;
    assert!(sentence(&offline).ends_with("is online: agent `web-1` (never heard of)."), "{offline}");
    standing(&world, &agent, Status::Offline, Some("said goodbye")).await;
    eventually("its goodbye", async || sentence(&why(&world, &id, "none_online").await).contains("said goodbye").then_some(())).await;
    standing(&world, &agent, Status::Online, Some("draining")).await;
    let refusing = why(&world, &id, "none_accepting").await;
    assert!(sentence(&refusing).contains("none accepts any: agent `web-1` (draining)"), "{refusing}");
    let agents = &refusing["facts"]["agents"];
    assert_eq!(
        (&agents["registered"], &agents["able"], &agents["online"], &agents["accepting"]),
        (&json!(2), &json!(1), &json!(1), &json!(0))
    );
    assert_eq!(world.rest().get("/jobs/nobody/why").await.code(404), "job_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_behind_others_says_how_many_are_ahead_of_it() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    registered(&world, &agent, "web-1", &["shell"]).await;
    standing(&world, &agent, Status::Online, None).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(submit(&world, json!({})).await);
    }
    // One is out, and one of them was given back for later: neither is ahead of anything.
    agent.take().await;
    let put_off = agent.take().await;
    agent.client.publish(put_off.message.reply.clone().unwrap(), "-NAK {\"delay\":60000000000}".into()).await.unwrap();
    for (priority, count) in [("high", 3), ("low", 2)] {
        for _ in 0..count {
            submit(&world, json!({"priority": priority})).await;
        }
    }
    let busy = why(&world, &ids[5], "busy").await;
    assert_eq!(sentence(&busy), "All slots of the one agent that accepts `shell` jobs are busy, and 6 jobs are ahead of it.");
    assert_eq!((&busy["facts"]["queue"]["ahead"], &busy["facts"]["queue"]["given_out"]), (&json!(6), &json!(false)));
    assert_eq!(why(&world, &ids[2], "busy").await["facts"]["queue"]["ahead"], 3, "those of a higher priority");
    let again = why(&world, put_off.id.as_str(), "busy").await;
    assert_eq!(again["facts"]["queue"]["given_out"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_behind_the_limit_of_running_ones_says_so() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    registered(&world, &agent, "web-1", &["shell"]).await;
    standing(&world, &agent, Status::Online, None).await;
    submit(&world, json!({})).await;
    let waiting = submit(&world, json!({})).await;
    agent.take().await;
    let (stream, lane) = (topology::jobs_stream(&agent.pool), Lane { priority: Priority::Normal, executor: "shell".parse().unwrap() });
    let consumer = topology::lane_consumer(&agent.pool, &lane, 1);
    let subject = broker::consumer_create(&stream, &lane.consumer(), &subjects::lane(&agent.pool, &lane));
    let body = json!({"stream_name": stream, "config": consumer, "action": ""});
    world.core().await.request(subject, body.to_string().into()).await.unwrap();
    let limited = why(&world, &waiting, "running_limit").await;
    assert!(sentence(&limited).contains("allows at present: 1."), "{limited}");
    assert_eq!((&limited["facts"]["queue"]["running"], &limited["facts"]["queue"]["limit"]), (&json!(1), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_put_off_or_paused_says_until_when_and_by_whom() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    registered(&world, &agent, "web-1", &["shell"]).await;
    standing(&world, &agent, Status::Online, None).await;
    let later = Timestamp::now() + Duration::from_secs(3600);
    let scheduled = submit(&world, json!({"not_before": later})).await;
    let put_off = why(&world, &scheduled, "not_before").await;
    assert_eq!((&put_off["facts"]["next_at"], &put_off["state"]), (&json!(later), &json!("scheduled")));
    let id = submit(&world, json!({})).await;
    told(&agent, &id, EventKind::Retrying, Some(later)).await;
    let backoff = why(&world, &id, "backoff").await;
    assert!(sentence(&backoff).starts_with("Attempt 2 failed (exit status 3); the next one comes after its backoff, at "), "{backoff}");
    told(&agent, &id, EventKind::Released, Some(later)).await;
    assert!(sentence(&why(&world, &id, "released").await).starts_with("Agent `web-1` gave it back (exit status 3);"));
    let pause = world.rest().send(Method::POST, "/pools/default/pause", &[], Some(&json!({"note": "the disk is full"}))).await;
    let by = pause.data(200)["paused"]["by"].as_str().unwrap().to_owned();
    let fresh = submit(&world, json!({})).await;
    let paused = why(&world, &fresh, "pool_paused").await;
    assert!(sentence(&paused).starts_with(&format!("Its pool `default` is paused by {by} since ")), "{paused}");
    assert!(sentence(&paused).ends_with(": the disk is full."), "{paused}");
    assert_eq!(paused["facts"]["paused"]["by"], by.as_str());
    assert!(sentence(&why(&world, &scheduled, "not_before").await).contains("Its pool is paused by"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_or_has_ended_says_where_and_how() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    registered(&world, &agent, "web-1", &["shell"]).await;
    standing(&world, &agent, Status::Online, None).await;
    let id = submit(&world, json!({})).await;
    let taken = agent.take().await;
    told(&agent, &id, EventKind::Started, None).await;
    let running = why(&world, &id, "running").await;
    assert!(sentence(&running).starts_with("It does not wait: agent `web-1` runs attempt 2 of it since "), "{running}");
    assert_eq!(running["facts"]["agent"]["id"], json!(agent.id));
    standing(&world, &agent, Status::Offline, None).await;
    let gone = why(&world, &id, "none_online").await;
    assert!(sentence(&gone).starts_with("Agent `web-1` began attempt 2 of it at "), "{gone}");
    let next =
        "and is not heard of any more: 30 s after its last sign of life the job goes to another one. No agent of pool `default` that runs";
    assert!(sentence(&gone).contains(next) && sentence(&gone).ends_with("is online: agent `web-1` (offline)."), "{gone}");
    assert_eq!(gone["state"], "running");
    let other = world.agent("default").await;
    registered(&world, &other, "web-2", &["shell"]).await;
    standing(&world, &other, Status::Online, None).await;
    assert!(sentence(&why(&world, &id, "running").await).ends_with("goes to another one. 1 agent can run it."));
    assert!(agent.finish(&taken, "ok").await);
    let ended = why(&world, &id, "finished").await;
    assert!(sentence(&ended).starts_with("It does not wait: it ended at ") && sentence(&ended).ends_with("succeeded."), "{ended}");
}
