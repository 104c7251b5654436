//! Many jobs in one request.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, job};

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
    let keyed = world.rest().send(Method::POST, "/jobs/batch", &[("Idempotency-Key", "k")], Some(&of(1))).await;
    assert_eq!(keyed.code(400), "header_invalid");
}
