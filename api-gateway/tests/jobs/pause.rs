//! Pausing pools over REST, and what a pool refuses to lose.

use muster_schemas::{lane::Priority, time::Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{Rest, World, eventually, pool};

async fn make_key(rest: &Rest, name: &str, role: &str) -> (String, Rest) {
    let made = rest.post("/api-keys", &json!({"name": name, "role": role})).await.data(201);
    let key = made["key"].as_str().unwrap().to_owned();
    (made["id"].as_str().unwrap().to_owned(), Rest { key, ..rest.clone() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pool_shows_who_and_why_takes_jobs_and_gives_none_out() {
    let world = World::with_gateways(2).await;
    let (one, two, agent) = (world.rest(), &world.gateways[1].rest, world.agent("default").await);
    let (id, ci) = make_key(one, "ci", "operator").await;
    one.submit(json!({"id": "runs"})).await.data(202);
    let runs = agent.take().await;
    let paused = ci.post("/pools/default/pause", &json!({"note": "the disk is full"})).await.data(200)["paused"].clone();
    assert_eq!((&paused["by"], &paused["key_id"], &paused["note"]), (&json!("ci"), &json!(id), &json!("the disk is full")));
    assert!(paused["at"].as_str().unwrap().parse::<Timestamp>().is_ok());
    assert_eq!(two.get("/pools/default").await.data(200)["paused"], paused);
    let listed = eventually("the other gateway lists it", async || {
        let page = two.get("/pools").await.body;
        let found = page["data"].as_array().unwrap().iter().find(|pool| pool["name"] == "default").unwrap().clone();
        (found["paused"] == paused).then_some(page)
    })
    .await;
    assert_eq!(listed["data"][1]["paused"], Value::Null, "only that one");
    let health = two.get("/pools/default/health").await.data(200);
    assert_eq!(health["status"], "paused");
    let detail = health["detail"].as_str().unwrap();
    assert!(detail.contains("paused by ci since") && detail.contains("the disk is full"), "{detail}");
    two.submit(json!({"id": "waits"})).await.data(202);
    assert!(agent.finds_nothing().await);
    agent.finish(&runs, "").await;
    assert_eq!(eventually("it ends", async || Some(one.state("runs").await).filter(|state| state == "succeeded")).await, "succeeded");
    // Changing something else keeps the pause, also for lanes that are new.
    two.put("/pools/default", &json!({"executors": ["ssh"]})).await.data(200);
    assert!(agent.finds_nothing().await);
    let resumed = ci.send(Method::POST, "/pools/default/resume", &[], None).await.data(200);
    assert_eq!(resumed["paused"], Value::Null);
    assert_eq!(agent.take().await.id.as_str(), "waits");
    assert_eq!(one.get("/pools/default/health").await.data(200)["status"], "stalled");
    ci.send(Method::POST, "/pools/default/resume", &[], None).await.data(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_pause_and_what_is_no_note_is_refused() {
    let world = World::start().await;
    let rest = world.rest();
    let (_, viewer) = make_key(rest, "eyes", "viewer").await;
    let pause = "/pools/default/pause";
    assert_eq!(viewer.post(pause, &json!({})).await.code(403), "forbidden");
    assert_eq!(viewer.post("/pools/default/resume", &json!({})).await.code(403), "forbidden");
    assert_eq!(rest.post("/pools/nowhere/pause", &json!({})).await.code(404), "pool_not_found");
    for (body, code) in [
        (json!({"note": "x".repeat(1001)}), "field_invalid"),
        (json!({"note": "a\u{1b}b"}), "field_invalid"),
        (json!({"why": "x"}), "field_invalid"),
    ] {
        assert_eq!(rest.post(pause, &body).await.code(400), code, "{body}");
    }
    assert_eq!(rest.get("/pools/default").await.data(200)["paused"], Value::Null);
    let bare = rest.send(Method::POST, pause, &[], None).await.data(200)["paused"].clone();
    assert_eq!(bare["note"], Value::Null, "a note is not needed, nor a body");
    rest.post(pause, &json!({"note": "the disk is full"})).await.data(200);
    let (_, ci) = make_key(rest, "ci", "operator").await;
    let again = ci.send(Method::POST, pause, &[], None).await.data(200)["paused"].clone();
    assert_eq!((&again["note"], &again["by"]), (&json!("the disk is full"), &json!("ci")), "without a note the earlier one stays");
    assert_eq!(rest.post(pause, &json!({"note": "new"})).await.data(200)["paused"]["note"], "new");
    rest.send(Method::POST, "/pools/default/resume", &[], None).await.data(200);
    assert_eq!(rest.send(Method::POST, pause, &[], None).await.data(200)["paused"]["note"], Value::Null, "it ends with its pause");
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_pool_with_jobs_and_agents_needs_force_and_says_what_would_be_lost() {
    let world = World::start().await;
    let (rest, agent) = (world.rest(), world.agent("other").await);
    world.enlist(&agent, "a", |_| {}).await;
    for id in ["a", "b", "c"] {
        rest.submit(json!({"pool": "other", "id": id})).await.data(202);
    }
    agent.take_of(Priority::Normal).await;
    let refused = eventually("the agent is known", async || {
        let refused = rest.delete("/pools/other").await;
        refused.body["detail"].as_str().is_some_and(|detail| detail.contains("1 agents")).then_some(refused)
    })
    .await;
    let detail = refused.body["detail"].as_str().unwrap().to_owned();
    assert_eq!(refused.code(409), "pool_not_empty");
    assert!(["2 waiting", "1 running", "1 agents", "?force=true", "cancelled"].iter().all(|part| detail.contains(part)), "{detail}");
    assert_eq!(rest.get("/pools/other").await.data(200)["queue"]["pending"], 2, "nothing was lost");
    assert_eq!(rest.delete("/pools/other?force=true").await.status, 204);
    assert_eq!(rest.state("a").await, "cancelled");
    // Agents alone are a reason, too.
    world.core().await;
    rest.put("/pools/other", &json!({})).await.data(201);
    let detail = rest.delete("/pools/other").await.body["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("0 waiting") && detail.contains("1 agents"), "{detail}");
    assert_eq!(rest.delete("/pools/other?force=true").await.status, 204);
    assert!(rest.get("/pools").await.body["data"].as_array().unwrap().iter().all(|known| known["name"] != pool("other").as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_schedules_name_needs_force_which_is_a_bare_word_too() {
    let world = World::start().await;
    let rest = world.rest();
    let schedule = json!({"every": "1h", "job": {"pool": "other", "type": "probe.echo"}});
    for name in ["one", "two"] {
        rest.put(&format!("/schedules/{name}"), &schedule).await.data(201);
    }
    rest.put("/schedules/third", &json!({"every": "1h", "job": {"pool": "default", "type": "probe.echo"}})).await.data(201);
    for query in ["", "?force=false"] {
        let refused = rest.delete(&format!("/pools/other{query}")).await;
        assert_eq!(refused.code(409), "pool_not_empty");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("2 schedules that would find no pool"), "{detail}");
    }
    for query in ["?force=1", "?force=yes", "?forced"] {
        assert_eq!(rest.delete(&format!("/pools/other{query}")).await.code(400), "query_invalid", "{query}");
    }
    assert_eq!(rest.delete("/pools/other?force").await.status, 204);
    assert_eq!(rest.get("/schedules/one").await.data(200)["pool"], "other", "they stay");
    assert_eq!(rest.send(Method::POST, "/schedules/one/trigger", &[], None).await.code(404), "pool_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_are_kept_and_checked_by_the_rules_of_a_job() {
    let world = World::start().await;
    let rest = world.rest();
    for (defaults, code) in [
        (json!({"timeout_s": 0}), "timeout_invalid"),
        (json!({"timeout_s": 604_801}), "timeout_invalid"),
        (json!({"retry": {"max_attempts": 101}}), "retry_invalid"),
        (json!({"retry": {}}), "field_invalid"),
        (json!({"timeout": 3}), "field_invalid"),
    ] {
        assert_eq!(rest.put("/pools/default", &json!({"defaults": defaults})).await.code(400), code, "{defaults}");
    }
    let defaults = json!({"timeout_s": 9, "retry": {"max_attempts": 3}});
    assert_eq!(rest.put("/pools/default", &json!({"defaults": defaults})).await.data(200)["defaults"], defaults);
    assert_eq!(rest.put("/pools/default", &json!({"description": "d"})).await.data(200)["defaults"], defaults);
    assert_eq!(rest.get("/pools/default").await.data(200)["defaults"], defaults);
    assert_eq!(rest.put("/pools/default", &json!({"defaults": {}})).await.data(200)["defaults"], Value::Null);
}
