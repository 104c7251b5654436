//! Schedules over REST. What fires them is the dispatcher's part, and tested there.

use muster_schemas::{
    schedule::{Became, FiredJob, ScheduleRecord, ScheduleState, keys},
    topology::SCHEDULES_BUCKET,
    wire::{self, V},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::World;

fn nightly() -> Value {
    json!({
        "cron": "30 2 * * *", "time_zone": "Europe/Berlin", "description": "d", "overlap": "replace", "missed": "skip",
        "job": {"pool": "default", "type": "probe.echo", "params": {"text": "hi"}, "priority": "low", "labels": {"a": "b"}},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_made_changed_listed_paused_and_deleted() {
    let world = World::with_gateways(2).await;
    let (one, two) = (world.rest(), &world.gateways[1].rest);
    let made = one.put("/schedules/nightly", &nightly()).await.data(201);
    assert_eq!((&made["cron"], &made["time_zone"]), (&json!("0 30 2 * * *"), &json!("Europe/Berlin")));
    assert_eq!((&made["pool"], &made["priority"], &made["job"]["type"]), (&json!("default"), &json!("low"), &json!("probe.echo")));
    let next = made["next"].as_array().unwrap();
    assert_eq!((next.len(), &made["last"], &made["armed"]), (5, &Value::Null, &json!(false)));
    assert!(next.iter().all(|at| [":30:00Z"].iter().any(|end| at.as_str().unwrap().ends_with(end))), "{next:?}");
    assert_eq!(two.get("/schedules/nightly").await.data(200), made);

    let mut changed = nightly();
    changed["overlap"] = json!("queue");
    changed["every"] = json!("10m");
    assert_eq!(two.put("/schedules/nightly", &changed).await.code(400), "schedule_invalid");
    (changed["cron"], changed["time_zone"]) = (Value::Null, Value::Null);
    let changed = two.put("/schedules/nightly", &changed).await.data(200);
    assert_eq!((&changed["every"], &changed["overlap"]), (&json!("600s"), &json!("queue")));
    assert_eq!(changed["created_at"], made["created_at"]);

    let paused = two.send(Method::POST, "/schedules/nightly/pause", &[], None).await.data(200);
    assert_eq!((&paused["paused"], &paused["next"]), (&json!(true), &json!([])));
    let resumed = one.send(Method::POST, "/schedules/nightly/resume", &[], None).await.data(200);
    assert_eq!((&resumed["paused"], resumed["next"].as_array().unwrap().len()), (&json!(false), 5));

    one.put("/schedules/another", &nightly()).await.data(201);
    let names = |page: &Value| page["data"].as_array().unwrap().iter().map(|each| each["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&two.get("/schedules").await.body), ["another", "nightly"]);
    let page = two.get("/schedules?limit=1").await.body;
    let cursor = page["meta"]["page"]["cursor"].as_str().unwrap();
    assert_eq!(names(&two.get(&format!("/schedules?limit=1&cursor={cursor}")).await.body), ["nightly"]);

    assert_eq!(one.delete("/schedules/nightly").await.status, 204);
    assert_eq!(names(&two.get("/schedules").await.body), ["another"]);
    for rest in [one, two] {
        assert_eq!(rest.get("/schedules/nightly").await.code(404), "schedule_not_found");
        assert_eq!(rest.delete("/schedules/nightly").await.code(404), "schedule_not_found");
        for verb in ["pause", "resume", "trigger"] {
            assert_eq!(rest.send(Method::POST, &format!("/schedules/nightly/{verb}"), &[], None).await.code(404), "schedule_not_found");
        }
    }
    assert_ne!(one.put("/schedules/nightly", &nightly()).await.data(201)["created_at"], made["created_at"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_schedule_or_job_is_refused_when_it_is_put() {
    let world = World::start().await;
    let rest = world.rest();
    for (path, value, code, status) in [
        ("/cron", json!("61 * * * *"), "schedule_invalid", 400),
        ("/time_zone", json!("Mars/Olympus"), "schedule_invalid", 400),
        ("/job/id", json!("mine"), "schedule_invalid", 400),
        ("/job/type", json!("probe.walk"), "type_unknown", 400),
        ("/job/type", json!("unheard.of"), "type_unknown", 400),
        ("/job/pool", json!("nowhere"), "pool_not_found", 404),
        ("/job/params", json!(7), "params_invalid", 400),
        ("/grace_s", json!(0), "field_invalid", 400),
        ("/overlap", json!("perhaps"), "field_invalid", 400),
        ("/unknown", json!(1), "field_invalid", 400),
    ] {
        let mut put = nightly();
        let (parent, field) = path.rsplit_once('/').unwrap();
        put.pointer_mut(parent).unwrap()[field] = value;
        assert_eq!(rest.put("/schedules/s", &put).await.code(status), code, "{path}");
    }
    let past = json!({"at": "2020-01-01T00:00:00Z", "job": {"pool": "default", "type": "probe.echo"}});
    assert_eq!(rest.put("/schedules/s", &past).await.code(400), "schedule_invalid");
    for name in ["A", "a.b", "*", &"a".repeat(41)] {
        assert_eq!(rest.put(&format!("/schedules/{name}"), &nightly()).await.code(400), "name_invalid", "{name}");
    }
    assert_eq!(rest.get("/schedules/s").await.code(404), "schedule_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_queues_the_job_with_an_id_of_its_own_although_it_is_paused() {
    let world = World::start().await;
    let rest = world.rest();
    let mut put = nightly();
    put["paused"] = json!(true);
    rest.put("/schedules/s", &put).await.data(201);
    let first = rest.send(Method::POST, "/schedules/s/trigger", &[], None).await.data(202);
    let second = rest.send(Method::POST, "/schedules/s/trigger", &[], None).await.data(202);
    assert_ne!(first["id"], second["id"]);
    let job = rest.get(&format!("/jobs/{}", first["id"].as_str().unwrap())).await.data(200);
    assert_eq!((&job["type"], &job["priority"], &job["pool"]), (&json!("probe.echo"), &json!("low"), &json!("default")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_firing_and_its_job_are_shown() {
    let world = World::start().await;
    let rest = world.rest();
    rest.put("/schedules/s", &json!({"every": "1h", "job": {"pool": "default", "type": "probe.echo"}})).await.data(201);
    // As a dispatcher writes it.
    let bucket = async_nats::jetstream::new(world.core().await).get_key_value(SCHEDULES_BUCKET).await.unwrap();
    let name = "s".parse().unwrap();
    let record: ScheduleRecord = wire::decode(&bucket.get(keys::definition(&name)).await.unwrap().unwrap()).unwrap();
    let fired_at = muster_schemas::time::Timestamp::from_secs(record.since.secs() + 1);
    let job: FiredJob = record.job_at(fired_at).unwrap();
    let state = ScheduleState {
        v: V,
        of: record.created_at,
        since: record.since,
        fired_at,
        became: Became::Job,
        detail: None,
        job: Some(job.clone()),
        replaced: None,
    };
    bucket.put(keys::state(&name), wire::encode(&state).into()).await.unwrap();
    let shown = rest.get("/schedules/s").await.data(200);
    assert_eq!((&shown["last"]["became"], &shown["last"]["job"]["id"]), (&json!("job"), &json!(job.id)));
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(shown["next"][0], json!(fired_at + hour), "counted from the last firing");
    assert_eq!(shown["next"][4], json!(fired_at + hour * 5));
}
