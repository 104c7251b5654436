//! Reading a job's output.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_read_in_parts_and_as_text() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    let taken = agent.take().await;
    for (seq, text) in [&b"one\n"[..], b"tw\xff", b"o\n"].into_iter().enumerate() {
        agent.write(&taken.id, seq as u64, text).await;
    }
    agent.client.request(muster_schemas::subjects::About::Log.job(&agent.pool, &taken.id), "no chunk".into()).await.unwrap();
    let path = format!("/jobs/{id}/logs");
    let all = world.rest().get(&path).await.data(200);
    let data: Vec<&Value> = all.as_array().unwrap().iter().map(|chunk| &chunk["data"]).collect();
    assert_eq!(data, [&json!("one\n"), &json!({"base64": "dHf/"}), &json!("o\n")]);
    let first = world.rest().get(&format!("{path}?limit=1")).await;
    let cursor = first.body["meta"]["page"]["cursor"].as_str().unwrap().to_owned();
    assert_eq!(first.data(200)[0]["data"], "one\n");
    let rest = world.rest().get(&format!("{path}?after={cursor}")).await;
    assert_eq!(rest.body["meta"]["page"].get("cursor"), None);
    assert_eq!(rest.data(200).as_array().unwrap().len(), 2);
    let text = world.rest().send(Method::GET, &path, &[("accept", "text/plain")], None).await;
    assert_eq!((text.headers["content-type"].to_str().unwrap(), text.body), ("text/plain; charset=utf-8", json!("one\ntw\u{fffd}o\n")));
    assert_eq!(text.headers["x-content-type-options"], "nosniff");
    for query in ["limit=0", "limit=513", "after=-1", "after=x", "x=1"] {
        assert_eq!(world.rest().get(&format!("{path}?{query}")).await.code(400), "query_invalid", "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_the_next_chunk_when_it_is_written_and_an_empty_page_when_the_job_ends() {
    let world = World::start().await;
    let agent = world.agent("default").await;
    let id = world.rest().submit(json!({})).await.data(202)["id"].as_str().unwrap().to_owned();
    let taken = agent.take().await;
    let path = format!("/jobs/{id}/logs?wait=20s");
    let (page, ()) = tokio::join!(world.rest().get(&path), agent.write(&taken.id, 0, b"hi"));
    let page = page.data(200);
    assert_eq!(page[0]["data"], "hi");
    let next = format!("{path}&after={}", page[0]["seq"]);
    let (page, stored) = tokio::join!(world.rest().get(&next), agent.finish(&taken, "hi"));
    assert!(stored);
    assert_eq!(page.data(200), json!([]));
}
