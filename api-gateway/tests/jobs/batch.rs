//! Many jobs in one request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use muster_runtime::tasks::Group;
use muster_schemas::{
    job::Job,
    lane::Priority,
    subjects::{About, broker::StreamApi, js, parse_job},
    topology,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{Rest, World, eventually, job, pool};

#[tokio::test(flavor = "multi_thread")]
async fn each_job_of_a_batch_is_accepted_or_refused_on_its_own_and_in_order() {
    let world = World::start().await;
    let jobs = json!({"jobs": [
        job(json!({"id": "first"})),
        job(json!({"pool": "nowhere"})),
        job(json!({"timeout_s": -1})),
        job(json!({"id": "first", "priority": "low"})),
        "x",
        ["default", "shell.run"],
        {"pool": "default"},
        job(json!({"tiemout_s": 1})),
        job(json!({"pool": "other"})),
    ]});
    let answer = world.rest().post("/jobs/batch", &jobs).await;
    let entries = answer.data(200);
    let short: Vec<String> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let (job, problem) = (&entry["job"]["pool"], &entry["problem"]["code"]);
            assert!(job.is_null() != problem.is_null(), "{entry}");
            job.as_str().or(problem.as_str()).unwrap().to_owned()
        })
        .collect();
    assert_eq!(
        short,
        [
            "default",
            "pool_not_found",
            "timeout_invalid",
            "default",
            "field_invalid",
            "field_invalid",
            "field_invalid",
            "field_invalid",
            "other"
        ]
    );
    assert_eq!((&entries[0]["job"]["id"], &entries[3]["job"]["id"]), (&json!("first"), &json!("first")));
    assert_eq!(world.rest().get("/pools/default").await.data(200)["queue"]["pending"], 1);
    let problem = &entries[1]["problem"];
    assert!(problem["request_id"].as_str().is_some_and(|id| !id.is_empty()) && problem["status"] == 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_takes_1_to_1000_jobs() {
    let world = World::start().await;
    let of = |count: usize| json!({"jobs": vec![job(json!({})); count]});
    let entries = world.rest().post("/jobs/batch", &of(1000)).await.data(200);
    let mut ids: Vec<&Value> = entries.as_array().unwrap().iter().map(|entry| &entry["job"]["id"]).collect();
    ids.sort_by_key(|id| id.to_string());
    ids.dedup();
    assert_eq!(ids.len(), 1000);
    assert_eq!(world.rest().get("/pools/default").await.data(200)["queue"]["pending"], 1000);
    for count in [0, 1001] {
        assert_eq!(world.rest().post("/jobs/batch", &of(count)).await.code(400), "field_invalid");
    }
    assert_eq!(world.rest().post("/jobs/batch?wait=5s", &of(1)).await.code(400), "query_invalid");
    let keyed = world.rest().send(Method::POST, "/jobs/batch", &[("Idempotency-Key", "k")], Some(&of(1))).await;
    assert_eq!(keyed.code(400), "header_invalid");
}

/// Where every job of a pool's queue is stored, and how often, by its id.
async fn queued(core: &async_nats::Client, name: &str) -> BTreeMap<String, u64> {
    let ask = json!({"subjects_filter": ">"}).to_string();
    let info = core.request(StreamApi::Info.subject(&topology::jobs_stream(&pool(name))), ask.into()).await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
    subjects.iter().map(|(subject, count)| (parse_job(subject).unwrap().id.to_owned(), count.as_u64().unwrap())).collect()
}

fn id(entry: &Value) -> Option<&str> {
    entry["job"]["id"].as_str()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_mixed_jobs_are_each_answered_as_if_they_had_come_alone() {
    let world = World::start().await;
    let rest = world.rest();
    rest.submit(json!({"id": "earlier"})).await.data(202);
    let agent = world.agent("default").await;
    rest.submit(json!({"id": "over", "priority": "high"})).await.data(202);
    assert!(agent.finish(&agent.take_of(Priority::High).await, "done").await);
    let jobs: Vec<Value> = (0..1000)
        .map(|number| {
            job(match number {
                600 => json!({"id": "earlier"}),
                601 => json!({"id": "over"}),
                602 | 603 => json!({"id": "own-500", "priority": "low"}),
                700 => json!({"type": "ssh.run"}),
                701 => json!({"pool": "nowhere"}),
                702 => json!({"priority": "urgent"}),
                500..600 => json!({"id": format!("own-{number}")}),
                _ if number % 10 == 0 => json!({"pool": "other", "type": "probe.ping"}),
                _ => json!({"labels": {"number": number.to_string()}}),
            })
        })
        .collect();
    let entries = rest.post("/jobs/batch", &json!({"jobs": jobs})).await.data(200);
    let entries = entries.as_array().unwrap();
    for (number, (entry, job)) in entries.iter().zip(&jobs).enumerate() {
        let refused = match number {
            700 => Some("type_unknown"),
            701 => Some("pool_not_found"),
            702 => Some("name_invalid"),
            _ => None,
        };
        assert_eq!(entry["problem"]["code"].as_str(), refused, "{number}: {entry}");
        if refused.is_none() {
            assert_eq!(entry["job"]["pool"], job["pool"], "{number}");
            assert_eq!(job["id"].as_str().unwrap_or(id(entry).unwrap()), id(entry).unwrap(), "{number}");
            assert_eq!(entry["job"]["labels"], job["labels"], "{number}");
        }
    }
    assert_eq!((&entries[601]["job"]["state"], &entries[601]["job"]["result"]["stdout"]), (&json!("succeeded"), &json!("done")));
    assert_eq!(entries[602]["job"]["priority"], "normal", "the first job, which has the other priority");
    let core = world.core().await;
    let (here, there) = (queued(&core, "default").await, queued(&core, "other").await);
    // Without the three that are refused, the one that had ended, and two that are there twice; 90 tens outside of 500 to 599, without 600 and 700.
    assert_eq!((here.len(), there.len()), (1000 - 3 - 1 - 2 - 88, 88));
    let distinct = entries.iter().filter_map(id).collect::<BTreeSet<_>>();
    assert_eq!(distinct.len(), here.len() + there.len() + 1);
    assert!(distinct.iter().all(|id| *id == "over" || here.contains_key(*id) || there.contains_key(*id)));
    // The history knows what each of them asks for.
    let labelled = id(&entries[1]).unwrap();
    let subject = About::Event.job(&pool("default"), &labelled.parse().unwrap());
    let event = eventually("the event of a queued job", async || {
        let event = core.request(js::direct_get(topology::EVENTS, &subject), "".into()).await.unwrap();
        event.status.is_none().then_some(event)
    })
    .await;
    assert_eq!(Job::decode(&event.payload).unwrap().labels["number"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_finds_room_for_some_fills_the_queue_and_the_others_learn_that_it_is_full() {
    let world = World::start().await;
    let rest = world.rest();
    rest.put("/pools/default", &json!({"limits": {"max_queued": 333}})).await.data(200);
    let mut jobs = vec![job(json!({})); 700];
    jobs.extend(vec![job(json!({"pool": "other"})); 300]);
    let entries = rest.post("/jobs/batch", &json!({"jobs": jobs})).await.data(200);
    let (here, there) = entries.as_array().unwrap().split_at(700);
    let accepted: BTreeSet<&str> = here.iter().filter_map(id).collect();
    assert_eq!(accepted.len(), 333);
    assert!(here.iter().all(|entry| id(entry).is_some() != (entry["problem"]["code"] == "queue_full")));
    assert!(there.iter().all(|entry| id(entry).is_some()));
    let stored = queued(&world.core().await, "default").await;
    assert_eq!(stored.keys().map(String::as_str).collect::<BTreeSet<_>>(), accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_for_lanes_that_were_lost_brings_them_back() {
    let world = World::start().await;
    let core = world.core().await;
    let stream = topology::jobs_stream(&pool("default"));
    let info = core.request(StreamApi::Info.subject(&stream), "".into()).await.unwrap();
    let mut config = serde_json::from_slice::<Value>(&info.payload).unwrap()["config"].clone();
    config["subjects"].as_array_mut().unwrap().retain(|subject| !subject.as_str().unwrap().contains("probe"));
    core.request(StreamApi::Update.subject(&stream), config.to_string().into()).await.unwrap();
    let jobs: Vec<Value> = (0..100).map(|number| job(json!({"type": if number % 2 == 0 { "probe.ping" } else { "shell.run" }}))).collect();
    let entries = world.rest().post("/jobs/batch", &json!({"jobs": jobs})).await.data(200);
    assert!(entries.as_array().unwrap().iter().all(|entry| id(entry).is_some()), "{entries}");
    assert_eq!(queued(&core, "default").await.len(), 100);
}

/// Callers that choose their own ids, of those in [`a_broker_that_dies_in_the_middle_of_batches_loses_no_acknowledged_job_and_doubles_none`].
const OWN: usize = 4;

/// What became of the batches that one caller sent.
struct Sent {
    accepted: Vec<String>,
    /// The last one.
    last: Value,
}

/// How far the callers are.
#[derive(Default)]
struct Progress {
    accepted: AtomicUsize,
    /// Whether each is to end with the batch that it sends.
    over: AtomicBool,
}

/// Sends one batch after another, with ids of the caller's own if these are to begin with `own`.
async fn send_batches(rest: Rest, own: Option<String>, progress: Arc<Progress>) -> Sent {
    let mut accepted = Vec::new();
    for round in 0.. {
        let id = |place: usize| own.as_ref().map_or(json!({}), |own| json!({"id": format!("{own}-{round}-{place}")}));
        let jobs = json!({"jobs": (0..200).map(|place| job(id(place))).collect::<Vec<_>>()});
        let answer = rest.post("/jobs/batch", &jobs).await;
        if answer.status == 503 {
            return Sent { accepted, last: jobs };
        }
        let entries = answer.data(200);
        let (before, entries) = (accepted.len(), entries.as_array().unwrap());
        for entry in entries {
            match self::id(entry) {
                Some(id) => accepted.push(id.to_owned()),
                None => assert_eq!(entry["problem"]["code"], "broker_unavailable", "{entry}"),
            }
        }
        progress.accepted.fetch_add(accepted.len() - before, Ordering::SeqCst);
        if accepted.len() < before + entries.len() || progress.over.load(Ordering::SeqCst) {
            return Sent { accepted, last: jobs };
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_in_the_middle_of_batches_loses_no_acknowledged_job_and_doubles_none() {
    let mut world = World::with_gateways(2).await;
    let core = world.core().await;
    let (callers, progress) = (Group::new("callers"), Arc::new(Progress::default()));
    let running: Vec<_> = (0..2 * OWN)
        .map(|number| {
            let own = (number < OWN).then(|| format!("own-{number}"));
            callers.spawn(send_batches(world.gateways[number % 2].rest.clone(), own, Arc::clone(&progress)))
        })
        .collect();
    eventually("some batches are acknowledged", async || (progress.accepted.load(Ordering::SeqCst) >= 1000).then_some(())).await;
    // Each caller has a batch under way: it comes back before some of them have given up.
    world.server.kill().await.unwrap();
    world.server.restart().await.unwrap();
    progress.over.store(true, Ordering::SeqCst);
    let mut sent = Vec::new();
    for caller in running {
        sent.push(caller.await.unwrap());
    }
    let stored = eventually("the broker is back", async || {
        (core.connection_state() == async_nats::connection::State::Connected).then_some(())?;
        Some(queued(&core, "default").await)
    })
    .await;
    let accepted: Vec<&String> = sent.iter().flat_map(|sent| &sent.accepted).collect();
    let distinct: BTreeSet<&String> = accepted.iter().copied().collect();
    assert_eq!(distinct.len(), accepted.len(), "an id was answered twice");
    let lost = accepted.iter().filter(|id| !stored.contains_key(**id)).count();
    assert_eq!(lost, 0, "of {} acknowledged jobs, {} are stored", accepted.len(), stored.len());
    assert!(stored.values().all(|count| *count == 1));
    // What may be repeated is repeated, and then each of these is queued once.
    for sent in &sent[..OWN] {
        let entries = eventually("the gateway is back", async || {
            let answer = world.rest().post("/jobs/batch", &sent.last).await;
            (answer.status == 200).then(|| answer.data(200))
        })
        .await;
        assert!(entries.as_array().unwrap().iter().all(|entry| id(entry).is_some()), "{entries}");
    }
    let again = queued(&core, "default").await;
    let repeated = sent[..OWN].iter().flat_map(|sent| sent.last["jobs"].as_array().unwrap());
    assert!(repeated.map(|job| job["id"].as_str().unwrap()).all(|id| again.contains_key(id)));
    assert!(again.values().all(|count| *count == 1) && stored.keys().all(|id| again.contains_key(id)));
}
