//! Pools over REST.

use muster_schemas::{records::keys, standing::Standing, subjects::js, time::Timestamp, topology, wire};
use serde_json::{Value, json};

use crate::world::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_made_changed_listed_and_removed() {
    let world = World::with_gateways(2).await;
    let (one, two) = (world.rest(), &world.gateways[1].rest);
    let made = one.put("/pools/fresh", &json!({"description": "d", "limits": {"max_queued": 7}})).await.data(201);
    assert_eq!(
        (&made["executors"], &made["limits"]),
        (&json!(["http", "probe", "shell"]), &json!({"max_queued": 7, "max_running": 10_000}))
    );
    let changed = two.put("/pools/fresh", &json!({"executors": ["ssh"], "limits": {"max_running": 3}})).await.data(200);
    assert_eq!((&changed["description"], &changed["limits"]), (&json!("d"), &json!({"max_queued": 7, "max_running": 3})));
    assert_eq!(changed["created_at"], made["created_at"]);
    assert_eq!(one.get("/pools/fresh").await.data(200), changed);
    let names =
        |page: &Value| page["data"].as_array().unwrap().iter().map(|pool| pool["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&two.get("/pools").await.body), ["default", "fresh", "other"]);
    let first = two.get("/pools?limit=2").await.body;
    assert_eq!(names(&first), ["default", "fresh"]);
    let cursor = first["meta"]["page"]["cursor"].as_str().unwrap();
    assert_eq!(names(&two.get(&format!("/pools?limit=2&cursor={cursor}")).await.body), ["other"]);
    two.submit(json!({"pool": "fresh"})).await.data(202);
    two.submit(json!({"pool": "fresh", "id": "c"})).await.data(202);
    two.cancel("c").await.data(200);
    assert_eq!(one.delete("/pools/fresh").await.code(409), "pool_not_empty");
    assert_eq!(one.delete("/pools/fresh?force=true").await.status, 204);
    assert_eq!(one.get("/pools/fresh").await.code(404), "pool_not_found");
    assert_eq!(names(&one.get("/pools").await.body), ["default", "other"]);
    for rest in [one, two] {
        assert_eq!(rest.submit(json!({"pool": "fresh"})).await.code(404), "pool_not_found");
        assert_eq!(rest.get("/pools/fresh/health").await.code(404), "pool_not_found");
        assert_eq!(rest.delete("/pools/fresh").await.code(404), "pool_not_found");
    }
    assert_eq!(two.put("/pools/fresh", &json!({})).await.data(201)["queue"]["pending"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused() {
    let world = World::start().await;
    let rest = world.rest();
    for name in ["A", "a.b", "*", "%3E", "_INBOX", "a%20b", &"a".repeat(64)] {
        assert_eq!(rest.put(&format!("/pools/{name}"), &json!({})).await.code(400), "name_invalid", "{name}");
    }
    for (body, code) in [
        (json!({"limits": {"max_queued": 0}}), "field_invalid"),
        (json!({"limits": {"max_queued": 1_000_000_001}}), "field_invalid"),
        (json!({"limits": {"max_running": -1}}), "field_invalid"),
        (json!({"limits": {"max_running": 1_000_001}}), "field_invalid"),
        (json!({"limits": {"max": 1}}), "field_invalid"),
        (json!({"executors": ["a.b"]}), "name_invalid"),
        (json!({"executors": "shell"}), "field_invalid"),
        (json!({"x": 1}), "field_invalid"),
    ] {
        assert_eq!(rest.put("/pools/fresh", &body).await.code(400), code, "{body}");
    }
    assert_eq!(rest.get("/pools/fresh").await.code(404), "pool_not_found", "nothing was made");
    assert_eq!(rest.get("/pools?cursor=*").await.code(400), "query_invalid");
    assert_eq!(rest.get("/pools?limit=0").await.code(400), "query_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_executors_is_probe_alone_and_not_all() {
    let world = World::start().await;
    assert_eq!(world.rest().put("/pools/bare", &json!({"executors": []})).await.data(201)["executors"], json!(["probe"]));
    assert_eq!(
        world.rest().put("/pools/default", &json!({"executors": []})).await.data(200)["executors"],
        json!(["http", "probe", "shell"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_pool_removed_by_force_end_as_cancelled() {
    let world = World::start().await;
    let rest = world.rest();
    rest.put("/pools/doomed", &json!({})).await.data(201);
    let mut ids = Vec::new();
    for n in 0..300 {
        ids.push(
            rest.submit(json!({"pool": "doomed", "priority": (["high", "normal", "low"][n % 3])})).await.data(202)["id"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    assert_eq!(rest.delete("/pools/doomed?force=true").await.status, 204);
    for id in ids.iter().step_by(50) {
        let seen = rest.get(&format!("/jobs/{id}")).await.data(200);
        assert_eq!((&seen["state"], &seen["pool"]), (&json!("cancelled"), &json!("doomed")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn submits_while_a_pool_is_removed_are_refused_or_keep_the_pool() {
    let world = World::with_gateways(2).await;
    for round in 0..5 {
        let path = format!("/pools/brief-{round}");
        let name = path.trim_start_matches("/pools/").to_owned();
        world.rest().put(&path, &json!({})).await.data(201);
        eventually("both know it", async || (world.gateways[1].rest.get(&path).await.status == 200).then_some(())).await;
        let submits = (0..10).map(|_| world.gateways[1].rest.submit(json!({"pool": name})));
        let (removed, submitted) = tokio::join!(world.rest().delete(&path), futures_util::future::join_all(submits));
        let accepted: Vec<String> = submitted
            .into_iter()
            .filter(|answer| answer.status == 202)
            .map(|answer| answer.data(202)["id"].as_str().unwrap().to_owned())
            .collect();
        if removed.status == 204 {
            assert!(accepted.is_empty(), "round {round}: {accepted:?} were lost");
        } else {
            assert_eq!(removed.code(409), "pool_not_empty");
            let queue = world.rest().get(&path).await.data(200)["queue"]["pending"].as_u64().unwrap();
            assert_eq!(queue, accepted.len() as u64, "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_counts_the_queue_and_the_agents() {
    let world = World::start().await;
    let (rest, agent) = (world.rest(), world.agent("default").await);
    let health = rest.get("/pools/default/health").await.data(200);
    assert_eq!((&health["status"], &health["queue"]["pending"], &health["agents"]["online"]), (&json!("stalled"), &json!(0), &json!(0)));
    for _ in 0..3 {
        rest.submit(json!({})).await.data(202);
    }
    let taken = agent.take().await;
    let queue = rest.get("/pools/default/health").await.data(200)["queue"].clone();
    assert_eq!((&queue["pending"], &queue["running"]), (&json!(2), &json!(1)));
    assert!(queue["oldest_at"].is_string());
    world.enlist(&agent, "a", |_| {}).await;
    eventually("the agent is counted", async || {
        (rest.get("/pools/default/health").await.data(200)["agents"]["offline"] == 1).then_some(())
    })
    .await;
    let dispatcher = world.dispatcher().await;
    let standing = Standing::first(Timestamp::now());
    dispatcher
        .request(js::key(topology::STANDINGS, &keys::standing(&agent.pool, &agent.id)), wire::encode(&standing).into())
        .await
        .unwrap();
    let health = eventually("the standing is seen", async || {
        let health = rest.get("/pools/default/health").await.data(200);
        (health["status"] == "healthy").then_some(health)
    })
    .await;
    assert_eq!(health["agents"], json!({"online": 1, "degraded": 0, "offline": 0, "accepting": 1}));
    agent.finish(&taken, "").await;
    rest.put("/pools/spare", &json!({})).await.data(201);
    assert_eq!(rest.delete("/pools/default").await.code(409), "pool_not_empty");
    assert_eq!(rest.delete("/pools/default?force=true").await.code(409), "pool_not_empty", "its agent is there");
    assert_eq!(rest.get("/pools/default").await.data(200)["queue"]["pending"], 2, "and nothing was cancelled");
}
